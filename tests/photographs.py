"""Photographs of ink on paper, as a telephone takes them: in uneven light, anywhere, turned."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

TURNS = {  # that undo what an EXIF orientation tells a viewer to do
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def photograph(
    ink: npt.NDArray[np.bool_],
    seed: int,
    *,
    orientation: int = 1,
    chalk: bool = False,
    desk: bool = False,
) -> bytes:
    """A JPEG of 1200 x 900 pixels: a drawing, square, as dark ink on light paper.

    Args:
        ink: [h, h], where the drawing is.
        seed: of place, light and noise.
        orientation: of EXIF: the camera was turned.
        chalk: on a blackboard instead.
        desk: whose edge, and dark wood, is seen beside the paper.
    """
    rng = np.random.default_rng(seed)
    width, height = 1200, 900
    side = int(rng.uniform(0.35, 0.6) * height)
    drawn = Image.fromarray(ink.astype(np.uint8) * 255).resize((side, side))
    left, top = int(rng.integers(200, width - side - 20)), int(rng.integers(20, height - side - 20))
    cover = np.zeros((height, width), np.float32)
    cover[top : top + side, left : left + side] = np.asarray(drawn, np.float32) / 255
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = 0.9 - 0.3 * x / width - 0.2 * y / height
    edge = x - rng.uniform(0.2, 0.8) * width + 0.4 * (y - height / 2)
    light *= 1 - 0.3 / (1 + np.exp(-edge.clip(-500, 500) / 25))  # a hand's shadow
    paper, pen = ((60, 70, 62), (230, 228, 220)) if chalk else ((228, 222, 205), (40, 45, 90))
    tones = np.array(paper) * (1 - cover[..., None]) + np.array(pen) * cover[..., None]
    if desk:
        tones[:, :150] = (70, 45, 30)
    noisy = tones * light[..., None] + rng.normal(0, 6, tones.shape)
    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(1.2))
    if orientation in TURNS:
        picture = picture.transpose(TURNS[orientation])
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    picture.save(file, "JPEG", quality=70, exif=exif)
    return file.getvalue()
