"""A finished study once more: delivered, judged late, or searched on."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from test_conductor import setting, without_ray
from test_result import result
from test_search import rung
from test_setting import begun, request_

from tuner import champion as champion_module
from tuner import conductor, search_phase
from tuner.exit_codes import INTERRUPTED
from tuner.final_round import FinalRound, own_identity
from tuner.journal import DELIVERED, Journal
from tuner.plan import Plan
from tuner.registered_models import Models
from tuner.result import Gate, load
from tuner.run_store import RunStore
from tuner.setting import Setting
from tuner.tracking_uri import default_uri

__all__ = ["request_", "setting"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def finished(setting: Setting) -> None:
    """A study with a scored trial, one that failed, and a result."""
    with begun(setting) as journal:
        journal.set_attr("split", setting.split.to_dict())
        experiment = setting.experiment
        for _ in range(2):
            journal.ask(experiment.space, experiment.base)
        journal.add_rung(0, replace(rung(0, 1.0, decision="done"), when=1000.0))
        journal.end(0, "COMPLETE", "")
        journal.end(1, "FAIL", "diverged: nan")
    made = replace(result(setting.folder), study=setting.study)
    assert made.best is not None
    for path in (made.best.grid, made.best.weights):
        (setting.folder / str(path)).parent.mkdir(parents=True, exist_ok=True)
        (setting.folder / str(path)).write_bytes(b"a file")
    made.write(setting.folder / "result.json")


def runs_in(setting: Setting, uri: str | None = None) -> dict[str, Any]:
    client = MlflowClient(uri or default_uri(setting.request.storage))
    (experiment,) = client.search_experiments(filter_string=f"name = '{setting.title}'")
    found = client.search_runs([experiment.experiment_id])
    assert set(Counter(run.data.tags.get("trial") for run in found).values()) == {1}
    return {
        run.data.tags.get("trial", "study"): (
            run.info.status,
            run.data.tags["state"],
            (run.info.start_time, run.info.end_time),
            {
                name: [(point.step, point.value, point.timestamp) for point in points]
                for name in sorted(run.data.metrics)
                if (points := client.get_metric_history(run.info.run_id, name))
            },
        )
        for run in found
    }


def test_a_finished_study_is_delivered_once_and_not_trained_again(
    setting: Setting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To a store that took nothing of it, again to the same one, and to another one."""
    finished(setting)
    monkeypatch.setattr(search_phase, "run_study", lambda *_a, **_k: pytest.fail("it was trained"))
    again = replace(setting.request, resume=True)
    assert conductor.conduct(again) == 0
    assert "is finished, see" in capsys.readouterr().out
    delivered = runs_in(setting)
    assert {name: run[:2] for name, run in delivered.items()} == {
        "study": ("FINISHED", "finished"),
        "0": ("FINISHED", "COMPLETE"),
        "1": ("FAILED", "FAIL"),
    }
    assert [point[:2] for point in delivered["0"][3]["score/L"]] == [(1, 1.0)]
    assert "test/J" in delivered["study"][3]

    assert conductor.conduct(again) == 0
    assert runs_in(setting) == delivered
    with Journal(setting.request.storage, setting.study) as journal:
        parent = journal.attr("mlflow")["parent_run_id"]

    other = f"sqlite:///{tmp_path}/other.db"
    assert conductor.conduct(replace(again, tracking_uri=other)) == 0
    assert runs_in(setting, other) == delivered, "it bears the times of its delivery"
    with Journal(setting.request.storage, setting.study) as journal:
        assert journal.attr("mlflow")["parent_run_id"] != parent
        assert journal.attr(DELIVERED) is True


def waiting(setting: Setting, **changes: Any) -> Path:
    """A finished study whose gate has no answer -> its result."""
    finished(setting)
    path = setting.folder / "result.json"
    gate = Gate(name=setting.title, crowned=False, decided=False, reason="MLflow was away")
    replace(load(path), gate=replace(gate, **changes)).write(path)
    return path


def champion_of(setting: Setting) -> Any:
    return Models(default_uri(setting.request.storage)).champion(setting.title)


def with_champion(setting: Setting) -> str:
    """Another study's model is the champion -> its run."""
    store = RunStore(
        default_uri(setting.request.storage),
        experiment=setting.title,
        storage=setting.request.storage,
    )
    run_id = store.create("another study", {"kind": "other", "trial": "another study's"}, when=0)
    version = store.register(setting.title, run_id, "best", own_identity(setting))
    store.crown(setting.title, version)
    return run_id


