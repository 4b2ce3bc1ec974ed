"""Pictures of a study's report, as PNG in data URIs: grids, and samples beside their nearest shots.

Legend of shapes: E episodes, n samples, K shots, C channels, S pixels a side.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainables.grid import COLUMNS, ENLARGED, ROWS
from trainables.metrics import nearest_copies
from trainables.outside import is_inside
from tuner.champion_folder import SAMPLES, Samples, kept_samples

Bytes = npt.NDArray[np.uint8]
CLOSEST = 16  # pairs of sample and shot that are shown first
EPISODES = 20  # of which samples are shown beside their shots
MOST_PIXELS = 40_000_000  # of a grid: of 20 classes at 128 pixels a side there are 17 million
GAP, FRAME = 2, 1  # pixels between pairs, and around a sample that counts as a copy
GAP_GREY, FRAME_WHITE = 110, 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture for a page; sizes in its own pixels."""

    uri: str
    width: int
    height: int
    file: str = ""  # below the study's folder, where it is from one


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A sample, and the shot it is nearest to."""

    picture: Picture
    episode: int  # from 1
    distance: float  # of `metrics.nearest_copies`
    copied: bool | None  # None: an older study, which kept no thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Samples of one episode, each above its nearest shot; `copies` of them are framed."""

    picture: Picture
    episode: int
    samples: int
    copies: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """The pairs that are closest of all that were tested, and sheets of the first episodes."""

    closest: tuple[Pair, ...]
    sheets: tuple[Sheet, ...]
    samples: int  # that were looked at


def grid_of(path: Path, folder: Path) -> Picture | None:
    """A grid of a study at one pixel for a pixel of its samples; None if it is not there, damaged,
    or outside of the study's `folder`."""
    if not is_inside(path, folder) or not path.is_file():
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            size = (max(1, image.width // ENLARGED), max(1, image.height // ENLARGED))
            small = np.asarray(image.convert("RGB").resize(size, Image.Resampling.NEAREST))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return _picture(small, file=str(path.relative_to(folder)))


def copying_of(path: Path, folder: Path) -> Copying | None:
    """What was kept of the test, beside the shots; None if it is not there or damaged.

    Args:
        path: of the champion.
        folder: of the study, outside of which nothing is read.
    """
    if not is_inside(path / SAMPLES, folder) or (kept := kept_samples(path)) is None:
        return None
    return compared(kept)


def compared(kept: Samples) -> Copying:
    """Samples beside their nearest shots."""
    shots, samples, thresholds = kept.shots, kept.samples, kept.copy_thresholds
    found = [nearest_copies(*both) for both in zip(samples, shots, strict=True)]
    distances = np.stack([distance for distance, _ in found])
    nearest = np.stack([shot for _, shot in found])
    copied = None if thresholds is None else distances < thresholds[:, None]
    order = np.argsort(distances, axis=None, kind="stable")[:CLOSEST]
    closest = []
    for episode, sample in zip(*np.unravel_index(order, distances.shape), strict=True):
        shot = shots[episode, nearest[episode, sample]]
        closest.append(
            Pair(
                picture=_picture(_beside(samples[episode, sample], shot)),
                episode=int(episode) + 1,
                distance=float(distances[episode, sample]),
                copied=None if copied is None else bool(copied[episode, sample]),
            )
        )
    sheets = [
        _sheet(
            episode,
            samples[episode],
            shots[episode][nearest[episode]],
            None if copied is None else copied[episode],
        )
        for episode in range(min(EPISODES, len(samples)))
    ]
    return Copying(closest=tuple(closest), sheets=tuple(sheets), samples=distances.size)


def _sheet(
    episode: int, samples: Bytes, nearest: Bytes, copied: npt.NDArray[np.bool_] | None
) -> Sheet:
    """The samples that the grid has, [n, C, S, S], each above its own of `nearest`."""
    shown = min(COLUMNS * ROWS, len(samples))
    cells = []
    for index in range(shown):
        framed = copied is not None and bool(copied[index])
        above = _framed(samples[index]) if framed else samples[index]
        cells.append(np.concatenate([above, nearest[index]], axis=1))  # [C, 2 S, S]
    columns = -(-shown // 2)
    cells += [np.full_like(cells[0], GAP_GREY)] * (2 * columns - shown)
    rows = [_row(cells[:columns]), _row(cells[columns:])]
    between = np.full((GAP, *rows[0].shape[1:]), GAP_GREY, np.uint8)
    return Sheet(
        picture=_picture(np.concatenate([rows[0], between, rows[1]])),
        episode=episode + 1,
        samples=shown,
        copies=None if copied is None else int(copied[:shown].sum()),
    )


def _row(cells: list[Bytes]) -> Bytes:
    """Pictures [C, H, W] side by side, with gaps between -> [H, W', C]."""
    gap = np.full((*cells[0].shape[:2], GAP), GAP_GREY, np.uint8)
    parts = [part for cell in cells for part in (gap, cell)][1:]
    return np.concatenate(parts, axis=2).transpose(1, 2, 0)


def _beside(sample: Bytes, shot: Bytes) -> Bytes:
    return _row([sample, shot])


def _framed(picture: Bytes) -> Bytes:
    framed = picture.copy()
    for edge in (np.s_[:, :FRAME], np.s_[:, -FRAME:], np.s_[..., :FRAME], np.s_[..., -FRAME:]):
        framed[edge] = FRAME_WHITE
    return framed


def _picture(pixels: Bytes, *, file: str = "") -> Picture:
    """uint8 [H, W, 1 or 3] as PNG; grey where its channels are alike."""
    if pixels.shape[-1] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return Picture(
        uri=f"data:image/png;base64,{encoded}",
        width=image.width,
        height=image.height,
        file=file,
    )
