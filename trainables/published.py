"""Pictures and nets for nodes that have not prepared them: in the storage by their content, and
from there once into each node's own cache."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem, FileType

from trainables.addresses import below, impatient, is_address
from trainables.built_once import build_once
from trainables.datasets import user_cache
from trainables.errors import UserError, one_line

MANIFEST = "manifest.json"  # names, sizes and hashes of the files; last, so that it vouches for all
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # names that stay in their folder


def publish(folder: Path, under: str) -> str:
    """Have a folder's files where all nodes can read them -> the address to read them from.

    Args:
        folder: of plain files.
        under: address of a folder, file:///... or of a bucket; what it has already stays.
    Raises:
        UserError: it cannot be written.
    """
    manifest = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
    }
    address = below(under, f"{folder.name}-{_digest(manifest)}")
    try:
        store, place = opened(address)
        if store.get_file_info(f"{place}/{MANIFEST}").type == FileType.NotFound:
            store.create_dir(place, recursive=True)
            for name in manifest:
                write(store, f"{place}/{name}", folder / name)
            write(store, f"{place}/{MANIFEST}", json.dumps(manifest).encode())
    except OSError as error:
        raise UserError(f"Cannot write to {address}: {one_line(error)}.") from error
    return address


def at_hand(place: str) -> Path:
    """A folder on this machine: `place` itself, or a copy of what was published there.

    Raises:
        UserError: it cannot be read, or is not what was published.
    """
    if not is_address(place):
        return Path(place)
    name = place.partition("?")[0].rpartition("/")[2]
    return build_once(
        user_cache() / "published" / name,
        name=name,
        damage=_damage,
        build=lambda folder: _fetch(place, name, folder),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )


def put(folder: Path, address: str, names: Sequence[str]) -> None:
    """Write files of a folder to one in a bucket, the last name last: where it is, all are.

    Raises:
        OSError: they cannot be written.
    """
    store, place = opened(address)
    for name in names:
        write(store, f"{place}/{name}", folder / name)


def fetch(address: str, folder: Path, names: Sequence[str]) -> bool:
    """Copy files of a folder in a bucket -> whether they were there. What they hold is not looked
    at.

    Raises:
        OSError: they cannot be read.
    """
    store, place = opened(address)
    if store.get_file_info(f"{place}/{names[-1]}").type != FileType.File:
        return False
    for name in names:
        copy(store, f"{place}/{name}", folder / name)
    return True


def _fetch(address: str, name: str, folder: Path) -> None:
    try:
        store, place = opened(address)
        with store.open_input_stream(f"{place}/{MANIFEST}") as stream:
            text = stream.read()
        manifest = json.loads(text)
        if not name.endswith(f"-{_digest(manifest)}") or not all(map(_PLAIN.fullmatch, manifest)):
            raise ValueError("its list of files is not the one that was published")
        for file, told in manifest.items():
            copy(store, f"{place}/{file}", folder / file)
            if _sha256(folder / file) != told["sha256"]:
                raise ValueError(f"{file} is not what was published")
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise UserError(f"Cannot use {address}: {one_line(error)}.") from error
    (folder / MANIFEST).write_bytes(text)


def _damage(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for file, told in manifest.items():
            if (folder / file).stat().st_size != told["bytes"]:
                return f"{file} is cut"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return one_line(error)
    return None


def opened(address: str) -> tuple[FileSystem, str]:
    """What reads and writes a bucket, or a folder, and the place in it.

    Raises:
        OSError, ValueError: there is nothing that can be at such an address.
    """
    store, place = FileSystem.from_uri(impatient(address))
    return store, place


def copy(store: FileSystem, place: str, path: Path) -> None:
    """A file of a bucket, or of a folder, to a new one of this machine."""
    with store.open_input_stream(place) as source, path.open("xb") as copy:
        shutil.copyfileobj(source, copy)


def write(store: FileSystem, place: str, content: Path | bytes) -> None:
    """Whole or not at all: a bucket shows no object before its end, a folder shows half a file."""
    rename = store.type_name == "local"
    target = f"{place}.{uuid.uuid4().hex}" if rename else place
    with store.open_output_stream(target) as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, stream)
    if rename:
        store.move(target, place)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
