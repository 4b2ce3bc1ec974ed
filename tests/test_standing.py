"""Which trial of a search is its champion."""

from hypothesis import given
from hypothesis import strategies as st
from scored_trial import record

from tuner.standing import best_trial


def test_the_champion_has_come_far():
    low = record(0, (1e9, 0.1), state="PRUNED")
    cut = record(1, (1e9, 0.5), (6e9, 0.2), state="PRUNED")
    full = record(2, (1e9, 0.4), (10e9, 0.3))
    failed = record(3, (1e9, 0.1), (10e9, 0.0), state="FAIL")
    running = record(4, (10e9, 0.0), state="RUNNING")
    assert best_trial([low, cut, full, failed, running], 10e9) is cut
    assert best_trial([low, full, failed, running], 10e9) is full
    assert best_trial([low], 10e9) is low
    assert best_trial([failed, running, record(5, state="PRUNED")], 10e9) is None


def test_one_huge_step_makes_no_champion():
    full = record(0, (1e9, 0.4), (10e9, 0.3))
    huge = record(1, (90e9, 2.0), state="PRUNED")
    assert best_trial([full, huge], 10e9) is full


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 5)), min_size=1, max_size=12))
def test_nobody_who_came_as_far_is_better_than_the_champion(points):
    records = [record(number, point) for number, point in enumerate(points)]
    best = best_trial(records, 60)
    assert best.fidelity >= min(60, max(r.fidelity for r in records)) / 2
    assert all(best.score <= r.score for r in records if r.fidelity >= best.fidelity)
