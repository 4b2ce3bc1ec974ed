import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.resources import pack


@pytest.mark.parametrize(
    ("asked", "slots", "threads"),
    [
        ({"cpus": 2}, 2, 1),
        ({"cpus": 8, "cpus_per_trial": 3}, 2, 3),  # 8 // 3 = 2, one pair of cores stays idle
        ({"cpus": 1, "cpus_per_trial": 0.1}, 10, 1),
        ({"cpus": 16, "gpus": 1, "gpus_per_trial": 0.25}, 4, 1),
        ({"cpus": 16, "gpus": 2, "gpus_per_trial": 0.4}, 4, 1),  # two a card, not five in all
        ({"cpus": 16, "gpus": 4, "gpus_per_trial": 2, "cpus_per_trial": 4}, 2, 4),
        ({"cpus": 2, "gpus": 8, "gpus_per_trial": 1}, 2, 1),  # the CPUs run out first
    ],
)
def test_trials_are_packed(asked, slots, threads):
    packing = pack(**asked)
    assert (packing.slots, packing.threads) == (slots, threads)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cpus": 2, "cpus_per_trial": 3}, "asks for 3 CPUs and there are 2"),
        ({"cpus": 2, "cpus_per_trial": 0}, "above 0, got 0"),
        ({"cpus": 2, "cpus_per_trial": float("nan")}, "above 0, got nan"),
        ({"cpus": 2, "gpus_per_trial": 1}, "asks for 1 GPUs and there are 0"),
        ({"cpus": 2, "gpus_per_trial": -1}, "0 or more"),
        ({"cpus": 2, "gpus": 4, "gpus_per_trial": 1.5}, "whole number"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(asked, message):
    with pytest.raises(ValueError, match=message) as caught:
        pack(**asked)
    assert "\n" not in str(caught.value)


@given(
    cpus=st.integers(1, 512),
    gpus=st.integers(0, 64),
    cpus_per_trial=st.floats(0.01, 64),
    gpus_per_trial=st.one_of(st.floats(0.01, 1), st.integers(0, 8)),
)
def test_no_more_is_handed_out_than_there_is(cpus, gpus, cpus_per_trial, gpus_per_trial):
    if cpus_per_trial > cpus or gpus_per_trial > gpus:
        return
    packing = pack(
        cpus=cpus, gpus=gpus, cpus_per_trial=cpus_per_trial, gpus_per_trial=gpus_per_trial
    )
    assert packing.slots >= 1
    assert packing.threads >= 1
    assert packing.slots * cpus_per_trial <= cpus * (1 + 1e-6)
    assert packing.slots * gpus_per_trial <= gpus * (1 + 1e-6)
