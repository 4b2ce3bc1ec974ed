"""From what was counted in each episode to scores, and to their bootstrap intervals.

Every score is a function of a tally by episode and of how often each episode counts: with all
weights 1 it is the estimate, with resampled weights a draw of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trainables import metrics
from trainables.metrics import Floats

HONEST_COPIES = 0.01  # share of real drawings that the copy test takes for copies
FD_UNIT, KID_UNIT = 100.0, 1000.0
CHUNK = 250  # bootstrap draws at once: some 100 MB
HALVINGS = 4  # of the scored episodes, to see how the distance grows with fewer of them
WITH_DISTANCE = ("L", "fd", "fd_real")
SHARES = ("J", "copy_share", "recognisability", "recognisability_real", "coverage")

Moments = tuple[Floats, Floats]  # of an equal number of points an episode: [E, d], [E, d, d]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernels:
    """`metrics.kernel_means` of samples, of real drawings and of both, each [E, E]."""

    within: Floats
    reference: Floats
    between: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distances:
    """What Fréchet distances are computed of: groups of samples, halves of real drawings.

    Attributes:
        groups: moments of as many samples an episode as there are drawings in a half.
        halves: moments of real drawings; 2 s and 2 s + 1 together make up halving s.
        pairs: (group, half) to compare; by halving.
        size: drawings in a half, an episode.
        whole: the distance of real drawings over all episodes of the part, scored or not.
    """

    groups: tuple[Moments, ...]
    halves: tuple[Moments, ...]
    pairs: tuple[tuple[int, int], ...]
    size: int
    whole: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """What was counted, by scored episode: means over its samples or real drawings, [E]."""

    copies: Floats
    recognised: Floats
    recognised_real: Floats
    deviation: Floats
    deviation_real: Floats
    density: Floats
    covered: Floats
    rank: Floats
    rank_variance: Floats
    mse: Floats
    ssim: Floats
    kernels: tuple[Kernels, ...]
    distances: Distances


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Scores of one generator.

    Attributes:
        metrics: finite floats. Lower is better: L, fd (Fréchet distance x 100; fd_real is that
            of real drawings), kid (x 1000, may be negative), copy_share. Higher is better, at
            best about 1: J, recognisability (recognisability_real for real drawings), coverage,
            density, diversity (relative to real). c_t below -3: nearer to the shots than real
            drawings are. The paper's, which copies win: mse, mse_rgb_sum, ssim.
    """

    metrics: dict[str, float]
    tally: Tally = field(repr=False)

    @staticmethod
    def of(tally: Tally) -> Scores:
        """Score a tally, all its episodes counting alike."""
        weights = np.ones((1, len(tally.copies)))
        plain = _plain_scores(tally, weights)
        values = plain | _distance_scores(tally, weights, plain, tally.distances.pairs)
        return Scores(metrics={k: float(values[k][0]) for k in sorted(values)}, tally=tally)

    def contributions(self, name: str) -> Floats:
        """What each episode says of a score, [E]: its jackknife pseudo-values, E times the score
        less E - 1 times the score without the episode. Their mean is about the score, and their
        spread is its noise, even where the score is of all episodes' pictures as one.
        (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11.)

        Args:
            name: a key of `metrics`.
        """
        tally, count = self.tally, len(self.tally.copies)
        if count == 1:
            return np.array([self.metrics[name]])
        weights = 1 - np.eye(count)
        values = _plain_scores(tally, weights)
        if name in WITH_DISTANCE:
            values |= _distance_scores(tally, weights, values, tally.distances.pairs)
        return np.asarray(count * self.metrics[name] - (count - 1) * values[name])

    def intervals(
        self, names: Sequence[str], *, draws: int = 2000, seed: int = 0, level: float = 0.95
    ) -> dict[str, tuple[float, float]]:
        """Bootstrap scores over episodes -> the lower and upper end of each.

        Drawing episodes with repeats is weighting what each contributes. It biases scores that
        are no means (the Fréchet distance sees fewer distinct drawings), so the quantiles are
        moved by the mean difference to the estimate.

        Args:
            names: keys of `metrics`.
            draws: bootstrap samples.
            seed: of the draws; one seed compares two generators on the same ones.
            level: share of the draws between the ends, in (0, 1).
        Raises:
            ValueError: there is no such score.
        """
        if unknown := set(names) - set(self.metrics):
            raise ValueError(f"No score {min(unknown)!r}; there are {', '.join(self.metrics)}.")
        episodes, tally = len(self.tally.copies), self.tally
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(episodes, np.full(episodes, 1 / episodes), size=draws)
        weights = drawn.astype(np.float64)
        values = _plain_scores(tally, weights)
        if set(names) & set(WITH_DISTANCE):  # one halving of the reals is enough for a spread
            pairs = tuple(pair for pair in tally.distances.pairs if pair[1] < 2)
            values |= _distance_scores(tally, weights, values, pairs)
        return {
            name: interval_ends(name, values[name], self.metrics[name], level) for name in names
        }


def interval_ends(name: str, drawn: Floats, estimate: float, level: float) -> tuple[float, float]:
    """Lower and upper end of a score's interval, from its bootstrap draws [B]."""
    ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    low, high = ends - drawn.mean() + estimate
    if name in SHARES:
        low, high = max(low, 0.0), min(high, 1.0)
    return min(float(low), estimate), max(float(high), estimate)


