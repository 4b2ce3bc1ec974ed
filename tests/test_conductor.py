"""What the command does when a study cannot simply run to its end."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from test_launch import pictures
from test_result import result
from test_search import rung
from test_setting import begun, planned, request_
from toy_pipeline import toy_context

from cluster.resources import Node
from cluster.session import HEAD, Session
from trainables.errors import UserError
from trainables.pipeline import StudyContext
from tuner import champion as champion_module
from tuner import (
    conductor,
    delivery,
    ending,
    launch,
    ray_session,
    run_store,
    search_phase,
    signals,
    tracking,
)
from tuner.breakdown import Breakdown
from tuner.conductor import _Study
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED
from tuner.final_round import FinalRound, own_identity
from tuner.journal import DELIVERED, Journal
from tuner.plan import Plan
from tuner.ray_session import enter, reachable
from tuner.request import Request
from tuner.result import Gate, load
from tuner.run_store import Models, RunStore
from tuner.search_phase import Searched, first_update
from tuner.session_notes import SessionNotes
from tuner.setting import Setting, look_around
from tuner.study_tracking import replay
from tuner.timings import Timings
from tuner.tracking_uri import default_uri

__all__ = ["request_"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def setting(request_: Request) -> Setting:
    return look_around(replace(request_, tracking_uri=None, budget_seconds=None), None)


@pytest.mark.parametrize(
    ("changes", "uri", "told"),
    [
        (
            {"started_here": True, "token_command": "ray get-auth-token"},
            "sqlite:////runs/mlflow.db",
            "from this machine alone: Ray and its dashboard, with its token; MLflow is a file",
        ),
        (
            {"started_here": False, "token_command": None},
            "https://me:secret@mlflow.example",
            "as the cluster of head:6379 is: Ray and its dashboard, by everybody there, without a "
            "token; MLflow is https://mlflow.example, as that allows",
        ),
    ],
)
def test_a_run_says_from_where_it_can_be_reached(
    changes: dict[str, Any], uri: str, told: str
) -> None:
    ray = Session(
        address="head:6379",
        dashboard_url="http://127.0.0.1:8265",
        nodes=(Node(cpus=2),),
        grows=False,
        **changes,
    )
    assert reachable(ray, uri) == told


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


def test_a_study_is_resumed_while_mlflow_is_away(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one is not begun, and one that is finished has nothing else to do."""
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.5)
    without_ray(monkeypatch)
    searched = SimpleNamespace(run=SimpleNamespace(interrupted=True))
    monkeypatch.setattr(conductor, "search_trials", lambda *_a: searched)
    assert conductor.conduct(setting.request) == INTERRUPTED
    with Journal(setting.request.storage, setting.study) as journal:
        place = journal.attr("mlflow")
        journal.ask(setting.experiment.space, setting.experiment.base)
    capsys.readouterr()

    real = run_store.open_client

    def away(_uri: str) -> None:
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(run_store, "open_client", away)
    with pytest.raises(UserError, match="Connection refused"):
        conductor.conduct(replace(setting.request, study="a-new-one"))
    again = replace(setting.request, resume=True, study=setting.study)
    assert conductor.conduct(again) == INTERRUPTED
    said = capsys.readouterr()
    assert "the search goes on" in said.out
    assert "records did not reach the tracking store" in said.out
    assert "--resume" in said.out
    with Journal(setting.request.storage, setting.study) as journal:
        assert journal.attr("mlflow") == place

    monkeypatch.setattr(run_store, "open_client", real)
    assert conductor.conduct(again) == INTERRUPTED
    assert set(runs_in(setting)) == {"study", "0"}
    replace(result(setting.folder), study=setting.study).write(setting.folder / "result.json")
    monkeypatch.setattr(run_store, "open_client", away)
    with pytest.raises(UserError, match="Connection refused"):
        conductor.conduct(again)


def test_an_end_that_was_decided_but_not_told_is_told_to_mlflow(setting: Setting) -> None:
    with begun(setting) as journal:
        journal.ask(setting.experiment.space, setting.experiment.base)
        journal.add_rung(0, rung(0, 1.0, decision="done"))
        told = Mock()
        replay(journal, told)
        ended = journal.record(0).ended
    told.trial_ended.assert_called_once_with(0, "COMPLETE", "", when=ended)


