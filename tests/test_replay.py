"""A trial's MLflow record is enough to train it again to the same scores."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from test_faults import no_ray, session
from toy_pipeline import ToyTrainable
from toy_study import ToyPlan, tracking

from trainables.errors import UserError
from tuner import launch
from tuner.journal import Journal
from tuner.kept_trial import scored_points
from tuner.replay import replay_trial

__all__ = ["no_ray"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str], str]:
    """A study of toys in MLflow: its storage, its trials' runs, its own run."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        no_ray.__wrapped__(patch)
        session(folder)
    plan = ToyPlan(trials=1, most_trials=1)
    with Journal(folder, "study") as journal:
        with tracking(journal, folder, plan) as tracker:
            parent = tracker.place.parent_run_id
        runs = {n: journal.attr(f"run/{n}") for n in range(len(journal.records()))}
    return folder, runs, parent


def test_two_rungs_at_one_step_stay_two() -> None:
    """A large net's one update may pass both; their points come in any order."""

    def point(step: int, timestamp: int, value: float) -> SimpleNamespace:
        return SimpleNamespace(step=step, timestamp=timestamp, value=value)

    histories = {
        "score/L": [point(126, 20, 3.0), point(126, 10, 2.9), point(500, 30, 2.8)],
        "training/rung": [point(126, 10, 0.0), point(126, 20, 1.0), point(500, 30, 2.0)],
    }
    assert scored_points(histories) == [
        {"score/L": 2.9, "training/rung": 0.0},
        {"score/L": 3.0, "training/rung": 1.0},
        {"score/L": 2.8, "training/rung": 2.0},
    ]


def again(folder: Path, run_id: str) -> tuple[int, str]:
    said = io.StringIO()
    code = replay_trial(run_id, None, folder, Console(file=said, width=120), ToyTrainable)
    return code, said.getvalue()


def test_a_promoted_trial_reaches_its_scores_again(recorded: Any) -> None:
    folder, runs, _ = recorded
    with Journal(folder, "study") as journal:
        promoted = [r.number for r in journal.records() if "promoted" in r.attrs]
        rungs = len(journal.record(promoted[0]).rungs)
    code, said = again(folder, runs[promoted[0]])
    assert code == 0
    assert "All scores are equal" in said
    assert said.count("score/L") == rungs > 1


def test_a_score_that_differs_in_its_last_bit_is_shown(
    recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runs, _ = recorded
    step = ToyTrainable.step

    def off(self: ToyTrainable) -> dict[str, Any]:
        result = step(self)
        result["metrics"]["L"] = math.nextafter(result["metrics"]["L"], 2)
        return result

    monkeypatch.setattr(ToyTrainable, "step", off)
    code, said = again(folder, runs[0])
    assert code == 1
    assert "differs" in said
    assert "Scores differ" in said


def test_a_replay_writes_in_its_own_storage_alone(
    recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever place for pre-trained weights its record names."""
    folder, runs, _ = recorded
    told: list[dict[str, Any]] = []
    setup = ToyTrainable.setup

    def listen(self: ToyTrainable, config: dict[str, Any]) -> None:
        told.append(config)
        setup(self, config)

    monkeypatch.setattr(ToyTrainable, "setup", listen)
    assert again(folder, runs[0])[0] == 0
    assert told[0]["context"]["store"] == str(folder / "pretrained")
    assert told[0]["resume_from"] is None


def test_what_cannot_be_replayed_is_refused(recorded: Any) -> None:
    folder, runs, parent = recorded
    with pytest.raises(UserError, match="is no trial"):
        again(folder, parent)
    with pytest.raises(UserError, match="There is no run 'x'"):
        again(folder, "x")
    with pytest.raises(UserError, match=r"has no artifact trial/config\.json"):
        again(folder, runs[2])  # it diverged before its first rung
    with pytest.raises(UserError, match="There is no tracking store"):
        again(folder / "elsewhere", runs[0])
    assert not (folder / "elsewhere").exists()


def test_other_data_is_refused(recorded: Any, tmp_path: Path) -> None:
    from test_launch import pictures

    from trainables.datasets import load_folder
    from tuner.kept_trial import KeptTrial
    from tuner.replay import _require_same_data

    images = load_folder(
        pictures(tmp_path / "pictures", classes=4, each=8),
        cache_dir=tmp_path / "cache",
        size=32,
        report=print,
    )
    context = {"image_set": str(images.path), "scorer": ""}

    def kept(fingerprint: str, context: dict[str, str]) -> KeptTrial:
        tags = {"data_fingerprint": fingerprint}
        return KeptTrial(tags=tags, settings={"context": context}, points=())

    _require_same_data(kept(images.fingerprint, context), "run")
    with pytest.raises(UserError, match="with fingerprint another"):
        _require_same_data(kept("another", context), "run")
    with pytest.raises(UserError, match="which is gone"):
        _require_same_data(kept(images.fingerprint, context | {"scorer": "/gone"}), "run")


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["--replay", "x", "--storage", str(tmp_path / "runs")]) == 2
    assert launch.main(["reptile_omniglot", "--replay", "x"]) == 2
    assert launch.main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "There is no tracking store" in lines[0]
    assert "leave the experiment's name, --detach, --json and --on-finish out" in lines[1]
    assert "An experiment must be named" in lines[2]
    assert not list(tmp_path.iterdir())
