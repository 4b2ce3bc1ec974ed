"""What a power cut must not take is on the disk itself before anything names it."""

from __future__ import annotations

import os
from pathlib import Path


def settle(*paths: Path) -> None:
    """Have the content of files, and the names in folders, on the disk itself."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