def test_mlflow_is_told_again_what_happened_and_when(setting: Setting) -> None:
    """Of a trial that ended, one that waits, and one that went on from where it waited."""
    with begun(setting) as journal:
        for number, decision in enumerate(["done", "pause", "pause"]):
            journal.ask(setting.experiment.space, setting.experiment.base)
            scored = rung(0, 1.0, decision=decision)
            journal.add_rung(number, replace(scored, when=1000.0 + number))
        journal.promote(2)
        told = Mock()
        replay(journal, told)
        records = journal.records()
    times = [call.kwargs["when"] for call in told.trial_started.call_args_list]
    assert times == [record.began for record in records]
    assert [call.kwargs["when"] for call in told.rung_reached.call_args_list] == [1000, 1001, 1002]
    told.trial_ended.assert_called_once_with(0, "COMPLETE", "", when=1000.0)
    told.trial_promoted.assert_called_once_with(2)


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


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray, and nothing trained in advance."""
    ray = SimpleNamespace(dashboard_url=None, started_here=True, token_command=None)
    monkeypatch.setattr(ray_session, "session", lambda *_a, **_k: nullcontext(ray))
    context = StudyContext(**toy_context())
    for module in (conductor, delivery):
        monkeypatch.setattr(module, "study_contexts", lambda *_a: (context, context))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        Breakdown("The disk of /runs is full: 0.0 MB are free, a write failed; make room"),
    ],
)
def test_a_full_disk_is_one_line_with_the_way_on(
    setting: Setting,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_arguments: Any) -> None:
        raise RuntimeError("wrapped by Ray") from error

    monkeypatch.setattr(_Study, "_search_and_finish", full)
    with ExitStack() as stack:
        code = _Study(setting, planned(setting), Timings(0.0)).run(stack, None, None)
    assert code == BROKEN_DOWN
    said = capsys.readouterr().err
    assert said.startswith("Stopped: The disk of ")
    assert "MB are free" in said or "GB are free" in said
    assert "--resume" in said
    assert said.count("\n") == 1


def test_a_ray_that_nobody_noticed_dying_is_one_line_with_the_way_on(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends there and then: its main thread may wait for Ray."""

    @contextmanager
    def ray(
        _address: None, *, bereaved: Callable[[list[str]], int], **_more: Any
    ) -> Iterator[None]:
        sys.exit(bereaved(["gcs_server"]))
        yield

    without_ray(monkeypatch)
    monkeypatch.setattr(ray_session, "session", ray)
    with pytest.raises(SystemExit) as ended:
        conductor.conduct(setting.request)
    assert ended.value.code == BROKEN_DOWN
    said = capsys.readouterr().err
    assert said.startswith("Stopped: Ray died on this machine (gcs_server), then go on with: ")
    assert "--resume" in said
    assert said.count("\n") == 1


