"""What the command does when a study cannot simply run to its end."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from test_launch import pictures
from test_setting import begun, planned, request_
from toy_pipeline import toy_context

from trainables.pipeline import StudyContext
from tuner import conductor, delivery, ending, launch, ray_session, signals
from tuner.breakdown import Breakdown
from tuner.conductor import _Study
from tuner.exit_codes import BROKEN_DOWN, INTERRUPTED
from tuner.journal import Journal
from tuner.request import Request
from tuner.search_phase import Searched, first_update
from tuner.session_notes import SessionNotes
from tuner.setting import Setting, look_around
from tuner.timings import Timings

__all__ = ["request_"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def setting(request_: Request) -> Setting:
    return look_around(replace(request_, tracking_uri=None, budget_seconds=None), None)


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
