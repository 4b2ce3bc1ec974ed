"""The protocol of scoring: how well a generator draws a class of which it has seen four pictures.

Every score compares samples with drawings that the generator has not seen. Copying the shots wins
MSE, SSIM, density and even the Fréchet distance, so copies are counted, and the search minimises

    L = log10(FD / FD_real) + max(0, copies - 0.01) + max(0, recognised_real - recognised),

which is about 0 for real drawings. For reports there is

    J = sqrt(min(1, density) recognised coverage) (1 - max(0, copies - 0.01)), at best 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainables.augment import augmented_copies
from trainables.change import STRONG
from trainables.class_scorer import ClassScorer
from trainables.features import prepare_scorer
from trainables.image_set import ImageSet
from trainables.metrics import Bytes, Floats
from trainables.pooled_scorer import PooledScorer
from trainables.tasks import Episode, Part, Split, class_rows, large_classes
from trainables.tensors import to_tensor, to_uint8

__all__ = [
    "Scorer",
    "Scores",
    "augmented_shots",
    "make_scorer",
    "nearest_class",
    "null_baselines",
    "prepare_scorer",
    "scoring_episodes",
]


class Scores(Protocol):
    """Scores of one generator."""

    @property
    def metrics(self) -> dict[str, float]:
        """Finite floats, as `scores.Scores` describes them."""
        ...

    def contributions(self, name: str) -> Floats:
        """What each episode says of a score, [E]; their mean is about the score."""
        ...

    def intervals(
        self, names: Sequence[str], *, draws: int = 2000, seed: int = 0, level: float = 0.95
    ) -> dict[str, tuple[float, float]]:
        """The lower and upper end of each score, over episodes."""
        ...


class Scorer(Protocol):
    """Scores samples on a part's episodes, which are the same for every generator."""

    episodes: tuple[Episode, ...]
    shots: Bytes  # [E, 4, C, S, S]
    reals: Bytes  # real pictures, as many an episode as generators should draw; [E, m, C, S, S]
    copy_thresholds: Floats  # of `metrics.copy_distances`, below which a sample is a copy; [E]
    seed: int

    def score(self, samples: Bytes, *, from_reals: bool = False) -> Scores:
        """Score what a generator drew for the first episodes, uint8 [E, n, C, S, S].

        Raises:
            ValueError: wrong type or shape.
        """
        ...


def make_scorer(
    images: ImageSet,
    split: Split,
    nets: Path,
    *,
    part: Part,
    seed: int = 0,
    workers: int = 1,
) -> Scorer:
    """The scorer that a set's classes are large enough for.

    Args:
        images: the set.
        split: whose `part` is scored on.
        nets: a folder of `prepare_scorer` for the same set and split.
        part: "validation" in the search, "test" once at its end.
        seed: of the episodes.
        workers: episodes of large classes scored side by side; the scores are the same.
    Raises:
        UserError: the nets are absent or damaged, or a class has too few pictures.
    """
    if large_classes(images):
        return ClassScorer(images, split, nets, part=part, seed=seed, workers=workers)
    return PooledScorer(images, split, nets, part=part, seed=seed)


def scoring_episodes(
    images: ImageSet, split: Split, *, part: Part, seed: int = 0
) -> tuple[Episode, ...]:
    """The episodes of `make_scorer`, for those who draw and do not score.

    Raises:
        UserError: a class has too few pictures.
    """
    kind = ClassScorer if large_classes(images) else PooledScorer
    return kind.draw_episodes(images, split.scored_on(part), seed)


def null_baselines(scorer: Scorer, count: int | None = None) -> dict[str, Scores]:
    """Score what any trained generator must beat, and what none can.

    "real": real drawings, half against half. "copied_shots": the four shots over and over.
    "augmented_shots": the shots turned, shifted, scaled and brightened (`augment.STRONG`).

    Args:
        scorer: of the part.
        count: samples an episode of the last two; as many as there are real drawings if None.
    """
    count = scorer.reals.shape[1] if count is None else count
    copied = scorer.shots[:, np.arange(count) % scorer.shots.shape[1]]
    return {
        "real": scorer.score(scorer.reals, from_reals=True),
        "copied_shots": scorer.score(copied),
        "augmented_shots": augmented_shots(scorer, strongly, count),
    }


def strongly(shots: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Shots [E, n, C, S, S], strongly augmented -> [E, count, C, S, S]."""
    return augmented_copies(shots, STRONG, count, generator)


def augmented_shots(
    scorer: Scorer,
    change: Callable[[Tensor, int, torch.Generator], Tensor],
    count: int | None = None,
) -> Scores:
    """Score the shots as an augmentation changes them.

    Args:
        scorer: of the part.
        change: shots [E, n, C, S, S] in [-1, 1], a number of pictures m and a generator to
            [E, m, C, S, S].
        count: samples an episode; as many as there are real drawings if None.
    """
    generator = torch.Generator().manual_seed(scorer.seed)
    count = scorer.reals.shape[1] if count is None else count
    return scorer.score(to_uint8(change(to_tensor(scorer.shots), count, generator)))


def nearest_class(scorer: Scorer, images: ImageSet, classes: Sequence[int]) -> Scores:
    """Score real pictures of another class: of all that may be trained on, the one whose mean
    picture is nearest to that of the shots.

    Args:
        scorer: of the part.
        images: the set.
        classes: that may be trained on.
    """
    rows = class_rows(images.labels)
    means = np.stack([images.images[rows[c]].mean(0, dtype=np.float32) for c in classes])
    rng = np.random.default_rng(scorer.seed)
    pictures = []
    for shots in scorer.shots:
        away = np.square(means - shots.mean(0, dtype=np.float32)).mean((1, 2, 3))
        chosen = rng.choice(rows[classes[int(away.argmin())]], scorer.reals.shape[1])
        pictures.append(images.images[chosen])
    return scorer.score(np.stack(pictures))
