"""Where pictures come from: published sets, a user's folder, or the embedded stand-ins."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs
from PIL import Image

from trainables.added_data import ADDED
from trainables.built_once import Report
from trainables.download import DownloadError
from trainables.download import download as fetch
from trainables.errors import UserError
from trainables.image_folder import folder_source
from trainables.image_set import (
    ImageSet,
    Pictures,
    Source,
    build_image_set,
    open_image_set,
    to_stderr,
)
from trainables.sources import PUBLISHED, Published
from trainables.strokes import strokes_source

__all__ = [
    "DATASETS",
    "PUBLISHED",
    "STAND_INS",
    "DataMissingError",
    "ImageSet",
    "data_root_in_use",
    "load",
    "load_folder",
    "load_or_stand_in",
    "open_image_set",
    "user_cache",
]

DATA_ROOT_VARIABLE = "FEWSHOT_DATA"
STAND_INS = {"omniglot": "strokes", "mnist": "digits", "fashion_mnist": "digits"}


class DataMissingError(UserError):
    """A published set is neither on this machine nor could it be fetched."""


def user_cache() -> Path:
    """Return this user's cache folder of the project (not created)."""
    return Path(platformdirs.user_cache_dir("few-shot-tuner", appauthor=False))


def data_root_in_use(data_root: Path | None) -> Path:
    """Return `data_root`, else the one that FEWSHOT_DATA names, else a per-user cache folder.

    Raises:
        UserError: a folder was named that does not exist.
    """
    named = data_root if data_root is not None else os.environ.get(DATA_ROOT_VARIABLE) or None
    if named is None:
        return user_cache() / "data"
    root = Path(named).expanduser()
    if not os.path.isdir(root):  # a path's own method raises where one may not look
        rule = "The data root" if data_root is not None else f"{DATA_ROOT_VARIABLE}"
        raise UserError(
            f"{rule} must be a folder in torchvision's layout (with MNIST/raw, omniglot-py, ...), "
            f"got {str(root)!r}, which is no folder that can be read; create it or name another."
        )
    return root


def load(
    name: str,
    *,
    data_root: Path | None = None,
    cache_dir: Path,
    size: int = 32,
    download: bool = True,
    report: Report = to_stderr,
) -> ImageSet:
    """Open a set by name, reading (and if need be downloading) it the first time.

    Args:
        name: one of `DATASETS`, or of a plugin's.
        data_root: a folder in torchvision's layout; None for `FEWSHOT_DATA`, else the user's
            cache folder. Missing files are downloaded into it.
        cache_dir: where the memory-mapped array is kept, one folder a set, size and source.
        size: pixels a side, 16 to 256.
        download: whether the network may be used.
        report: receives a line of progress now and then.
    Raises:
        DataMissingError: the set is not on this machine and could not be fetched.
        UserError: unknown name, damaged or incomplete files (the line names them), a data root
            that does not exist, or an unwritable cache folder.
    """
    known = (*DATASETS, *ADDED)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}."
        raise UserError(f"Unknown data set {name!r}: {hint}")
    if name in PUBLISHED:
        root = data_root_in_use(data_root)
        source = _published_source(PUBLISHED[name], root, may_download=download, report=report)
    else:
        source = ADDED[name]() if name in ADDED else EMBEDDED[name]
    return build_image_set(source, cache_dir=cache_dir, size=size, report=report)


def _published_source(
    published: Published, root: Path, *, may_download: bool, report: Report
) -> Source:
    paths = published.found(root)
    missing = [stem for stem in published.stems if stem not in paths]
    reason = "downloads are switched off"
    if missing and may_download:
        try:
            fetch(published.name, missing, root / published.folder, report=report)
        except DownloadError as error:
            reason = f"downloading failed: {error}"
        paths = published.found(root)
        missing = [stem for stem in published.stems if stem not in paths]
    if not missing:
        return published.source(paths)
    if paths:  # a set in pieces is a fault to mend, not an absent set
        beside = next(iter(paths.values())).parent
        raise UserError(
            f"All files of {published.name} must be there, got no {missing[0]!r} in "
            f"{str(beside)!r} ({reason}); add it, or take the others away."
        )
    raise DataMissingError(
        f"{published.name} must be in {str(root / published.folder)!r} or downloadable, and it is "
        f"neither ({reason}); set {DATA_ROOT_VARIABLE} to a folder in torchvision's layout."
    )


def load_or_stand_in(
    name: str,
    *,
    data_root: Path | None = None,
    cache_dir: Path,
    size: int = 32,
    download: bool = True,
    report: Report = to_stderr,
) -> ImageSet:
    """Open a set as `load` does, or its stand-in where it can be neither found nor fetched.

    Only absence leads to the stand-in, never damage. The choice shows in the `name` and `stand_in`
    of what is returned, and is reported where the set could not be fetched.

    Raises:
        UserError: as `load`, but for an absent set.
    """
    try:
        return load(
            name,
            data_root=data_root,
            cache_dir=cache_dir,
            size=size,
            download=download,
            report=report,
        )
    except DataMissingError as missing:
        if name not in STAND_INS:
            raise
        stand_in = STAND_INS[name]
        if download:
            report(str(missing))
            report(
                f"*** STAND-IN: {stand_in!r} in place of {name!r}: another problem, other scores "
                "***"
            )
    return load(stand_in, cache_dir=cache_dir, size=size, report=report)


def load_folder(
    path: Path, *, cache_dir: Path, size: int = 32, report: Report = to_stderr
) -> ImageSet:
    """Open a user's own pictures, `path`/<class>/<picture>, as a set named after the folder.

    Args:
        path: holds one folder of at least eight pictures for each of at least two classes
            (`tasks.split_classes` needs three). Pictures become grey and square; the set is
            inverted if its borders are light.
        cache_dir: as in `load`.
        size: pixels a side, 16 to 256.
        report: receives a line of progress now and then.
    Raises:
        UserError: what `image_folder.folder_source` and `image_folder.read_folder` refuse.
    """
    source = folder_source(path.expanduser())
    return build_image_set(source, cache_dir=cache_dir, size=size, report=report)


def _read_digits(size: int, _report: Report) -> Pictures:
    """Read scikit-learn's 1,797 handwritten digits, 8x8 with 17 tones, into the middle 3/4."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")
    images = (digits.images[order] * (255 / 16)).astype(np.uint8)
    return Pictures(
        classes=tuple(str(digit) for digit in range(10)),
        labels=digits.target[order].astype(np.int64),
        held_out=np.zeros(len(order), np.bool_),
        pixels=_enlarged(images, size),
    )


def _enlarged(images: npt.NDArray[np.uint8], size: int) -> Iterator[npt.NDArray[np.uint8]]:
    margin = size // 8
    inner = size - 2 * margin
    for image in images:
        picture = np.zeros((1, size, size), np.uint8)
        large = Image.fromarray(image).resize((inner, inner), Image.Resampling.BICUBIC)
        picture[0, margin : margin + inner, margin : margin + inner] = np.asarray(large)
        yield picture


EMBEDDED = {
    "strokes": strokes_source(),
    "digits": Source(name="digits", stand_in=True, key={"version": 1}, read=_read_digits),
}
DATASETS: dict[str, Callable[..., ImageSet]] = {
    name: partial(load, name) for name in (*PUBLISHED, *EMBEDDED)
}
