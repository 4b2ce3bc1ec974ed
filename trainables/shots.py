"""Users' own pictures, brought to what a model's data looks like: photographs of ink on paper,
scans, drawings of any size, colour and polarity.

A picture that already looks like the data, as one of the data set itself, is only resized. Of
others, where the data is drawings, the ink is found and drawn again at the size and the thickness
that drawings of the data have; where it is things on an even ground, they are cut out and centred.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainables.data_card import EVEN, DataCard, Mask, box_of, measured, thickness
from trainables.errors import UserError
from trainables.image_folder import (
    READABLE,
    SUFFIXES,
    border,
    border_tone,
    grey,
    read_picture,
    squared,
    white_of,
)
from trainables.metrics import Bytes
from trainables.tasks import MOST_SHOTS

WORK = 768  # pixels of the longest side on which ink is looked for
COARSE = 4  # times less for the paper, which has no detail
PAPER_RADIUS = 40  # coarse pixels: a stroke is thinner than the disk, and shadows change slower
BLUR = 1.5  # pixels of `WORK`: noise of cameras, blocks of JPEG
FAINTEST = 0.1  # contrast of ink, in shares of the paper's tone
NOISE = 5.0  # times the paper's own roughness, at least
LEAST, MOST_INK = 2e-4, 0.5  # share of a picture that is ink
ALONG = 0.06  # share of the frame that no stroke lies on
SPECK = 0.2  # of the square of a stroke's thickness: less is dirt
FINE = 8  # times the model's size: the canvas on which ink is drawn again
CLEAN = 12  # levels by which a ground may differ from the data's
BRIGHT = 160  # what the ink of a clean picture has at least
SLACK = 0.15  # beyond the ends of what is usual

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]


def shot_files(named: Sequence[str]) -> list[Path]:
    """The pictures that a command names: files, or one folder of them.

    Raises:
        UserError: one is absent, a folder has none, or there are more than 16.
    """
    paths = [Path(name).expanduser() for name in named]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        if not paths:
            raise UserError(f"--shots: there is no picture ({READABLE}) in {str(folder)!r}.")
    for path in paths:
        if not path.is_file():
            kind = "is a folder: name one folder alone, or files" if path.is_dir() else "is absent"
            raise UserError(f"--shots must be pictures, or a folder of them; {str(path)!r} {kind}.")
    if not 1 <= len(paths) <= MOST_SHOTS:
        raise UserError(f"--shots takes 1 to {MOST_SHOTS} pictures of one thing, got {len(paths)}.")
    return paths


def read_shots(files: Sequence[Path], card: DataCard) -> Bytes:
    """Read pictures and bring each to the data -> uint8 [n, channels, size, size].

    Raises:
        UserError: one is no picture, damaged, far too large, or nothing is on it.
    """
    shots, size = [], WORK // FINE  # as fine as `WORK`
    white = white_of(files, size)
    for file in files:
        picture = read_picture(file, size, white)
        try:
            shots.append(as_shot(picture, card))
        except Blank as error:
            raise UserError(
                f"There must be something on a shot, and {str(file)!r} {error}."
            ) from error
    return np.stack(shots)


class Blank(UserError):
    """Nothing is found on a picture."""


def as_shot(picture: Bytes, card: DataCard) -> Bytes:
    """Bring one picture to what a model's data looks like -> uint8 [channels, size, size].

    Args:
        picture: uint8 [h, w] or [h, w, 3], of any size.
        card: of the data.
    Raises:
        Blank: nothing is on it.
    """
    if np.ptp(picture) <= EVEN:
        raise Blank("is blank")
    if card.channels == 3:
        picture = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
        whole = squared(picture, card.size)
        found = _cut_out(picture, card) if card.style != "scene" else None
        return (whole if found is None else found).transpose(2, 0, 1)
    plain = _polarised(grey(picture), card)
    whole = squared(plain, card.size)
    if card.style == "scene" or _is_alike(whole, card):
        return whole[None]
    if card.style == "drawing":
        return _drawn_again(_ink(grey(picture)), card)[None]
    found = _cut_out(plain, card)
    return (whole if found is None else found)[None]


def _polarised(plain: Grey, card: DataCard) -> Grey:
    """Inverted if its border is then nearer to the ground of the data."""
    tone, ground = int(border_tone(plain)), card.ground[0]
    return 255 - plain if abs(255 - tone - ground) < abs(tone - ground) else plain


def _is_alike(whole: Grey, card: DataCard) -> bool:
    """Whether a picture, resized, could be one of the data: ground, size and thickness of ink."""
    away = np.abs(border(whole).astype(np.int16) - card.ground[0])
    if np.median(away) > CLEAN or np.abs(whole.astype(np.int16) - card.ground[0]).max() < BRIGHT:
        return False
    extent, stroke = measured(whole[..., None])
    if card.style == "drawing":
        return bool((away <= EVEN).mean() > 0.9) and all(
            low * (1 - SLACK) <= value <= high * (1 + SLACK)
            for value, (low, _, high) in ((extent, card.extent), (stroke, card.stroke))
        )
    return extent >= card.extent[0] * (1 - SLACK)


def _cut_out(picture: Bytes, card: DataCard) -> Bytes | None:
    """What differs from an even border, centred on a canvas of the ground at the size that things
    of the data have; None if the border is not even, or nothing differs from it."""
    tone = border_tone(picture)
    away = np.abs(picture.astype(np.int16) - tone)
    away = away if away.ndim == 2 else away.max(2)
    edges = border(away)
    if np.median(edges) > EVEN or (edges <= 2 * EVEN).mean() < 0.5:
        return None
    there = _without_specks(away > 2 * EVEN)
    if not there.any():
        return None
    top, bottom, left, right = box_of(there)
    # One pixel more on every side, since edges are soft.
    thing = picture[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
    height, width = thing.shape[:2]
    scale = card.extent[1] * card.size / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(thing).resize(fitted, Image.Resampling.BILINEAR))
    if card.channels == 1:  # the ground of the data, and not the photograph's own
        ground, own = card.ground[0], int(tone)
        levels = (small.astype(np.float32) - own) * ((255 - ground) / max(1, 255 - own)) + ground
        small, tone = np.rint(levels.clip(0, 255)).astype(np.uint8), np.array(ground, np.uint8)
    canvas = np.empty((card.size, card.size, *small.shape[2:]), np.uint8)
    canvas[:] = tone
    left, top = (card.size - fitted[0]) // 2, (card.size - fitted[1]) // 2
    canvas[top : top + fitted[1], left : left + fitted[0]] = small
    return canvas


def _ink(plain: Grey) -> Mask:
    """Where the ink of a drawing is, on whatever paper and in whatever light: [h, w] -> the box
    around it, bool.

    Raises:
        Blank: there is none, or so much that it is no drawing.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.filters import apply_hysteresis_threshold, threshold_otsu

    plain = _resized(plain, WORK)
    smooth = gaussian_filter(plain.astype(np.float32), BLUR)
    first = smooth - _paper(plain, None)
    dark = float((np.minimum(first, 0) ** 2).sum()) >= float((np.maximum(first, 0) ** 2).sum())
    ink = np.zeros(plain.shape, np.bool_)
    for _ in range(2):  # the second time the paper is seen without the ink
        paper = _paper(plain, ~ink)
        reach = paper if dark else 255 - paper
        contrast = (paper - smooth if dark else smooth - paper) / np.maximum(reach, 32)
        rough = 1.4826 * float(np.median(np.abs(contrast - np.median(contrast))))
        high = max(float(threshold_otsu(contrast)), NOISE * rough, FAINTEST)  # type: ignore[no-untyped-call]
        found = apply_hysteresis_threshold(contrast, 0.7 * high, high)  # type: ignore[no-untyped-call]
        ink = _inside(found)
    ink = _without_specks(ink)
    share = float(ink.mean())
    if share < LEAST:
        raise Blank("shows no ink: draw with a darker pen, or come nearer")
    if share > MOST_INK:
        raise Blank("shows no drawing: half of it or more would be ink")
    top, bottom, left, right = box_of(ink)
    return np.asarray(ink[top:bottom, left:right])


