"""Which studies there are, and the one that a user means."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from trainables.errors import UserError
from tuner.journal import LOG
from tuner.request import RULE, is_study_name

MOST_NAMES = 10  # that an error lists


def study_folders(storage: Path) -> list[Path]:
    """Folders of all studies, by name; some may have been cut off before their plan."""
    return sorted(path.parent for path in storage.glob(f"*/{LOG}"))


def find_study(study: str, storage: Path) -> Path:
    """The folder of a study.

    Args:
        study: its name in `storage`, or, with a separator in it, the path of its folder.
        storage: folder of all studies.
    Raises:
        UserError: there is none; names the nearest.
    """
    folder = Path(study).absolute() if os.sep in study else storage.absolute() / study
    if os.sep not in study and not is_study_name(study):
        raise UserError(f"STUDY must be a folder or a name ({RULE}), got {study!r}.")
    if not (folder / LOG).is_file():
        raise UserError(f"There is no study {folder.name!r} in {folder.parent}. {_hint(folder)}")
    return folder


def _hint(folder: Path) -> str:
    names = [place.name for place in study_folders(folder.parent)]
    if near := difflib.get_close_matches(folder.name, names, n=1):
        return f"Did you mean {near[0]!r}?"
    if not names:
        return "There are none in it: name another --storage."
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"There are: {', '.join(names[:MOST_NAMES])}{more}."
