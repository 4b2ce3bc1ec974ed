"""Who met in the finals, and how they did: what the best trials scored again, and which of them is
better after how many steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.evaluation import Scores
from trainables.metrics import Floats
from tuner import bootstrap
from tuner.champion_folder import Kept
from tuner.trial_records import TrialRecord

NOISE = 0.05  # of L, between two stops of one model
STRETCH = 3  # times adapt_steps that the champion may adapt for
RATED = ("L", "J", "recognisability", "coverage", "density", "copy_share")  # in a rematch
INTERVALS = (*RATED, "fd", "kid", "mse_rgb_sum", "ssim")  # of a test


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """A model on the test classes.

    Attributes:
        scores: of all episodes.
        shots: what was adapted to, uint8 [E, 4, C, S, S].
        samples: the pictures that were scored, uint8 [E, n, C, S, S].
        copy_thresholds: of `metrics.copy_distances`, below which a sample is a copy, [E].
        grid: some of them below their shots, uint8 [H, W, 3].
        adapt_steps: after which they were drawn.
    """

    scores: Scores
    shots: npt.NDArray[np.uint8]
    samples: npt.NDArray[np.uint8]
    copy_thresholds: Floats
    grid: npt.NDArray[np.uint8]
    adapt_steps: int

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over test classes of what is reported."""
        return self.scores.intervals(INTERVALS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """A trial in the rematch: trained again with other seeds, scored on other episodes.

    Attributes:
        record: the trial.
        adapt_steps: after which its pictures were drawn, chosen by L over all seeds.
        scores: by seed; of the same episodes for all contenders.
    """

    record: TrialRecord
    adapt_steps: int
    scores: tuple[Scores, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Means over seeds."""
        names = self.scores[0].metrics
        return {n: float(np.mean([s.metrics[n] for s in self.scores])) for n in names}

    def by_episode(self, name: str) -> Floats:
        """What each episode says of a score, [seeds, E]."""
        return np.stack([scores.contributions(name) for scores in self.scores])

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over seeds and episodes of what is reported."""
        return {name: bootstrap.interval(self.by_episode(name)) for name in RATED}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Played:
    """What the finals brought; nothing where no trial was scored.

    Attributes:
        contenders: the best trials again, the winner first.
        champion: the winner on the test classes.
        kept: its files.
        reference: the paper's settings on the test classes, if they are not the winner.
        augmentation: the winner's, of the test shots, without its nets.
    """

    contenders: Sequence[Contender] = ()
    champion: Tested | None = None
    kept: Kept | None = None
    reference: tuple[TrialRecord, Tested] | None = None
    augmentation: Scores | None = None


def margin(contenders: Sequence[Contender]) -> tuple[float, float] | None:
    """95 % interval of the second's L less the first's, on the episodes that both met."""
    if len(contenders) < 2:
        return None
    first, second = (contender.by_episode("L") for contender in contenders[:2])
    return bootstrap.paired_interval(second, first)


def earliest_best(stops: Sequence[int], losses: Sequence[float]) -> int:
    """The first of `stops`, ascending, whose L is within noise of the best: adapting longer copies
    more, and costs more."""
    best = min(losses)
    return next(s for s, loss in zip(stops, losses, strict=True) if loss <= best + NOISE)


def affordable_stops(own: int, limit: int, *, each: float, seconds: float) -> list[int]:
    """The step a trial was best at, and beyond it the last step that takes no longer than `seconds`
    at `each` seconds a step, its half and its quarter; none is beyond `STRETCH` times its limit."""
    last = min(STRETCH * limit, max(0, int(seconds / each)))
    return [own] + [stop for stop in (last // 4, last // 2, last) if stop > own]
