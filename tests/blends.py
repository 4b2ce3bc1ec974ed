"""A model that is none, and pictures for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from trainables.data_card import DataCard
from tuner.tryout import SHOTS

SIZE = 16


CARD = DataCard(
    name="crosses",
    size=SIZE,
    channels=1,
    style="drawing",
    extent=(0.5, 0.7, 0.9),
    stroke=(0.8, 1.2, 1.6),
    ground=(0,),
    copy_distance=0.3,
    copy_threshold=0.01,
)


class Blends:
    """Stands in for a `Model`: the shots come out of the noise as it adapts."""

    def __init__(self, title: str = "blends", channels: int = 1) -> None:
        self.title, self.channels, self.size, self.card = title, channels, SIZE, CARD
        self.steps, self.max_steps = 30, 90
        self.told: list[int] = []

    def draw(
        self,
        shots: np.ndarray,
        *,
        count: int,
        seed: int,
        stops: Sequence[int],
        progress: Callable[[int, int], None],
    ) -> Iterator[tuple[int, np.ndarray]]:
        noise = np.random.default_rng(seed).uniform(0, 255, (count, *shots.shape[1:]))
        goal = shots[np.arange(count) % len(shots)]
        for step in range(stops[-1] + 1):
            self.told.append(step)
            progress(step, stops[-1])
            if step in stops:
                share = step / stops[-1]
                yield step, (share * goal + (1 - share) * noise).astype(np.uint8)

    def scores(self, shots: np.ndarray, pictures: np.ndarray) -> SimpleNamespace:
        gaps = ((pictures[:, None] / 255.0 - shots[None] / 255.0) ** 2).mean((2, 3, 4))
        copies = gaps.min(1) < 0.01
        return SimpleNamespace(
            copy_share=float(copies.mean()),
            distance=float(np.median(gaps.min(1))),
            real_copy_share=0.01,
            real_distance=0.3,
            nearest=gaps.argmin(1),
            distances=gaps.min(1),
            copies=copies,
        )


def blends(**settings: Any) -> Any:
    return Blends(**settings)


def crosses(channels: int = 1) -> np.ndarray:
    shots = np.zeros((SHOTS, channels, SIZE, SIZE), np.uint8)
    for n in range(SHOTS):
        shots[n, :, 4 + n] = shots[n, :, :, 5 + n] = 255
    return shots


def sheet(*, ink: bool) -> Image.Image:
    """A canvas as the page has it: ink on a transparent layer."""
    picture = Image.new("RGBA", (320, 320), (0, 0, 0, 0))
    if ink:
        ImageDraw.Draw(picture).line((60, 80, 250, 240), fill=(0, 0, 0, 255), width=14)
    return picture
