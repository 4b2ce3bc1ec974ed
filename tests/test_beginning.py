"""How a study begins: with its plan, by one process, with one run in MLflow; and how it is left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from test_conductor import without_ray
from test_setting import begun, request_, taken
from tracked_study import empty_store

from trainables.errors import UserError
from tuner import conductor, ending, launch, machine, opening, study_tracking
from tuner import storage as storage_module
from tuner.conductor import _Study
from tuner.contenders import Played
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED
from tuner.final_round import Ended
from tuner.journal import Journal
from tuner.journal_file import is_begun, is_free
from tuner.machine import Speed
from tuner.plan import Plan
from tuner.request import Request
from tuner.result import load
from tuner.resumption import reopened
from tuner.search_phase import Searched
from tuner.session_notes import SessionNotes
from tuner.setting import Setting, look_around
from tuner.shares import Shares
from tuner.study import StudyRun
from tuner.tracking import Tracker
from tuner.tracking_uri import default_uri

__all__ = ["empty_store", "request_"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

NAME = "reptile_omniglot-my-pictures"


@pytest.fixture
def asked(request_: Request, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """Of a study that is planned in a moment and cut as soon as it searches."""
    request_.storage.mkdir()
    shutil.copy(empty_store, request_.storage)
    monkeypatch.setattr(machine, "CALIBRATION_SECONDS", 0.01)
    without_ray(monkeypatch)
    searched = SimpleNamespace(run=SimpleNamespace(interrupted=True))
    monkeypatch.setattr(conductor, "search_trials", lambda *_a: searched)
    return replace(request_, tracking_uri=None, budget_seconds=None)


def studies_in_mlflow(storage: Path) -> list[Any]:
    client = MlflowClient(default_uri(storage))
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(places, "tags.kind = 'study'"))


def cut_off(storage: Path, name: str = NAME) -> None:
    """What a kill leaves that came before the plan: another study's points and objectives."""
    with Journal(storage, name, ("L", "coverage")) as journal:
        journal.study.enqueue_trial({}, user_attrs={"label": "of another experiment"})
        journal.set_attr("experiment", "reptile_mnist")


def killed(*_arguments: Any, **_more: Any) -> None:
    raise KeyboardInterrupt


