"""A study is held by one process at a time: who that is, whether it lives, how to ask it to stop.

The lock's file holds a note of its holder, which is gone when the holder lets go in order. Machines
that share the folder and not the lock go by the file's time, which the holder keeps fresh. A
request to stop is a file, too: unlike a signal it reaches every machine that shares the folder, and
never a process that got a dead one's number.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import UserError

LOCK, STOP = "study.lock", "stop"  # in a study's folder
TRIES, BETWEEN_SECONDS = 5, 0.05  # to take the lock
LOOK_SECONDS = 1.0  # between looks for a request to stop
BEAT_SECONDS = 10.0  # between signs of life
SILENCE_SECONDS = 60.0  # after which a holder on another machine counts as dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a study, or the last one, which was killed.

    Attributes:
        host: name of its machine; "" if it could not leave a note.
        pid: its number there.
        since: Unix time.
        alive: False if it was killed, or its machine is gone.
    """

    host: str = ""
    pid: int = 0
    since: float
    alive: bool

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.host else "a process"


def hold(folder: Path) -> int:
    """Take a study -> an open file that carries its lock; the kernel drops it with the process.

    Raises:
        UserError: another process holds it, or a link to elsewhere, which would be emptied, stands
            in the place of its lock.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(folder / LOCK, flags, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(
            f"{folder / LOCK} must be a file of the study's own, and is a link: delete it."
        ) from error
    if not _take(lock):
        os.close(lock)
        raise UserError(
            f"The study in {folder} is running already: wait for it, or choose another name."
        )
    note = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    with suppress(OSError):  # on a full disk the lock alone says that somebody is there
        os.truncate(lock, 0)
        os.pwrite(lock, json.dumps(note).encode(), 0)
    return lock


def let_go(lock: int) -> None:
    """Let others take the study."""
    with suppress(OSError):
        os.truncate(lock, 0)
    os.close(lock)


def holder_of(folder: Path) -> Holder | None:
    """Who holds a study, or was killed when it did; None where the last one let go."""
    try:
        with (folder / LOCK).open("rb") as lock:
            taken = _is_taken(lock.fileno())  # first: whoever lets go meanwhile is not dead
            note, heard = lock.read(), os.fstat(lock.fileno()).st_mtime
    except FileNotFoundError:
        return None
    if not (note or taken):
        return None
    holder = _told(note, alive=taken) or Holder(since=heard, alive=taken)
    if taken or holder.host == socket.gethostname() or time.time() - heard > SILENCE_SECONDS:
        return holder
    return Holder(host=holder.host, pid=holder.pid, since=holder.since, alive=True)


def is_held_here(folder: Path) -> bool:
    """Whether a process of this machine holds the study."""
    try:
        with (folder / LOCK).open("rb") as lock:
            return _is_taken(lock.fileno())
    except FileNotFoundError:
        return False


def leave_note(folder: Path, holder: Holder | None, heard: float) -> None:
    """Note in a copy of a study's folder who holds the study itself, and when it gave a sign of
    life, in Unix seconds."""
    note = b""
    if holder is not None:
        told = {"host": holder.host, "pid": holder.pid, "since": holder.since}
        note = json.dumps(told).encode()
    (folder / LOCK).write_bytes(note)
    os.utime(folder / LOCK, (heard, heard))


def is_running(folder: Path) -> bool:
    """Whether a process works on the study."""
    holder = holder_of(folder)
    return holder is not None and holder.alive


def ask_to_stop(folder: Path) -> None:
    """Ask the process that holds a study, and none after it, to end as by Ctrl-C."""
    request = folder / f"{STOP}.{uuid.uuid4().hex}"
    request.write_bytes((folder / LOCK).read_bytes())
    request.replace(folder / STOP)  # which may be a link to somewhere else


@contextmanager
def heeding_stop(folder: Path) -> Iterator[None]:
    """In here, whatever the main thread does, a request to stop this process's study is Ctrl-C."""
    over = threading.Event()
    thread = threading.Thread(target=_heed, args=(folder, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            (folder / STOP).unlink(missing_ok=True)


def _heed(folder: Path, over: threading.Event) -> None:
    beaten, main = time.monotonic(), threading.main_thread().ident
    assert main is not None
    while not over.wait(LOOK_SECONDS):
        with suppress(OSError):  # there is no request, or the storage is away for a while
            if time.monotonic() - beaten >= BEAT_SECONDS:
                beaten = time.monotonic()
                os.utime(folder / LOCK)
            if (folder / STOP).read_bytes() == (folder / LOCK).read_bytes():
                (folder / STOP).unlink()
                # To that thread, or the signal would not wake it from a call of the kernel's.
                signal.pthread_kill(main, signal.SIGTERM)


def _told(note: bytes, *, alive: bool) -> Holder | None:
    """What a note says; None if it is not whole."""
    try:
        told = json.loads(note)
        host, pid, since = str(told["host"]), int(told["pid"]), float(told["since"])
    except (ValueError, TypeError, LookupError):
        return None
    return Holder(host=host, pid=pid, since=since, alive=alive)


def _take(lock: int) -> bool:
    """Whoever looks whether it is taken takes it for a moment, so that once is not enough."""
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(BETWEEN_SECONDS)
    return False


def _is_taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # dropped with the file
    except BlockingIOError:
        return True
    except OSError:  # this machine cannot see locks there
        return False
    return False
