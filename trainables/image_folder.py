"""A user's own pictures: a folder of class folders, grey (light on dark) or in colour."""

from __future__ import annotations

import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from trainables.built_once import Report
from trainables.errors import UserError, one_line
from trainables.image_set import Pictures, Source
from trainables.outside import require_class_name, require_inside

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
READABLE = ", ".join(sorted(SUFFIXES))
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")  # PIL's names of the above
FEWEST_CLASSES = 2
FEWEST_PICTURES = 8  # four shots, and four real pictures to compare with
SAMPLE = (
    256  # pictures looked at to tell grey from colour, and dark ink on paper from light on dark
)
MID_GREY = 128
SIXTEEN_BITS = 2**16 - 1
READING = 2  # raise it when pictures come out otherwise, so that older caches are not opened
COLOURFUL = 8.0  # mean difference of two channels; a grey JPEG's are equal, a scan's are near


def folder_source(path: Path) -> Source:
    """Return the source that reads `path`/<class>/<picture>.

    Hidden files, files that are not named like pictures (their number is reported), and deeper
    folders are left out.

    Raises:
        UserError: not a folder, fewer than two classes, a class with fewer than eight pictures,
            a name that is not UTF-8, or a link that leads out of the folder.
    """
    try:
        if not path.is_dir():
            raise UserError(
                f"The data must be a folder of class folders of pictures, got {str(path)!r}, which "
                f"is {'a file' if path.exists() else 'absent'}; name such a folder."
            )
        root = path.resolve()
        folders = _class_folders(root)
        classes = {folder.name: _pictures_of(folder, root) for folder in folders}
        left_out = [file for folder in folders for file in _left_out(folder)]
        states = [file.stat() for files in classes.values() for file in files]
    except OSError as error:
        raise UserError(
            f"The data folder must be readable, got {str(path)!r} ({one_line(error)}); "
            "change its permissions or name another."
        ) from error
    _check_names(root, classes)
    _check_counts(root, classes)
    files = [file for files in classes.values() for file in files]
    key = [
        [os.fsencode(file).hex(), state.st_size, state.st_mtime_ns]
        for file, state in zip(files, states, strict=True)
    ]

    def read(size: int, report: Report) -> Pictures:
        if left_out:
            most = Counter(file.suffix.lower() for file in left_out).most_common(5)
            kinds = ", ".join(f"{count:,} {suffix!r}" for suffix, count in most)
            report(f"{len(left_out):,} file(s) left out ({kinds}): read are {READABLE}")
        return read_folder(classes, size, report)

    return Source(
        name=root.name or "folder",
        stand_in=False,
        key={"folder": key, "reading": READING},
        read=read,
    )


def _class_folders(root: Path) -> list[Path]:
    """Return the visible folders in `root`, in order of their names."""
    visible = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    return [require_inside(entry, root) for entry in visible if entry.is_dir()]


def _left_out(folder: Path) -> list[Path]:
    """Return the visible files in a class folder that are not named like pictures."""
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return [e for e in visible if e.suffix.lower() not in SUFFIXES and e.is_file()]


def _pictures_of(folder: Path, root: Path) -> list[Path]:
    """Return the pictures in a class folder, in order of their names."""
    visible = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    named = [require_inside(e, root) for e in visible if e.suffix.lower() in SUFFIXES]
    return [entry for entry in named if stat.S_ISREG(entry.stat().st_mode)]


def _check_names(root: Path, classes: Iterable[str]) -> None:
    for name in (str(root), *classes):
        require_class_name(name, root)


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
                f"compare with), got {len(files)} of {READABLE} in {str(root / name)!r}; add "
                "pictures or take the folder away."
            )


def read_folder(classes: dict[str, list[Path]], size: int, report: Report) -> Pictures:
    """Read pictures, each made a square with the tone or colour of its own border.

    They are in colour if any picture is, else grey; where a sample has 1 channel throughout, the
    others must, too. A grey set with light borders is inverted as a whole, so that ink is light on
    dark.

    Raises:
        UserError: a file is no picture, or a damaged or a far too large one; or some are grey
            and some in colour.
    """
    files = [file for files in classes.values() for file in files]
    counts = [len(files) for files in classes.values()]
    places = np.linspace(0, len(files) - 1, SAMPLE, dtype=int)
    sample = list(dict.fromkeys(files[i] for i in places))
    white = white_of(sample, size)
    coloured, tones, three = None, [], False
    for file in sample:
        picture = read_picture(file, size, white)
        tones.append(int(border_tone(grey(picture))))
        three |= picture.ndim == 3
        if coloured is None and _colourful(picture):
            coloured = file
    if three and coloured is None:  # a colour may be seldom, and must not come as a surprise
        read = (file for file in files if _colourful(read_picture(file, size, white)))
        coloured = next(read, None)
    light_paper = coloured is None and float(np.median(tones)) >= MID_GREY
    if light_paper:
        report("the pictures have light borders: inverted, so that ink is light on dark")
    return Pictures(
        classes=tuple(classes),
        labels=np.repeat(np.arange(len(classes)), counts),
        held_out=np.zeros(len(files), np.bool_),
        pixels=_pixels(files, size, white, light_paper, coloured),
        channels=1 if coloured is None else 3,
    )


