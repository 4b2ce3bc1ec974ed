"""Things by name: ours, which are imported when they are asked for, and those that plugins add."""

from __future__ import annotations

import re
from collections.abc import Collection, MutableMapping
from importlib import import_module
from typing import TypeVar

from trainables.errors import UserError

T = TypeVar("T")
NAME = r"[A-Za-z][A-Za-z0-9_]{0,59}"  # it becomes part of folders, tags and commands


def add(
    registry: MutableMapping[str, T], kind: str, name: str, thing: T, taken: Collection[str] = ()
) -> None:
    """Register a thing under a name of its own.

    Args:
        registry: where it belongs.
        kind: of thing, for people.
        name: letters, digits and "_", beginning with a letter.
        taken: names that it may not have either.
    Raises:
        UserError: it is no such name, or another thing has it.
    """
    if re.fullmatch(NAME, name) is None:
        raise UserError(
            f"The name of a {kind} must be letters, digits and '_', beginning with a letter, at "
            f"most 60; got {name!r}."
        )
    if name in registry or name in taken:
        raise UserError(f"The name {name!r} is another {kind}'s already: choose another one.")
    registry[name] = thing


def resolved(place: str | T) -> T:
    """What "module:name" names, imported now; anything else is itself."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    found: T = getattr(import_module(module), name)
    return found
