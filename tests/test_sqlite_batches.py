"""What is written into MLflow's file is what MLflow writes, table by table."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from tracked_study import empty_store

from tuner.sqlite_batches import write_batch
from tuner.store_client import open_client

__all__ = ["empty_store"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

COLUMNS = {
    "metrics": "key, value, is_nan, timestamp, step",
    "latest_metrics": "key, value, is_nan, timestamp, step",
    "params": "key, value",
    "tags": "key, value",
}
NONE: Mapping[str, str] = MappingProxyType({})
NAMES = st.sampled_from(["score/L", "score/J", "training/critic_loss"])
VALUES = st.floats() | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan])
POINTS = st.lists(st.tuples(NAMES, VALUES, st.integers(0, 3), st.integers(0, 3)), max_size=8)
TAGS = st.dictionaries(st.sampled_from(["state", "reason", "why/not"]), st.text(max_size=8))
BATCHES = st.lists(st.tuples(POINTS, TAGS), min_size=1, max_size=3)


class Store:
    """A database in which runs are compared."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.client = open_client(f"sqlite:///{path}")
        self._experiment = self.client.create_experiment("own")

    def run(self) -> str:
        return str(self.client.create_run(self._experiment, tags={"state": "new"}).info.run_id)

    def tell_mlflow(self, run: str, points: Any = (), params: Any = NONE, tags: Any = NONE) -> None:
        self.client.log_batch(
            run,
            [Metric(*point) for point in points],
            [Param(*param) for param in params.items()],
            [RunTag(*tag) for tag in tags.items()],
        )

    def tell(self, run: str, points: Any = (), params: Any = NONE, tags: Any = NONE) -> bool:
        return write_batch(self.path, run, points=points, params=params, tags=tags)

    def rows(self, run: str) -> dict[str, list[Any]]:
        with closing(sqlite3.connect(self.path)) as database:
            return {
                table: sorted(
                    row
                    for row in database.execute(
                        f"SELECT {columns} FROM {table} WHERE run_uuid = ?", (run,)
                    )
                    if row[0] != "mlflow.runName"
                )
                for table, columns in COLUMNS.items()
            }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store") / "mlflow.db")


@settings(max_examples=60, deadline=None)
@given(batches=BATCHES)
def test_rows_are_those_that_mlflow_writes(store: Store, batches: Any) -> None:
    ours, theirs = store.run(), store.run()
    params = {"inner_lr": "0.001", "shape": "a" * 6000}
    for points, tags in batches:
        assert store.tell(ours, points, params, tags)
        store.tell_mlflow(theirs, points, params, tags)
    assert store.rows(ours) == store.rows(theirs)


def test_a_batch_that_is_told_twice_stays_single(store: Store) -> None:
    run = store.run()
    batch = [("score/L", 0.5, 7, 1)], {"inner_lr": "0.1"}, {"state": "RUNNING"}
    assert store.tell(run, *batch)
    once = store.rows(run)
    assert store.tell(run, *batch)
    assert store.rows(run) == once


def test_what_mlflow_refuses_is_left_to_it(store: Store) -> None:
    run, deleted = store.run(), store.run()
    store.client.delete_run(deleted)
    assert store.tell(run, params={"inner_lr": "0.1"})
    for there, params in ((run, {"inner_lr": "0.2", "more": "1"}), (deleted, {}), ("none", {})):
        assert not store.tell(there, [("score/L", 0.5, 7, 1)], params, {"state": "RUNNING"})
        with pytest.raises(MlflowException):
            store.tell_mlflow(there, [("score/L", 0.5, 7, 1)], params, {"state": "RUNNING"})
    rows = store.rows(run)
    assert (rows["metrics"], rows["tags"]) == ([], [("state", "new")])
    assert not store.tell(run, tags={"mlflow.runName": "another"})


def test_a_file_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        write_batch(tmp_path / "gone.db", "run", points=[], params={}, tags={})
    assert not list(tmp_path.iterdir())