def test_a_ray_that_does_not_come_up_leaves_a_study_that_goes_on(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def ray(*_content: Any, **_more: Any) -> Iterator[None]:
        raise ConnectionError("Ray did not start on this machine: it timed out.")
        yield

    without_ray(monkeypatch)
    monkeypatch.setattr(ray_session, "session", ray)
    assert conductor.conduct(setting.request) == BROKEN_DOWN
    said = capsys.readouterr().err
    assert said.startswith(
        "Stopped: Ray did not start on this machine: it timed out; end other programs that keep it "
        "busy, then go on with: "
    )
    assert "--resume" in said
    assert said.count("\n") == 1


def test_sigterm_is_ctrl_c_while_all_is_closed_after_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def ray(_address: None, **_more: Any) -> Iterator[None]:
        yield
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray's libraries do

    monkeypatch.setattr(ray_session, "session", ray)
    before, then = signal.getsignal(signal.SIGTERM), []
    with ExitStack() as stack:
        stack.callback(lambda: then.append(signal.getsignal(signal.SIGTERM)))
        enter(stack, None)
    signal.signal(signal.SIGTERM, before)
    assert then == [signal.default_int_handler]


def test_a_head_that_is_lost_before_a_study_begins_is_one_line(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(address: str, *, bereaved: Callable[[list[str]], int], **_more: Any) -> None:
        sys.exit(bereaved([f"{HEAD}{address}"]))

    monkeypatch.setattr(ray_session, "session", lose)
    with pytest.raises(SystemExit) as ended:
        conductor.conduct(replace(setting.request, address="10.0.0.1:6379"))
    assert ended.value.code == BROKEN_DOWN
    lost = "Stopped: Ray died (no answer from the head at 10.0.0.1:6379), then "
    assert capsys.readouterr().err == f"{lost}run the same command again\n"


def test_an_error_of_ours_is_no_full_disk(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(_Study, "_search_and_finish", fail)
    with ExitStack() as stack, pytest.raises(KeyError):
        _Study(setting, planned(setting), Timings(0.0)).run(stack, None, None)


def test_the_final_round_ends_earlier_by_the_start_of_ray(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def begin(_records: Any, *, ends: float) -> None:
        raise Begun(ends)

    monkeypatch.setattr(ending, "FinalRound", lambda *_a, **_b: SimpleNamespace(run=begin))
    timings, context = Timings(0.0), StudyContext(**toy_context())
    timings.add("ray", 4.0)
    run: Any = SimpleNamespace(records=[])
    searched = Searched(run=run, plan=planned(setting), ends=100.0)
    with begun(setting) as journal:
        notes = SessionNotes(setting, journal, timings)
        with pytest.raises(Begun, match=r"^96\.0$"):
            ending.finish(notes, searched, (context, context), Mock(), dashboard="none")


@pytest.mark.parametrize("asked", [True, False])
def test_the_start_is_told_when_the_first_trial_has_trained(
    setting: Setting, capsys: pytest.CaptureFixture[str], asked: bool
) -> None:
    request, now = replace(setting.request, timings=asked), time.monotonic()
    timings = Timings(now - 20.0)
    first_update(replace(setting, request=request), timings, now - 5.0, time.time() - 1.0)
    assert timings.seconds["actors"] == pytest.approx(4.0, abs=0.5)
    said = capsys.readouterr().out
    assert ("first update" in said) == asked
    if asked:
        assert float(said.split()[-1]) == pytest.approx(19.0, abs=0.5)


def test_ctrl_c_once_more_while_everything_is_closed(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient() -> None:
        raise KeyboardInterrupt

    def interrupted(_request: Request, stack: ExitStack, *_more: Any) -> int:
        stack.callback(impatient)
        return INTERRUPTED

    monkeypatch.setattr(conductor, "_conduct", interrupted)
    assert conductor.conduct(request_) == INTERRUPTED


def test_ctrl_c_amid_a_callback_while_everything_is_closed_is_no_traceback(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Impatient:
        def __init__(self, error: type[BaseException]) -> None:
            self.error = error

        def __del__(self) -> None:
            raise self.error

    def interrupted(_request: Request, stack: ExitStack, *_more: Any) -> int:
        for error in (KeyboardInterrupt, KeyError):
            stack.callback(lambda e=error: Impatient(e) and None)
        return INTERRUPTED

    monkeypatch.setattr(conductor, "_conduct", interrupted)
    hook = sys.unraisablehook
    assert conductor.conduct(request_) == INTERRUPTED
    told = capsys.readouterr().err
    assert "KeyError" in told
    assert "KeyboardInterrupt" not in told
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_once_more_while_the_way_on_is_told_loses_nothing_of_it(
    setting: Setting,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def impatient(*_arguments: Any) -> str:
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        return "the way on"

    def interrupted(*_arguments: Any) -> None:
        monkeypatch.setattr(conductor, "resume_command", impatient)
        raise KeyboardInterrupt

    without_ray(monkeypatch)
    monkeypatch.setattr(conductor, "search_trials", interrupted)
    before = [signal.getsignal(one) for one in signals.SIGNALS]
    assert conductor.conduct(setting.request) == INTERRUPTED
    assert "go on with:\n  the way on" in capsys.readouterr().err
    assert [signal.getsignal(one) for one in signals.SIGNALS] == before


def test_a_disk_that_is_full_while_everything_is_closed_changes_no_exit_code(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def stopped(_request: Request, stack: ExitStack, *_more: Any) -> int:
        stack.callback(full)
        return BROKEN_DOWN

    monkeypatch.setattr(conductor, "_conduct", stopped)
    assert conductor.conduct(request_) == BROKEN_DOWN


@pytest.mark.parametrize("part", ["study_contexts", "finish"])
def test_sigterm_outside_of_the_search_leaves_with_the_way_on(
    setting: Setting, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(*_arguments: Any, **_more: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    @contextmanager
    def ray(_address: None, **_more: Any) -> Iterator[Any]:
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("Ray's handler"))
        yield SimpleNamespace(dashboard_url=None, started_here=True, token_command=None)

    with begun(setting) as journal:
        journal.set_attr("split", setting.split.to_dict())
    without_ray(monkeypatch)
    monkeypatch.setattr(ray_session, "session", ray)
    searched = SimpleNamespace(run=SimpleNamespace(interrupted=False))
    monkeypatch.setattr(conductor, "search_trials", lambda *_a: searched)
    monkeypatch.setattr(conductor, part, terminated)
    before = signal.getsignal(signal.SIGTERM)
    assert conductor.conduct(replace(setting.request, resume=True)) == INTERRUPTED
    assert "go on with:" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_study_that_runs_already_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = pictures(tmp_path / "pictures", classes=4, each=8)
    storage = tmp_path / "runs"
    argv = ["reptile_omniglot", "--data", str(data), "--study", "s", "--storage", str(storage)]
    with Journal(storage, "s") as journal:
        journal.set_attr("plan", {})
        assert launch.main([*argv, "--resume"]) == 2
        error = capsys.readouterr().err
        assert "is running already: wait for it" in error
        assert error.count("\n") == 1
        assert launch.main(argv) == 2
        error = capsys.readouterr().err
        assert "Study 's' exists" in error
        assert error.count("\n") == 1
    assert not (storage / "mlflow.db").exists()