def full(*_arguments: Any, **_more: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# The lock


def test_a_study_is_held_until_mlflow_was_told_everything(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its first session, and in a later one."""
    real, closed = Tracker.close, []

    def close(tracker: Tracker) -> bool:
        with pytest.raises(UserError, match="is running already"):
            Journal(asked.storage, NAME)
        closed.append(tracker)
        return real(tracker)

    monkeypatch.setattr(Tracker, "close", close)
    assert conductor.conduct(asked) == INTERRUPTED
    assert conductor.conduct(replace(asked, resume=True)) == INTERRUPTED
    assert len(closed) == 2
    Journal(asked.storage, NAME).close()


@pytest.mark.parametrize("runs_on", [True, False])
def test_a_name_that_is_taken_while_a_study_is_planned_is_left_alone(
    asked: Request, monkeypatch: pytest.MonkeyPatch, runs_on: bool
) -> None:
    """By a process that runs on, or dies; MLflow gets no run of the one that comes too late."""
    real = opening.new_plan
    with ExitStack() as theirs:

        def new_plan(known: Setting, shares: Shares, speed: Speed) -> Any:
            journal = theirs.enter_context(Journal(asked.storage, known.study))
            journal.set_attr("plan", "theirs")
            if not runs_on:
                theirs.close()
            return real(known, shares, speed)

        monkeypatch.setattr(opening, "new_plan", new_plan)
        words = "is running already" if runs_on else "was begun by another process meanwhile"
        with pytest.raises(UserError, match=words):
            conductor.conduct(asked)
    assert studies_in_mlflow(asked.storage) == []
    with Journal(asked.storage, NAME) as journal:
        assert journal.attr("plan") == "theirs"
    assert look_around(asked, None).study == f"{NAME}-2"


def test_opening_a_study_writes_nothing_that_is_there(tmp_path: Path) -> None:
    for objectives in (("L",), ("L", "coverage")):
        with Journal(tmp_path, "s", objectives):
            before = (tmp_path / "s/journal.log").read_bytes()
        for again in (objectives, ("L",)):
            with Journal(tmp_path, "s", again) as journal:
                assert journal.objectives == objectives
        assert (tmp_path / "s/journal.log").read_bytes() == before
        with Journal(tmp_path, "s", anew=True) as journal:
            assert journal.objectives == ("L",)
        (tmp_path / "s/journal.log").unlink()


def test_a_journal_that_cannot_be_begun_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            Journal(tmp_path, "s")
    Journal(tmp_path, "s").close()


# Before the plan


def lock_alone(storage: Path) -> None:
    cut_off(storage)
    (storage / NAME / "journal.log").unlink()


def torn_plan(storage: Path) -> None:
    with Journal(storage, NAME) as journal:
        journal.set_attr("plan", {"trials": 3})
    path = storage / NAME / "journal.log"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("left", [cut_off, lock_alone, torn_plan])
@pytest.mark.parametrize("named", [{}, {"study": NAME}, {"study": NAME, "resume": True}])
def test_a_study_that_was_cut_off_before_its_plan_begins_under_its_name(
    asked: Request,
    left: Callable[[Path], None],
    named: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    left(asked.storage)
    assert conductor.conduct(replace(asked, **named)) == INTERRUPTED
    said = capsys.readouterr()
    assert ("it begins anew" in said.out) == ("resume" in named)
    assert f"--resume --study {NAME} " in said.err
    with Journal(asked.storage, NAME) as journal:
        assert journal.objectives == ("L",)
        assert journal.attr("experiment") == "reptile_omniglot"
        assert "of another experiment" not in [record.label for record in journal.records()]
        parent = journal.attr("mlflow")["parent_run_id"]
    (run,) = studies_in_mlflow(asked.storage)
    assert run.info.run_id == parent


def test_a_plain_resume_does_not_see_what_never_began(asked: Request) -> None:
    with pytest.raises(UserError, match="no study of"):
        look_around(replace(asked, resume=True), None)
    cut_off(asked.storage)
    with pytest.raises(UserError, match="no study of"):
        look_around(replace(asked, resume=True), None)
    finished = taken(look_around(asked, None))
    (finished / "result.json").touch()
    cut_off(asked.storage, f"{NAME}-2")
    assert look_around(replace(asked, resume=True), None).study == NAME
    assert look_around(asked, None).study == f"{NAME}-2"


def test_a_folder_of_something_else_is_no_study_and_not_free(asked: Request) -> None:
    (asked.storage / NAME / "mine").mkdir(parents=True)
    assert look_around(asked, None).study == f"{NAME}-2"
    for study in (NAME, "absent"):
        known = look_around(replace(asked, study=study, resume=True), None)
        with pytest.raises(UserError, match="There is no study"):
            reopened(known)
    file = asked.storage / "file"
    file.touch()
    assert not is_free(file)
    assert not is_begun(file)


def command(request: Request) -> list[str]:
    words = [request.experiment, "--data", str(request.data), "--storage", str(request.storage)]
    return [*words, "--study", "s"]


def test_ctrl_c_before_the_plan_leads_back_to_the_same_command(
    asked: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, part in ((conductor, "record_plan"), (_Study, "_begin")):
        with monkeypatch.context() as patch:
            patch.setattr(place, part, killed)
            assert launch.main(command(asked)) == INTERRUPTED
        assert "run the same command again" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # the plan is there, and no run of MLflow's
        patch.setattr(study_tracking, "Tracker", killed)
        assert launch.main(command(asked)) == INTERRUPTED
    said = capsys.readouterr().err
    assert "go on with:" in said
    assert "the same command" not in said
    assert launch.main([*command(asked), "--resume"]) == INTERRUPTED
    assert len(studies_in_mlflow(asked.storage)) == 1


def test_ctrl_c_before_the_plan_does_not_lead_to_the_study_of_another_process(
    asked: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def theirs(*_arguments: Any, **_more: Any) -> None:
        with Journal(asked.storage, "s") as journal:
            journal.set_attr("plan", "theirs")
        raise KeyboardInterrupt

    monkeypatch.setattr(conductor, "require_store", theirs)
    assert launch.main(command(asked)) == INTERRUPTED
    assert "--resume" not in capsys.readouterr().err


def test_the_run_that_a_killed_beginning_left_in_mlflow_is_gone_on_with(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Journal.set_attr

    def set_attr(journal: Journal, key: str, value: Any) -> None:
        assert key != "mlflow" or journal.attr("plan") is not None, "a run, and no plan yet"
        if key == "mlflow":
            raise KeyboardInterrupt
        real(journal, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "set_attr", set_attr)
        assert conductor.conduct(asked) == INTERRUPTED
    (run,) = studies_in_mlflow(asked.storage)
    assert conductor.conduct(replace(asked, resume=True)) == INTERRUPTED
    (again,) = studies_in_mlflow(asked.storage)
    assert again.info.run_id == run.info.run_id
    with Journal(asked.storage, NAME) as journal:
        assert journal.attr("mlflow")["parent_run_id"] == run.info.run_id


# A full disk


@pytest.mark.parametrize("begins", [True, False])
def test_a_full_disk_at_the_beginning_and_at_a_resume_is_one_line(
    asked: Request,
    begins: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = look_around(replace(asked, study="s"), None)  # the pictures are in the cache
    if not begins:
        with begun(known) as journal:
            journal.set_attr("split", known.split.to_dict())
    words = [*command(asked), *([] if begins else ["--resume"])]
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        disk.setattr(storage_module.tempfile, "TemporaryDirectory", full)
        assert launch.main(words) == BROKEN_DOWN
    said = capsys.readouterr().err
    assert said.startswith("Stopped: The disk of ")
    assert said.count("\n") == 1
    way_on = (
        "then run the same command again" if begins else f"go on with: {conductor.sys.executable}"
    )
    assert way_on in said
    assert launch.main(words) == INTERRUPTED


# The exit code


def test_a_study_of_which_nothing_succeeded_ends_with_1(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so it does when it is told to MLflow again."""

    def search(notes: SessionNotes, plan: Plan, *_rest: Any) -> Searched:
        journal, experiment = notes.journal, notes.setting.experiment
        journal.ask(experiment.space, experiment.base)
        journal.end(0, "FAIL", "diverged: nan")
        run = StudyRun(
            records=journal.records(),
            best=None,
            interrupted=False,
            seconds=1.0,
            paused=(),
            fidelity={},
        )
        return Searched(run=run, plan=plan, ends=0.0)

    ended = SimpleNamespace(
        run=lambda _r, ends: Ended(baselines={}, played=Played(), gate=None, rematch_seconds=0.0)
    )
    monkeypatch.setattr(conductor, "search_trials", search)
    monkeypatch.setattr(ending, "FinalRound", lambda *_a, **_k: ended)
    assert conductor.conduct(asked) == 1
    assert load(asked.storage / NAME / "result.json").best is None
    assert conductor.conduct(replace(asked, resume=True)) == 1
    (run,) = studies_in_mlflow(asked.storage)
    assert run.info.status == "FAILED"
