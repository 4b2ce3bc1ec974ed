"""The rematch of the best, and how long they may adapt, by hand."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from toy_pipeline import toy_context

from trainables.pipeline import StudyContext
from tuner.finals import Contender, Finals, affordable_stops, earliest_best, margin
from tuner.journal import RungRecord, TrialRecord


def test_multiples_that_fit_are_tried() -> None:
    # 100 steps at .1 s are 10 s; 20 s for twice as many, 30 s for three times.
    assert affordable_stops(50, 100, each=0.1, seconds=30) == [50, 100, 200, 300]
    assert affordable_stops(100, 100, each=0.1, seconds=29) == [100, 200]
    assert affordable_stops(100, 100, each=0.1, seconds=0) == [100]


@given(own=st.integers(1, 500), each=st.floats(1e-6, 1), seconds=st.floats(-10, 1e4))
def test_the_own_stop_is_always_there_and_the_rest_fits(
    own: int, each: float, seconds: float
) -> None:
    first, *rest = affordable_stops(own, 500, each=each, seconds=seconds)
    assert first == own
    assert all(stop > own and stop * each <= seconds for stop in rest)


def test_of_stops_as_good_as_the_best_the_earliest_is_taken():
    assert earliest_best([100, 200, 300], [0.5, 0.44, 0.4]) == 200
    assert earliest_best([100, 200, 300], [0.5, 0.39, 0.46]) == 200
    assert earliest_best([100], [2.0]) == 100


# The rematch

EPISODES = 6
HARD = np.linspace(0, 2, EPISODES)  # of each episode, alike for all


class Told:
    """Scores that a model's pictures spell out."""

    def __init__(self, loss: float) -> None:
        self.metrics = {"L": loss, "J": 0.5, "copy_share": 0.0}
        self.metrics |= dict.fromkeys(("recognisability", "coverage", "density"), 0.5)

    def contributions(self, name: str) -> Any:
        return self.metrics[name] + (HARD - HARD.mean() if name == "L" else 0 * HARD)


class Reader:
    """A scorer of pictures that are their own scores."""

    episodes = (None,) * EPISODES

    def score(self, samples: Any) -> Told:
        return Told(float(samples))


class Rigged(Finals):
    """No Ray: a model is its loss, which depends on how often its trial was trained."""

    losses: ClassVar[dict[int, list[float | None]]]

    def _trained(self, trainings: Any, context: Any, what: str) -> Any:
        return [self.losses[record.number][turn] for record, turn in trainings]

    def _draw(
        self, config: Any, model: Any, context: Any, total: int, stops: Any, what: str
    ) -> Any:
        assert context.episode_seed != self.context.episode_seed
        assert total == EPISODES
        return [np.array(model) for _ in stops]


def record(number: int, loss: float) -> TrialRecord:
    metrics = {"L": loss, "complete": 1.0, "train_flops": 9e9, "adapt_steps": 5.0}
    metrics |= {"score_seconds": 1.0, "score_steps": 100.0}
    rung = RungRecord(
        rung=0, metrics=metrics, losses=(), checkpoint="", seconds=1.0, decision="done", episodes=()
    )
    return TrialRecord(
        number=number, label="", state="COMPLETE", reason="", params={}, config={}, rungs=(rung,),
        attrs={},
    )  # fmt: skip


def rematch(losses: dict[int, list[float | None]], seeds: int = 1) -> list[Contender]:
    """Contenders of trials whose loss in the search comes first, then those of fresh seeds."""

    Rigged.losses = losses
    context = StudyContext(**toy_context())
    finals = Rigged(
        pipeline="toy", context=context, last_context=context, images=None, full=9e9,
        seed=0, slots=1, cpus=1, gpus=0, threads=1, console=Console(),
    )  # fmt: skip
    records = [record(number, own[0]) for number, own in losses.items()]
    records.sort(key=lambda r: r.score)
    return finals.rematch(records, Reader(), seeds=seeds, ends=math.inf)


def test_a_lucky_seed_loses():
    """Trial 0 was the best of the search by its seed alone."""
    first, second = rematch({0: [0.1, 1.0], 1: [0.5, 0.6]})
    assert (first.record.number, second.record.number) == (1, 0)
    assert margin([first, second]) == pytest.approx((0.4, 0.4))  # episodes are paired


def test_the_mean_over_seeds_decides():
    first, _ = rematch({0: [0.1, 0.2, 1.0], 1: [0.5, 0.4, 0.6]}, seeds=2)
    assert first.record.number == 1
    assert first.metrics["L"] == pytest.approx(0.5)
    low, high = first.intervals()["L"]
    assert low < 0.5 < high


def test_a_trial_that_a_seed_cannot_train_is_out():
    assert [c.record.number for c in rematch({0: [0.1, None], 1: [0.5, 0.6]})] == [1]
    assert rematch({0: [0.1, None]}) == []
    assert margin(rematch({0: [0.1, 0.2]})) is None
