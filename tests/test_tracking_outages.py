"""What reaches MLflow where stores, servers, disks and processes fail: everything, and once."""

from __future__ import annotations

import errno
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tracked_study import (
    CONFIG,
    STEPS,
    checkpoint,
    client,
    empty_store,
    has_all_of_two_rungs,
    metrics,
    options,
    storage,
    told_of_two_rungs,
    trial_runs,
)

from trainables.errors import UserError
from tuner import registered_models, run_store, study_runs, tracking
from tuner.result import TrackingPlace
from tuner.run_store import RunStore
from tuner.tracking import Tracker
from tuner.tracking_uri import default_uri

__all__ = ["empty_store", "storage"]  # fixtures

# MLflow's own, on SQLAlchemy 2.1: `noload` in its table classes.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.mark.parametrize("killed_at", ["create", "log_params", "log_tags", "noting it"])
def test_the_run_of_a_study_that_was_killed_before_it_noted_it_is_found_again(
    killed_at, storage, monkeypatch
):
    """And another study of its name has another one."""

    class Killed(BaseException):
        pass

    def killed_after(*arguments):
        real(*arguments)
        raise Killed

    ours = options([])
    other = Tracker(None, storage=storage, **options([]))
    other.close()
    with monkeypatch.context() as patch:
        if killed_at != "noting it":
            real = getattr(run_store.RunStore, killed_at)
            patch.setattr(run_store.RunStore, killed_at, killed_after)
            with pytest.raises(Killed):
                Tracker(None, storage=storage, **ours)
        else:
            Tracker(None, storage=storage, **ours).close()
    again = Tracker(None, storage=storage, **ours | {"plan": ours["plan"] | {"trials": 99}})
    again.close()
    found = client(storage).search_runs([again.place.experiment_id], "tags.kind = 'study'")
    runs = {run.info.run_id: run for run in found}
    assert set(runs) == {again.place.parent_run_id, other.place.parent_run_id}
    run = runs[again.place.parent_run_id]
    assert run.data.tags["state"] == "running"
    trials = "99" if killed_at == "create" else "3"  # what is written cannot be changed
    assert run.data.params["trials"] == trials
    assert "rungs_flops" in run.data.params


class Outage:
    """Lets no client be opened until it is over."""

    def __init__(self, monkeypatch):
        self.over, self.tries = False, 0
        real = registered_models.open_client

        def opened(uri):
            if self.over:
                return real(uri)
            self.tries += 1
            raise ConnectionRefusedError("Connection refused")

        monkeypatch.setattr(registered_models, "open_client", opened)


def test_a_resumed_study_goes_on_while_its_store_is_away_and_delivers_when_it_is_back(
    storage, monkeypatch
):
    with Tracker(None, storage=storage, **options([])) as first:
        first.trial_started(0, "", CONFIG, {"width": 16})
        first.rung_reached(
            0, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage / "my study", 0, 0), "pause"
        )
        first.trial_started(1, "", CONFIG, {"width": 8})
        first.trial_ended(1, "FAIL", "diverged")
    lines: list[str] = []
    remembered: dict[int, str] = {}
    outage = Outage(monkeypatch)
    again = Tracker(
        None,
        storage=storage,
        place=first.place,
        patient=True,
        **options(lines, remember=remembered.__setitem__),
    )
    again._writer._waits = (0.01,)
    assert again.place == first.place
    again.trial_started(0, "", CONFIG, {"width": 16})
    for rung, decision in enumerate(("pause", "done")):
        losses = [(1.0 + rung, 2.0, 3.0)]
        again.rung_reached(
            0, rung, metrics(rung), losses, checkpoint(storage / "my study", 0, rung), decision
        )
    again.trial_ended(0, "COMPLETE", "")
    again.trial_started(1, "", CONFIG, {"width": 8})
    again.rung_reached(1, 0, metrics(0), [], storage / "gone", "continue")  # settled: not read
    again.trial_ended(1, "FAIL", "diverged")
    while outage.tries < 3:
        time.sleep(0.01)
    outage.over = True
    again.close()
    assert len(lines) == 1
    assert "does not answer (Connection refused); the search goes on" in lines[0]
    runs = trial_runs(storage, again)
    assert remembered == {int(number): run.info.run_id for number, run in runs.items()}
    states = {n: (run.info.status, run.data.tags["state"]) for n, run in runs.items()}
    assert states == {"0": ("FINISHED", "COMPLETE"), "1": ("FAILED", "FAIL")}
    assert "score/L" not in runs["1"].data.metrics
    store, run_id = client(storage), runs["0"].info.run_id
    for metric, steps in (("score/L", STEPS), ("training/critic_loss", [1, 2])):
        assert [point.step for point in store.get_metric_history(run_id, metric)] == steps


