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
from tuner.champion import Challenge, decide, identity
from tuner.registered_models import Version
from tuner.result import Gate

NOISE = np.random.default_rng(0).normal(0, 1, 20)
OWN = {"pipeline": "reptile", "split": "abc"}
THIRD = Version(number=3, run_id="run of version 3", tags=OWN)


def told(values):
    return SimpleNamespace(contributions=lambda name: np.array(values))


class Shelf:
    """A registry of one version."""

    def __init__(self, version=None, error=None, times=9, damage=lambda path: None):
        self.version, self.errors = version, [] if error is None else [error] * times
        self.asked, self.damage = 0, damage

    def champion(self, name):
        self.asked += 1
        if self.errors:
            raise self.errors.pop()
        return self.version

    def download(self, name, version, file, folder):
        path = folder / file
        if file == "config.json":
            content = {"pipeline": "reptile", "config": {"width": 8}, "adapt_steps": 7}
            path.write_text(json.dumps(content))
        else:
            safetensors.numpy.save_file({"generator": np.zeros(3, np.float32)}, path)
        self.damage(path)
        return path


class Runner:
    """Finals whose champion scores what it is told to."""

    def __init__(self, values):
        self.values = values

    def test_model(self, config, model, scorer, *, stop):
        assert (config, stop) == ({"width": 8}, 7)
        return None if self.values is None else SimpleNamespace(scores=told(self.values))


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    monkeypatch.setattr(champion.ray, "put", lambda weights: weights)
    monkeypatch.setattr(champion.time, "sleep", lambda seconds: None)


def challenge_of(shelf, own=OWN):
    return Challenge(lambda: shelf, "m", own, Path.cwd())


def meet(shelf, new, old):
    challenge = challenge_of(shelf)
    return challenge.without_meeting() or challenge.meet(told(new), Runner(old), None)


def test_the_first_model_is_the_champion():
    verdict = meet(Shelf(), NOISE, NOISE)
    assert verdict.crowned
    assert verdict.decided
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
    assert verdict.decided
    assert "another split" in verdict.reason


def test_a_registry_that_does_not_answer_crowns_nobody():
    error = OSError("http://me:secret@host is away\nand more")
    verdict = meet(Shelf(error=error), NOISE, NOISE)
    assert not verdict.crowned
    assert not verdict.decided
    assert verdict.reason == "the champion could not be met: http://host is away"
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
    assert challenge_of(Shelf(THIRD)).is_likely()
    assert not challenge_of(Shelf(THIRD), {**OWN, "split": "other"}).is_likely()
    assert not challenge_of(Shelf()).is_likely()
    assert not challenge_of(Shelf(error=OSError("away"))).is_likely()


def test_who_the_champion_is_is_asked_once_and_again_only_without_an_answer():
    """Another study may move the alias while the finals go on: they meet whom the plan was for."""
    shelf = Shelf(THIRD, OSError("away"), times=1)
    challenge = challenge_of(shelf)
    assert not challenge.is_likely()
    assert challenge.is_likely()
    shelf.version = Version(number=4, run_id="run of version 4", tags=OWN)
    assert challenge.without_meeting() is None
    assert challenge.meet(told(NOISE - 0.1), Runner(NOISE), None).against == 3
    assert shelf.asked == 2


def test_an_earlier_verdict_stands_unless_it_is_none_or_its_champion_is_gone():
    crowned = Gate(name="m", crowned=True, reason="", against=3, against_run=THIRD.run_id)
    fourth = Version(number=4, run_id="run of version 4", tags=OWN)
    lost = replace(crowned, crowned=False)
    for version, gate, stands in (
        (THIRD, crowned, True),
        (fourth, crowned, False),
        (None, crowned, False),
        (None, replace(crowned, against=None, against_run=None), True),
        (replace(fourth, run_id="own"), crowned, True),  # MLflow was told already
        (fourth, lost, True),
        (THIRD, replace(lost, decided=False), False),
    ):
        assert challenge_of(Shelf(version)).stands(gate, "own") is stands, (version, gate)
    assert challenge_of(Shelf(error=OSError("away"))).stands(crowned, "own")


def test_a_champion_that_cannot_draw_stays():
    verdict = meet(Shelf(THIRD), NOISE, None)
    assert not verdict.crowned
    assert not verdict.decided
    assert "in the memory that there is" in verdict.reason


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    "damage",
    [cut, lambda path: path.write_text("{}"), lambda path: path.write_text('{"config": 3}')],
)
def test_a_champion_whose_files_are_damaged_is_told_of_with_the_way_out(damage):
    verdict = meet(Shelf(THIRD, damage=damage), NOISE - 0.1, NOISE)
    assert not verdict.crowned
    assert not verdict.decided
    assert "the files of version 3 are damaged (" in verdict.reason
    assert verdict.reason.endswith(
        "give the alias to another version in MLflow, or delete it there"
    )


def test_what_went_wrong_in_another_process_is_told_without_its_traceback():
    class Wrapped(RuntimeError):
        """As Ray wraps it."""

        cause = ValueError("The weights must be of another net.")

    verdict = challenge_of(Shelf(THIRD)).undecided(Wrapped("ray::sample() (pid=1)\nTraceback"))
    assert verdict.reason == "the champion could not be met: The weights must be of another net."


def test_identity_changes_with_what_models_share():
    images = SimpleNamespace(images=np.zeros((2, 1, 32, 32), np.uint8))
    split = Split(train=(0, 1), validation=(2,), test=(3,), seed=0)
    one = identity("reptile", "f", split, images)
    assert one == identity("reptile", "f", split, images)
    other = Split(train=(0, 2), validation=(1,), test=(3,), seed=0)
    assert one["split"] != identity("reptile", "f", other, images)["split"]