def _pixels(
    files: Sequence[Path], size: int, white: int, light_paper: bool, coloured: Path | None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Blocks of one picture; `coloured` is one of a set in colour, None for a grey set."""
    for file in files:
        picture = read_picture(file, size, white)
        if coloured is None:
            if _colourful(picture):
                raise _mixed(file, "in colour", "others are grey")
            small = squared(grey(picture), size)
            yield (255 - small if light_paper else small)[None]
        else:
            if picture.ndim == 2:
                raise _mixed(file, "grey", f"{'/'.join(coloured.parts[-2:])!r} is in colour")
            yield squared(picture, size).transpose(2, 0, 1)[None]


def _mixed(file: Path, what: str, others: str) -> UserError:
    return UserError(
        f"Pictures must be all of 1 channel (grey) or all of 3 (in colour), got {str(file)!r}, "
        f"which is {what} where {others}; convert or remove it."
    )


def _colourful(picture: npt.NDArray[np.uint8]) -> bool:
    """Whether the channels of a picture differ; one of grey tones alone may be stored as RGB."""
    if picture.ndim == 2:
        return False
    low, high = picture.min(2).astype(np.float32), picture.max(2)
    return float((high - low).mean()) > COLOURFUL


def grey(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[h, w] or [h, w, 3] -> [h, w], by PIL's weights of the colours."""
    return picture if picture.ndim == 2 else np.asarray(Image.fromarray(picture).convert("L"))


def white_of(files: Sequence[Path], size: int) -> int:
    """Return the largest value of the bits that 16-bit pictures use: a camera's are often 12."""
    brightest = 0
    for file in files:
        with _opened(file, size) as image:
            if image.mode.startswith("I;16"):
                brightest = max(brightest, int(np.asarray(image).max()))
    return 2 ** max(8, brightest.bit_length()) - 1 if brightest else SIXTEEN_BITS


def read_picture(file: Path, size: int, white: int = SIXTEEN_BITS) -> npt.NDArray[np.uint8]:
    """Read a picture upright -> uint8 [h, w] of a file with one channel, [h, w, 3] of others;
    transparent parts become white paper, and ink of one grey tone on them black.

    Args:
        file: the picture; of an animation the first frame counts.
        size: the side it is meant for, in pixels; a JPEG is decoded no finer than eight times it.
        white: the value of white in a picture of 16 bits.
    Raises:
        UserError: the file is no picture, is damaged, or has more pixels than PIL holds safe.
    """
    with _opened(file, size) as image:
        return _pixels_of(ImageOps.exif_transpose(image), white)


@contextmanager
def _opened(file: Path, size: int) -> Iterator[Image.Image]:
    """Open a picture, and turn whatever a broken one raises into one line that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which changes no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                image.draft(None, (8 * size, 8 * size))
                yield image
    except Exception as error:  # PIL raises nearly anything on a broken file
        raise UserError(
            f"A picture must be a whole PNG, JPEG, BMP, WebP, GIF or TIFF file, got {str(file)!r} "
            f"({one_line(error)}); replace or remove it."
        ) from error


def _pixels_of(image: Image.Image, white: int) -> npt.NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):  # more than 8 bits, which PIL would clip
        values = np.asarray(image, np.float64)
        low, high = 0.0, float(white)
        if not image.mode.startswith("I;16"):  # of no fixed range
            low, high = float(values.min()), float(values.max())
        tones = (values - low) * (255 / max(high - low, 1e-12))
        return np.asarray(np.rint(tones.clip(max=255)), np.uint8)
    if image.has_transparency_data:
        one = image.mode in ("LA", "La", "L", "1")
        drawn = image.convert("RGBA")
        if _drawn_by_alpha(np.asarray(drawn)):  # light ink would vanish on white paper
            ink = Image.new("RGBA", drawn.size, "black")
            ink.putalpha(drawn.getchannel("A"))
            drawn = ink
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
        return np.asarray(image.convert("L" if one else "RGB"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _drawn_by_alpha(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether all that shows of [h, w, 4] has one grey tone, nearly, so that alpha is the ink."""
    alpha = pixels[..., 3]
    return bool(np.ptp(alpha) > 0 and np.ptp(pixels[alpha > 0, :3]) <= COLOURFUL)


def border_tone(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the median tone of the outermost pixels: [h, w] -> [], [h, w, 3] -> [3]."""
    return np.asarray(np.median(border(picture), axis=0).astype(np.uint8))


def border(picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The outermost pixels, in no order: [h, w, ...] -> [n, ...]."""
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def squared(picture: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Fit into a square, antialiased, the rest in the border's tone: [h, w, ...] -> [S, S, ...]."""
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = np.empty((size, size, *picture.shape[2:]), np.uint8)
    canvas[:] = border_tone(picture)
    small = Image.fromarray(picture).resize(fitted, Image.Resampling.BILINEAR)
    left, top = (size - fitted[0]) // 2, (size - fitted[1]) // 2
    canvas[top : top + fitted[1], left : left + fitted[0]] = np.asarray(small)
    return canvas
