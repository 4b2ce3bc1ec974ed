"""Paths and names that somebody else chose: where they lead, and whether they can be shown."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from trainables.errors import UserError


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path` lies below `root` once its links and every ".." are followed."""
    return path.resolve().is_relative_to(root.resolve())


def require_inside(entry: Path, root: Path) -> Path:
    """Return `entry` of a folder of data, unless it is a link that leads out of it.

    Raises:
        UserError: it does.
    """
    if entry.is_symlink() and not is_inside(entry, root):
        raise UserError(
            f"Data must lie inside its folder {str(root)!r}, got the link {str(entry)!r} to "
            f"{str(entry.resolve())!r}; copy it in instead."
        )
    return entry


def require_class_name(name: str, place: Path) -> None:
    """Names of classes reach result.json, MLflow and the terminal, which a control character would
    command; parts of a name have slashes between.

    Raises:
        UserError: `name`, found in `place`, is not UTF-8, not printable, or leads upwards.
    """
    if not name.isprintable() or ".." in PurePosixPath(name).parts:  # lone surrogates are not
        raise UserError(
            f"Names of classes must be printable UTF-8 without '..', got {name!r} in "
            f"{str(place)!r}; rename it."
        )
