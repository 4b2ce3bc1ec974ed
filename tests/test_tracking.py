"""Tracking: what reaches MLflow, once and only once, and what a bad address is answered with."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from test_result import FRONT, result

from trainables.errors import UserError
from tuner import run_store, study_runs, tracking
from tuner.pages import run_page
from tuner.result import Data, TrackingPlace
from tuner.run_store import Models, flatten, is_passing
from tuner.tracking import Tracker, provenance_tags
from tuner.tracking_uri import (
    default_uri,
    page_address,
    reason,
    require_no_password,
    resolve_uri,
    sqlite_path,
    strip_credentials,
    ui_command,
)

# MLflow's own, on SQLAlchemy 2.1: `noload` in its table classes.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

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


def test_a_study_is_one_run_with_a_child_for_each_trial(storage):
    lines: list[str] = []
    remembered: dict[int, str] = {}
    tracker = Tracker(None, storage=storage, **options(lines, remember=remembered.__setitem__))
    losses = [(10.0 * step, -1.0, 2.0) for step in range(1, 1001)]  # 2000 points: three batches
    tracker.trial_started(0, "paper", CONFIG, {"width": 16})
    for rung, decision in enumerate(("continue", "done")):
        told = metrics(rung) | {"L_low": 1.8 - rung, "L_high": 2.3 - rung}
        tracker.rung_reached(0, rung, told, losses, checkpoint(storage, 0, rung), decision)
        time.sleep(0.002)  # the same points of one millisecond would be one
    tracker.trial_ended(0, "COMPLETE", "")
    tracker.trial_started(1, "", CONFIG, {"width": 8})
    tracker.rung_reached(1, 0, metrics(0), [], checkpoint(storage, 1, 0), "pause")
    tracker.trial_ended(1, "PRUNED", "asha: rung 0")
    tracker.trial_started(2, "", CONFIG, {"width": 32})
    tracker.trial_ended(2, "FAIL", "diverged: critic loss is nan")
    checkpoint(storage / "my study", 1, 1)
    tracker.study_ended(result(storage / "my study"), {"split": "abc"})
    assert lines == []

    runs = trial_runs(storage, tracker)
    assert {int(number): run.info.run_id for number, run in runs.items()} == remembered
    states = {n: (run.info.status, run.data.tags["state"]) for n, run in runs.items()}
    assert states == {
        "0": ("FINISHED", "COMPLETE"),
        "1": ("FINISHED", "PRUNED"),
        "2": ("FAILED", "FAIL"),
    }
    first = runs["0"]
    assert first.info.run_name == "trial 0 · paper's settings · w16"
    assert first.data.params == {"width": "16", "inner.lr": "0.001", "inner.steps": "10"}
    assert first.data.tags["mlflow.parentRunId"] == tracker.place.parent_run_id
    assert runs["2"].data.tags["reason"] == "diverged: critic loss is nan"
    wanted = {"seed": "7", "data": "omniglot", "data_fingerprint": DATA.fingerprint}
    wanted |= {"stand_in": "false", "version.torch": "2.14.1", "git_commit": "ab" * 20}
    wanted |= {"git_dirty": "true", "study": "my study", "label": "paper"}
    assert wanted.items() <= first.data.tags.items()

    store, run_id = client(storage), first.info.run_id
    scores = store.get_metric_history(run_id, "score/L")
    assert [(point.step, point.value) for point in scores] == [(1000, 2.0), (3001, 1.0)]
    assert len(store.get_metric_history(run_id, "training/critic_loss")) == 2000
    assert {item.path for item in store.list_artifacts(run_id)} == {
        "config.json",
        "images",
        "weights.safetensors",
    }
    note = first.data.tags["mlflow.note.content"]
    assert note.startswith("**L 1.00, J .10** at rung 2.")
    (shown,) = re.findall(r"get-artifact\?path=(\S+)&", note)
    assert Path(store.download_artifacts(run_id, unquote(shown))).read_bytes() == PNG
    assert first.data.tags["L_95"] == "0.80 to 1.30"
    config = Path(store.download_artifacts(run_id, "config.json"))
    assert json.loads(config.read_text()) == CONFIG


def test_the_best_is_registered_once_and_crowned_only_through_the_gate(storage):
    checkpoint(storage / "my study", 1, 1)
    stays = result(storage / "my study")
    wins = replace(stays, gate=replace(stays.gate, crowned=True, against=None, margin=None))
    first = Tracker(None, storage=storage, **options([]))
    first.study_ended(wins, {"split": "abc"})
    champion = Models(first.uri).champion("reptile_omniglot")
    assert champion.number == 1
    assert champion.tags["split"] == "abc"
    assert champion.tags["study"] == "my study"
    assert champion.tags["test_J"] == "0.3900"

    again = Tracker(None, storage=storage, **options([], place=first.place))
    again.study_ended(wins, {"split": "abc"})  # told twice: still one version
    second = Tracker(None, storage=storage, **options([]))
    second.study_ended(stays, {"split": "abc"})
    lines: list[str] = []
    late = Tracker(None, storage=storage, **options(lines))
    late.study_ended(wins, {"split": "abc"})  # there was no champion when it met none
    assert "@champion went to another model meanwhile" in lines[0]
    assert lines[0].endswith("by: launch --resume")
    assert Models(late.uri).champion("reptile_omniglot").number == 1
    assert registered(storage) == [1, 2, 3]

    # It beat another store's version 1, which is not the one here.
    elsewhere = replace(wins, gate=replace(wins.gate, against=1, against_run="of another store"))
    moved = Tracker(None, storage=storage, **options([]))
    moved.study_ended(elsewhere, {"split": "abc"})
    assert Models(moved.uri).champion("reptile_omniglot").number == 1
    ours = replace(wins, gate=replace(wins.gate, against=1, against_run=champion.run_id))
    better = Tracker(None, storage=storage, **options([]))
    better.study_ended(ours, {"split": "abc"})
    assert Models(better.uri).champion("reptile_omniglot").number == 5


def test_the_champions_files_come_from_its_own_run(storage, tmp_path):
    checkpoint(storage / "my study", 1, 1)
    made = result(storage / "my study")
    crowned = replace(made, gate=replace(made.gate, crowned=True, against=None, margin=None))
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.study_ended(crowned, {})
    got = Models(tracker.uri).download("reptile_omniglot", 1, "weights.safetensors", tmp_path)
    assert got.read_bytes() == (storage / "my study" / made.best.weights).read_bytes()
    assert Models(tracker.uri).champion("no such model") is None


def test_a_crowned_study_that_is_searched_on_leaves_the_version_it_registered_alone(
    storage, tmp_path
):
    def delivered(weights, *, crowned, against):
        checkpoint(storage / "my study", 1, 1)
        made = result(storage / "my study")
        (made.folder / made.best.weights).write_bytes(weights)
        gate = replace(
            made.gate,
            crowned=crowned,
            against=against,
            against_run=parent and parent.parent_run_id,
            margin=None,
        )
        tracker = Tracker(None, storage=storage, **options([], place=parent))
        tracker.study_ended(replace(made, gate=gate), {})
        files = {
            version: Models(tracker.uri)
            .download("reptile_omniglot", version, "weights.safetensors", tmp_path / f"{version}")
            .read_bytes()
            for version in registered(storage)
        }
        return tracker, files

    parent = None
    tracker, files = delivered(b"first", crowned=True, against=None)
    parent = tracker.place
    assert files == {1: b"first"}

    tracker, files = delivered(b"worse", crowned=False, against=1)
    assert Models(tracker.uri).champion("reptile_omniglot").number == 1
    assert files == {1: b"first", 2: b"worse"}

    tracker, files = delivered(b"better", crowned=True, against=1)
    assert Models(tracker.uri).champion("reptile_omniglot").number == 3
    assert files == {1: b"first", 2: b"worse", 3: b"better"}

    note = client(storage).get_run(parent.parent_run_id).data.tags["mlflow.note.content"]
    assert len(set(re.findall(r"images/[^)\s]+", note))) == 1, "the newest champion's alone"
    items = client(storage).list_artifacts(parent.parent_run_id)
    folders = {item.path for item in items if item.path.startswith("best-")}
    versions = [client(storage).get_model_version("reptile_omniglot", str(n)) for n in (1, 2, 3)]
    assert {version.tags["folder"] for version in versions} == folders
    assert len(folders) == 3


def registered(storage: Path) -> list[int]:
    found = client(storage).search_model_versions("name = 'reptile_omniglot'")
    return sorted(int(version.version) for version in found)


def test_the_studys_own_run_holds_the_outcome(storage):
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.trial_started(1, "", CONFIG, {"width": 8})
    tracker.trial_ended(1, "COMPLETE", "")
    checkpoint(storage / "my study", 1, 1)
    made = result(storage / "my study", pareto=FRONT)
    for name in ("report.html", "report.md"):
        (made.folder / name).write_text("told", encoding="utf-8")
    tracker.study_ended(made, {"split": "abc"})
    store = client(storage)
    run = store.get_run(tracker.place.parent_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["trials"] == "3"
    assert run.data.metrics["test/J"] == pytest.approx(0.39)
    assert run.data.metrics["fidelity/rung_0"] == pytest.approx(0.8)
    assert run.data.tags["pareto_front"] == "1, 0"
    note = run.data.tags["mlflow.note.content"]
    assert made.verdict in note
    assert re.search(r"images/[^)\s]*champion", note)
    assert "| 1 | [trial 1" in note
    assert "| | augmented shots | | 1.25 | .61 |" in note
    paths = {item.path for item in store.list_artifacts(tracker.place.parent_run_id)}
    kinds = {path.partition("-")[0] for path in paths}
    assert kinds == {"best", "images", "result.json", "report.html", "report.md"}


def test_a_resumed_study_goes_on_in_its_runs_and_doubles_nothing(storage):
    with Tracker(None, storage=storage, **options([])) as first:
        first.trial_started(0, "", CONFIG, {"width": 16})
        first.rung_reached(0, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage, 0, 0), "done")
        first.trial_ended(0, "COMPLETE", "")
        first.trial_started(1, "", CONFIG, {"width": 8})
        first.rung_reached(
            1, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage, 1, 0), "continue"
        )
    runs = trial_runs(storage, first)
    assert runs["1"].info.status == "KILLED"
    assert runs["1"].data.tags["state"] == "INTERRUPTED"
    assert client(storage).get_run(first.place.parent_run_id).info.status == "KILLED"
    ended = runs["0"].info.end_time

    time.sleep(0.01)
    again = Tracker(None, storage=storage, place=first.place, **options([]))
    assert again.place.parent_run_id == first.place.parent_run_id
    # The past is played again, as from a journal, and goes on where it was cut.
    again.trial_started(0, "", CONFIG, {"width": 16})
    again.rung_reached(0, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage, 0, 0), "done")
    again.trial_ended(0, "COMPLETE", "")
    again.trial_started(1, "", CONFIG, {"width": 8})
    again.rung_reached(1, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage, 1, 0), "continue")
    again.rung_reached(1, 1, metrics(1), [(2.0, 2.0, 3.0)], checkpoint(storage, 1, 1), "done")
    again.trial_ended(1, "COMPLETE", "")
    again.close()

    runs = trial_runs(storage, again)
    store, run_id = client(storage), runs["1"].info.run_id
    for metric, steps in (("score/L", STEPS), ("training/critic_loss", [1, 2])):
        assert [point.step for point in store.get_metric_history(run_id, metric)] == steps
    assert runs["1"].data.tags["state"] == "COMPLETE"
    assert runs["0"].info.end_time == ended, "a finished trial was touched"


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


def points_of(storage: Path, tracker: Tracker, metric: str) -> list[tuple[int, float]]:
    (run,) = trial_runs(storage, tracker).values()
    found = client(storage).get_metric_history(run.info.run_id, metric)
    return [(point.step, point.value) for point in found]


def test_what_is_told_late_has_the_time_at_which_it_happened(storage):
    tracker = Tracker(None, storage=storage, **options([], began=1000.0))
    tracker.trial_started(0, "", CONFIG, {"width": 16}, when=1001.0)
    tracker.trial_started(0, "", CONFIG, {"width": 16})  # and goes on
    losses, path = [(1.0, 2.0, 3.0)], checkpoint(storage, 0, 0)
    tracker.rung_reached(0, 0, metrics(0), losses, path, "done", when=1002.5)
    tracker.trial_ended(0, "COMPLETE", "", when=1003.0)
    tracker.close()
    (run,) = trial_runs(storage, tracker).values()
    assert (run.info.start_time, run.info.end_time) == (1_001_000, 1_003_000)
    store = client(storage)
    for metric in ("score/L", "training/critic_loss", "training/rung"):
        (point,) = store.get_metric_history(run.info.run_id, metric)
        assert point.timestamp == 1_002_500
    assert store.get_run(tracker.place.parent_run_id).info.start_time == 1_000_000


def test_a_trial_that_waits_is_shown_to_wait_after_a_resume_too(storage):
    def told_of_a_pause(tracker):
        tracker.trial_started(0, "", CONFIG, {"width": 16})
        tracker.rung_reached(0, 0, metrics(0), [], checkpoint(storage, 0, 0), "pause")

    def shown(tracker):
        tracker.close()
        (run,) = trial_runs(storage, tracker).values()
        return run.info.status, run.data.tags["state"]

    with Tracker(None, storage=storage, **options([])) as first:
        told_of_a_pause(first)
    assert shown(first) == ("KILLED", "INTERRUPTED")
    again = Tracker(None, storage=storage, place=first.place, **options([]))
    told_of_a_pause(again)
    assert shown(again) == ("RUNNING", "PAUSED")
    promoted = Tracker(None, storage=storage, place=first.place, **options([]))
    told_of_a_pause(promoted)
    promoted.trial_promoted(0)
    assert shown(promoted) == ("RUNNING", "RUNNING")


def test_rungs_that_one_update_passed_are_steps_of_their_own_however_late_they_come(storage):
    both = [metrics(0) | {"L": loss} for loss in (2.0, 1.9)]  # as much training
    with Tracker(None, storage=storage, **options([])) as first:
        first.trial_started(0, "", CONFIG, {"width": 16})
        first.rung_reached(0, 0, both[0], [], checkpoint(storage, 0, 0), "continue")
    for _ in range(2):
        with Tracker(None, storage=storage, place=first.place, **options([])) as again:
            again.trial_started(0, "", CONFIG, {"width": 16})
            for rung, scores in enumerate(both):
                again.rung_reached(0, rung, scores, [], checkpoint(storage, 0, rung), "continue")
    assert points_of(storage, again, "score/L") == [(1000, 2.0), (1001, 1.9)]
    assert points_of(storage, again, "training/rung") == [(1000, 0.0), (1001, 1.0)]


def test_a_rung_that_a_trial_comes_to_again_is_written_once(storage):
    """Its checkpoint was lost; the clock says something else than the first time."""
    with Tracker(None, storage=storage, **options([])) as tracker:
        tracker.trial_started(0, "", CONFIG, {"width": 16})
        for seconds in (5.0, 6.0):
            told = metrics(0) | {"train_seconds": seconds}
            path = checkpoint(storage, 0, 0)
            tracker.rung_reached(0, 0, told, [(1.0, 2.0, 3.0)], path, "continue")
            time.sleep(0.01)
    assert points_of(storage, tracker, "training/train_seconds") == [(1000, 5.0)]
    assert points_of(storage, tracker, "training/critic_loss") == [(1, 2.0)]


class Outage:
    """Lets no client be opened until it is over."""

    def __init__(self, monkeypatch):
        self.over, self.tries = False, 0
        real = run_store.open_client

        def opened(uri):
            if self.over:
                return real(uri)
            self.tries += 1
            raise ConnectionRefusedError("Connection refused")

        monkeypatch.setattr(run_store, "open_client", opened)


def test_a_resumed_study_goes_on_while_its_store_is_away_and_delivers_when_it_is_back(
    storage, monkeypatch
):
    with Tracker(None, storage=storage, **options([])) as first:
        first.trial_started(0, "", CONFIG, {"width": 16})
        first.rung_reached(0, 0, metrics(0), [(1.0, 2.0, 3.0)], checkpoint(storage, 0, 0), "pause")
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
        again.rung_reached(0, rung, metrics(rung), losses, checkpoint(storage, 0, rung), decision)
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


@pytest.mark.parametrize(("status", "passing"), [(413, False), (403, False), (503, True)])
def test_a_refused_upload_does_not_hold_up_what_comes_after_it(status, passing):
    """MLflow's artifacts come with the HTTP library's own error, which is one of the network."""
    answer = requests.Response()
    answer.status_code = status
    assert is_passing(requests.HTTPError("no", response=answer)) is passing


def test_a_store_without_the_studys_run_gets_a_new_one(storage):
    lost = TrackingPlace(uri=default_uri(storage), experiment_id="1", parent_run_id="0" * 32)
    tracker = Tracker(None, storage=storage, place=lost, **options([]))
    assert tracker.place.parent_run_id != lost.parent_run_id
    tracker.close()


def test_nothing_is_left_in_the_working_folder(storage, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    with Tracker(None, storage=storage, **options([])) as tracker:
        tracker.trial_started(0, "", CONFIG, {})
        tracker.rung_reached(0, 0, metrics(0), [], checkpoint(storage, 0, 0), "done")
    assert list(folder.iterdir()) == []
    assert (storage / "mlartifacts" / "reptile_omniglot").is_dir()


def test_a_rung_without_a_picture_is_said_and_its_scores_are_kept(storage):
    lines: list[str] = []
    tracker = Tracker(None, storage=storage, **options(lines))
    tracker.trial_started(0, "", CONFIG, {})
    tracker.rung_reached(0, 0, metrics(0), [], storage / "gone", "continue")
    tracker.close()
    assert lines == [f"Trial 0 has no picture of rung 0 in {storage / 'gone'}."]
    assert trial_runs(storage, tracker)["0"].data.metrics["score/J"] == pytest.approx(0.1)


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


# --- with a store of our own, to see the order of things and to fail at will


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
def fake(monkeypatch) -> Callable[..., tuple[Tracker, FakeStore, list[str]]]:
    def make(fail: Callable[[str], None]) -> tuple[Tracker, FakeStore, list[str]]:
        store, lines = FakeStore(fail), list[str]()
        monkeypatch.setattr(study_runs, "RunStore", lambda *a, **k: store)
        monkeypatch.setattr(tracking, "is_passing", lambda e: isinstance(e, ConnectionError))
        tracker = Tracker("http://u:secret@host:5000", storage=Path("s"), **options(lines))
        store.opened()
        return tracker, store, lines

    return make


def test_the_search_never_waits_for_a_slow_store(fake, tmp_path):
    tracker, _, _ = fake(lambda name: time.sleep(0.05))
    path = checkpoint(tmp_path, 0, 0)
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
    tracker.rung_reached(0, 0, metrics(0), [], checkpoint(tmp_path, 0, 0), "done")
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
    tracker.rung_reached(0, 0, metrics(0), [], checkpoint(tmp_path, 0, 0), "done")
    tracker.close(timeout=0.2)
    tracker.close()
    assert lines[-1].startswith("2 records did not reach the tracking store http://host:5000")
    assert len([line for line in lines if "did not reach" in line]) == 1
    assert lines[-1].endswith("delivered by: launch --resume")
    assert not any("secret" in line or "\n" in line for line in lines)


# --- addresses


def test_a_server_that_is_not_there_is_answered_within_seconds(tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = dict(os.environ)
    began = time.monotonic()
    with pytest.raises(UserError, match="cannot be used") as caught:
        Tracker(f"http://me:secret@127.0.0.1:{port}", storage=tmp_path, **options([]))
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert f"http://127.0.0.1:{port}" in message
    assert "Connection refused" in message
    assert "secret" not in message
    assert "\n" not in message
    assert {k: v for k, v in os.environ.items() if k in before} == before


def test_a_server_that_never_answers_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(run_store, "CHECK_SECONDS", 1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        with pytest.raises(UserError, match="cannot be used"):
            Tracker(f"http://127.0.0.1:{mute.getsockname()[1]}", storage=tmp_path, **options([]))
        assert time.monotonic() - began < 5


def test_a_database_server_that_is_not_there_is_named_without_its_password(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"postgresql://me:s3cr@t@127.0.0.1:{port}/mlflow"
    with pytest.raises(UserError, match="Connection refused") as caught:
        Tracker(uri, storage=tmp_path, **options([]))
    assert f"postgresql://127.0.0.1:{port}/mlflow" in str(caught.value)
    assert "cr@t" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        *("./mlruns", "/data/mlruns", "file:///data", "ftp://host/x", ""),
        *("http://", "http://h:x", "http://[1"),
    ],
)
def test_what_is_no_tracking_uri_is_refused(tmp_path, uri):
    with pytest.raises(UserError, match="`--tracking-uri`") as caught:
        resolve_uri(uri, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("http://me:s3cret@host:5000", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("HTTPS://me:s3c'ret@host", "MLFLOW_TRACKING_PASSWORD"),
        ("postgresql+psycopg://me:s3c/ret@host/mlflow", "PGPASSWORD"),
        (
            "postgresql://me@host/mlflow?password=s3cret",
            "MLflow server .* postgresql://host/mlflow",
        ),
        ("postgresql://host/mlflow?sslmode=require&PassWord=s3c%2Fret@", "~/.pgpass"),
        ("https://host/?token=s3cret", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_password_on_the_command_line_is_refused_with_the_place_for_it(uri, place):
    with pytest.raises(UserError, match=place) as caught:
        require_no_password(uri)
    assert not re.search("s3c|ret@", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        *("http://host:5000", "postgresql://me@host/mlflow", "sqlite:////home/a:b@c/mlflow.db"),
        "mysql+pymysql://me:known@host/mlflow",  # its drivers take it from nowhere else
        "postgresql://me@host/mlflow?passfile=/home/me/.pgpass&sslmode=require",
    ],
)
def test_an_address_without_a_password_is_not_refused(uri):
    require_no_password(uri)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_an_sqlite_address_must_name_a_file(uri, tmp_path):
    with pytest.raises(UserError, match="name a file"):
        resolve_uri(uri, tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to have been one " * 40)
    with pytest.raises(UserError, match="not a database"):
        Tracker(f"sqlite:///{path}", storage=tmp_path, **options([]))
    assert path.read_text().startswith("not a database")


def test_a_store_in_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be used"):
        Tracker(f"sqlite:///{tmp_path}/file/mlflow.db", storage=tmp_path, **options([]))


def test_a_deleted_experiment_is_said_with_the_way_back(storage):
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.close()
    client(storage).delete_experiment(tracker.place.experiment_id)
    with pytest.raises(UserError, match=r"mlflow experiments restore --experiment-id"):
        Tracker(None, storage=storage, **options([]))


def test_sqlite_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///runs/a.db", tmp_path) == f"sqlite:///{tmp_path}/runs/a.db"
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert sqlite_path("sqlite:////a/b.db?mode=ro") == Path("/a/b.db")


printable = {"exclude_categories": ["Z", "C"]}


@given(
    user=st.text(st.characters(**printable, exclude_characters="'\"/@:"), min_size=1),
    password=st.text(st.characters(**printable, exclude_characters="'\""), min_size=1),
)
def test_no_password_survives(user, password):
    text = f"connecting to https://{user}:{password}@host.example:5000/path failed"
    assert strip_credentials(text) == "connecting to https://host.example:5000/path failed"


@pytest.mark.parametrize(
    ("uri", "left"),
    [
        ("postgresql://host/db?user=me&password=s3cret", "postgresql://host/db?user=me&"),
        ("postgresql://host/db?sslPassword=s3cret&a=b", "postgresql://host/db?a=b"),
        ("https://host/x?access_token=s3cret failed", "https://host/x? failed"),
    ],
)
def test_no_password_among_parameters_survives(uri, left):
    assert strip_credentials(uri) == left


@pytest.mark.parametrize(
    "name",
    [
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    ],
)
def test_what_an_error_repeats_of_the_environment_is_hidden(monkeypatch, name):
    monkeypatch.setenv(name, "hunter2/+=")
    told = reason(ConnectionError("401 for Basic me:hunter2/+= at https://me:other@host:5000"))
    assert told == "401 for Basic me:*** at https://host:5000"


def test_nothing_of_the_environment_reaches_the_store(storage, monkeypatch):
    secrets = {
        "MLFLOW_TRACKING_TOKEN": "hunter2-token",
        "AWS_SECRET_ACCESS_KEY": "hunter2-key",
        "RAY_AUTH_TOKEN": "hunter2-ray",
        "SOME_API_TOKEN": "hunter2-api",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    tracker = Tracker(None, storage=storage, **options([]))
    tracker.trial_started(0, "", CONFIG, {})
    tracker.rung_reached(0, 0, metrics(0), [], checkpoint(storage, 0, 0), "done")
    tracker.trial_ended(0, "COMPLETE", "")
    tracker.study_ended(result(storage), {})
    for path in storage.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path


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


def test_an_at_sign_in_a_path_is_no_password():
    assert strip_credentials("sqlite:////home/me@work/m.db") == "sqlite:////home/me@work/m.db"


def test_the_command_for_the_pages_is_exact_and_keeps_passwords_out():
    local = ui_command("sqlite:////my runs/mlflow.db")
    assert Path(shlex.split(local)[0]).is_absolute()
    assert local.endswith(
        "mlflow ui --backend-store-uri 'sqlite:////my runs/mlflow.db' --workers 1 --port 5000"
    )
    assert ui_command("http://me:secret@host:5000") == "http://host:5000"
    assert "secret" not in ui_command("postgresql://me:secret@host/db")


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # of MLflow's own classes
def test_the_pages_are_shown_on_this_machine_alone():
    """The command that is printed names no host: what MLflow takes then."""
    from mlflow.cli import cli

    assert "--host" not in ui_command("sqlite:////runs/mlflow.db")
    (host,) = (option for option in cli.get_command(None, "ui").params if option.name == "host")
    assert host.default == "127.0.0.1"


def test_the_studys_page_is_on_its_server_or_on_the_local_one():
    page = run_page("1", "ab")
    assert page == "#/experiments/1/runs/ab?workflowType=machine_learning"
    assert page_address("http://me:pw@host:5000/", page) == f"http://host:5000/{page}"
    assert page_address("sqlite:////runs/mlflow.db", page) == f"http://127.0.0.1:5000/{page}"


def test_flattening_joins_names():
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": 1, "d": [1, 2]}


@pytest.mark.parametrize("factor", [3, 1])
def test_a_kill_between_any_two_calls_to_the_store_leaves_no_gap_and_no_double(
    factor, storage, monkeypatch
):
    """Each session dies one call later; the last one is left alone. The second rung is at another
    step, or at the same one, where one update of a large net has reached both."""
    losses = [(float(step), -1.0, 2.0) for step in range(1, 501)]  # two batches
    paths = [checkpoint(storage, 0, rung) for rung in range(2)]
    allowed, parent, calls = 0, None, [0]

    class Killed(BaseException):
        pass

    class Dying(run_store.RunStore):
        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            if name != "_client":
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


def told_of_two_rungs(tracker, storage):
    tracker.trial_started(0, "", CONFIG, {"width": 16})
    for rung, decision in enumerate(("pause", "done")):
        losses = [(10.0 * rung + step, -1.0, 2.0) for step in range(1, 6)]
        tracker.rung_reached(0, rung, metrics(rung), losses, checkpoint(storage, 0, rung), decision)
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


def test_a_server_that_answers_500_now_and_then_gets_everything_in_order(storage, monkeypatch):
    """Before or after it did what it was asked: an answer may be lost, too."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    tries, dice = [0], random.Random(0)  # no rhythm: a job of many calls would never be through

    def flaky(name):
        real = getattr(MlflowClient, name)

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
        for name in ("create_run", "log_batch", "log_artifact", "set_terminated", "search_runs"):
            patch.setattr(MlflowClient, name, flaky(name))
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
    from mlflow.tracking import MlflowClient

    real, refused = MlflowClient.log_batch, []

    def forbidden(self, run_id, metrics=(), **named):
        if any(metric.step == 1000 for metric in metrics) and not refused:
            refused.append(run_id)
            raise MlflowException("no access", error_code=PERMISSION_DENIED)
        return real(self, run_id, metrics=metrics, **named)

    lines: list[str] = []
    tracker = Tracker(None, storage=storage, **options(lines))
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", forbidden)
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
    from mlflow.tracking import MlflowClient

    def forbidden(*_arguments, **_named):
        raise MlflowException("no access", error_code=PERMISSION_DENIED)

    with monkeypatch.context() as patch, Tracker(None, storage=storage, **options([])) as tracker:
        patch.setattr(MlflowClient, "log_text", forbidden)
        tracker.trial_started(0, "", CONFIG, {"width": 16})
        tracker.rung_reached(0, 0, metrics(0), [], checkpoint(storage, 0, 0), "pause")
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
        path = checkpoint(storage, 0, rung)
        with pytest.raises(OSError, match="No space left"):
            tracker.rung_reached(0, rung, metrics(rung), losses, path, decision)
    full[0] = False
    tracker.trial_ended(0, "COMPLETE", "")
    tracker.close()
    assert remembered == [0]
    has_all_of_two_rungs(storage, tracker)


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
