"""The file that a journal is: lines that are whole, whatever kills or full disks do, and whether a
study has begun in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from tuner.hold import LOCK

LOG = "journal.log"  # in a study's folder, beside its lock


def is_begun(folder: Path) -> bool:
    """Whether a study got as far as its plan; may be asked while another process holds it."""
    try:
        with (folder / LOG).open("rb") as lines:
            return any(_is_plan(line) for line in lines)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # what may not be read is somebody's
        return True


def is_free(folder: Path) -> bool:
    """Whether a new study may have this folder: at most what a beginning that was cut off left is
    in it."""
    if is_begun(folder):
        return False
    try:
        return {path.name for path in folder.iterdir()} <= {LOG, LOCK}
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


class WholeLines(JournalFileBackend):
    """Appends lines whole or not at all: what a full disk took of one is cut off again, since the
    next write would be glued to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_HeldByTheStudy())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except BaseException:
            os.truncate(self._file_path, size)
            raise


class _HeldByTheStudy(BaseJournalFileLock):
    """No lock of Optuna's: the study's own lock outlives no process, Optuna's file does, and a
    resume after a crash would wait 30 seconds for it."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def drop_torn_tail(path: Path) -> None:
    """Cut off what a crash left of a last line; the next write would be glued to it otherwise."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        while whole and not _is_json(last := whole[whole.rfind(b"\n", 0, -1) + 1 :]):
            whole = whole[: -len(last)]
        if len(whole) < len(content):
            file.truncate(len(whole))
            os.fsync(file.fileno())


def _is_plan(line: bytes) -> bool:
    """Whether a line of a journal, not one that a crash has torn, writes the study's plan."""
    return b'"user_attr":{"plan":' in line and line.endswith(b"\n")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