def test_a_gate_that_had_no_answer_is_asked_when_the_study_is_delivered(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is the champion, so that nobody has to be met."""
    path = waiting(setting)
    again = replace(setting.request, resume=True)
    for _ in range(2):
        assert conductor.conduct(again) == 0
        gate = load(path).gate
        assert gate is not None
        assert (gate.crowned, gate.decided, gate.against) == (True, True, None)
        assert champion_of(setting).number == 1
    said = capsys.readouterr().out
    assert said.count("@champion goes to this study's best") == 1


@pytest.mark.parametrize("better", [True, False])
@pytest.mark.parametrize(
    "before", [{}, {"crowned": True, "decided": True}], ids=["no answer", "another one meanwhile"]
)
def test_a_study_that_is_delivered_late_meets_the_champion_of_then(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, better: bool, before: dict[str, bool]
) -> None:
    path = waiting(setting, **before)
    champion = with_champion(setting)
    (setting.folder / "champion").mkdir()
    pictures = np.full((1, 4, 1, 2, 2), 7, np.uint8)
    np.savez_compressed(setting.folder / "champion/samples.npz", shots=pictures, samples=pictures)
    episodes = np.random.default_rng(0).normal(0, 1, 20)

    def score(losses: Any) -> Any:
        return SimpleNamespace(contributions=lambda _name: losses)

    def scored(samples: Any) -> Any:
        assert np.array_equal(samples, pictures)
        return score(episodes - 0.1 if better else episodes + 0.1)

    def theirs(_registry: Any, _name: str, version: Any, *_rest: Any) -> Any:
        assert version.run_id == champion
        return SimpleNamespace(scores=score(episodes))

    without_ray(monkeypatch)
    monkeypatch.setattr(FinalRound, "_scorer", lambda *_a: SimpleNamespace(score=scored))
    monkeypatch.setattr(champion_module, "_tested", theirs)
    assert conductor.conduct(replace(setting.request, resume=True)) == 0
    gate = load(path).gate
    assert gate is not None
    assert gate.decided
    assert (gate.crowned, gate.against, gate.against_run) == (better, 1, champion)
    assert champion_of(setting).number == (2 if better else 1)


def test_a_study_whose_pictures_are_gone_is_delivered_without_a_meeting(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    path = waiting(setting)
    champion = with_champion(setting)
    for _ in range(2):
        assert conductor.conduct(replace(setting.request, resume=True)) == 0
    gate = load(path).gate
    assert gate is not None
    assert not gate.decided
    assert "are gone or damaged" in gate.reason
    assert champion_of(setting).run_id == champion
    said = capsys.readouterr().out
    assert said.count("is not decided (a plain --resume asks again)") == 2
    assert said.count("once it can be had, by: ") == 2


def test_a_finished_study_that_is_searched_on_and_cut_goes_on_by_a_plain_resume(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(setting)
    with Journal(setting.request.storage, setting.study) as journal:
        journal.set_attr("timings", {"search": 50.0, "wall": 300.0})
    planned: list[tuple[float, float]] = []
    took: list[dict[str, float]] = []

    def cut(plan: Plan, *_rest: Any, journal: Journal, deadline: float, **more: Any) -> None:
        planned.append((plan.budget_seconds, deadline - time.time()))
        table, *_, clock = more["observers"]
        assert "2 of about" in table._counts(list(table._rows.values()))
        more["doubted"](0, 0.1)
        clock.rung_reached()
        took.append(journal.attr("timings"))
        journal.set_attr("search_seconds", 100.0)
        raise KeyboardInterrupt

    without_ray(monkeypatch)
    monkeypatch.setattr(search_phase, "run_study", cut)
    again = replace(setting.request, resume=True)
    assert conductor.conduct(replace(again, budget_seconds=3600.0)) == INTERRUPTED
    assert (setting.folder / "result.1.json").is_file()
    assert conductor.conduct(again) == INTERRUPTED
    said = capsys.readouterr().out
    assert "is finished" not in said
    assert said.count("Rung 1 foretells the last rung badly (correlation .10") == 2  # cut twice
    (first, then), (second, later) = planned
    assert first == second == 3600.0
    assert then - later == pytest.approx(100.0, abs=5.0)
    for part, before in (("search", 50.0), ("wall", 300.0)):  # sessions are added up
        assert before < took[0][part] < took[1][part] < before + 120.0
