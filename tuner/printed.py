"""Where Ray keeps what a trial's processes print: in the trial's folders, at every checkpoint."""

from __future__ import annotations

from pathlib import Path

PRINTED = "printed.log"


def folder_name(number: int, part: int) -> str:
    """A trial that is handed out again, promoted or after a death, has a new folder: Ray numbers
    its checkpoints from 0 again."""
    name = f"trial_{number:04d}"
    return f"{name}_part_{part}" if part > 1 else name


def printed_files(study: Path, number: int) -> list[Path]:
    """All of a trial that hold something, oldest first; `study` is the study's folder."""
    name = folder_name(number, 1)
    found = [
        path
        for path in study.glob(f"session_*/{name}*/{PRINTED}")
        if path.parent.name.partition("_part_")[0] == name and path.stat().st_size
    ]
    return sorted(found, key=lambda path: path.stat().st_mtime)
