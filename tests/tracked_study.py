"""A study that is told to MLflow, for tests of what arrives there."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tuner.result import Data
from tuner.tracking import Tracker, provenance_tags
from tuner.tracking_uri import default_uri

DATA = Data(name="omniglot", stand_in=False, fingerprint="0123456789abcdef", source="/data")
PNG = b"\x89PNG not looked into"
STEPS = [1000, 3001]  # of two rungs: GFLOPs, and the rung's index
CONFIG = {"width": 16, "inner": {"lr": 1e-3, "steps": 10}}


def metrics(rung: int) -> dict[str, float]:
    # 1 TFLOP at the first rung, three times as much at each following
    return {
        "L": 2.0 - rung,
        "J": 0.1,
        "train_flops": 1e12 * 3**rung,
        "updates": 100.0,
        "complete": 1.0,
    }


def checkpoint(folder: Path, number: int, rung: int) -> Path:
    path = folder / f"trial-{number}" / f"rung-{rung}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "grid.png").write_bytes(PNG)
    (path / "weights.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An SQLite store with MLflow's tables; making them takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("store")
    Tracker(None, storage=folder, **options([])).close()
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for table in ("tags", "params"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM runs")
        database.execute("DELETE FROM experiment_tags")
        database.execute("DELETE FROM experiments WHERE name = 'reptile_omniglot'")
    return folder / "mlflow.db"


@pytest.fixture
def storage(tmp_path, empty_store) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def options(lines: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "experiment": "reptile_omniglot",
        "study": "my study",
        "study_id": uuid.uuid4().hex,
        "plan": {"trials": 3, "rungs_flops": [1e12, 3e12]},
        "tags": provenance_tags(
            seed=7, data=DATA, versions={"torch": "2.14.1"}, commit="ab" * 20 + "-dirty"
        ),
        "remember": lambda number, run_id: None,
        "report": lines.append,
        "deliver": "launch --resume",
        **changes,
    }


def client(storage: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(default_uri(storage))


def trial_runs(storage: Path, tracker: Tracker) -> dict[str, Any]:
    found = client(storage).search_runs([tracker.place.experiment_id], "tags.kind = 'trial'")
    runs = {run.data.tags["trial"]: run for run in found}
    assert len(runs) == len(found), "two runs for one trial"
    return runs


def points_of(storage: Path, tracker: Tracker, metric: str) -> list[tuple[int, float]]:
    (run,) = trial_runs(storage, tracker).values()
    found = client(storage).get_metric_history(run.info.run_id, metric)
    return [(point.step, point.value) for point in found]


def told_of_two_rungs(tracker, storage):
    tracker.trial_started(0, "", CONFIG, {"width": 16})
    for rung, decision in enumerate(("pause", "done")):
        losses = [(10.0 * rung + step, -1.0, 2.0) for step in range(1, 6)]
        tracker.rung_reached(
            0, rung, metrics(rung), losses, checkpoint(storage / "my study", 0, rung), decision
        )
    tracker.trial_ended(0, "COMPLETE", "")


def has_all_of_two_rungs(storage, tracker, *, in_order=True):
    (run,) = trial_runs(storage, tracker).values()
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
    store = client(storage)
    points = {
        name: [point.step for point in store.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    if not in_order:
        points = {name: sorted(steps) for name, steps in points.items()}
    assert points["score/L"] == points["training/rung"] == STEPS
    assert points["training/critic_loss"] == [1, 2, 3, 4, 5, 11, 12, 13, 14, 15]
