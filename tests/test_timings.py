"""What the parts of a run take, and how it is told."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from tuner.timings import STARTING, Timings, end_table, start_table


def test_the_start_is_two_lines_that_add_up() -> None:
    parts = {"imports": 3.94, "data": 0.04, "plan": 2.6, "mlflow": 1.0, "ray": 7.0, "actors": 5.0}
    assert start_table(parts, 20.08).splitlines() == [
        "Start      imports  data  plan  mlflow  preparation  ray  actors  other  first update",
        "seconds        3.9   0.0   2.6     1.0          0.0  7.0     5.0    0.5          20.1",
    ]


def test_the_run_is_two_lines() -> None:
    parts = {"search": 271.04, "finals": 60.0, "test": 1234.5, "wall": 1600.0, "imports": 3.9}
    assert end_table(parts).splitlines() == [
        "Run        search  finals    test    wall",
        "seconds     271.0    60.0  1234.5  1600.0",
    ]


@given(
    st.dictionaries(st.sampled_from(STARTING), st.floats(0, 1e4)),
    st.floats(0, 1e4),
)
def test_no_time_is_lost_or_told_twice(parts: dict[str, float], rest: float) -> None:
    *told, whole = map(float, start_table(parts, sum(parts.values()) + rest).split()[-9:])
    assert abs(sum(told) - whole) <= 0.05 * 9 + 1e-6  # each is rounded


def test_sessions_are_added_up() -> None:
    timings = Timings(time.monotonic() - 5.0)
    timings.recall({"search": 50.0, "wall": 300.0})
    for _ in range(2):
        timings.add("search", 1.0)
    with timings.part("data"):
        pass
    total = timings.total()
    assert total["search"] == 52.0
    assert 0 <= total["data"] < 1
    assert 305.0 <= total["wall"] < 400.0
    assert timings.seconds["search"] == 2.0  # this session's
