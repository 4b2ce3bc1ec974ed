"""Where a study's checkpoints are: in its folder, or in a bucket, with copies of what is shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from trainables.addresses import below, is_address
from trainables.durable import settle
from trainables.grid import GRID, SMALL
from trainables.published import copy, opened

# What the driver needs of a checkpoint.
SHOWN = (GRID, SMALL, "config.json", "weights.safetensors")
AT_ONCE = 8  # copies
_DEPTH = 3  # names from a study's folder: session, trial, checkpoint


def address_of(path: str, bucket: str | None) -> str:
    """What the journal calls a checkpoint that Ray has at `path` of its storage.

    Args:
        bucket: the study's address; None where it is a folder.
    """
    return path if bucket is None else below(bucket, *Path(path).parts[-_DEPTH:])


def is_in(checkpoint: str, bucket: str) -> bool:
    """Whether it is one of the study whose address is `bucket`."""
    names = Path(checkpoint.partition("?")[0]).parts[-_DEPTH:]
    return ".." not in names and checkpoint == below(bucket, *names)


def local_copy(checkpoint: str, folder: Path) -> Path:
    """A checkpoint on this machine: itself, or where `bring` puts a copy.

    Args:
        folder: of the study.
    """
    if not is_address(checkpoint):
        return Path(checkpoint)
    names = Path(checkpoint.partition("?")[0]).parts[-_DEPTH:]
    return folder.joinpath(*(name for name in names if name != ".."))


def bring(checkpoint: str, folder: Path) -> Path:
    """Have what is shown of a checkpoint on this machine: all that there is of it, or, where the
    bucket does not answer, nothing yet."""
    local = local_copy(checkpoint, folder)
    if is_address(checkpoint) and not local.exists():
        with suppress(OSError):  # a picture more or less; trials read the bucket themselves
            _fetch(checkpoint, local)
    return local


def bring_all(checkpoints: Iterable[str], folder: Path, report: Callable[[str], None]) -> None:
    """The same for many, some at once; `report` receives how far it is."""
    missing = [c for c in checkpoints if is_address(c) and not local_copy(c, folder).exists()]
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for done, _ in enumerate(pool.map(partial(bring, folder=folder), missing), start=1):
            report(f"{done} of {len(missing)} checkpoints looked up in the bucket")
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(checkpoint: str, local: Path) -> None:
    """Beside, and renamed: a kill or a cut in between leaves nothing that looks whole."""
    part = local.with_name(f".{local.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # which it left
    part.mkdir(parents=True)
    store, place = opened(checkpoint)
    for name in SHOWN:
        with suppress(FileNotFoundError):
            copy(store, f"{place}/{name}", part / name)
    settle(*part.iterdir(), part)
    part.rename(local)


def drop(checkpoint: str, name: str) -> None:
    """Delete a file of a checkpoint in a bucket; one that is gone already, too."""
    with suppress(OSError):
        store, place = opened(checkpoint)
        store.delete_file(f"{place}/{name}")
