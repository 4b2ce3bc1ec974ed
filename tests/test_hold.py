"""Who holds a study, seen from outside, and how it is asked to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables.errors import UserError
from tuner import hold as hold_module
from tuner.hold import LOCK, STOP, ask_to_stop, heeding_stop, hold, holder_of, let_go


def test_a_holder_is_seen_until_it_lets_go(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    began = time.time()
    lock = hold(tmp_path)
    holder = holder_of(tmp_path)
    assert holder is not None
    assert (holder.pid, holder.alive) == (os.getpid(), True)
    assert began <= holder.since <= time.time()
    with pytest.raises(UserError, match="running already"):
        hold(tmp_path)
    let_go(lock)
    assert holder_of(tmp_path) is None


def test_one_that_was_killed_is_told_from_one_that_let_go(tmp_path: Path) -> None:
    os.close(hold(tmp_path))  # as the kernel does for a process that was killed
    holder = holder_of(tmp_path)
    assert holder is not None
    assert not holder.alive
    let_go(hold(tmp_path))  # whoever takes it up again
    assert holder_of(tmp_path) is None


def test_a_lock_is_taken_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "another").write_text("somebody's")
    (tmp_path / LOCK).symlink_to(tmp_path / "another")
    with pytest.raises(UserError, match="must be a file of the study's own, and is a link"):
        hold(tmp_path)
    assert (tmp_path / "another").read_text() == "somebody's"


@pytest.mark.parametrize(("silent", "alive"), [(0.0, True), (3600.0, False)])
def test_one_on_another_machine_lives_as_long_as_it_is_heard_of(
    tmp_path: Path, silent: float, alive: bool
) -> None:
    """Where the lock does not reach this machine."""
    lock = tmp_path / LOCK
    lock.write_text(json.dumps({"host": "elsewhere", "pid": os.getpid(), "since": 1.0}))
    os.utime(lock, (time.time(), time.time() - silent))
    holder = holder_of(tmp_path)
    assert holder is not None
    assert (holder.host, holder.alive) == ("elsewhere", alive)


@pytest.mark.parametrize(
    "note",
    ["", '{"host": "her', "[]", '{"host": "here"}', '{"host": "h", "pid": 1, "since": "then"}'],
)
def test_a_lock_without_a_whole_note_still_says_that_somebody_is_there(
    tmp_path: Path, note: str
) -> None:
    lock = hold(tmp_path)
    (tmp_path / LOCK).write_text(note)
    holder = holder_of(tmp_path)
    assert holder is not None
    assert (str(holder), holder.alive) == ("a process", True)
    let_go(lock)


def test_those_who_look_keep_nobody_out(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        ends = threading.Timer(0.1, fcntl.flock, (looking, fcntl.LOCK_UN))
        ends.start()
        let_go(hold(tmp_path))
        ends.join()


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A study that this process holds, and SIGTERM is Ctrl-C."""
    monkeypatch.setattr(hold_module, "LOOK_SECONDS", 0.05)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    lock = hold(tmp_path)
    yield tmp_path
    let_go(lock)
    signal.signal(signal.SIGTERM, before)


def test_a_request_wakes_whatever_the_main_thread_does(held: Path) -> None:
    asks = threading.Timer(0.3, ask_to_stop, [held])
    asks.start()
    with pytest.raises(KeyboardInterrupt), heeding_stop(held):
        time.sleep(60)
    asks.join()
    assert not (held / STOP).exists()


def test_a_request_is_written_through_no_link(held: Path, tmp_path: Path) -> None:
    (tmp_path / "another").write_text("somebody's")
    (held / STOP).symlink_to(tmp_path / "another")
    ask_to_stop(held)
    assert (tmp_path / "another").read_text() == "somebody's"
    assert (held / STOP).read_bytes() == (held / LOCK).read_bytes()


def test_a_request_to_an_earlier_session_is_not_heeded(held: Path) -> None:
    (held / STOP).write_text(json.dumps({"host": "here", "pid": os.getpid(), "since": 1.0}))
    with heeding_stop(held):
        time.sleep(0.3)
    assert not (held / STOP).exists()


def test_a_request_that_came_before_anybody_looked_is_heeded(held: Path) -> None:
    ask_to_stop(held)
    with pytest.raises(KeyboardInterrupt), heeding_stop(held):
        time.sleep(60)


def test_a_holder_gives_signs_of_life(held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_module, "BEAT_SECONDS", 0.0)
    os.utime(held / LOCK, (0, 0))
    with heeding_stop(held):
        time.sleep(0.3)
    assert time.time() - (held / LOCK).stat().st_mtime < 60