def test_only_a_study_that_was_there_before_waits_for_its_store(storage, monkeypatch):
    """And not for another address, which may be mistyped."""
    with Tracker(None, storage=storage, **options([])) as first:
        pass
    Outage(monkeypatch)
    elsewhere = replace(first.place, uri="sqlite:////other.db")
    for place, patient in ((first.place, False), (None, True), (elsewhere, True)):
        with pytest.raises(UserError, match=r"cannot be used \(Connection refused\)"):
            Tracker(None, storage=storage, place=place, patient=patient, **options([]))


def test_a_store_that_comes_back_without_the_studys_run_gets_one_at_the_next_resume(
    storage, monkeypatch
):
    lost = TrackingPlace(uri=default_uri(storage), experiment_id="1", parent_run_id="0" * 32)
    lines: list[str] = []
    outage = Outage(monkeypatch)
    tracker = Tracker(None, storage=storage, place=lost, patient=True, **options(lines))
    outage.over = True
    told_of_two_rungs(tracker, storage)
    tracker.close()
    assert tracker.place == lost
    assert f"it does not have the study's run {'0' * 32}" in lines[-1]
    assert lines[-1].endswith("delivered by: launch --resume")
    again = Tracker(None, storage=storage, place=lost, **options([]))
    told_of_two_rungs(again, storage)
    again.close()
    has_all_of_two_rungs(storage, again)


def test_a_store_without_the_studys_run_gets_a_new_one(storage):
    lost = TrackingPlace(uri=default_uri(storage), experiment_id="1", parent_run_id="0" * 32)
    tracker = Tracker(None, storage=storage, place=lost, **options([]))
    assert tracker.place.parent_run_id != lost.parent_run_id
    tracker.close()


class FakeStore:
    """Remembers calls; `fail` is asked before each one made after opening."""

    experiment_id = "1"

    def __init__(self, fail: Callable[[str], None]) -> None:
        self.calls: list[str] = []
        self.fail: Callable[[str], None] = lambda name: None
        self._after_opening = fail

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.fail(name)
            self.calls.append(name)
            found = {"create": f"run-{len(self.calls)}", "children": iter(()), "tagged": iter(())}
            return (found | {"log_picture": "images/p.png"}).get(name)

        return call

    def opened(self) -> None:
        self.fail = self._after_opening


@pytest.fixture
def fake(monkeypatch, tmp_path) -> Callable[..., tuple[Tracker, FakeStore, list[str]]]:
    def make(fail: Callable[[str], None]) -> tuple[Tracker, FakeStore, list[str]]:
        store, lines = FakeStore(fail), list[str]()
        monkeypatch.setattr(study_runs, "RunStore", lambda *a, **k: store)
        monkeypatch.setattr(tracking, "is_passing", lambda e: isinstance(e, ConnectionError))
        tracker = Tracker("http://u:secret@host:5000", storage=tmp_path, **options(lines))
        store.opened()
        return tracker, store, lines

    return make


def test_the_search_never_waits_for_a_slow_store(fake, tmp_path):
    tracker, _, _ = fake(lambda name: time.sleep(0.05))
    path = checkpoint(tmp_path / "my study", 0, 0)
    spent = time.thread_time()
    began = time.monotonic()
    tracker.trial_started(0, "", CONFIG, {"width": 16})
    for _ in range(20):
        tracker.rung_reached(0, 0, metrics(0), [(1.0, 2.0, 3.0)] * 100, path, "continue")
    # 20 results would take the store 3 s; the thread's own work is a fraction of a ms each
    assert (time.thread_time() - spent) / 21 < 0.005
    assert time.monotonic() - began < 2
    tracker.close()


