"""Intervals over seeds and episodes, by hand and by law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tuner.bootstrap import interval, paired_interval

tables = st.tuples(st.integers(1, 4), st.integers(1, 8)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-100, 100))
)


@given(tables)
def test_ends_lie_between_the_least_and_the_most(values):
    low, high = interval(values)
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9


@given(tables, st.floats(-5, 5))
def test_what_all_episodes_have_alike_is_no_noise_between_models(values, shift):
    """One seed each: the difference is the same in every draw, however hard episodes are."""
    ours, theirs = values[:1] + shift, values[:1]
    assert paired_interval(ours, theirs) == pytest.approx((shift, shift), abs=1e-9)


def test_seeds_that_differ_widen_the_interval():
    episodes = np.random.default_rng(0).normal(0, 0.1, (1, 20))
    alike = np.repeat(episodes, 3, axis=0)
    apart = alike + np.array([[-1.0], [0.0], [1.0]])
    (low, high), (wide_low, wide_high) = interval(alike), interval(apart)
    assert wide_high - wide_low > 5 * (high - low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for turn in range(200):
        low, high = interval(rng.normal(0, 1, (1, 30)), seed=turn)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.98


def test_other_episodes_cannot_be_paired():
    with pytest.raises(ValueError, match="same episodes"):
        paired_interval(np.zeros((1, 3)), np.zeros((1, 4)))
