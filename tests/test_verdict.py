"""The verdict: both scores, both rivals, and episodes in pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tuner.verdict import judge, side_of_mark

HARD = np.random.default_rng(0).normal(0, 1, 20)  # of each episode, alike for all


def scores(j: float, loss: float) -> Any:
    values = {"J": j + 0.1 * HARD, "L": loss - HARD}
    return SimpleNamespace(contributions=values.__getitem__)


def test_a_little_better_on_every_episode_is_better_by_both_scores() -> None:
    told = judge(scores(0.5, 0.4), scores(0.45, 0.5), scores(0.0, 2.5))
    assert told == (
        "On test classes the champion is better than strongly augmenting the shots by J "
        "(+0.05 [+0.05, +0.05]) and L (-0.10 [-0.10, -0.10]). It is better than the paper's "
        "recipe at equal compute by J (+0.50 [+0.50, +0.50]) and L (-2.10 [-2.10, -2.10])."
    )


def test_scores_may_disagree() -> None:
    told = judge(scores(0.5, 0.6), scores(0.45, 0.5), None)
    assert "better than strongly augmenting the shots by J (+0.05 " in told
    assert ", worse by L (+0.10 [+0.10, +0.10])." in told
    assert "paper" not in told
    assert side_of_mark(told) == "better"


def test_chance_is_no_difference() -> None:
    other = SimpleNamespace(contributions=lambda name: (0.5 if name == "J" else 0.4) + HARD[::-1])
    told = judge(scores(0.5, 0.4), other, None)
    assert side_of_mark(told) == "not distinguishable"
    assert "not distinguishable from strongly augmenting the shots by J (" in told
    assert ") and L (" in told


def test_the_nets_are_held_against_their_own_augmentation() -> None:
    told = judge(scores(0.5, 0.4), scores(0.45, 0.5), None, scores(0.6, 0.3))
    assert side_of_mark(told) == "better", "than the mark, whatever stands behind"
    assert told.endswith(
        " What its nets add: it is worse than augmenting the shots as it does itself by J "
        "(-0.10 [-0.10, -0.10]) and L (+0.10 [+0.10, +0.10])."
    )


def test_without_a_test_nothing_is_said() -> None:
    told = judge(None, scores(0.5, 0.4), None)
    assert told.startswith("No tested champion")
    assert side_of_mark(told) == ""
