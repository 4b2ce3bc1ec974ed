"""What a power cut must not take is on the disk itself before anything names it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def settle(*paths: Path) -> None:
    """Have the content of files, and the names in folders, on the disk itself."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def in_place_of(path: Path, prefix: str | None = None) -> Iterator[Path]:
    """An empty file to write, which takes the place of `path` when the block ends: whoever reads
    that goes on with what it was, and a kill leaves one of both.

    Args:
        path: its folder is made if it is not there.
        prefix: of the new file's name, which is beside it.
    Raises:
        OSError: it cannot be written; nothing is left behind, and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix or f".{path.name}.")
    os.close(handle)
    new = Path(name)
    try:
        yield new
        new.chmod(0o644)  # mkstemp makes it the owner's alone
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or put one in the place of another, so that a power cut leaves one of both.

    Raises:
        OSError: as of `in_place_of`.
    """
    with in_place_of(path) as new:
        new.write_bytes(content)
        settle(new)  # or a power cut leaves the name, and nothing behind it
    settle(path.parent)
