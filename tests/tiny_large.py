"""A made-up set of few, large classes, and scoring nets trained on it in seconds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from tiny_scorer import drawing, prepared_in_a_folder

from trainables.image_set import ImageSet
from trainables.tasks import LARGE_CLASS, Split

CLASSES, GIVEN = 6, 60
SPLIT = Split(train=(0, 1, 2), validation=(3, 4), test=(5,), seed=0)


@lru_cache(maxsize=1)
def large_images() -> ImageSet:
    """Six characters: 60 drawings of each to train on, and as many held out as are needed."""
    rng = np.random.default_rng(1)
    shapes = [rng.uniform(0, 1, (6, 2)) for _ in range(CLASSES)]
    each = GIVEN + LARGE_CLASS
    images = np.stack([drawing(shape, rng) for shape in shapes for _ in range(each)])
    return ImageSet(
        name="large",
        images=images,
        labels=np.repeat(np.arange(CLASSES), each),
        classes=tuple("abcdef"),
        held_out=np.tile(np.arange(each) >= GIVEN, CLASSES),
        fingerprint="0123456789abcdef",
        stand_in=True,
        path=Path(),
    )


@lru_cache(maxsize=1)
def large_nets() -> Path:
    """Scoring nets of a few steps."""
    return prepared_in_a_folder(large_images(), SPLIT, steps=40)
