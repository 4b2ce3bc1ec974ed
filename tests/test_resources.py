import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.resources import SPARE, Card, Node, pack, share_of_card, slots_on, with_fewer


def node(cpus, gpus=0):
    return Node(cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("nodes", "asked", "slots", "threads"),
    [
        ([node(2)], {}, 2, 1),
        ([node(8)], {"cpus_per_trial": 3}, 2, 3),  # 8 // 3 = 2, one pair of cores stays idle
        ([node(1)], {"cpus_per_trial": 0.1}, 10, 1),
        ([node(16, 1)], {"gpus_per_trial": 0.25}, 4, 1),
        ([node(16, 2)], {"gpus_per_trial": 0.4}, 4, 1),  # two a card, not five in all
        ([node(16, 4)], {"gpus_per_trial": 2, "cpus_per_trial": 4}, 2, 4),
        ([node(2, 8)], {"gpus_per_trial": 1}, 2, 1),  # the CPUs run out first
        ([node(3)] * 3, {"cpus_per_trial": 2}, 3, 2),  # not the four that nine cores would hold
        ([node(0), node(4), node(2)], {}, 6, 1),  # a head that runs no trials
        ([node(32), node(8, 1)], {"gpus_per_trial": 0.5}, 2, 1),  # cards are on one node alone
    ],
)
def test_trials_are_packed(nodes, asked, slots, threads):
    packing = pack(nodes, **asked)
    assert (packing.slots, packing.threads) == (slots, threads)


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        ([node(2)], {"cpus_per_trial": 3}, "asks for 3 CPUs and there are 2"),
        ([node(2)], {"cpus_per_trial": 0}, "above 0, got 0"),
        ([node(2)], {"cpus_per_trial": float("nan")}, "above 0, got nan"),
        ([node(2)], {"gpus_per_trial": 1}, "asks for 1 GPU and there are 0"),
        ([node(2)], {"gpus_per_trial": -1}, "0 or more"),
        ([node(2, 4)], {"gpus_per_trial": 1.5}, "whole number"),
        ([node(2), node(3)], {"cpus_per_trial": 4}, "4 CPUs and no node has more than 3"),
        ([node(8, 1), node(8, 1)], {"gpus_per_trial": 2}, "2 GPUs and no node has more than 1"),
        ([node(8), node(1, 1)], {"cpus_per_trial": 2, "gpus_per_trial": 1}, "no node has both"),
        ([], {}, "asks for 1 CPU and there are 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(nodes, asked, message):
    with pytest.raises(ValueError, match=message) as caught:
        pack(nodes, **asked)
    assert "\n" not in str(caught.value)


nodes_there = st.lists(
    st.builds(Node, cpus=st.integers(0, 512), gpus=st.integers(0, 16)), min_size=1, max_size=6
)
cpus_asked = st.floats(0.01, 64)
gpus_asked = st.one_of(st.floats(0.01, 1), st.integers(0, 8))


def fitting(nodes, cpus, gpus):
    return sum(slots_on(one, cpus, gpus) for one in nodes)


@given(nodes_there, cpus_asked, gpus_asked)
def test_no_more_is_handed_out_than_a_machine_has(nodes, cpus, gpus):
    for one in nodes:
        slots = slots_on(one, cpus, gpus)
        assert slots * cpus <= one.cpus * (1 + 1e-6)
        assert slots * gpus <= one.gpus * (1 + 1e-6)


@given(nodes_there, cpus_asked, gpus_asked)
def test_a_cluster_holds_what_its_machines_hold_and_no_more_than_one_of_their_size(
    nodes, cpus, gpus
):
    slots = fitting(nodes, cpus, gpus)
    whole = Node(cpus=sum(n.cpus for n in nodes), gpus=sum(n.gpus for n in nodes))
    assert slots <= slots_on(whole, cpus, gpus)
    if slots:
        packing = pack(nodes, cpus_per_trial=cpus, gpus_per_trial=gpus)
        assert packing.slots == slots
        assert packing.threads >= 1
    else:
        with pytest.raises(ValueError, match="lower"):
            pack(nodes, cpus_per_trial=cpus, gpus_per_trial=gpus)


@given(nodes_there, nodes_there, cpus_asked, gpus_asked)
def test_a_machine_more_takes_no_slot_away(nodes, more, cpus, gpus):
    together = fitting([*nodes, *more], cpus, gpus)
    assert together == fitting(nodes, cpus, gpus) + fitting(more, cpus, gpus)


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
    assert pack([node(100, 1)], gpus_per_trial=share).slots == trials


@given(st.floats(0.01, 1))
def test_half_as_many_neighbours_until_there_are_none(share):
    while share < 1:
        before = pack([node(1000, 1)], gpus_per_trial=share).slots
        share = with_fewer(share)
        assert pack([node(1000, 1)], gpus_per_trial=share).slots == max(1, before // 2)
    assert with_fewer(share) == 1
