"""What a machine can do to a study: a disk fills up, Ray dies. The study stops and can go on."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.session import HEAD, dead_processes

RESERVE_BYTES = 16 * 2**20  # for the journal, MLflow's database and a result
CHECKPOINTS_RESERVED = 4  # of the largest size so far: Ray makes each twice

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
_FULL_WORDS = (
    "no space left on device",
    "disk quota exceeded",
    "database or disk is full",
    "pytorchstreamwriter failed writing",  # torch tells no reason
    "enforce fail at inline_container",
)


class Breakdown(RuntimeError):
    """The machine ended a session, in one line; nothing is lost and `--resume` goes on."""


def require_machine(folder: Path, *, checkpoint_bytes: int = 0) -> None:
    """Stop while there is still room to stop in order.

    Args:
        folder: of the study.
        checkpoint_bytes: size of its largest checkpoint.
    Raises:
        Breakdown: Ray's own processes died, or a disk is about to be full.
    """
    require_ray()
    reserve = RESERVE_BYTES + CHECKPOINTS_RESERVED * checkpoint_bytes
    for place in _places(folder):
        if shutil.disk_usage(place).free < reserve:
            raise _full(place, f"{_size(reserve)} are needed to go on")


def require_ray() -> None:
    """Stop where Ray is gone: what is asked of it would never be answered.

    Raises:
        Breakdown: Ray's own processes died.
    """
    if dead := dead_processes():
        raise ray_died(dead)


def breakdown_behind(error: BaseException, folder: Path) -> Breakdown | None:
    """The full disk or dead Ray that an error comes from, however it was wrapped on its way."""
    chain = list(_chain(error))
    if told := next((one for one in chain if isinstance(one, Breakdown)), None):
        return told
    if dead := dead_processes():
        return ray_died(dead)
    if any(_tells_of_full_disk(one) for one in chain):
        return disk_full(folder)
    return None


def disk_full(folder: Path) -> Breakdown:
    """For a write that failed, on the disk that now has the least room."""
    return _full(min(_places(folder), key=lambda p: shutil.disk_usage(p).free), "a write failed")


def is_full_disk(text: str) -> bool:
    """Whether an error's text tells of a full disk."""
    return any(words in text.lower() for words in _FULL_WORDS)


def _places(folder: Path) -> tuple[Path, Path]:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return there, Path(tempfile.gettempdir())  # Ray makes checkpoints in the latter


def ray_died(dead: Sequence[str]) -> Breakdown:
    """For what `dead_processes` names."""
    where = "" if any(name.startswith(HEAD) for name in dead) else " on this machine"
    return Breakdown(f"Ray died{where} ({', '.join(dead)})")


def _full(place: Path, why: str) -> Breakdown:
    free = _size(shutil.disk_usage(place).free)
    return Breakdown(f"The disk of {place} is full: {free} are free, {why}; make room")


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tells_of_full_disk(error: BaseException) -> bool:
    return getattr(error, "errno", None) in _FULL_ERRNOS or is_full_disk(str(error))
