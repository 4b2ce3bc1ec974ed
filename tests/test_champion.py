"""The gate in front of `@champion`."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from trainables.tasks import Split
from tuner import breakdown, champion
from tuner.breakdown import Breakdown
from tuner.champion import can_meet, challenge, decide, identity
from tuner.run_store import Version

NOISE = np.random.default_rng(0).normal(0, 1, 20)
OWN = {"pipeline": "reptile", "split": "abc"}
THIRD = Version(number=3, run_id="run of version 3", tags=OWN)


def told(values):
    return SimpleNamespace(scores=SimpleNamespace(contributions=lambda name: np.array(values)))


class Shelf:
    """A registry of one version."""

    def __init__(self, version=None, error=None, times=9):
        self.version, self.errors = version, [] if error is None else [error] * times

    def champion(self, name):
        if self.errors:
            raise self.errors.pop()
        return self.version

    def download(self, name, version, file, folder):
        path = folder / file
        if file == "config.json":
            content = {"pipeline": "reptile", "config": {"width": 8}, "adapt_steps": 7}
            path.write_text(json.dumps(content))
        else:
            safetensors.numpy.save_file({"generator": np.zeros(3)}, path)
        return path


class Runner:
    """Finals whose champion scores what it is told to."""

    def __init__(self, values):
        self.values = values

    def test_model(self, config, model, scorer, *, stop):
        assert (config, stop) == ({"width": 8}, 7)
        return None if self.values is None else told(self.values)


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    monkeypatch.setattr(champion.ray, "put", lambda weights: weights)
    monkeypatch.setattr(champion.time, "sleep", lambda seconds: None)


def meet(shelf, new, old):
    return challenge(shelf, "m", told(new), OWN, Runner(old), None, Path.cwd())


def test_the_first_model_is_the_champion():
    verdict = meet(Shelf(), NOISE, NOISE)
    assert verdict.crowned
    assert verdict.against is None


def test_a_little_better_on_every_episode_is_better():
    """By .1 on each, where episodes differ by 1: only pairing can tell."""
    shelf = Shelf(THIRD)
    assert meet(shelf, NOISE - 0.1, NOISE).crowned
    assert meet(shelf, NOISE - 0.1, NOISE).margin == pytest.approx((-0.1, -0.1))
    assert not meet(shelf, NOISE + 0.1, NOISE).crowned


def test_better_by_chance_is_not_better():
    other = NOISE[::-1] - 0.05
    verdict = decide("m", THIRD, told(other), told(NOISE))
    assert not verdict.crowned
    assert verdict.margin[0] < 0 < verdict.margin[1]
    assert "version 3 stays" in verdict.reason


def test_models_of_other_data_do_not_meet():
    shelf = Shelf(replace(THIRD, tags={**OWN, "split": "other"}))
    verdict = meet(shelf, NOISE - 9, NOISE)
    assert not verdict.crowned
    assert "another split" in verdict.reason


def test_a_registry_that_does_not_answer_crowns_nobody():
    verdict = meet(Shelf(error=OSError("the server\nis away")), NOISE, NOISE)
    assert not verdict.crowned
    assert verdict.reason == "the champion could not be met: the server is away"
    assert verdict.against_run is None


def test_an_outage_that_passes_costs_no_crown():
    verdict = meet(Shelf(THIRD, OSError("the server is away"), times=2), NOISE - 0.1, NOISE)
    assert verdict.crowned
    assert verdict.against_run == "run of version 3"


@pytest.mark.parametrize("dead", [["raylet"], []])
def test_a_machine_that_broke_down_ends_the_session_and_not_the_chance(dead, monkeypatch):
    monkeypatch.setattr(breakdown, "dead_processes", lambda: dead)
    error = OSError("no answer") if dead else OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(Breakdown, match="Ray died" if dead else "is full"):
        meet(Shelf(error=error), NOISE, NOISE)


def test_whom_a_model_will_meet_is_known_before():
    assert can_meet(Shelf(THIRD), "m", OWN)
    assert not can_meet(Shelf(THIRD), "m", {**OWN, "split": "other"})
    assert not can_meet(Shelf(), "m", OWN)
    assert not can_meet(Shelf(error=OSError("away")), "m", OWN)


def test_a_champion_that_cannot_draw_stays():
    verdict = meet(Shelf(THIRD), NOISE, None)
    assert not verdict.crowned
    assert "in the memory that there is" in verdict.reason


def test_identity_changes_with_what_models_share():
    images = SimpleNamespace(images=np.zeros((2, 1, 32, 32), np.uint8))
    split = Split(train=(0, 1), validation=(2,), test=(3,), seed=0)
    one = identity("reptile", "f", split, images)
    assert one == identity("reptile", "f", split, images)
    other = Split(train=(0, 2), validation=(1,), test=(3,), seed=0)
    assert one["split"] != identity("reptile", "f", other, images)["split"]
