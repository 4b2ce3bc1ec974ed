"""MLflow's client of a tracking store: told to be quiet, and opened, with tables where there are
none yet."""

from __future__ import annotations

import logging
import os
import shutil
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from trainables.built_once import build_once
from trainables.datasets import user_cache
from tuner.tracking_uri import SERVERS, require_listener, require_sqlite, scheme_of, sqlite_path

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHECK_SECONDS = 5  # for each question asked before the search starts
EMPTY = "empty.db"  # in the cache: MLflow's tables


def silence() -> None:
    """Keep MLflow from phoning home, printing links and logging migrations.

    In the environment, since MLflow reads part of it when it is first imported.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Waiting for a dead server is the tracker's task, not a call's: MLflow would try 7 x 120 s.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def open_client(uri: str) -> MlflowClient:
    """Open the store behind an address, making an SQLite file if there is none.

    Raises:
        Exception: whatever stores and drivers raise; `store_failures.usable` makes one line of it.
    """
    from mlflow.tracking import MlflowClient

    if scheme_of(uri) == "sqlite":
        require_sqlite(uri)
        path = sqlite_path(uri).resolve()
        with FileLock(f"{path}.lock"):  # two first writers at once would leave half of the tables
            if path.stat().st_size == 0:
                _make_database(path)
            return MlflowClient(uri, registry_uri=uri)
    if scheme_of(uri) not in SERVERS:
        require_listener(uri, timeout=CHECK_SECONDS)
        import sqlalchemy  # as MLflow does, but it would try a wrong password for minutes

        sqlalchemy.create_engine(uri).connect().close()
    return MlflowClient(uri, registry_uri=uri)


def _make_database(path: Path) -> None:
    """Make MLflow's tables in a file of another name, which takes the database's when it is whole.

    SQLite keeps each step of MLflow's migrations for itself, and no later migration goes on from
    what a kill between two of them leaves. The steps take seconds, so an empty database of this
    MLflow is kept with the user's caches.
    """
    import mlflow

    empty = build_once(
        user_cache().absolute() / "tracking" / f"mlflow-{mlflow.__version__}",
        name="tracking store",
        damage=lambda folder: None if (folder / EMPTY).is_file() else "it has no database",
        build=lambda folder: _make_tables(folder / EMPTY),
        report=lambda _line: None,
    )
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)  # of a kill
    for name, side in product((fresh, path), ("-journal", "-wal", "-shm")):
        Path(f"{name}{side}").unlink(missing_ok=True)  # SQLite would play them into the new file
    shutil.copyfile(empty / EMPTY, fresh)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)


def _make_tables(path: Path) -> None:
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{path}")  # type: ignore[no-untyped-call]
    utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    engine.dispose()
