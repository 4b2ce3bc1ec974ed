"""What a model's data looks like, in a few numbers that are kept with the model.

They let users' own pictures be brought to what it was trained on, and say how near to a shot real
pictures come, so that copies among new ones can be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainables.features import COPY_PERCENTILE
from trainables.image_folder import border, border_tone, grey
from trainables.image_set import LARGEST, SMALLEST
from trainables.metrics import Bytes, copy_distances

Style = Literal["drawing", "object", "scene"]
Mask = npt.NDArray[np.bool_]

EVEN = 24  # levels by which a tone of the background may differ from that of the border
EVEN_BORDERS = 0.7  # share of a border that has its tone, where there is a background at all
THIN = 0.18  # of a drawing's longest side, at most: how thick its strokes are
ENLARGED = 4  # times, before lines a pixel wide are measured
MEASURED = 200  # pictures, at most
ENDS = (5, 50, 95)  # percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """What a model's data looks like.

    Attributes:
        name: of the data set, or the folder.
        size: pixels a side.
        channels: 1, light ink on dark, or 3.
        style: thin lines on an even ground, other things on one, or anything else.
        extent: longest side of what is on the ground, in shares of a picture's side: the 5th, 50th
            and 95th percentile of pictures.
        stroke: thickness of lines in pixels, likewise.
        ground: tone or colour of the ground, [channels], 0 to 255.
        copy_distance: `metrics.copy_distances` of real pictures to the shots of their class, the
            median.
        copy_threshold: what 99 of 100 of these exceed: below it is a copy.
    """

    name: str
    size: int
    channels: int
    style: Style
    extent: tuple[float, float, float]
    stroke: tuple[float, float, float]
    ground: tuple[int, ...]
    copy_distance: float
    copy_threshold: float

    def __post_init__(self) -> None:
        if not (SMALLEST <= self.size <= LARGEST and self.channels in (1, 3)):
            raise ValueError(f"no pictures are {self.channels} x {self.size} x {self.size}")
        if self.style not in get_args(Style) or len(self.ground) != self.channels:
            raise ValueError(f"no pictures are {self.style!r} on {self.ground}")
        numbers = (*self.extent, *self.stroke, self.copy_distance, self.copy_threshold)
        if len(numbers) != 8 or not all(map(math.isfinite, numbers)):
            raise ValueError(f"{numbers} do not describe pictures")

    @staticmethod
    def of(name: str, shots: Bytes, reals: Bytes) -> DataCard:
        """Measure real pictures.

        Args:
            name: of the data set.
            shots: uint8 [E, n, C, S, S], of E classes.
            reals: other pictures of the same classes, uint8 [E, m, C, S, S].
        """
        distances = np.concatenate(
            [copy_distances(own, given) for own, given in zip(reals, shots, strict=True)]
        )
        pictures = np.concatenate([*shots, *reals])
        rows = np.linspace(0, len(pictures) - 1, min(MEASURED, len(pictures)), dtype=int)
        looked_at = pictures[np.unique(rows)].transpose(0, 2, 3, 1)
        extents, strokes = np.array([measured(picture) for picture in looked_at]).T
        extent, stroke = np.percentile(extents, ENDS), np.percentile(strokes, ENDS)
        size, channels = looked_at.shape[2:]
        even = float(np.median([_evenness(picture) for picture in looked_at]))
        style: Style = "object"
        if even < EVEN_BORDERS:
            style = "scene"
        elif channels == 1 and stroke[1] < THIN * extent[1] * size:
            style = "drawing"
        ground = np.median([border_tone(picture) for picture in looked_at], axis=0)
        return DataCard(
            name=name,
            size=int(size),
            channels=int(channels),
            style=style,
            extent=_rounded(extent),
            stroke=_rounded(stroke),
            ground=tuple(int(tone) for tone in ground),
            copy_distance=round(float(np.median(distances)), 4),
            copy_threshold=round(float(np.percentile(distances, COPY_PERCENTILE)), 4),
        )

    @staticmethod
    def of_shots(name: str, shots: Bytes) -> DataCard:
        """The same of shots alone, [E, n, C, S, S], each beside the others of its class: for models
        with which nothing else was kept."""
        turns = range(shots.shape[1])
        others = np.concatenate([np.delete(shots, turn, axis=1) for turn in turns])
        return DataCard.of(name, others, np.concatenate([shots[:, [turn]] for turn in turns]))

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> DataCard:
        """What `to_dict` gave, after JSON.

        Raises:
            TypeError, ValueError: something else.
        """
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return DataCard(**known)


def measured(picture: Bytes) -> tuple[float, float]:
    """Longest side of what is on a picture's ground as a share of its own, and the thickness of its
    lines in pixels; zeros where nothing is.

    Args:
        picture: uint8 [S, S, C].
    """
    plain = grey(picture[..., 0] if picture.shape[2] == 1 else picture)
    away = np.abs(plain.astype(np.int16) - int(border_tone(plain))).astype(np.uint8)
    size = len(plain)
    large = Image.fromarray(away).resize((size * ENLARGED,) * 2, Image.Resampling.BICUBIC)
    ink = np.asarray(large) > max(EVEN, int(away.max()) // 2)
    if not ink.any():
        return 0.0, 0.0
    top, bottom, left, right = box_of(ink)
    return max(bottom - top, right - left) / len(ink), thickness(ink) / ENLARGED


def box_of(ink: Mask) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is set in [h, w], of which something is."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def thickness(ink: Mask) -> float:
    """Mean thickness of lines in pixels: their area by their length."""
    from skimage.morphology import skeletonize

    return float(ink.sum()) / max(1.0, float(skeletonize(ink).sum()))  # type: ignore[no-untyped-call]


def _evenness(picture: Bytes) -> float:
    away = np.abs(border(picture).astype(np.int16) - border_tone(picture)).max(1)
    return float((away <= EVEN).mean())


def _rounded(values: npt.NDArray[np.floating]) -> tuple[float, float, float]:
    low, middle, high = (round(float(value), 4) for value in values)
    return low, middle, high
