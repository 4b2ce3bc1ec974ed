"""Sample grids as in the paper's figures 6 to 8: the shots on top, new pictures below."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

COLUMNS, ROWS = 4, 3  # samples shown of each class
CLASSES_A_ROW = 5
ENLARGED = 2  # screen pixels a picture's pixel
GAP = 4  # pixels between classes
LINE = 1  # pixels of the line between shots and samples
GAP_GREY, LINE_GREY = 60, 150
GRID, SMALL = "grid.png", "small.png"  # files
SMALL_WIDTH = 660  # pixels: what a column of a page has room for


def _tile(pictures: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """[n, C, S, S] -> [rows * S, columns * S, C]; n is a multiple of `columns`."""
    count, channels, size, _ = pictures.shape
    rows = pictures.reshape(count // columns, columns, channels, size, size)
    return rows.transpose(0, 3, 1, 4, 2).reshape(count // columns * size, columns * size, channels)


def _block(shots: npt.NDArray[np.uint8], samples: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One class: its shots, a line, its samples -> [H, W, C]."""
    top = _tile(shots[:COLUMNS], COLUMNS)
    line = np.full((LINE, *top.shape[1:]), LINE_GREY, np.uint8)
    return np.concatenate([top, line, _tile(samples[: COLUMNS * ROWS], COLUMNS)])


def sample_grid(
    shots: npt.NDArray[np.uint8], samples: npt.NDArray[np.uint8], *, classes: int = 10
) -> npt.NDArray[np.uint8]:
    """A picture of the first `classes` episodes.

    Args:
        shots: [E, at least 4, C, S, S], C 1 or 3.
        samples: [E, at least 12, C, S, S].
    Returns:
        uint8 [H, W, 3].
    """
    blocks = [_block(s, y) for s, y in zip(shots[:classes], samples[:classes], strict=True)]
    height, width, channels = blocks[0].shape
    columns = min(CLASSES_A_ROW, len(blocks))
    rows = -(-len(blocks) // columns)
    canvas = np.full(
        (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), GAP_GREY, np.uint8
    )
    for index, block in enumerate(blocks):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = block
    large = canvas.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    return large if channels == 3 else large.repeat(3, axis=2)


def shots_grid(
    shots: npt.NDArray[np.uint8], samples: npt.NDArray[np.uint8], *, columns: int = 8
) -> npt.NDArray[np.uint8]:
    """A picture of any few shots, a line, and all that was made of them.

    Args:
        shots: [n, C, S, S], C 1 or 3.
        samples: [m, C, S, S].
        columns: pictures side by side.
    Returns:
        uint8 [H, W, 3].
    """
    top, below = (_tile(_filled(pictures, columns), columns) for pictures in (shots, samples))
    line = np.full((2 * LINE, *top.shape[1:]), LINE_GREY, np.uint8)
    canvas = np.concatenate([top, line, below])
    large = canvas.repeat(2 * ENLARGED, axis=0).repeat(2 * ENLARGED, axis=1)
    return large if canvas.shape[2] == 3 else large.repeat(3, axis=2)


def _filled(pictures: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """With grey ones to the end of the last row."""
    missing = -len(pictures) % columns
    grey = np.full((missing, *pictures.shape[1:]), GAP_GREY, np.uint8)
    return np.concatenate([pictures, grey])


def save_grid(grid: npt.NDArray[np.uint8], folder: Path) -> None:
    """Write a grid, and a small one for pages that do not scale pictures.

    Args:
        grid: uint8 [H, W, 3].
        folder: gets `GRID` and `SMALL`.
    """
    picture = Image.fromarray(grid)
    picture.save(folder / GRID)
    picture.reduce(math.ceil(picture.width / SMALL_WIDTH)).save(folder / SMALL)
