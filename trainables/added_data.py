"""Data sets that plugins add, by name: functions that read pictures, and the files they read."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainables.built_once import Report
from trainables.errors import UserError, one_line
from trainables.image_set import Pictures, Source
from trainables.registry import add
from trainables.sources import PUBLISHED, file_state

Read = Callable[[int, Report], Pictures]
EMBEDDED_NAMES = ("strokes", "digits")
ADDED: dict[str, Callable[[], Source]] = {}


def register_data(name: str, *, files: Sequence[str | Path] = ()) -> Callable[[Read], Read]:
    """Make a function a data set: `Experiment(data=name)` or `--data name`.

    The function is called as `read(size, report)` with the pixels a side and a function that shows
    a line of progress, and returns `Pictures`. What it returned is kept, and it is called again if
    the plugin's code, the size or one of the files changes.

    Args:
        name: letters, digits and "_"; no other set's.
        files: files or folders that it reads, in absolute paths; they need to be there only where
            the study is started from.
    Raises:
        UserError: the name is taken.
    """

    def register(read: Read) -> Read:
        source: Callable[[], Source] = partial(_source, name, read, tuple(map(Path, files)))
        add(ADDED, "data set", name, source, taken=(*PUBLISHED, *EMBEDDED_NAMES))
        return read

    return register


def _source(name: str, read: Read, files: Sequence[Path]) -> Source:
    code = Path(inspect.getfile(read)).read_bytes()
    return Source(
        name=name,
        stand_in=False,
        key={
            "code": hashlib.sha256(code).hexdigest(),
            "files": [file_state(path) for path in files],
        },
        read=partial(_checked, name, read),
    )


def _checked(name: str, read: Read, size: int, report: Report) -> Pictures:
    """What a plugin's function reads, if it is what an image set is made of.

    Raises:
        UserError: it is not, or the function raises something.
    """
    try:
        pictures = read(size, report)
    except UserError:
        raise
    except Exception as error:  # the plugin's code
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"Data set {name!r} cannot be read ({reason}).") from error
    _require(name, isinstance(pictures, Pictures), "be returned as `Pictures`", type(pictures))
    labels, classes = np.asarray(pictures.labels), len(pictures.classes)
    seen = [] if not len(labels) else [*np.unique(labels)]
    _require(name, seen == [*range(classes)], f"have labels 0 to {classes - 1}, all of them", seen)
    _require(name, bool((np.diff(labels) >= 0).all()), "have ascending labels", "another order")
    there = len(pictures.held_out)
    _require(name, there == len(labels), f"have {len(labels)} held-out flags", there)
    return replace(pictures, pixels=_checked_blocks(name, pictures, size))


def _checked_blocks(name: str, pictures: Pictures, size: int) -> Iterator[Any]:
    shape = (size, size) if pictures.channels == 1 else (pictures.channels, size, size)
    done = 0
    for block in pictures.pixels:
        got = (block.dtype.name, *block.shape[1:])
        _require(name, got == ("uint8", *shape), f"have blocks of uint8 [any, *{shape}]", got)
        done += len(block)
        yield block
    _require(name, done == len(pictures.labels), f"have {len(pictures.labels)} pictures", done)


def _require(name: str, holds: bool, rule: str, got: object) -> None:
    if not holds:
        raise UserError(f"Data set {name!r} must {rule}; got {got}.")
