"""Nothing is lost: cut journals, killed processes and full disks end in the same study."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Checkpoint
from ray.tune.search import Searcher
from toy_pipeline import ToyConfig, ToyTrainable, toy_context
from toy_study import ToyExperiment, ToyPlan

from tuner import study as study_module
from tuner.journal import Journal, TrialRecord
from tuner.known_points import KnownPoint
from tuner.recorder import Recorder
from tuner.study import run_study

TRIALS = 8


def branching_space(trial: Any, base: ToyConfig) -> ToyConfig:
    """Three parameters, one of them for some trials only: asking writes them one by one."""
    x = trial.suggest_float("low", 0.0, 0.5)
    if trial.suggest_categorical("where", ["low", "high"]) == "high":
        x += trial.suggest_float("more", 0.0, 0.5)
    return replace(base, x=x)


def ray_with_one_slot(plan, search, asha, recorder: Recorder, folder: Path, *_rest: Any) -> None:
    """What Ray's controller does with one slot and no process: the same calls in the same order."""
    session = folder / study_module._session_name(folder)
    while (config := search.suggest("one")) != Searcher.FINISHED:
        trial = SimpleNamespace(config=config, checkpoint=None)
        trainable = ToyTrainable.__new__(ToyTrainable)
        trainable.setup(config)
        common = {"iteration": 0, "trials": [], "trial": trial}
        recorder.on_step_begin(0, [])
        recorder.on_trial_start(**common)
        result = {"done": False}
        place = session / study_module._folder_name(trial)
        while not result["done"]:
            result = trainable.step() | {"time_this_iter_s": 0.1}
            if not result["done"]:
                result["done"] = asha.on_trial_result(None, trial, flat(result)) == "STOP"
            else:
                asha.on_trial_complete(None, trial, flat(result))
            recorder.on_trial_result(**common, result=result)
            checkpoint = place / f"checkpoint_{len(list(place.glob('*'))):06}"
            checkpoint.mkdir(parents=True)
            trainable.save_checkpoint(str(checkpoint))
            trial.checkpoint = Checkpoint(str(checkpoint))
            recorder.on_trial_save(**common)
        recorder.on_trial_complete(**common)
        search.on_trial_complete("one")


def flat(result: dict[str, Any]) -> dict[str, Any]:
    """As Ray hands it to a scheduler."""
    return result | {f"metrics/{name}": value for name, value in result["metrics"].items()}


def session(folder: Path, observers: Sequence[Any] = ()) -> tuple[TrialRecord, ...]:
    """One session to the end of the study."""
    folder.mkdir(exist_ok=True)
    points = [
        KnownPoint(label="reference", params={"low": 0.1, "where": "low"}, reference=True),
        KnownPoint(label="other", params={"low": 0.1}, overrides={"x": 0.9}),
        KnownPoint(label="bad", params={"low": 0.2}, overrides={"trouble": "diverge"}),
    ]
    base = ToyConfig(log=str(folder / "steps.log"))
    with Journal(folder, "study") as journal:
        return run_study(
            ToyPlan(trials=TRIALS, most_trials=TRIALS, slots=1),
            ToyExperiment(base=base, known_points=points, space=branching_space),
            journal=journal,
            context=toy_context(),
            deadline=time.time() + 600,
            observers=observers,
            trainable=ToyTrainable,
        ).records


def decisions(records: Sequence[TrialRecord]) -> list[Any]:
    """What was decided, free of paths and times."""
    return [
        (
            record.number,
            record.label,
            record.state,
            record.reason,
            dict(record.params),
            {name: value for name, value in record.config.items() if name != "log"},
            [(r.rung, r.decision, dict(r.metrics), r.episodes) for r in record.rungs],
            record.attrs.get("promoted"),
        )
        for record in records
    ]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "_fit", ray_with_one_slot)


@pytest.mark.parametrize(
    "every", [9, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(1800)])]
)
def test_a_study_cut_after_any_write_or_amid_it_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, no_ray: None, every: int
) -> None:
    """The journal only grows, so a kill or a power cut is a journal that ends anywhere."""
    whole = session(tmp_path / "whole")
    wanted = decisions(whole)
    assert any(record.attrs.get("promoted") is not None for record in whole)
    assert {record.state for record in whole} == {"COMPLETE", "PRUNED", "FAIL"}
    ours = str(tmp_path / "whole/steps.log").encode()
    lines = (tmp_path / "whole/study/journal.log").read_bytes().splitlines(keepends=True)
    steps = len((tmp_path / "whole/steps.log").read_text().splitlines())
    assert len(lines) > 80

    for cut in range(0, len(lines), every):
        torn = lines[cut][: len(lines[cut]) // 2] if cut % 2 else b""
        folder = tmp_path / f"cut-{cut}"
        (folder / "study").mkdir(parents=True)
        # The base names the study's own folder, which differs here.
        here = (b"".join(lines[:cut]) + torn).replace(ours, bytes(folder / "steps.log"))
        (folder / "study/journal.log").write_bytes(here)
        assert decisions(session(folder)) == wanted, f"cut at line {cut}: {lines[cut]!r}"
        finished = sum(b'"rung/' in line for line in lines[:cut])
        log = folder / "steps.log"
        again = log.read_text().splitlines() if log.exists() else []
        assert len(again) == steps - finished, f"cut at line {cut}: {lines[cut]!r}"
