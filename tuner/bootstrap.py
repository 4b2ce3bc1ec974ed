"""Intervals for scores that training seeds and scoring episodes both make noisy.

A score is known by seed and by episode, [S, E]; its estimate is the mean. Both are drawn with
repeats: seeds anew for each model, episodes alike for all, since all met the same ones.
Source: Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from trainables.metrics import Floats

DRAWS = 4000


def interval(values: Floats, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper end for a score's mean.

    Args:
        values: [S, E].
        seed: of the draws.
        level: share of the draws between the ends, in (0, 1).
    """
    rng, episodes = np.random.default_rng(seed), _episodes(values.shape[1], seed)
    return _ends(_means(values, rng, episodes), level)


def paired_interval(
    ours: Floats, theirs: Floats, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Lower and upper end for the mean of `ours` less that of `theirs`.

    Args:
        ours, theirs: [S, E] and [S', E], of the same episodes.
        seed: of the draws.
        level: share of the draws between the ends, in (0, 1).
    Raises:
        ValueError: the episodes are not equally many.
    """
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"Paired scores need the same episodes, got {ours.shape[1]} and {theirs.shape[1]}."
        )
    rng, episodes = np.random.default_rng(seed), _episodes(ours.shape[1], seed)
    return _ends(_means(ours, rng, episodes) - _means(theirs, rng, episodes), level)


@lru_cache(maxsize=8)  # the driver asks at every result, of as many episodes
def _episodes(count: int, seed: int) -> Floats:
    """How often each episode is drawn, as a share; [DRAWS, E]."""
    rng = np.random.default_rng([seed, 1])
    return np.asarray(rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count)


def _means(values: Floats, rng: np.random.Generator, episodes: Floats) -> Floats:
    count = len(values)
    seeds = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
    return np.asarray(((seeds @ values) * episodes).sum(1))


def _ends(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
