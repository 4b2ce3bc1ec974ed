"""What noisy scores at rungs say about how trials will end: pure arithmetic on episodes' scores.

Every trial of a study is scored on the same episodes, so that an episode which is hard for all
cancels in the difference of two trials; what is left of a score's spread over episodes is noise.
From rung to rung a trial's score moves with all others' and drifts on its own. A Kalman filter
over the rungs (Kalman, A New Approach to Linear Filtering and Prediction Problems, 1960), whose
variances are estimated from the trials themselves, weighs both: where scores are noisy and
trials keep their order, all rungs count; where the order changes, the last one does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]

_DRIFT = 0.03  # of the variance among trials, from a rung to the next, before anything is known
_DRIFT_WEIGHT = 2.0  # of this guess, in trials seen at two rungs
_NOISE_WEIGHT = 4.0  # of the study's noise in a trial's own, in episodes
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """What each trial's score at the last rung will be, as normal distributions.

    Attributes:
        mean, deviation: by trial, in the order of the evidence.
        new_mean, new_deviation: of a trial that is not begun.
        told: by rung, the correlation between how good trials are there and at the last one, in
            0 to 1: what the noise of scores and the choice of who went on do not explain.
        pairs: trials that `told` is estimated from.
    """

    mean: Floats
    deviation: Floats
    new_mean: float
    new_deviation: float
    told: tuple[float, ...]
    pairs: int

    def cut(self, best: float, unseen: int = 0) -> float:
        """The score that `best` of the trials, `unseen` ones included, are expected to be below."""
        wide = 10 * max(float(self.deviation.max()), self.new_deviation)
        low = min(float(self.mean.min()), self.new_mean) - wide
        high = max(float(self.mean.max()), self.new_mean) + wide
        for _ in range(40):  # halvings
            middle = (low + high) / 2
            if float(self.below(middle).sum() + unseen * self.new_below(middle)) < best:
                low = middle
            else:
                high = middle
        return high

    def new_below(self, scores: Floats | float) -> Floats:
        """The chance of a trial that is not begun to end below each of `scores`."""
        return np.asarray(ndtr((scores - self.new_mean) / self.new_deviation))

    def below(self, cut: float) -> Floats:
        """The chance of each trial to end below `cut`."""
        return np.asarray(ndtr((cut - self.mean) / self.deviation))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rung:
    """The scores at one rung.

    Attributes:
        trials: who was scored, numbered from 0, [n].
        scores: theirs on every episode, [n, E]; lower is better.
    """

    trials: npt.NDArray[np.int64]
    scores: Floats


def forecast(rungs: Sequence[Rung], count: int) -> Forecast:
    """Filter scores through the rungs and predict the last one.

    Args:
        rungs: from the first, which all trials have reached; at least 1.
        count: of rungs that there are, whether anybody has reached them or not.
    """
    means = [rung.scores.mean(1) for rung in rungs]
    noises = _noise_variances(rungs)
    spread = float(means[0].var(ddof=1)) if len(means[0]) > 1 else 0.0
    variance = max(spread - float(noises[0].mean()), spread * 0.01, _TINY)
    seen = [(rung.trials, *rest) for rung, *rest in zip(rungs, means, noises, strict=True)]
    guess = _DRIFT * variance
    first = _filtered(seen, count, variance, guess)
    drift = (_DRIFT_WEIGHT * guess + max(0.0, first.surprise)) / (_DRIFT_WEIGHT + first.pairs)
    last = _filtered(seen, count, variance, drift)
    return Forecast(
        mean=last.mean,
        deviation=np.sqrt(last.variance + _TINY),
        new_mean=float(means[0].mean()) + last.shift,
        new_deviation=math.sqrt(variance + (count - 1) * drift + _TINY),
        told=tuple(
            math.sqrt((variance + rung * drift) / (variance + (count - 1) * drift))
            for rung in range(count)
        ),
        pairs=last.pairs,
    )


@dataclass(slots=True, eq=False)
class _Filtered:
    """Mean and variance of every trial's last score; the shift that all have had until there; and
    by how much more than expected trials strayed between rungs: squares, and of how many."""

    mean: Floats
    variance: Floats
    shift: float = 0.0
    surprise: float = 0.0
    pairs: int = 0


def _filtered(
    seen: Sequence[tuple[npt.NDArray[np.int64], Floats, Floats]],
    count: int,
    variance: float,
    drift: float,
) -> _Filtered:
    """One pass over (trials, means, variances of the means) by rung."""
    _, first, noise = seen[0]
    gain = variance / (variance + noise)
    state = _Filtered(first.mean() + gain * (first - first.mean()), gain * noise)
    for there, means, noise in seen[1:]:
        state.variance += drift
        innovation = means - state.mean[there]
        expected = state.variance[there] + noise
        # One trial cannot tell the others' shift from its own drift: the shift is drawn to none.
        shift = float(innovation.sum() / (len(means) + expected.mean() / variance))
        innovation -= shift
        state.surprise += float((innovation**2).sum())
        state.surprise -= (len(means) - 1) * float((expected - drift).mean())
        state.pairs += len(means) - 1
        state.mean += shift
        state.shift += shift
        gain = state.variance[there] / expected
        state.mean[there] += gain * innovation
        state.variance[there] *= 1 - gain
    state.variance += drift * (count - len(seen))
    return state


def _noise_variances(rungs: Sequence[Rung]) -> list[Floats]:
    """The variance of every trial's mean score at every rung.

    From what is left of its episodes' scores when the episodes' own means over trials are taken
    away; a trial's own variance is drawn to the study's median, since episodes are few.
    """
    squares = []
    for rung in rungs:
        rest = rung.scores - rung.scores.mean(1, keepdims=True)
        if (trials := len(rest)) > 1:
            rest = (rest - rest.mean(0)) * math.sqrt(trials / (trials - 1))
        squares.append((rest**2).sum(1))
    freedom = [rung.scores.shape[1] - 1 for rung in rungs]
    typical = [own / free for own, free in zip(squares, freedom, strict=True) if free]
    common = float(np.median(np.concatenate(typical))) if typical else 0.0
    return [
        (own + _NOISE_WEIGHT * common) / (free + _NOISE_WEIGHT) / (free + 1)
        for own, free in zip(squares, freedom, strict=True)
    ]


def fidelity(evidence: Mapping[int, Sequence[float]], rungs: int) -> Iterator[tuple[int, float]]:
    """How far each rung tells the end: Spearman's rank correlation with the last rung.

    Args:
        evidence: mean score by rung, of every trial.
        rungs: there are.
    Yields:
        (rung, correlation in -1 to 1), of rungs where it is defined: at least 3 trials came to
        the last rung, and not all scored alike.
    """
    ended = [scores for scores in evidence.values() if len(scores) == rungs]
    if len(ended) < 3:
        return
    table = np.array(ended)
    ranks = table.argsort(0).argsort(0).astype(np.float64)
    for rung in range(rungs - 1):
        if np.ptp(table[:, rung]) > 0 and np.ptp(table[:, -1]) > 0:
            yield rung, float(np.corrcoef(ranks[:, rung], ranks[:, -1])[0, 1])
