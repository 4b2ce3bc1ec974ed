import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.resources import SPARE, Card, pack, share_of_card, with_fewer


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


GIB = 2**30


@pytest.mark.parametrize(
    ("total", "overhead", "peak", "most", "trials"),
    [
        (80, 1, 8, 16, 8),  # 72 of 80 GiB are promised, 9 to each
        (80, 1, 8, 4, 4),  # the CPUs run out first
        (24, 0.5, 11, 16, 1),  # two would have 23 of 21.6 GiB
        (8, 0.5, 12, 16, 1),  # none fits: it is tried alone
    ],
)
def test_trials_share_a_card_as_its_memory_allows(total, overhead, peak, most, trials):
    card = Card(total=total * GIB, overhead=int(overhead * GIB), peak=peak * GIB)
    assert card.trials(most) == trials


@given(st.integers(1, 80), st.floats(0.01, 2), st.floats(0.01, 40), st.integers(1, 100))
def test_what_trials_of_a_card_may_take_is_there_and_enough(total, overhead, peak, most):
    card = Card(total=total * GIB, overhead=int(overhead * GIB), peak=int(peak * GIB))
    trials = card.trials(most)
    assert 1 <= trials <= most
    share = share_of_card(trials)
    assert trials * share <= 1
    if trials > 1:
        assert trials * (card.overhead + card.peak) <= (1 - SPARE) * card.total
        assert (share - card.overhead / card.total) * card.total >= card.peak


@given(st.integers(1, 100))
def test_as_many_trials_as_were_meant_fit_on_a_card(trials):
    """Ray counts ten-thousandths of a card, to which it rounds."""
    share = share_of_card(trials)
    assert round(share * 10_000) * trials <= 10_000
    assert pack(cpus=100, gpus=1, gpus_per_trial=share).slots == trials


@given(st.floats(0.01, 1))
def test_half_as_many_neighbours_until_there_are_none(share):
    while share < 1:
        before = pack(cpus=1000, gpus=1, gpus_per_trial=share).slots
        share = with_fewer(share)
        assert pack(cpus=1000, gpus=1, gpus_per_trial=share).slots == max(1, before // 2)
    assert with_fewer(share) == 1