def test_a_store_that_comes_back_gets_everything(fake, tmp_path):
    down = iter([True, True])

    def fail(name: str) -> None:
        if name == "log_metrics" and next(down, False):
            raise ConnectionError("http://u:secret@host:5000 refused")

    tracker, store, lines = fake(fail)
    tracker.trial_started(0, "", CONFIG, {})
    tracker.rung_reached(0, 0, metrics(0), [], checkpoint(tmp_path / "my study", 0, 0), "done")
    tracker.close()
    assert store.calls.count("log_metrics") == 1
    assert len(lines) == 1
    assert "the search goes on" in lines[0]
    assert "secret" not in lines[0]


def test_what_a_dead_store_did_not_take_is_said_in_one_line(fake, tmp_path):
    def fail(name: str) -> None:
        raise ConnectionError("http://u:secret@host:5000 refused")

    tracker, _, lines = fake(fail)
    tracker.trial_started(0, "", CONFIG, {})
    tracker.rung_reached(0, 0, metrics(0), [], checkpoint(tmp_path / "my study", 0, 0), "done")
    tracker.close(timeout=0.2)
    tracker.close()
    assert lines[-1].startswith("2 records did not reach the tracking store http://host:5000")
    assert len([line for line in lines if "did not reach" in line]) == 1
    assert lines[-1].endswith("delivered by: launch --resume")
    assert not any("secret" in line or "\n" in line for line in lines)


@pytest.mark.parametrize("factor", [3, 1])
def test_a_kill_between_any_two_calls_to_the_store_leaves_no_gap_and_no_double(
    factor, storage, monkeypatch
):
    """Each session dies one call later; the last one is left alone. The second rung is at another
    step, or at the same one, where one update of a large net has reached both."""
    losses = [(float(step), -1.0, 2.0) for step in range(1, 501)]  # two batches
    paths = [checkpoint(storage / "my study", 0, rung) for rung in range(2)]
    allowed, parent, calls = 0, None, [0]

    class Killed(BaseException):
        pass

    class Dying(run_store.RunStore):
        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            if name not in ("_client", "_database", "_folder"):
                return found
            if calls[0] >= allowed:
                raise Killed
            calls[0] += 1
            return found

    class AtOnce:
        """A writer without a thread, so that a death is the test's own."""

        def __init__(self, **_options):
            pass

        def put(self, job):
            job()

    monkeypatch.setattr(tracking, "OrderedWriter", AtOnce)
    real = study_runs.RunStore
    while True:
        monkeypatch.setattr(study_runs, "RunStore", real)
        tracker = Tracker(None, storage=storage, place=parent, **options([]))
        parent = tracker.place
        tracker._runs.store.__class__ = Dying
        calls[0] = 0
        try:
            tracker.trial_started(0, "", CONFIG, {"width": 16})
            for rung, decision in enumerate(("pause", "done")):
                scores = metrics(rung) | {"train_flops": 1e12 * factor**rung}
                tracker.rung_reached(0, rung, scores, losses, paths[rung], decision)
                tracker.trial_promoted(0) if rung == 0 else None
            tracker.trial_ended(0, "COMPLETE", "")
        except Killed:
            allowed += 1
            assert allowed < 40
            continue
        break
    assert allowed > 8
    (run,) = trial_runs(storage, tracker).values()
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
    store = client(storage)
    for name in run.data.metrics:
        points = store.get_metric_history(run.info.run_id, name)
        rungs = [1000, 1000 * factor + 1]
        wanted = [float(s) for s in range(1, 501)] if "_loss" in name else rungs
        assert sorted(point.step for point in points) == wanted, name
    marks = store.get_metric_history(run.info.run_id, "training/rung")
    assert sorted(point.value for point in marks) == [0, 1]
    assert run.data.params == {"width": "16", "inner.lr": "0.001", "inner.steps": "10"}


