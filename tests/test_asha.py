import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from trainables.trainable import RUNG
from tuner.asha import Asha, Rungs

finite = st.floats(-1e6, 1e6)


def test_one_in_eta_goes_on():
    # n:      1    2    3    4    5    6    7    8    9
    values = [5.0, 4.0, 6.0, 4.5, 7.0, 4.2, 3.0, 3.5, 3.2]
    # allowed 1    1    1    1    1    2    2    2    3   = max(1, n // 3)
    # rank    1    1    3    2    5    2    1    2    2
    expected = [True, True, False, False, False, True, True, True, True]
    rungs = Rungs(1, eta=3)
    assert [rungs.record(0, trial, v) for trial, v in enumerate(values)] == expected
    assert rungs.entered == (9,)
    assert rungs.stopped == (3,)


def test_the_first_equal_value_wins():
    rungs = Rungs(1, eta=3)
    assert rungs.record(0, 0, 1.0)
    assert not rungs.record(0, 1, 1.0)


def test_rungs_are_apart():
    rungs = Rungs(2, eta=3)
    rungs.record(0, 0, 1.0)
    assert rungs.record(1, 1, 9.0)
    assert rungs.entered == (1, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_and_never_enters(value):
    rungs = Rungs(1, eta=3)
    assert not rungs.record(0, 0, value)
    assert rungs.entered == (0,)


@given(st.lists(finite, max_size=30), finite, finite)
def test_a_better_value_is_never_stopped_where_a_worse_one_goes_on(before, one, other):
    better, worse = sorted((one, other))
    with_better, with_worse = Rungs(1, eta=3), Rungs(1, eta=3)
    for trial, value in enumerate(before):
        with_better.record(0, trial, value)
        with_worse.record(0, trial, value)
    assert with_better.record(0, 99, better) >= with_worse.record(0, 99, worse)


@given(st.lists(finite, max_size=20, unique=True), finite, st.randoms())
def test_a_decision_depends_on_what_came_before_and_not_on_its_order(before, value, random):
    shuffled = list(enumerate(before))
    random.shuffle(shuffled)
    one, other = Rungs(1, eta=3), Rungs(1, eta=3)
    for trial, earlier in enumerate(before):
        one.record(0, trial, earlier)
    for trial, earlier in shuffled:
        other.record(0, trial, earlier)
    assert one.record(0, 99, value) == other.record(0, 99, value)


@given(st.lists(finite, min_size=1, max_size=40), st.integers(2, 5))
def test_the_best_so_far_always_goes_on(values, eta):
    rungs = Rungs(1, eta=eta)
    for trial, value in enumerate(values):
        goes_on = rungs.record(0, trial, value)
        if value < min(values[:trial], default=math.inf):
            assert goes_on


@given(st.lists(finite, min_size=2, max_size=20))
def test_reporting_a_rung_again_counts_once(values):
    rungs = Rungs(1, eta=3)
    for trial, value in enumerate(values):
        first = rungs.record(0, trial, value)
        assert rungs.record(0, trial, value) == first  # redone after a crash
    assert rungs.entered == (len(values),)


@given(st.lists(finite, max_size=20), finite)
def test_restored_rungs_decide_like_those_that_never_stopped(values, value):
    lived, restored = Rungs(1, eta=3), Rungs(1, eta=3)
    for trial, earlier in enumerate(values):
        goes_on = lived.record(0, trial, earlier)
        restored.restore(0, trial, earlier, stopped=not goes_on)
    assert restored.stopped == lived.stopped
    assert restored.record(0, 99, value) == lived.record(0, 99, value)


@pytest.mark.parametrize(("count", "eta"), [(0, 3), (1, 1)])
def test_nonsense_is_refused(count, eta):
    with pytest.raises(ValueError, match="At least"):
        Rungs(count, eta=eta)


def test_the_scheduler_answers_in_rays_words():
    asha = Asha(Rungs(2, eta=3))

    def report(number, value):
        trial = SimpleNamespace(config={"trial_number": number, "reference": False})
        result = {"outcome": RUNG, "metrics/rung": 0.0, "metrics/L": value}
        return asha.on_trial_result(None, trial, result)

    assert report(0, 1.0) == TrialScheduler.CONTINUE
    assert report(1, 2.0) == TrialScheduler.STOP
