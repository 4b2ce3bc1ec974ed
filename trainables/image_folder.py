"""A user's own pictures: a folder of class folders, read into one grey, light-on-dark set."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from trainables.errors import UserError
from trainables.image_set import Pictures, Report, Source, one_line

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")  # PIL's names of the above
FEWEST_CLASSES = 2
FEWEST_PICTURES = 8  # four shots, and four real pictures to compare with
POLARITY_SAMPLE = 256  # pictures looked at to tell dark ink on paper from light on dark
MID_GREY = 128


def folder_source(path: Path) -> Source:
    """Return the source that reads `path`/<class>/<picture>.

    Hidden files, files that are not named like pictures, and deeper folders are left out.

    Raises:
        UserError: not a folder, fewer than two classes, a class with fewer than eight pictures,
            or a link that leads out of the folder.
    """
    if not path.is_dir():
        raise UserError(
            f"The data must be a folder of class folders of pictures, got {str(path)!r}, which "
            f"is {'a file' if path.exists() else 'absent'}; name such a folder."
        )
    root = path.resolve()
    try:
        classes = {folder.name: _pictures_of(folder, root) for folder in _class_folders(root)}
        states = [file.stat() for files in classes.values() for file in files]
    except OSError as error:
        raise UserError(
            f"The data folder must be readable, got {str(path)!r} ({one_line(error)}); "
            "change its permissions or name another."
        ) from error
    _check_counts(root, classes)
    files = [file for files in classes.values() for file in files]
    key = [
        [os.fsencode(file).hex(), state.st_size, state.st_mtime_ns]
        for file, state in zip(files, states, strict=True)
    ]
    return Source(
        name=root.name or "folder",
        stand_in=False,
        key={"folder": key},
        read=lambda size, report: read_folder(classes, size, report),
    )


def _class_folders(root: Path) -> list[Path]:
    """Return the visible folders in `root`, in order of their names."""
    visible = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    return [_inside(entry, root) for entry in visible if entry.is_dir()]


def _pictures_of(folder: Path, root: Path) -> list[Path]:
    """Return the pictures in a class folder, in order of their names."""
    visible = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    named = [entry for entry in visible if entry.suffix.lower() in SUFFIXES]
    return [_inside(e, root) for e in named if e.is_symlink() or stat.S_ISREG(e.stat().st_mode)]


def _inside(entry: Path, root: Path) -> Path:
    """Return `entry`, unless it is a link that leads to somewhere else on the disk."""
    if entry.is_symlink() and not entry.resolve().is_relative_to(root):
        raise UserError(
            f"Pictures must lie inside the folder {str(root)!r}, got the link {str(entry)!r} to "
            f"{str(entry.resolve())!r}; copy them in instead."
        )
    return entry


def _check_counts(root: Path, classes: dict[str, list[Path]]) -> None:
    if len(classes) < FEWEST_CLASSES:
        found = f"only {next(iter(classes))!r}" if classes else "none"
        raise UserError(
            f"A data folder must hold at least {FEWEST_CLASSES} class folders, got {found} in "
            f"{str(root)!r}; name the folder that holds one folder of pictures for each class."
        )
    for name, files in classes.items():
        if len(files) < FEWEST_PICTURES:
            raise UserError(
                f"Each class needs at least {FEWEST_PICTURES} pictures (four shots and four to "
                f"compare with), got {len(files)} in {str(root / name)!r}; add pictures or take "
                "the folder away."
            )


def read_folder(classes: dict[str, list[Path]], size: int, report: Report) -> Pictures:
    """Read grey pictures, each made a square with the tone of its own border.

    The whole set is inverted if its pictures have light borders, so that ink is light on dark.

    Raises:
        UserError: a file is no picture, or a damaged or a far too large one.
    """
    files = [file for files in classes.values() for file in files]
    counts = [len(files) for files in classes.values()]
    sample = [files[i] for i in np.linspace(0, len(files) - 1, POLARITY_SAMPLE, dtype=int)]
    tones = [border_tone(read_grey(file, size)) for file in dict.fromkeys(sample)]
    light_paper = float(np.median(tones)) >= MID_GREY
    if light_paper:
        report("the pictures have light borders: inverted, so that ink is light on dark")
    return Pictures(
        classes=tuple(classes),
        labels=np.repeat(np.arange(len(classes)), counts),
        held_out=np.zeros(len(files), np.bool_),
        pixels=_pixels(files, size, light_paper),
    )


def _pixels(files: Sequence[Path], size: int, light_paper: bool) -> Iterator[npt.NDArray[np.uint8]]:
    for file in files:
        picture = squared(read_grey(file, size), size)
        yield (255 - picture if light_paper else picture)[None]


def read_grey(file: Path, size: int) -> npt.NDArray[np.uint8]:
    """Read a picture upright and grey -> uint8 [h, w]; transparent parts become white paper.

    Args:
        file: the picture; of an animation the first frame counts.
        size: the side it is meant for, in pixels; a JPEG is decoded no finer than eight times it.
    Raises:
        UserError: the file is no picture, is damaged, or has more pixels than PIL holds safe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which changes no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                image.draft("L", (8 * size, 8 * size))
                return _grey(ImageOps.exif_transpose(image))
    except Exception as error:  # PIL raises nearly anything on a broken file
        raise UserError(
            f"A picture must be a whole PNG, JPEG, BMP, WebP, GIF or TIFF file, got {str(file)!r} "
            f"({one_line(error)}); replace or remove it."
        ) from error


def _grey(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):  # more than 8 bits, which PIL would clip
        values = np.asarray(image, np.float64)
        low, high = 0.0, 65535.0
        if not image.mode.startswith("I;16"):  # of no fixed range
            low, high = float(values.min()), float(values.max())
        return np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    if image.has_transparency_data:
        drawn = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    return np.asarray(image.convert("L"))


def border_tone(picture: npt.NDArray[np.uint8]) -> int:
    """Return the median tone of the outermost pixels of a grey picture."""
    edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    return int(np.median(np.concatenate(edges)))


def squared(picture: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Fit into a square, antialiased, the rest in the border's tone: [h, w] -> [size, size]."""
    height, width = picture.shape
    scale = size / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("L", (size, size), border_tone(picture))
    canvas.paste(
        Image.fromarray(picture).resize(fitted, Image.Resampling.BILINEAR),
        ((size - fitted[0]) // 2, (size - fitted[1]) // 2),
    )
    return np.asarray(canvas)
