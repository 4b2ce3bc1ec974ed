"""Reading the published sets where they lie: idx files, Omniglot's archives or folders, CIFAR."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from trainables.built_once import Report
from trainables.errors import UserError, one_line
from trainables.image_set import Pictures, Source
from trainables.outside import require_class_name, require_inside

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

IDX_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IDX_SIDE, IDX_CLASSES, IDX_PUBLISHED = 28, 10, 70_000
# A header may claim four thousand million pictures; nothing of the kind is MNIST.
IDX_MOST_PICTURES = 1_000_000
# Four shots from the training part and four real pictures from the held-out part of a class.
IDX_FEWEST_PER_CLASS = 4

OMNIGLOT_STEMS = ("images_background", "images_evaluation")
OMNIGLOT_SIDE = 105
OMNIGLOT_PUBLISHED = {"images_background": 964, "images_evaluation": 659}  # characters
OMNIGLOT_FEWEST_DRAWINGS = 8  # four shots and four real drawings
OMNIGLOT_LARGEST_FILE = 1 << 20  # bytes; the published drawings have a few hundred
OMNIGLOT_MOST_DRAWINGS = 1_000_000  # of a part; the published ones have 19,280 and 13,180
CIFAR_LARGEST_FILE = 1 << 28  # bytes; the largest published one has 155 million
OMNIGLOT_DRAWING = re.compile(
    r"(?:^|/)images_(?P<part>background|evaluation)/(?P<character>[^/]+/[^/]+)/[^/]+\.png$", re.I
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published set: its name, its folders below or beside a data root, and what is in them."""

    name: str
    folder: str  # below a data root, in torchvision's layout; "/" between parts
    stems: tuple[str, ...]  # every one of them is needed
    suffixes: tuple[str, ...]  # a stem may carry any of these, the first found is read
    read: Callable[[Mapping[str, Path], int, Report], Pictures]  # path of each stem, size
    elsewhere: tuple[Path, ...] = ()  # folders of system packages, holding the files directly

    def found(self, root: Path) -> dict[str, Path]:
        """Return the path of each stem present, from the first folder that has any of them."""
        for folder in (root / self.folder, *self.elsewhere):
            paths = {stem: path for stem in self.stems if (path := self._first(folder, stem))}
            if paths:
                return paths
        return {}

    def _first(self, folder: Path, stem: str) -> Path | None:
        paths = [folder / (stem + suffix) for suffix in self.suffixes]
        with damaged(paths[0]):
            found = next((path for path in paths if path.exists()), None)
        return None if found is None else require_inside(found, folder)

    def source(self, paths: Mapping[str, Path]) -> Source:
        """Return the source that reads `paths`, one for every stem."""
        return Source(
            name=self.name,
            stand_in=False,
            key={stem: file_state(path) for stem, path in paths.items()},
            read=partial(self.read, paths),
        )


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn whatever a broken file raises into one line that names it."""
    try:
        yield
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise UserError(
            f"A data file must be whole and readable, got {str(path)!r} ({one_line(error)}); "
            "replace it with a fresh copy."
        ) from error


def file_state(path: Path) -> list[object]:
    """Return what tells one version of a file or folder from the next without reading it."""
    with damaged(path):
        if not path.is_dir():
            state = path.stat()
            return [str(path.resolve()), state.st_size, state.st_mtime_ns]
        digest = hashlib.sha256()
        for file in _files_below(path, path, depth=3):
            state = file.stat()
            digest.update(f"{file.path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        return [str(path.resolve()), digest.hexdigest()]


def _files_below(folder: Path | str, root: Path, *, depth: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            require_inside(Path(entry.path), root)
            if not entry.is_dir():
                yield entry
            elif depth > 1:
                yield from _files_below(entry.path, root, depth=depth - 1)


# idx files: MNIST and FashionMNIST


def read_idx(paths: Mapping[str, Path], size: int, report: Report) -> Pictures:
    """Read the four idx files (raw or gzipped) of a set of 28x28 pictures in ten classes.

    Format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the data (Y. LeCun's description of MNIST).

    Raises:
        UserError: a file is truncated, has another magic number or shape, counts or labels
            disagree, or a class has too few pictures. The line names the file.
    """
    parts = [_read_idx_part(paths, part) for part in ("train", "t10k")]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    held_out = np.repeat([False, True], [len(labels) for _, labels in parts])
    if len(labels) != IDX_PUBLISHED:
        report(
            f"{paths[IDX_STEMS[0]].parent} holds {len(labels):,} pictures, the published set "
            f"{IDX_PUBLISHED:,}"
        )
    order = np.argsort(labels, kind="stable")
    return Pictures(
        classes=tuple(str(digit) for digit in range(IDX_CLASSES)),
        labels=labels[order],
        held_out=held_out[order],
        pixels=(resized(images[rows], size) for rows in np.array_split(order, 50)),
    )


def _read_idx_part(
    paths: Mapping[str, Path], part: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    images_path = paths[f"{part}-images-idx3-ubyte"]
    labels_path = paths[f"{part}-labels-idx1-ubyte"]
    images = read_idx_file(images_path, shape=(IDX_SIDE, IDX_SIDE))
    labels = read_idx_file(labels_path, shape=())
    if len(images) != len(labels):
        raise UserError(
            f"Images and labels must be as many, got {len(images):,} in {str(images_path)!r} and "
            f"{len(labels):,} in {str(labels_path)!r}; replace the one that is wrong."
        )
    if labels.size and labels.max() >= IDX_CLASSES:
        raise UserError(
            f"Labels must be 0 to {IDX_CLASSES - 1}, got {labels.max()} in {str(labels_path)!r}; "
            "replace the file."
        )
    counts = np.bincount(labels, minlength=IDX_CLASSES)
    if counts.min() < IDX_FEWEST_PER_CLASS:
        raise UserError(
            f"Each class needs at least {IDX_FEWEST_PER_CLASS} pictures, got {counts.min()} of "
            f"class {counts.argmin()} in {str(labels_path)!r}; use the whole set."
        )
    return images, labels


def read_idx_file(path: Path, *, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read one idx file of unsigned bytes -> uint8 [count, *shape].

    Raises:
        UserError: the file is unreadable, truncated, too long, or holds something else.
    """
    dimensions = 1 + len(shape)
    with damaged(path), gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        header = file.read(4 + 4 * dimensions)
        magic = bytes([0, 0, 8, dimensions])
        if header[:4] != magic or len(header) < 4 + 4 * dimensions:
            raise UserError(
                f"An idx file of {dimensions} dimension(s) must start with {magic.hex()}, got "
                f"{header[:4].hex() or 'nothing'} in {str(path)!r}; replace the file."
            )
        count, *found = (int(n) for n in np.frombuffer(header[4:], ">u4"))
        if tuple(found) != shape or count > IDX_MOST_PICTURES:
            raise UserError(
                f"Pictures must be {IDX_SIDE}x{IDX_SIDE} and at most {IDX_MOST_PICTURES:,}, got "
                f"{count:,} of shape {tuple(found)} in {str(path)!r}; replace the file."
            )
        expected = count * int(np.prod(shape, dtype=np.int64))
        data = file.read(expected + 1)  # one more, so that gzip reads on to its checksum
    if len(data) != expected:
        found_bytes = f"{len(data):,}" if len(data) < expected else "more"
        raise UserError(
            f"The data must have the {expected:,} bytes that the header promises, got "
            f"{found_bytes} in {str(path)!r}; replace the file."
        )
    return np.frombuffer(data, np.uint8).reshape(count, *shape)


def resized(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize grey pictures, bilinear and antialiased: uint8 [k, h, w] -> [k, size, size]."""
    small = np.empty((len(images), size, size), np.uint8)
    for row, image in enumerate(images):
        picture = Image.fromarray(image)
        small[row] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return small


# Omniglot


def read_omniglot(paths: Mapping[str, Path], size: int, report: Report) -> Pictures:
    """Read both parts of Omniglot, each from its zip or its extracted folder.

    Classes are "background/<alphabet>/<character>" and "evaluation/<alphabet>/<character>". The
    ink of the files is black; here it is light. The archives' checksums are not asked for: they
    change whenever somebody packs the same drawings again, so the drawings are checked instead.

    Raises:
        UserError: an archive or drawing is damaged, has another shape, or a part has too few
            drawings. The line names the file.
    """
    members: dict[str, tuple[Path, list[str]]] = {}
    for stem, path in paths.items():
        characters = _omniglot_characters(stem, path)
        if len(characters) != OMNIGLOT_PUBLISHED[stem]:
            report(
                f"omniglot: {path} holds {len(characters):,} characters, the published set "
                f"{OMNIGLOT_PUBLISHED[stem]:,}"
            )
        members.update((name, (path, files)) for name, files in characters.items())
    classes = tuple(sorted(members))
    counts = [len(members[name][1]) for name in classes]
    return Pictures(
        classes=classes,
        labels=np.repeat(np.arange(len(classes)), counts),
        held_out=np.zeros(sum(counts), np.bool_),
        pixels=_omniglot_pixels([members[name] for name in classes], size),
    )


def _omniglot_characters(stem: str, path: Path) -> dict[str, list[str]]:
    """Return class name -> sorted names of its drawings, within the zip or below the folder."""
    with damaged(path):
        if path.is_dir():
            names = [entry.path for entry in _files_below(path, path, depth=3)]
        else:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
    characters = defaultdict(list)
    part = stem.removeprefix("images_")
    for name in sorted(names):
        match = OMNIGLOT_DRAWING.search(PurePosixPath(name).as_posix())
        if match and match["part"] == part and not PurePosixPath(name).name.startswith("."):
            characters[f"{part}/{match['character']}"].append(name)
    for character in characters:
        require_class_name(character, path)
    if (drawings := sum(map(len, characters.values()))) > OMNIGLOT_MOST_DRAWINGS:
        raise UserError(
            f"Omniglot's {part} part must hold at most {OMNIGLOT_MOST_DRAWINGS:,} drawings, got "
            f"{drawings:,} in {str(path)!r}; replace it."
        )
    if len(characters) < 2:
        raise UserError(
            f"Omniglot's {part} part must hold drawings as {stem}/<alphabet>/<character>/*.png, "
            f"got {len(characters)} character(s) in {str(path)!r}; replace it."
        )
    fewest = min(characters, key=lambda name: len(characters[name]))
    if len(characters[fewest]) < OMNIGLOT_FEWEST_DRAWINGS:
        raise UserError(
            f"Each character needs at least {OMNIGLOT_FEWEST_DRAWINGS} drawings, got "
            f"{len(characters[fewest])} of {fewest!r} in {str(path)!r}; use the whole set."
        )
    return dict(characters)


def _omniglot_pixels(
    characters: Sequence[tuple[Path, Sequence[str]]], size: int
) -> Iterator[npt.NDArray[np.uint8]]:
    with ExitStack() as stack:
        archives: dict[Path, zipfile.ZipFile] = {}
        for path, names in characters:
            if path.is_file() and path not in archives:
                with damaged(path):
                    archives[path] = stack.enter_context(zipfile.ZipFile(path))
            yield np.stack([_omniglot_drawing(path, archives.get(path), n, size) for n in names])


def _omniglot_drawing(
    path: Path, archive: zipfile.ZipFile | None, name: str, size: int
) -> npt.NDArray[np.uint8]:
    file = path / name if archive is not None else Path(name)
    with damaged(file):
        length = file.stat().st_size if archive is None else archive.getinfo(name).file_size
        if length > OMNIGLOT_LARGEST_FILE:
            raise OSError(f"larger than {OMNIGLOT_LARGEST_FILE:,} bytes")
        data = file.read_bytes() if archive is None else archive.read(name)
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                side = image.size
                grey = image.convert("L") if side == (OMNIGLOT_SIDE, OMNIGLOT_SIDE) else None
        except UnidentifiedImageError as error:
            raise OSError("it is no PNG picture") from error
        except Exception as error:  # PIL raises nearly anything on a broken file
            raise OSError(one_line(error)) from error
    if grey is None:
        raise UserError(
            f"A drawing must be {OMNIGLOT_SIDE}x{OMNIGLOT_SIDE} pixels, got {side[0]}x{side[1]} "
            f"in {str(file)!r}; replace it."
        )
    return 255 - np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))


# CIFAR-100


def read_cifar100(paths: Mapping[str, Path], size: int, _report: Report) -> Pictures:
    """Read CIFAR-100, 600 coloured pictures of 32x32 of each of 100 fine classes.

    Its files are pickles, so one is opened only where its MD5 is the published one, and then by a
    reader that knows nothing but plain data and arrays.

    Raises:
        UserError: a file is not the published one.
    """
    from torchvision.datasets import CIFAR100  # takes seconds, and is seldom needed

    digests = dict([*CIFAR100.train_list, *CIFAR100.test_list])
    digests[CIFAR100.meta["filename"]] = CIFAR100.meta["md5"]
    held = {part: _read_cifar_part(path, digests[part]) for part, path in paths.items()}
    parts = [held["train"], held["test"]]
    labels = np.concatenate([np.asarray(part["fine_labels"], np.int64) for part in parts])
    images = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
    order = np.argsort(labels, kind="stable")
    return Pictures(
        classes=tuple(held["meta"]["fine_label_names"]),
        labels=labels[order],
        held_out=np.repeat([False, True], [len(part["fine_labels"]) for part in parts])[order],
        pixels=(_coloured(images[rows], size) for rows in np.array_split(order, 50)),
        channels=3,
    )


def _read_cifar_part(path: Path, md5: str) -> dict[str, Any]:
    with damaged(path), path.open("rb") as file:
        content = file.read(CIFAR_LARGEST_FILE)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UserError(
            f"CIFAR-100's files must be the published ones, got another {str(path)!r}; replace it."
        )
    held: dict[str, Any] = _Arrays(io.BytesIO(content), encoding="latin1").load()
    return held


class _Arrays(pickle.Unpickler):
    """Reads plain data and arrays of numbers, and can name nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
        }
        asked = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if asked not in known:
            raise pickle.UnpicklingError(f"{asked} is no array")
        return known[asked]


def _coloured(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize as `resized` does: [k, 3, h, w] -> [k, 3, size, size]."""
    return np.stack([resized(images[:, channel], size) for channel in range(3)], axis=1)


OMNIGLOT = Published(
    name="omniglot",
    folder="omniglot-py",
    stems=OMNIGLOT_STEMS,
    suffixes=(".zip", ""),
    read=read_omniglot,
)
MNIST = Published(
    name="mnist", folder="MNIST/raw", stems=IDX_STEMS, suffixes=("", ".gz"), read=read_idx
)
FASHION_MNIST = Published(
    name="fashion_mnist",
    folder="FashionMNIST/raw",
    stems=IDX_STEMS,
    suffixes=("", ".gz"),
    read=read_idx,
    elsewhere=(DEBIAN_FASHION_MNIST,),
)
CIFAR100 = Published(
    name="cifar100",
    folder="cifar-100-python",
    stems=("train", "test", "meta"),
    suffixes=("",),
    read=read_cifar100,
)
PUBLISHED = {p.name: p for p in (OMNIGLOT, MNIST, FASHION_MNIST, CIFAR100)}
