"""How long the parts of the finals take, forecast from what the trials took."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tuner.plan import FEWEST_EPISODES, in_a_row
from tuner.trial_records import TrialRecord

PAPERS_SECONDS = 5.0  # the paper's scores and the grid, of every test


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a trial took on one slot, all others being busy; in seconds.

    Attributes:
        flop: of training; 0 where the model that adapts was pre-trained.
        step: of adapting to one episode.
        score: of drawing and scoring one episode, where `step` does not hold it.
    """

    flop: float
    step: float
    score: float

    @classmethod
    def of(cls, record: TrialRecord) -> Pace:
        """By the last rung of a trial, which holds nothing that happens once a process."""
        if "adapt_steps" in record.config:  # it was meta-trained, and adapted to be scored
            return cls(
                flop=_ratio(record, "train_seconds", "train_flops"),
                step=_ratio(record, "score_seconds", "score_steps"),
                score=0.0,
            )
        return cls(
            flop=0.0,
            step=_ratio(record, "train_seconds", "updates"),
            score=_ratio(record, "score_seconds", "score_steps"),
        )

    def episodes(self, count: int, stop: int, slots: int) -> float:
        """Of adapting to `count` episodes for `stop` steps on all slots, and scoring them."""
        return in_a_row(count, slots) * (stop * self.step + self.score)


def _ratio(record: TrialRecord, what: str, of: str) -> float:
    last = record.rungs[-1].metrics
    before: Mapping[str, float] = record.rungs[-2].metrics if len(record.rungs) > 1 else {}
    spent, done = (last[name] - before.get(name, 0.0) for name in (what, of))
    return spent / done if done > 0 else last[what] / max(1.0, last[of])


def own_stop(record: TrialRecord) -> int:
    """The number of adaptation steps that a trial was best at, at its last rung."""
    return int(record.rungs[-1].metrics["adapt_steps"])


def training(records: Sequence[TrialRecord], *, turns: int, full: float, slots: int) -> float:
    """Of training each of the trials `turns` times to `full` FLOPs, on all slots."""
    rounds = math.ceil(len(records) * turns / slots)
    return rounds * full * max(Pace.of(record).flop for record in records)


def testing(
    finalists: Sequence[TrialRecord],
    reference: TrialRecord | None,
    *,
    gate: bool,
    episodes: int,
    slots: int,
) -> float:
    """Of the tests at the end.

    Args:
        finalists: one of which will be the champion.
        reference: is tested, too, if it is not the champion.
        gate: whether the champion has to meet the one before.
        episodes: of a test.
    """
    longest = max(_test(record, episodes, slots) for record in finalists)
    others = 0.0 if reference is None else _test(reference, episodes, slots)
    return longest * (1 + gate) + others


def _test(record: TrialRecord, episodes: int, slots: int) -> float:
    return Pace.of(record).episodes(episodes, own_stop(record), slots) + PAPERS_SECONDS


def affordable_episodes(
    total: int, classes: int, seconds: Callable[[int], float], left: float
) -> int:
    """The most of `total` episodes, all classes alike, that take no longer than `left` seconds;
    0 if not even the fewest that tell anything do.

    Args:
        classes: that the episodes are of.
        seconds: that a number of episodes takes.
    """
    fewest = min(total, FEWEST_EPISODES)
    each = classes if total >= 2 * classes else 1  # one of each class has no second turn to drop
    return next((n for n in range(total, fewest - 1, -each) if seconds(n) <= left), 0)
