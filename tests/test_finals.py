"""How long the champion may adapt, by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuner.finals import affordable_stops, earliest_best


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