def _plain_scores(tally: Tally, weights: Floats) -> dict[str, Floats]:
    """All scores but those with a Fréchet distance, for episode weights [B, E] -> [B] each."""
    share = weights / weights.sum(1, keepdims=True)
    copies, recognised = share @ tally.copies, share @ tally.recognised
    density, coverage, mse = share @ tally.density, share @ tally.covered, share @ tally.mse
    kids = [metrics.unbiased_mmd(k.within, k.reference, k.between, weights) for k in tally.kernels]
    fidelity = np.minimum(1, density) * recognised
    return {
        "J": np.sqrt(fidelity * coverage) * (1 - np.maximum(0, copies - HONEST_COPIES)),
        "recognisability": recognised,
        "recognisability_real": share @ tally.recognised_real,
        "diversity": share @ tally.deviation / np.maximum(share @ tally.deviation_real, 1e-9),
        "copy_share": copies,
        "density": density,
        "coverage": coverage,
        "kid": KID_UNIT * np.mean(kids, axis=0),
        "c_t": weights @ tally.rank / np.sqrt(weights @ tally.rank_variance),
        "mse": mse,
        "mse_rgb_sum": 3 * mse,
        "ssim": share @ tally.ssim,
    }


def _distance_scores(
    tally: Tally, weights: Floats, plain: dict[str, Floats], pairs: tuple[tuple[int, int], ...]
) -> dict[str, Floats]:
    """L, and the Fréchet distances in it, for episode weights [B, E] -> [B] each.

    A Fréchet distance of few drawings is too large. In N episodes it is about s + k r(N), where s
    is what a generator does wrong everywhere and r(N) the distance of real drawings, half against
    half; k is seen by halving the scored episodes, and s is not negative. With these, L takes the
    distance as all episodes of the part would show it, and so means the same at every rung. Where
    all episodes are scored that is the plain distance, and `fd` is the plain one always.
    """
    fd, real = _frechet_distances(tally.distances, weights, pairs)
    slope, whole = _slope(tally.distances, pairs), tally.distances.whole
    comparable = np.maximum(fd - slope * (real - whole), fd * whole / real)
    missed = np.maximum(0, plain["recognisability_real"] - plain["recognisability"])
    copied = np.maximum(0, plain["copy_share"] - HONEST_COPIES)
    # The floor is far below real drawings; only a set of identical pictures gets there.
    log_ratio = np.log10(np.maximum(comparable / whole, 0.01))
    return {"L": log_ratio + copied + missed, "fd": FD_UNIT * fd, "fd_real": FD_UNIT * real}


def _slope(distances: Distances, pairs: tuple[tuple[int, int], ...]) -> float:
    """How the distance grows with fewer episodes, in units of how that of real drawings does."""
    episodes = len(distances.halves[0][0])
    if episodes < 2:
        return 1.0
    rng = np.random.default_rng(0)
    weights = np.zeros((2 * HALVINGS + 1, episodes))
    weights[-1] = 1
    for first in range(0, 2 * HALVINGS, 2):
        order = rng.permutation(episodes)
        weights[first, order[: episodes // 2]] = 1
        weights[first + 1, order[-(episodes // 2) :]] = 1
    fd, real = _frechet_distances(distances, weights, pairs)
    growth, growth_real = fd[:-1].mean() - fd[-1], real[:-1].mean() - real[-1]
    return float(np.clip(growth / growth_real, 0.5, 3)) if growth_real > 1e-9 else 1.0


def _frechet_distances(
    distances: Distances, weights: Floats, pairs: tuple[tuple[int, int], ...]
) -> tuple[Floats, Floats]:
    """Mean distance over pairs, and of real drawings half against half: [B, E] -> [B], [B]."""
    parts = [
        _some_distances(distances, weights[first : first + CHUNK], pairs)
        for first in range(0, len(weights), CHUNK)
    ]
    return np.concatenate([fd for fd, _ in parts]), np.concatenate([real for _, real in parts])


def _some_distances(
    distances: Distances, weights: Floats, pairs: tuple[tuple[int, int], ...]
) -> tuple[Floats, Floats]:
    last = max(half for _, half in pairs) | 1
    halves = _pooled_halves(distances.halves[: last + 1], distances.size, weights)
    groups = {
        group: metrics.pooled(*distances.groups[group], weights, distances.size)
        for group in sorted({group for group, _ in pairs})
    }
    fd = [
        metrics.frechet_distance(*groups[group], halves[half][0], halves[half][2])
        for group, half in pairs
    ]
    return np.mean(fd, axis=0), _between_halves(halves)


def real_distance(halves: Sequence[Moments], size: int) -> float:
    """Fréchet distance of real drawings, half against half, all episodes counting alike.

    Args:
        halves: as in `Distances`.
        size: as in `Distances`.
    """
    weights = np.ones((1, len(halves[0][0])))
    return float(_between_halves(_pooled_halves(halves, size, weights))[0])


def _pooled_halves(
    halves: Sequence[Moments], size: int, weights: Floats
) -> list[tuple[Floats, Floats, Floats]]:
    """Mean, covariance and its factor of each half."""
    pooled = [metrics.pooled(*moments, weights, size) for moments in halves]
    return [(mean, covariance, metrics.cholesky(covariance)) for mean, covariance in pooled]


def _between_halves(halves: Sequence[tuple[Floats, Floats, Floats]]) -> Floats:
    real = [
        metrics.frechet_distance(first[0], first[1], second[0], second[2])
        for first, second in zip(halves[::2], halves[1::2], strict=True)
    ]
    return np.asarray(np.maximum(np.mean(real, axis=0), 1e-9))  # 0 where all drawings are the same
