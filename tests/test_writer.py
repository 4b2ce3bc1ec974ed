"""The background writer: in order, tried again, never in the way, and honest at the end."""

from __future__ import annotations

import threading
import time

import pytest

from tuner.writer import OrderedWriter, Undelivered


def writer(notices: list[str] | None = None, waits: tuple[float, ...] = (0.01,)) -> OrderedWriter:
    return OrderedWriter(
        passing=lambda error: isinstance(error, ConnectionError),
        describe=str,
        notice=(notices if notices is not None else []).append,
        waits=waits,
    )


def test_jobs_run_in_order():
    seen: list[int] = []
    jobs = writer()
    for number in range(100):
        jobs.put(lambda number=number: seen.append(number))
    assert jobs.close(10) == Undelivered()
    assert seen == list(range(100))


def test_a_passing_failure_is_tried_again_before_the_next_job():
    seen: list[str] = []
    notices: list[str] = []
    tries = iter([ConnectionError("restarting"), ConnectionError("restarting"), None])

    def flaky() -> None:
        if (error := next(tries)) is not None:
            raise error
        seen.append("first")

    jobs = writer(notices)
    jobs.put(flaky)
    jobs.put(lambda: seen.append("second"))
    assert jobs.close(10).jobs == 0
    assert seen == ["first", "second"]
    assert notices == ["restarting"]  # said once, not at every try


def test_a_final_failure_is_counted_and_the_rest_goes_on():
    seen: list[str] = []

    def bad() -> None:
        raise ValueError("no such run")

    jobs = writer()
    jobs.put(bad)
    jobs.put(lambda: seen.append("next"))
    assert jobs.close(10) == Undelivered(jobs=1, reason="no such run")
    assert seen == ["next"]


def test_closing_gives_up_on_a_dead_store_in_time_and_counts_what_is_left():
    def dead() -> None:
        raise ConnectionError("refused")

    jobs = writer()
    for _ in range(5):
        jobs.put(dead)
    began = time.monotonic()
    assert jobs.close(0.3) == Undelivered(jobs=5, reason="refused")
    assert time.monotonic() - began < 5


def test_closing_does_not_wait_for_a_call_that_hangs():
    release = threading.Event()
    jobs = writer()
    jobs.put(lambda: release.wait(30) and None)
    jobs.put(lambda: None)
    began = time.monotonic()
    assert jobs.close(0.1).jobs == 2
    assert time.monotonic() - began < 5
    release.set()


def test_ctrl_c_while_closing_begins_nothing_more(monkeypatch: pytest.MonkeyPatch):
    """The caller goes on, and lets others have what the jobs write to."""

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    amid, release = threading.Event(), threading.Event()
    begun: list[str] = []
    jobs = writer()
    jobs.put(amid.set)
    jobs.put(lambda: release.wait(30) and None)
    jobs.put(lambda: begun.append("next"))
    amid.wait(30)
    with monkeypatch.context() as patch:
        patch.setattr(jobs._thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jobs.close(10)
    release.set()
    jobs._thread.join(30)
    assert begun == []


def test_closing_wakes_a_writer_from_a_long_wait():
    tries = iter([ConnectionError("restarting"), None])

    def flaky() -> None:
        if (error := next(tries)) is not None:
            raise error

    notices: list[str] = []
    jobs = writer(notices, waits=(60.0,))
    jobs.put(flaky)
    while not notices:
        time.sleep(0.01)
    assert jobs.close(10).jobs == 0


def test_a_closed_writer_takes_no_jobs():
    jobs = writer()
    jobs.close(1)
    with pytest.raises(AssertionError, match="closed"):
        jobs.put(lambda: None)
    assert jobs.close(1) == Undelivered()
