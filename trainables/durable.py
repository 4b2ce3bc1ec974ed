"""What a power cut must not take is on the disk itself before anything names it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def settle(*paths: Path) -> None:
    """Have the content of files, and the names in folders, on the disk itself."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or put one in the place of another, whole or not at all.

    Args:
        path: its folder is made if it is not there.
    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves the name, and nothing behind it
        os.chmod(temporary, 0o644)  # mkstemp makes it the owner's alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    settle(path.parent)
