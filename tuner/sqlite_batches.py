"""Writes what is told of a run into MLflow's SQLite file: the same rows, at less cost.

MLflow's `log_batch` asks for the run again for each kind of row, in a transaction of its own, and
makes an object of every row. A test holds that what is written here is what MLflow writes.
"""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

Point = tuple[str, float, int, int]  # name, value, Unix time in ms, step
Stored = tuple[str, str, float, bool, int, int]  # run, name, value, not a number, ms, step

RUN_NAME = "mlflow.runName"  # a tag that is told twice
BUSY_SECONDS = 20.0  # to wait for another writer, as MLflow does

_POINT = """INSERT INTO metrics (run_uuid, key, value, is_nan, timestamp, step)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_NEWEST = """INSERT INTO latest_metrics (run_uuid, key, value, is_nan, timestamp, step)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key, run_uuid) DO UPDATE
SET value = excluded.value, is_nan = excluded.is_nan, timestamp = excluded.timestamp,
    step = excluded.step
WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)"""
_PARAM = "INSERT INTO params (run_uuid, key, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_TAG = """INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?)
ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value"""


def write_batch(
    path: Path,
    run_id: str,
    *,
    points: Sequence[Point],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> bool:
    """Write a batch, all of it or nothing -> whether it was written.

    What MLflow would refuse, or treat in its own way, is left to it: rows of a run that is not
    there or deleted, another value of a parameter, a run's name.

    Args:
        path: of the database, whose tables are those of the MLflow that is installed.
        run_id: of the run.
        points: of metrics; those that are there stay single.
        params, tags: by name, within MLflow's limits.
    Raises:
        sqlite3.OperationalError: the file is not there, locked for long, or cannot be written.
    """
    if RUN_NAME in tags:
        return False
    place = f"{path.absolute().as_uri()}?mode=rw"  # else SQLite would make a file
    rows = [(run_id, name, *_stored(value), when, step) for name, value, when, step in points]
    with closing(sqlite3.connect(place, uri=True, timeout=BUSY_SECONDS)) as database, database:
        database.execute("BEGIN IMMEDIATE")
        if not _takes(database, run_id, params):
            return False
        database.executemany(_POINT, rows)
        database.executemany(_NEWEST, _newest(rows))
        database.executemany(_PARAM, [(run_id, *param) for param in params.items()])
        database.executemany(_TAG, [(run_id, *tag) for tag in tags.items()])
    return True


def _takes(database: sqlite3.Connection, run_id: str, params: Mapping[str, str]) -> bool:
    question = "SELECT lifecycle_stage FROM runs WHERE run_uuid = ?"
    if database.execute(question, (run_id,)).fetchone() != ("active",):
        return False
    if not params:
        return True
    there = database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,))
    return all(params.get(name, value) == value for name, value in there)


def _stored(value: float) -> tuple[float, bool]:
    """A value as MLflow keeps it, and whether it is none: SQL knows no infinity."""
    if math.isnan(value):
        return 0.0, True
    return min(max(value, -sys.float_info.max), sys.float_info.max), False


def _newest(rows: Iterable[Stored]) -> Iterable[Stored]:
    """Of each metric the row of the highest step, of those the last, of those the largest."""
    newest: dict[str, Stored] = {}
    for row in rows:
        _, name, value, _, when, step = row
        known = newest.get(name)
        if known is None or (step, when, value) > (known[5], known[4], known[2]):
            newest[name] = row
    return newest.values()