def test_a_server_that_answers_500_now_and_then_gets_everything_in_order(storage, monkeypatch):
    """Before or after it did what it was asked: an answer may be lost, too."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    tries, dice = [0], random.Random(0)  # no rhythm: a job of many calls would never be through

    def flaky(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **named):
            tries[0] += 1
            if dice.random() < 0.3:
                raise MlflowException("500 Server Error")
            found = real(*arguments, **named)
            if dice.random() < 0.3:
                raise MlflowException("API request failed: connection reset")
            return found

        return call

    lines: list[str] = []
    tracker = Tracker(None, storage=storage, **options(lines))
    tracker._writer._waits = (0.0,)
    with monkeypatch.context() as patch:
        for name in ("create_run", "set_terminated", "search_runs"):
            patch.setattr(MlflowClient, name, flaky(MlflowClient, name))
        patch.setattr(RunStore, "log_bytes", flaky(RunStore, "log_bytes"))
        patch.setattr(run_store, "write_batch", flaky(run_store, "write_batch"))
        told_of_two_rungs(tracker, storage)
        tracker.close()
    assert tries[0] > 10
    assert all("the search goes on" in line for line in lines)
    assert lines
    has_all_of_two_rungs(storage, tracker)


def test_a_rung_that_was_refused_is_delivered_by_the_next_session(storage, monkeypatch):
    """A proxy or a server's permissions: no second try would have been answered otherwise."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    real, refused = run_store.write_batch, []

    def forbidden(path, run_id, *, points, **named):
        if any(step == 1000 for *_, step in points) and not refused:
            refused.append(run_id)
            raise MlflowException("no access", error_code=PERMISSION_DENIED)
        return real(path, run_id, points=points, **named)

    lines: list[str] = []
    tracker = Tracker(None, storage=storage, **options(lines))
    with monkeypatch.context() as patch:
        patch.setattr(run_store, "write_batch", forbidden)
        told_of_two_rungs(tracker, storage)
        tracker.close()
    assert refused
    assert lines[-1].startswith("1 records did not reach")
    again = Tracker(None, storage=storage, place=tracker.place, **options(lines))
    told_of_two_rungs(again, storage)
    again.close()
    assert len(lines) == 1
    has_all_of_two_rungs(storage, again, in_order=False)


def test_a_start_that_was_refused_is_made_up_for_by_the_next_session(storage, monkeypatch):
    """Though its trial goes on, waits and is cut: no state says that the parameters are there."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    def forbidden(*_arguments, **_named):
        raise MlflowException("no access", error_code=PERMISSION_DENIED)

    with monkeypatch.context() as patch, Tracker(None, storage=storage, **options([])) as tracker:
        patch.setattr(RunStore, "log_bytes", forbidden)
        tracker.trial_started(0, "", CONFIG, {"width": 16})
        tracker.rung_reached(0, 0, metrics(0), [], checkpoint(storage / "my study", 0, 0), "pause")
        tracker.trial_promoted(0)
    again = Tracker(None, storage=storage, place=tracker.place, **options([]))
    told_of_two_rungs(again, storage)
    again.close()
    (run,) = trial_runs(storage, again).values()
    names = [item.path for item in client(storage).list_artifacts(run.info.run_id)]
    assert "config.json" in names
    assert run.data.tags["state"] == "COMPLETE"


def test_a_disk_without_room_for_a_runs_id_costs_the_run_nothing(storage):
    """The id is noted when there is room again."""
    remembered: list[int] = []
    full = [True]

    def remember(number, run_id):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        remembered.append(number)

    tracker = Tracker(None, storage=storage, **options([], remember=remember))
    tracker.trial_started(0, "", CONFIG, {"width": 16})
    while not tracker._runs.new:
        time.sleep(0.01)
    for rung, decision in enumerate(("pause", "done")):
        losses = [(10.0 * rung + step, -1.0, 2.0) for step in range(1, 6)]
        path = checkpoint(storage / "my study", 0, rung)
        with pytest.raises(OSError, match="No space left"):
            tracker.rung_reached(0, rung, metrics(rung), losses, path, decision)
    full[0] = False
    tracker.trial_ended(0, "COMPLETE", "")
    tracker.close()
    assert remembered == [0]
    has_all_of_two_rungs(storage, tracker)


@pytest.mark.faults
def test_a_locked_database_gets_everything_when_it_is_free(storage):
    """Locked for longer than SQLite itself waits, which is 20 s."""
    tracker = Tracker(None, storage=storage, **options([]))
    with closing(sqlite3.connect(storage / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        told_of_two_rungs(tracker, storage)
        assert time.monotonic() - began < 5, "the search waited"
        time.sleep(30)
        other.execute("ROLLBACK")
    tracker.close()
    has_all_of_two_rungs(storage, tracker)
