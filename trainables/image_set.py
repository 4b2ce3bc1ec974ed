"""A set of pictures as one memory-mapped array: built once, opened by every trial of a machine."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.built_once import Report, build_once
from trainables.errors import UserError, one_line

FORMAT = 2  # raise it when the files below change, so that older caches are not opened
SMALLEST, LARGEST = 16, 256  # pixels a side
SECONDS_BETWEEN_REPORTS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSet:
    """Pictures with their classes, opened from a cache folder.

    `images` is uint8 [N, channels, size, size], a read-only memory map: 1 channel of light ink on
    dark, or the 3 of coloured pictures;
    `labels` int64 [N], ascending indices into `classes`; `held_out` bool [N], the official test
    part where a set has one, all False elsewhere; `fingerprint` 16 hexadecimal digits of a
    SHA-256 over pixels, labels, class names and held-out flags.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    held_out: npt.NDArray[np.bool_]
    fingerprint: str
    stand_in: bool
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """What a source yields: labels ascending, and the pixels in the same order, block by block.

    `pixels` are uint8 blocks [any, size, size], light ink on dark, or [any, 3, size, size], in
    colour; N rows in all.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]
    pixels: Iterable[npt.NDArray[np.uint8]]
    channels: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a set comes from. `key` is plain data that changes whenever the pixels would."""

    name: str
    stand_in: bool
    key: Mapping[str, Any]
    read: Callable[[int, Report], Pictures]


def to_stderr(message: str) -> None:
    """Show progress without mixing it into what a command prints as its result."""
    sys.stderr.write(message + "\n")


def build_image_set(source: Source, *, cache_dir: Path, size: int, report: Report) -> ImageSet:
    """Open `source` from the cache, building it first where it is absent, stale or damaged.

    Several processes may ask at once: one builds, the others wait, and a folder appears under
    its final name only when it is whole.

    Args:
        source: what to build; its key and `size` name the cache folder.
        cache_dir: parent of all cache folders; created if absent.
        size: pixels a side, 16 to 256.
        report: receives a line now and then while building.
    Raises:
        UserError: the size is out of range, the source is damaged, or the cache is unwritable.
    """
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"The picture size must be {SMALLEST} to {LARGEST} pixels, got {size}.")
    folder = build_once(
        cache_dir.absolute() / _folder_name(source, size),
        name=source.name,
        damage=_damage,
        build=lambda place: _build(place, source, size, report),
        report=report,
    )
    return open_image_set(folder)


def open_image_set(path: Path) -> ImageSet:
    """Open a cache folder that `build_image_set` has made.

    Raises:
        UserError: the folder is absent or damaged.
    """
    try:
        return _open(path)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"A cached image set must be whole, got {str(path)!r} ({one_line(error)}); "
            "delete the folder and it is built again."
        ) from error


def _open(path: Path) -> ImageSet:
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
    labels = np.load(path / "labels.npy", allow_pickle=False)
    held_out = np.load(path / "held_out.npy", allow_pickle=False)
    classes = tuple(meta["classes"])
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']}, not {FORMAT}")
    shape = (meta["count"], meta["channels"], meta["size"], meta["size"])
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 {shape}")
    if labels.shape != shape[:1] or held_out.shape != shape[:1]:
        raise ValueError("labels or held-out flags do not match the images")
    if not np.array_equal(np.unique(labels), np.arange(len(classes))):
        raise ValueError("labels do not match the classes")
    return ImageSet(
        name=meta["name"],
        images=images,
        labels=labels,
        classes=classes,
        held_out=held_out,
        fingerprint=meta["fingerprint"],
        stand_in=meta["stand_in"],
        path=path,
    )


def _damage(folder: Path) -> str | None:
    try:
        _open(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        return one_line(error)
    return None


def _folder_name(source: Source, size: int) -> str:
    request = {"format": FORMAT, "name": source.name, "size": size, "key": source.key}
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", source.name)[:40]
    return f"{readable}-{size}-{digest[:16]}"


def _build(folder: Path, source: Source, size: int, report: Report) -> None:
    started = time.monotonic()
    pictures = source.read(size, report)
    _write(folder, source, pictures, size, report)
    seconds = time.monotonic() - started
    report(f"{source.name}: {len(pictures.labels):,} pictures ready in {seconds:.1f} s")


def _write(folder: Path, source: Source, pictures: Pictures, size: int, report: Report) -> None:
    digest = hashlib.sha256()
    count = len(pictures.labels)
    header = {
        "descr": "|u1",
        "fortran_order": False,
        "shape": (count, pictures.channels, size, size),
    }
    each = (size, size) if pictures.channels == 1 else (pictures.channels, size, size)
    done, blank, next_report = 0, 0, time.monotonic() + SECONDS_BETWEEN_REPORTS
    # Plain writes, because a memory map answers a full disk with SIGBUS instead of an error.
    with open(folder / "images.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in pictures.pixels:
            assert block.dtype == np.uint8
            assert block.shape[1:] == each
            pixels = np.ascontiguousarray(block).tobytes()
            file.write(pixels)
            digest.update(pixels)
            done += len(block)
            blank += int((np.ptp(block.reshape(len(block), -1), axis=1) == 0).sum())
            if time.monotonic() > next_report:
                report(f"{source.name}: {done:,} of {count:,} pictures")
                next_report = time.monotonic() + SECONDS_BETWEEN_REPORTS
    assert done == count
    if blank:
        report(f"{source.name}: {blank:,} pictures are of one even tone, with nothing on them")
    digest.update(pictures.labels.astype("<i8").tobytes())
    digest.update(json.dumps(pictures.classes).encode())
    digest.update(pictures.held_out.tobytes())
    np.save(folder / "labels.npy", pictures.labels.astype(np.int64))
    np.save(folder / "held_out.npy", pictures.held_out.astype(np.bool_))
    meta = {
        "format": FORMAT,
        "name": source.name,
        "stand_in": source.stand_in,
        "fingerprint": digest.hexdigest()[:16],
        "count": count,
        "channels": pictures.channels,
        "size": size,
        "classes": pictures.classes,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
