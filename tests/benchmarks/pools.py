"""Given trials: is the best one among those that are trained to the end, and at what cost?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from recorded import Curves
from simulation import Entrant, Ladder, full_pool, incumbent, our_pool, play, stock_pool

Floats = npt.NDArray[np.float64]

METHODS: Mapping[str, Callable[[int, Ladder], Entrant]] = {
    "ours": our_pool,
    "stock ASHA": stock_pool,
    "random search": full_pool,
}
EPISODES = 8
RETENTION_TRIALS = 81
RETENTION_STEPS = (1, 3, 9, 27, 81)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How one study on given trials went.

    Attributes:
        best: the truly best trial reached the last rung.
        cost: share of training all trials to the end, in (0, 1].
        regret: true score of what the study returns, minus the best there is; at least 0.
    """

    best: bool
    cost: float
    regret: float


def _game(
    method: str,
    ladder: Ladder,
    truth: Floats,
    score: Callable[[int, int], Sequence[float]],
    budget: float,
) -> Kept:
    played = play(
        METHODS[method](len(truth), ladder),
        ladder,
        lambda config, rung: score(config["trial_number"], rung),
        budget=budget,
    )
    ended = {p.config["trial_number"] for p in played if p.rung == len(ladder) - 1}
    chosen = incumbent(played)
    assert chosen is not None
    return Kept(
        best=bool(ended & set(np.flatnonzero(truth == truth.min()).tolist())),
        cost=played[-1].cost / len(truth),
        regret=float(truth[chosen.config["trial_number"]] - truth.min()),
    )


def retention(method: str, noise: float, repeat: int, budget: float = math.inf) -> Kept:
    """One study of 81 trials whose true scores are uniform in 0 to 1.

    Args:
        method: of `METHODS`.
        noise: standard deviation of a trial's mean score; fresh at every rung.
        repeat: seeds true scores and noise, the same ones for all methods.
        budget: in full trials.
    """
    rng = np.random.default_rng(repeat)
    truth = rng.random(RETENTION_TRIALS)
    errors = (
        noise
        * math.sqrt(EPISODES)
        * rng.standard_normal((RETENTION_TRIALS, len(RETENTION_STEPS), EPISODES))
    )
    costs = tuple(step / RETENTION_STEPS[-1] for step in RETENTION_STEPS)
    ladder = Ladder(steps=RETENTION_STEPS, costs=costs)
    return _game(method, ladder, truth, lambda t, k: (truth[t] + errors[t, k]).tolist(), budget)


def replay(method: str, curves: Curves, trials: int, repeat: int, budget: float = math.inf) -> Kept:
    """One study of `trials` trials that are drawn, with replacement, from recorded full curves.

    What an episode adds for all trials alike is drawn with the episode; what is left of a score,
    beside its trial's mean, is drawn for every trial.

    Args:
        method: of `METHODS`.
        curves: of one recorded study.
        trials: to draw.
        repeat: seeds the draws, the same ones for all methods.
        budget: in full trials.
    """
    rng = np.random.default_rng(repeat)
    drawn = rng.integers(len(curves.full), size=trials)
    scores: list[Floats] = []
    for rung in range(len(curves.ladder)):
        recorded = np.array([curve[rung] for curve in curves.full])  # [trials, episodes]
        means, hardness = recorded.mean(1, keepdims=True), recorded.mean(0) - recorded.mean()
        rest = recorded - means - hardness
        episodes = recorded.shape[1]
        own = rng.integers(episodes, size=(trials, episodes))
        shared = rng.integers(episodes, size=episodes)
        scores.append(
            means[drawn] + hardness[shared] + np.take_along_axis(rest[drawn], own, axis=1)
        )
    truth = np.array([np.mean(curve[-1]) for curve in curves.full])[drawn]
    return _game(method, curves.ladder, truth, lambda t, k: scores[k][t].tolist(), budget)
