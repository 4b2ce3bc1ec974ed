"""Which studies there are, and the one that a user means."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainables.addresses import is_address
from trainables.errors import UserError
from tuner import hold
from tuner.journal_file import LOG
from tuner.request import RULE, is_study_name
from tuner.storage import parse_storage

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A study that is looked at.

    Attributes:
        folder: its own, or a copy of it here.
        refresh: brings the copy up to date.
        ask_to_stop: asks the process that holds the study, if any, to end as by Ctrl-C.
    """

    folder: Path
    refresh: Callable[[], None]
    ask_to_stop: Callable[[], None]


def place_of(study: str, storage: str) -> Place:
    """Where a study is.

    Args:
        study: its name, or the path of its folder.
        storage: folder of all studies, or its address in a bucket.
    Raises:
        UserError: there is none, or the bucket cannot be read.
    """
    if not is_address(storage):
        folder = find_study(study, Path(storage))
        return Place(
            folder=folder, refresh=lambda: None, ask_to_stop=partial(hold.ask_to_stop, folder)
        )
    from tuner.mirror import Mirror  # and with it what reads buckets

    folder, address = parse_storage(storage)
    assert address is not None
    if not is_study_name(study):
        raise UserError(f"STUDY must be a name in {storage} ({RULE}), got {study!r}.")
    mirror = Mirror(address, folder)
    mirror.look(study)
    return Place(
        folder=find_study(study, folder),
        refresh=partial(mirror.look, study),
        ask_to_stop=partial(mirror.ask_to_stop, study),
    )


def _hint(folder: Path) -> str:
    names = [place.name for place in study_folders(folder.parent)]
    if near := difflib.get_close_matches(folder.name, names, n=1):
        return f"Did you mean {near[0]!r}?"
    if not names:
        return "There are none in it: name another --storage."
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"There are: {', '.join(names[:MOST_NAMES])}{more}."