def _paper(plain: Grey, free: Mask | None) -> Floats:
    """The tone that the paper has everywhere, by its median around each place.

    Args:
        plain: [h, w].
        free: what is known not to be ink.
    """
    from skimage.filters import rank
    from skimage.morphology import disk

    shape = (max(1, plain.shape[1] // COARSE), max(1, plain.shape[0] // COARSE))
    small = np.asarray(Image.fromarray(plain).resize(shape, Image.Resampling.BOX))
    # Mirrored in tone, too, at the frame: light that falls off goes on falling off.
    wide = np.pad(small.astype(np.int16), PAPER_RADIUS, "reflect", reflect_type="odd")
    known = None
    if free is not None:
        rest = Image.fromarray(free.astype(np.uint8) * 255).resize(shape, Image.Resampling.BOX)
        known = np.pad(np.asarray(rest) == 255, PAPER_RADIUS, "reflect")
    around = wide.clip(0, 255).astype(np.uint8)
    median = rank.median(around, disk(PAPER_RADIUS), mask=known)  # type: ignore[no-untyped-call]
    inner = median[PAPER_RADIUS:-PAPER_RADIUS, PAPER_RADIUS:-PAPER_RADIUS]
    large = Image.fromarray(inner).resize(plain.shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(large, np.float32)


def _inside(ink: Mask) -> Mask:
    """Without what lies along the frame, as a table beside the paper; and without what else touches
    it, a shadow or another drawing, unless that is most of all."""
    from skimage.measure import label
    from skimage.segmentation import clear_border

    parts = label(ink)  # type: ignore[no-untyped-call]
    frame = border(parts)
    along = np.bincount(frame, minlength=int(parts.max()) + 1) > ALONG * len(frame)
    along[0] = False
    free = ink & ~along[parts]
    ink = free if free.any() else ink
    inner: Mask = clear_border(ink)  # type: ignore[no-untyped-call]
    return inner if inner.sum() > 0.3 * ink.sum() else ink


def _without_specks(ink: Mask) -> Mask:
    """Without parts that are far smaller than a dot of the pen."""
    from skimage.measure import label

    if not ink.any():
        return ink
    parts = label(ink)  # type: ignore[no-untyped-call]
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    kept = areas >= max(SPECK * thickness(ink) ** 2, 0.01 * areas.max())
    return np.asarray(kept[parts])


def _drawn_again(ink: Mask, card: DataCard) -> Grey:
    """Ink on a canvas as the data has it: longest side, thickness, centred, light on dark."""
    from scipy.ndimage import distance_transform_edt
    from skimage.morphology import skeletonize

    side = FINE * card.size
    ink = _resized(ink.astype(np.uint8) * 255, round(card.extent[1] * side)) > 127
    low, usual, high = (FINE * value for value in card.stroke)
    margin = round(high)
    wide = np.pad(ink, margin)
    if not low <= thickness(wide) <= high:
        lines = skeletonize(wide)  # type: ignore[no-untyped-call]
        wide = distance_transform_edt(~lines) <= usual / 2
    canvas = np.zeros((side + 2 * margin, side + 2 * margin), np.uint8)
    top, left = ((side + 2 * margin - own) // 2 for own in wide.shape)
    canvas[top : top + wide.shape[0], left : left + wide.shape[1]] = 255 * wide
    inner = Image.fromarray(canvas[margin : margin + side, margin : margin + side])
    return np.asarray(inner.resize((card.size, card.size), Image.Resampling.BILINEAR))


def _resized(plain: Grey, longest: int) -> Grey:
    scale = longest / max(plain.shape)
    height, width = (max(1, round(own * scale)) for own in plain.shape)
    return np.asarray(Image.fromarray(plain).resize((width, height), Image.Resampling.BICUBIC))
