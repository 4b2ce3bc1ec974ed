"""Folders that are dear to make and named after what they hold: made once, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.durable import settle
from trainables.errors import UserError, one_line

Report = Callable[[str], None]


def build_once(
    folder: Path,
    *,
    name: str,
    damage: Callable[[Path], str | None],
    build: Callable[[Path], None],
    report: Report,
) -> Path:
    """Make `folder`, or find it whole. Of several processes one builds and the others wait.

    Args:
        folder: absolute; appears only when it is whole.
        name: what it holds, for people.
        damage: of a folder that exists: None where it is whole, or what is wrong with it.
        build: writes what belongs into the folder into an empty one.
        report: receives lines about what happens.
    Returns:
        `folder`.
    Raises:
        UserError: its parent cannot be written.
    """
    try:
        if _is_whole(folder, name, damage, report):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(folder.name + ".lock"))
        try:
            held = lock.acquire(timeout=0.5)
        except Timeout:
            report(f"{name}: waiting for another process that is making it")
            held = lock.acquire()
        with held:
            if not _is_whole(folder, name, damage, lambda _: None):
                _build(folder, build)
    except OSError as error:
        raise UserError(
            f"The folder must be writable and have room, got {str(folder.parent)!r} "
            f"({one_line(error)}); name another one."
        ) from error
    return folder


def _is_whole(
    folder: Path, name: str, damage: Callable[[Path], str | None], report: Report
) -> bool:
    """Damage is said, because making it again takes a while."""
    if not folder.exists():
        return False
    wrong = damage(folder)
    if wrong is not None:
        report(f"{name}: {folder} is damaged ({wrong}), making it again")
    return wrong is None


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    """Build beside `folder`, then rename into place. The caller holds the lock."""
    prefix = f".{folder.name}."
    for leftover in folder.parent.glob(f"{prefix}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        (work / "new").mkdir()
        build(work / "new")
        settle(*(work / "new").rglob("*"), work / "new")
        if folder.exists():  # damaged: out of the way, still readable to who has it open
            os.rename(folder, work / "damaged")
        os.rename(work / "new", folder)
        settle(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
