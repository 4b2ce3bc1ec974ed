"""A storage in a bucket and the folder here that mirrors it: one driver a study, on any machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSelector, FileType

from trainables.addresses import below
from trainables.errors import UserError, one_line
from trainables.published import opened, write
from tuner.background import OUTPUT
from tuner.champion_folder import CHAMPION
from tuner.hold import LOCK, STOP, Holder, ask_to_stop, is_held_here, leave_note
from tuner.journal import Journal
from tuner.journal_file import LOG
from tuner.request import is_study_name
from tuner.setting import RESULT

BEAT_SECONDS = 5.0  # between looks at what is to be written to the bucket
LEASE_SECONDS = 90.0  # without a sign of life, after which a study is nobody's
SETTLE_SECONDS = 2.0  # after which whoever found a study free at the same time has written so
LEASE = "lease.json"
# What the names of folders begin with that stay on this machine; a champion is renamed into place.
_NOT_KEPT = ("session_", ".", f"{CHAMPION}.")


class Mirror:
    """Brings studies here, and one of them back, again and again, while this process holds it."""

    def __init__(self, address: str, folder: Path) -> None:
        """Look whether the bucket can be read and written.

        Args:
            address: of the storage, s3://... or gs://...
            folder: of all its studies on this machine.
        Raises:
            UserError: it cannot.
        """
        self.address, self.folder = address, folder
        self._known: dict[Path, tuple[int, int]] = {}  # sizes and times of what the bucket has
        self._since = time.time()
        self._holder = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        try:
            self._store, self._root = opened(address)
            probe = f"{self._root}/.few-shot-tuner-{uuid.uuid4().hex}"
            self._write(probe, b"")
            self._store.delete_file(probe)
        except (OSError, ValueError) as error:
            raise UserError(_unusable(address, error)) from error

    def pull(self) -> None:
        """Have the journals and results of all studies here as they are in the bucket.

        One that a process of this machine holds stays as it is, and so does a journal that goes on
        where the bucket's ends: its driver was killed before it could write the rest. Objects may
        be named as no study is, and as no folder here may be (".."): they are passed over.

        Raises:
            UserError: the bucket cannot be listed or read.
        """
        there = FileSelector(self._root, allow_not_found=True)
        with self._readable():
            for info in self._store.get_file_info(there):
                study = info.type == FileType.Directory and is_study_name(info.base_name)
                folder = self.folder / info.base_name
                if study and not is_held_here(folder):
                    self._pull_study(info.path, folder)

    def look(self, study: str) -> None:
        """Have one study here as it is in the bucket, for whoever looks at it, with a note of who
        runs it; one that runs here is as it is.

        Raises:
            UserError: the bucket cannot be read.
        """
        place, folder = f"{self._root}/{study}", self.folder / study
        if is_held_here(folder):
            return
        with self._readable():
            self._pull_study(place, folder, looking=True)
            if folder.is_dir():
                with suppress(FileNotFoundError):
                    (folder / OUTPUT).write_bytes(self._read(f"{place}/{OUTPUT}"))
                self._note(place, folder)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(_unusable(self.address, error)) from error

    def _note(self, place: str, folder: Path) -> None:
        if (lease := self._lease(place)) is None:
            leave_note(folder, None, time.time())
            return
        host, process, _ = lease["holder"].split()
        if host == socket.gethostname():  # whose processes go by the folder's lock, and not by time
            host += " (by its bucket)"
        holder = Holder(host=host, pid=int(process), since=lease["since"], alive=True)
        leave_note(folder, holder, lease["when"])

    def ask_to_stop(self, study: str) -> None:
        """Ask the process that holds a study to end as by Ctrl-C, at its next look."""
        place = f"{self._root}/{study}"
        if is_held_here(self.folder / study):
            ask_to_stop(self.folder / study)
        elif (lease := self._lease(place)) is not None:
            self._write(f"{place}/{STOP}", lease["holder"].encode())

    def _pull_study(self, place: str, folder: Path, *, looking: bool = False) -> None:
        files = self._files(place) + self._files(f"{place}/{CHAMPION}")
        if f"{place}/{LOG}" not in files:
            return
        there, journal = self._read(f"{place}/{LOG}"), folder / LOG
        here = journal.read_bytes() if journal.exists() else None
        # A result comes to the bucket after the journal, and may have been missed.
        missed = looking and f"{place}/{RESULT}" in files and not (folder / RESULT).exists()
        if here is not None and here.startswith(there) and not (missed and here == there):
            return
        (folder / CHAMPION).mkdir(parents=True, exist_ok=True)
        for result in folder.glob("result*.json"):
            result.unlink()
        # The journal last: without it, nothing of this counts.
        for file in sorted(files, key=lambda file: file.endswith(LOG)):
            if not file.endswith((LEASE, STOP)):
                (folder / file.removeprefix(f"{place}/")).write_bytes(self._read(file))

    def _files(self, place: str) -> list[str]:
        found = self._store.get_file_info(FileSelector(place, allow_not_found=True))
        return [info.path for info in found if info.type == FileType.File]

    @contextmanager
    def holding(self, journal: Journal) -> Iterator[None]:
        """Keep the bucket's copy of an open study up to date, and others away from it.

        Raises:
            UserError: a driver on another machine holds it, or has gone on with it meanwhile.
        """
        study = journal.folder
        place = f"{self._root}/{study.name}"
        self._take(place, study)
        if f"{place}/{RESULT}" in self._files(place):
            self._known[study / RESULT] = (0, 0)
        over = threading.Event()
        beats = threading.Thread(target=self._beat, args=(place, study, over), daemon=True)
        beats.start()
        try:
            yield
        finally:
            over.set()
            beats.join()
            self._let_go(place, study)

    def _let_go(self, place: str, study: Path) -> None:
        try:
            if self._holds(place):
                self._push(place, study)
                self._store.delete_file(f"{place}/{LEASE}")
        except OSError as error:
            sys.stderr.write(
                f"{below(self.address, study.name)} lacks the last of this study "
                f"({one_line(error)}): --resume on this machine writes it.\n"
            )

    def _take(self, place: str, study: Path) -> None:
        lease = self._lease(place)
        if lease is not None and time.time() - lease["when"] < LEASE_SECONDS:
            raise self._taken(study, lease)
        self._store.create_dir(place)
        self._sign(place)
        # Nothing that we can write to a bucket by has a condition. Of several that found it free at
        # once the last to write has it, and the others see so: all have written by now.
        time.sleep(SETTLE_SECONDS)
        if not self._holds(place):
            raise self._taken(study, self._lease(place))
        with suppress(FileNotFoundError):
            if not (study / LOG).read_bytes().startswith(self._read(f"{place}/{LOG}")):
                self._store.delete_file(f"{place}/{LEASE}")
                raise UserError(
                    f"The study in {below(self.address, study.name)} was gone on with by another "
                    "machine meanwhile: run the same command again."
                )

    def _taken(self, study: Path, lease: dict[str, Any] | None) -> UserError:
        who = "by another machine"
        if lease is not None:
            host, process, _ = lease["holder"].split()
            who = f"as process {process} on {host}"
        return UserError(
            f"The study in {below(self.address, study.name)} is running already, {who}: wait for "
            "it, or choose another name."
        )

    def _beat(self, place: str, study: Path, over: threading.Event) -> None:
        pause = BEAT_SECONDS
        while not over.wait(pause):
            began = time.monotonic()
            with suppress(OSError):  # the next one makes up for it
                if not self._holds(place):  # slept so long that another machine took it
                    _interrupt()
                    return
                self._sign(place)
                self._heed_request(place)
                self._push(place, study)
            # A long journal is written as a whole, and less often.
            pause = min(max(BEAT_SECONDS, 10 * (time.monotonic() - began)), LEASE_SECONDS / 3)

    def _heed_request(self, place: str) -> None:
        with suppress(FileNotFoundError):
            if self._read(f"{place}/{STOP}").decode() == self._holder:
                self._store.delete_file(f"{place}/{STOP}")
                _interrupt()

    def _push(self, place: str, study: Path) -> None:
        """Write what has changed; the journal first, so that a result finds all of it there."""
        if not (study / RESULT).exists() and self._known.pop(study / RESULT, None) is not None:
            self._store.delete_file(f"{place}/{RESULT}")  # the study goes on
        files = [path for path in study.rglob("*") if path.is_file() and self._is_kept(path, study)]
        for path in sorted(files, key=lambda path: (path.name != LOG, path)):
            status = path.stat()
            if self._known.get(path) != (state := (status.st_size, status.st_mtime_ns)):
                target = f"{place}/{path.relative_to(study)}"
                if path not in self._known:
                    self._store.create_dir(target.rpartition("/")[0])
                self._write(target, path)
                self._known[path] = state

    @staticmethod
    def _is_kept(path: Path, study: Path) -> bool:
        top = path.relative_to(study).parts[0]
        return top not in (LOCK, STOP) and not top.startswith(_NOT_KEPT)

    def _sign(self, place: str) -> None:
        told = {"holder": self._holder, "since": self._since, "when": time.time()}
        self._write(f"{place}/{LEASE}", json.dumps(told).encode())

    def _holds(self, place: str) -> bool:
        lease = self._lease(place)
        return lease is not None and lease["holder"] == self._holder

    def _lease(self, place: str) -> dict[str, Any] | None:
        """Nobody's where there is none, or what nobody of ours has written."""
        try:
            told = json.loads(self._read(f"{place}/{LEASE}"))
            host, process, nonce = told["holder"].split()
            holder = f"{host} {int(process)} {nonce}"
            return {"holder": holder, "since": float(told["since"]), "when": float(told["when"])}
        except (FileNotFoundError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def _read(self, place: str) -> bytes:
        with self._store.open_input_stream(place) as stream:
            content: bytes = stream.read()
        return content

    def _write(self, place: str, content: Path | bytes) -> None:
        write(self._store, place, content)


def _interrupt() -> None:
    """As Ctrl-C does, wherever the main thread is."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)


def _unusable(address: str, error: Exception) -> str:
    """The one line for a bucket that cannot be used: which, why, and the way out."""
    told = one_line(error)
    for sign, why in (
        ("Could not create a OAuth2 access token", "there are no credentials"),
        ("NO_SUCH_BUCKET", "there is no such bucket"),
        ("NETWORK_CONNECTION", "nothing answers at its endpoint"),
        ("ACCESS_DENIED", "access is denied"),
        ("INVALID_ACCESS_KEY_ID", "its access key is unknown"),
        ("SIGNATURE_DOES_NOT_MATCH", "its secret key is wrong"),
    ):
        if sign in told:
            told = why
    return (
        f"--storage {address} cannot be read and written ({told[:200]}): correct the address, or "
        "give credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "GOOGLE_APPLICATION_CREDENTIALS) or in the cloud's own files."
    )
