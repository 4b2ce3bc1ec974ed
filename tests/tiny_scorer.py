"""Made-up characters and a scorer trained on them in seconds, shared by the tests of scoring."""

from __future__ import annotations

import atexit
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import uniform_filter

from trainables.augment import augment
from trainables.change import Change
from trainables.features import prepare_scorer
from trainables.image_set import ImageSet
from trainables.pooled_scorer import PooledScorer
from trainables.tasks import Split, split_classes
from trainables.tensors import to_tensor, to_uint8

CLASSES, DRAWINGS, SIZE = 80, 20, 32
STEPS = 30
FROM_REALS = (
    "real",
    "real, noise",
    "real, blurred",
    "4 real modes",
    "2 real modes",
    "25 % another character",
    "25 % copies",
    "50 % copies",
    "75 % copies",
)


def drawing(points: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A line through jittered points in [0, 1], uint8 [1, SIZE, SIZE], light on dark."""
    moved = points + rng.normal(0, 0.045, points.shape) + rng.normal(0, 0.03, 2)
    image = Image.new("L", (2 * SIZE, 2 * SIZE))
    path = [tuple(p) for p in (moved * 1.6 + 0.2) * SIZE]
    ImageDraw.Draw(image).line(path, fill=255, width=int(rng.integers(4, 7)), joint="curve")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))[None]


@lru_cache(maxsize=4)
def tiny_images(classes: int = CLASSES, drawings: int = DRAWINGS) -> ImageSet:
    """Characters of four to six strokes."""
    rng = np.random.default_rng(0)
    shapes = [rng.uniform(0, 1, (int(rng.integers(5, 8)), 2)) for _ in range(classes)]
    images = np.stack([drawing(shape, rng) for shape in shapes for _ in range(drawings)])
    return ImageSet(
        name="tiny",
        images=images,
        labels=np.repeat(np.arange(classes), drawings),
        classes=tuple(f"character{i:02d}" for i in range(classes)),
        held_out=np.zeros(len(images), np.bool_),
        fingerprint=f"{classes:08x}{drawings:08x}",
        stand_in=True,
        path=Path(),
    )


def prepared_in_a_folder(images: ImageSet, split: Split, *, steps: int) -> Path:
    """Nets in a temporary folder that goes with the process."""
    holder = tempfile.TemporaryDirectory(prefix="scorer-test-")
    atexit.register(holder.cleanup)
    return prepare_scorer(
        images,
        split,
        cache_dir=Path(holder.name),
        threads=1,
        report=lambda _: None,
        steps=steps,
    )


@lru_cache(maxsize=1)
def tiny_nets() -> Path:
    """Scoring nets of a few steps: enough for the order of the known failures."""
    images = tiny_images()
    return prepared_in_a_folder(images, split_classes(images), steps=STEPS)


@lru_cache(maxsize=1)
def tiny_scorer() -> PooledScorer:
    """A scorer of the test part."""
    images = tiny_images()
    return PooledScorer(images, split_classes(images), tiny_nets(), part="test")


def other_characters(
    images: ImageSet, split: Split, reals: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Drawings of a training character for each episode, as many as `reals`."""
    order = np.random.default_rng(0).permutation(split.train)
    rows = [np.flatnonzero(images.labels == c) for c in order]
    return np.stack([images.images[r[: reals.shape[1]]] for r in rows[: len(reals)]])


def known_failures(
    shots: npt.NDArray[np.uint8], reals: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]
) -> dict[str, npt.NDArray[np.uint8]]:
    """Samples whose faults are known, by name; those in FROM_REALS are made of real drawings.

    Args:
        shots: uint8 [E, 4, C, S, S].
        reals: of the same classes, uint8 [E, n, C, S, S].
        other: of another class each, as many as `reals`.
    """
    rng = np.random.default_rng(0)
    count = reals.shape[1]
    copies = shots[:, np.arange(count) % 4]

    def augmented(strength: float) -> npt.NDArray[np.uint8]:
        generator = torch.Generator().manual_seed(0)
        flat = to_tensor(copies.reshape(-1, *copies.shape[2:]))
        return to_uint8(augment(flat, Change.affine(strength), generator)).reshape(copies.shape)

    def noisy(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        noise = rng.normal(0, 0.05 * 127.5, pictures.shape)
        return (pictures + noise).round().clip(0, 255).astype(np.uint8)

    def partly(share: float, wrong: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        mixed = reals.copy()
        for episode in range(len(mixed)):
            chosen = rng.permutation(count)[: round(share * count)]
            mixed[episode, chosen] = wrong[episode, chosen]
        return mixed

    weights = rng.dirichlet(np.ones(4), (len(shots), count))
    blurred = uniform_filter(reals.astype(float), (1, 1, 1, 3, 3), mode="constant")
    return {
        "real": reals,
        "real, noise": noisy(reals),
        "real, blurred": blurred.round().astype(np.uint8),
        "4 real modes": reals[:, np.arange(count) % 4],
        "2 real modes": reals[:, np.arange(count) % 2],
        "25 % another character": partly(0.25, other),
        "25 % copies": partly(0.25, copies),
        "50 % copies": partly(0.5, copies),
        "75 % copies": partly(0.75, copies),
        "strong augmentation": augmented(1.0),
        "weak augmentation": augmented(0.3),
        "pixel mix": np.einsum("enk,ekchw->enchw", weights, shots).round().astype(np.uint8),
        "copies": copies,
        "copies, noise": noisy(copies),
        "another character": other,
        "black": np.zeros_like(copies),
    }
