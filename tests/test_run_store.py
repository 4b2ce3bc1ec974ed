"""The tracking store: opened, asked and written within its limits."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import requests
from test_result import result
from tracked_study import (
    checkpoint,
    client,
    empty_store,
    has_all_of_two_rungs,
    options,
    storage,
    told_of_two_rungs,
)

from trainables.errors import UserError
from tuner.registered_models import Models
from tuner.run_store import RunStore, flatten
from tuner.store_failures import is_passing
from tuner.tracking import Tracker
from tuner.tracking_uri import default_uri

__all__ = ["empty_store", "storage"]  # fixtures

# MLflow's own, on SQLAlchemy 2.1: `noload` in its table classes.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_the_champions_files_come_from_its_own_run(storage, tmp_path):
    checkpoint(storage / "my study", 1, 1)
    made = result(storage / "my study")
    crowned = replace(made, gate=replace(made.gate, crowned=True, against=None, margin=None))
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.study_ended(crowned, {})
    got = Models(tracker.uri).download("reptile_omniglot", 1, "weights.safetensors", tmp_path)
    assert got.read_bytes() == (storage / "my study" / made.best.weights).read_bytes()
    assert Models(tracker.uri).champion("no such model") is None


@pytest.mark.parametrize(("status", "passing"), [(413, False), (403, False), (503, True)])
def test_a_refused_upload_does_not_hold_up_what_comes_after_it(status, passing):
    """MLflow's artifacts come with the HTTP library's own error, which is one of the network."""
    answer = requests.Response()
    answer.status_code = status
    assert is_passing(requests.HTTPError("no", response=answer)) is passing


DYING = """
import os, signal, sys
import mlflow.tracking
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tuner.store_client import open_client, silence

@event.listens_for(Engine, "before_cursor_execute")
def die(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

silence()
for left in map(int, sys.argv[2:]):
    if (child := os.fork()) == 0:
        open_client(sys.argv[1])
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_kill_while_the_store_is_made_leaves_one_that_opens(tmp_path):
    storage = tmp_path / "runs"
    storage.mkdir()
    (storage / "mlflow.db-journal").write_bytes(b"of a file that is gone")
    kills = ["2", "100", "700", "1500"]  # of its 1683 statements
    done = subprocess.run(
        [sys.executable, "-c", DYING, default_uri(storage), *kills, "9999"],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.stdout.split() == ["-9"] * len(kills) + ["0"]
    tracker = Tracker(None, storage=storage, **options([]))
    assert {path.name for path in storage.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    told_of_two_rungs(tracker, storage)
    tracker.close()
    has_all_of_two_rungs(storage, tracker)


def test_two_first_studies_of_an_experiment_share_it(storage, monkeypatch):
    from mlflow.tracking import MlflowClient

    real, others = MlflowClient.get_experiment_by_name, []

    def before_another_made_it(self, name):
        found = real(self, name)
        if found is None:
            others.append(self.create_experiment(name))
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", before_another_made_it)
    with Tracker(None, storage=storage, **options([])) as tracker:
        assert [tracker.place.experiment_id] == others


def test_a_deleted_experiment_is_said_with_the_way_back(storage):
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.close()
    client(storage).delete_experiment(tracker.place.experiment_id)
    with pytest.raises(UserError, match=r"mlflow experiments restore --experiment-id"):
        Tracker(None, storage=storage, **options([]))


@pytest.mark.parametrize("value", ["' or tags.kind = 'study", "a`b", "x\ny", "%"])
def test_nothing_is_asked_of_a_store_that_would_change_the_question(storage, value):
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.close()
    with pytest.raises(ValueError, match="cannot be looked for"):
        list(tracker._runs.store.tagged({"study_id": value}))


@pytest.mark.parametrize("folder", ["../../elsewhere", "/etc", "best-../x", ""])
def test_a_version_that_says_its_files_are_elsewhere_is_not_followed(storage, tmp_path, folder):
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.close()
    store = tracker._runs.store
    version = store.register("model", tracker.place.parent_run_id, folder, {})
    with pytest.raises(ValueError, match="has its files in"):
        store.download("model", version, "config.json", tmp_path)


def test_flattening_joins_names():
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": 1, "d": [1, 2]}


@pytest.mark.parametrize("code", ["BAD_REQUEST", "ENDPOINT_NOT_FOUND"])
def test_a_store_that_answers_nonsense_does_not_say_that_there_is_no_champion(
    storage, monkeypatch, code
):
    """As a broken database does, by MLflow, and a proxy's page of a server that is away."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode
    from mlflow.tracking import MlflowClient

    def nonsense(*_arguments):
        raise MlflowException("<html>", error_code=ErrorCode.Value(code))

    models = Models(default_uri(storage))
    assert models.champion("reptile_omniglot") is None
    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", nonsense)
    with pytest.raises(MlflowException, match="html"):
        models.champion("reptile_omniglot")


@pytest.fixture
def store(storage, empty_store):
    """A store of its own, with a run."""
    opened = RunStore(default_uri(storage), experiment="own", storage=storage)
    return opened, opened.create("a run", {}, when=0)


def test_artifacts_are_whole_or_as_they_were(store, storage, tmp_path, monkeypatch):
    """Somebody may be reading them, and a disk be full."""
    opened, run = store
    opened.log_bytes(run, b"before", "best/weights")
    (there,) = storage.glob("mlartifacts/own/*/artifacts/best/weights")

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    new = tmp_path / "weights"
    new.write_bytes(b"after")
    with monkeypatch.context() as disk:
        disk.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            opened.log_bytes(run, b"after", "best/weights")
        with pytest.raises(OSError, match="No space"):
            opened.log_file(run, new, "best")
    assert [(p.name, p.read_bytes()) for p in there.parent.iterdir()] == [("weights", b"before")]
    with there.open("rb") as reader:
        opened.log_file(run, new, "best")
        assert reader.read() == b"before"
    assert there.read_bytes() == b"after"
    opened.log_file(run, there, "best")  # itself
    assert there.read_bytes() == b"after"


def test_artifacts_do_not_write_through_links(store, storage, tmp_path):
    opened, run = store
    opened.log_bytes(run, b"before", "config.json")
    (there,) = storage.glob("mlartifacts/own/*/artifacts/config.json")
    own = tmp_path / "own"
    own.write_bytes(b"mine")
    there.unlink()
    there.symlink_to(own)
    opened.log_bytes(run, b"after", "config.json")
    assert (own.read_bytes(), there.read_bytes()) == (b"mine", b"after")
