"""Budgets become plans: arithmetic, by hand where it is short."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.resources import Card, Node
from trainables.errors import UserError
from tuner.plan import (
    Plan,
    clock,
    describe,
    episode_counts,
    final_field,
    in_a_row,
    make_plan,
    makespan,
    parse_budget,
    too_short,
)


def plan(**changed: Any) -> Plan:
    asked: dict[str, Any] = {
        "scale": "cpu",
        "budget_seconds": 600.0,
        "trials": None,
        "validation_episodes": 20,
        "validation_classes": 20,
        "test_episodes": 20,
        "large_classes": False,
        "slots": 2,
        "threads": 1,
        "cpus_per_trial": 1.0,
        "gpus_per_trial": 0.0,
        "device": "cpu",
        "seed": 0,
        "samples": 16,
        "flops_per_second": 1e10,
    }
    return make_plan(**(asked | changed))


def test_scoring_takes_a_quarter_of_a_trials_time_on_cpus_and_a_tenth_on_gpus() -> None:
    """What scoring leaves is trained: .75 and .9 of the same time."""
    few, many = (plan(scale=scale, trials=1, budget_seconds=1e6) for scale in ("cpu", "paper"))
    times = [made.rungs[-1] / 1e10 / made.search_seconds for made in (few, many)]
    assert times[1] / times[0] == pytest.approx(0.9 / 0.75, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("0.5h", 1800)],
)
def test_budgets_are_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "ten", "5x", "5 m", "nan", "inf", "1e3"])
def test_nonsense_budgets_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--budget must be a positive time"):
        parse_budget(text)


def test_two_cores_and_ten_minutes_are_at_least_twelve_trials() -> None:
    made = plan()
    assert made.trials >= 12
    assert made.search_seconds < 600
    assert made.episodes == (5, 8, 12)
    assert [made.rungs[2] / rung for rung in made.rungs] == pytest.approx([9, 3, 1])


def test_the_plan_says_how_it_searches_and_reads_what_older_ones_did_not_say() -> None:
    made = plan(sampler="gp", objectives=("L", "coverage"))
    text = "\n".join(describe(made, [Node(cpus=2, gpus=0)]))
    assert "by gp, seed 0" in text
    assert "L (minimized), coverage (maximized)" in text
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    new = ("sampler", "objectives", "source_seconds", "rest_seconds", "card", "fast_gpu")
    older = Plan.from_dict({k: v for k, v in plan().to_dict().items() if k not in new})
    assert older == replace(plan(), source_seconds=0.0, rest_seconds=0.0)
    assert older.with_budget(1200.0).search_seconds == plan().with_budget(1200.0).search_seconds


def test_the_plan_says_how_many_trials_share_a_card_and_why() -> None:
    card = Card(total=80 * 2**30, overhead=2**29, peak=17 * 2**30)
    made = plan(gpus_per_trial=0.25, device="cuda", card=card, fast_gpu=True)
    said = describe(made, [Node(cpus=8, gpus=1)])[1]
    assert "4 trials a card: of its 80.0 GiB the largest nets took 17.0" in said
    assert "process 0.5 more" in said
    assert "TF32, bfloat16 and captured steps" in said
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    asked = "\n".join(describe(replace(made, card=None, fast_gpu=False), [Node(cpus=8, gpus=1)]))
    assert "GPUs       float32, step by step" in asked
    assert not any(line.startswith("GPUs") for line in describe(plan(), [Node(cpus=2, gpus=0)]))


def test_more_budget_is_more_and_longer_trials() -> None:
    short, long = plan(), plan(budget_seconds=3600.0)
    assert long.trials > short.trials
    assert long.rungs[-1] > 1.5 * short.rungs[-1]


def test_a_plan_survives_the_journal() -> None:
    import json

    made = plan()
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_one_trial_takes_the_whole_search() -> None:
    # It is the reference and runs to the end: 1/9 + 2/9 + 6/9 of a full trial.
    assert makespan(1, 1) == pytest.approx(1.0)


def test_two_trials_on_one_slot_by_hand() -> None:
    """The reference runs to the end: 1. So does the other: a study needs one that does."""
    assert makespan(2, 1) == pytest.approx(2.0)


def test_thousands_of_slots_are_simulated_by_few():
    assert makespan(10_000, 4000) == makespan(150, 60)
    assert makespan(4, 4000) == makespan(1, 60) == pytest.approx(1.0)


@given(trials=st.integers(1, 30), slots=st.integers(1, 8))
def test_a_search_is_no_shorter_than_its_longest_trial_and_no_longer_than_all(
    trials: int, slots: int
) -> None:
    assert 1 - 1e-9 <= makespan(trials, slots) <= trials + 1e-9


@given(budget=st.floats(1, 1e6), slots=st.integers(1, 64))
def test_the_search_leaves_time_to_finish(budget: float, slots: int) -> None:
    made = plan(budget_seconds=budget, slots=slots)
    assert 0 < made.search_seconds < budget
    assert made.slots <= made.trials
    assert made.rungs[-1] / made.flops_per_second < made.search_seconds


def test_few_episodes_are_all_used() -> None:
    assert episode_counts(3, 1) == (3, 3, 3)
    assert episode_counts(20, 20) == (5, 8, 12)


def test_few_classes_have_equally_many_episodes() -> None:
    # A sixth and two times a third of 18, in threes; at least 3 at all.
    assert episode_counts(18, 3) == (3, 6, 6)
    assert episode_counts(20, 1) == (3, 7, 7)


def test_one_fine_tuning_is_scored_on_the_same_episodes_at_all_rungs() -> None:
    made = plan(validation_episodes=18, validation_classes=3, source_seconds=30.0)
    assert made.episodes == (6, 6, 6)


def test_last_trainings_are_paid_from_the_budget() -> None:
    """search + a rematch of 2 and 2 last trainings on 2 slots + start and finish = budget."""
    made = plan()
    full = made.rungs[-1] / made.flops_per_second
    assert made.search_seconds + 2 * full + 180 == pytest.approx(600)
    assert made.search_seconds + made.rest_seconds == pytest.approx(600)


def test_fine_tunings_of_the_finals_are_paid_from_the_budget() -> None:
    """On 2 slots 18 and 20 episodes are 10 in a row each: 2 finalists, champion and reference
    take 40, and a full trial fine-tunes to 6. Pre-training happens twice, once in the search."""
    made = plan(
        budget_seconds=1800.0, validation_episodes=18, validation_classes=3, source_seconds=30.0
    )
    full = made.rungs[-1] / made.flops_per_second
    assert made.search_seconds + 30 + 40 / 6 * full + 90 == pytest.approx(1800)
    assert made.search_seconds + made.rest_seconds == pytest.approx(1800)


def test_scoring_large_classes_is_paid_from_the_budget() -> None:
    small, large = plan(), plan(large_classes=True)
    assert large.search_seconds < small.search_seconds
    assert large.search_seconds + large.rest_seconds == pytest.approx(600)


@pytest.mark.parametrize(
    ("episodes", "slots", "turns"), [(18, 1, 18), (18, 2, 10), (20, 4, 5), (20, 64, 5), (3, 2, 3)]
)
def test_slots_share_episodes_five_by_five(episodes: int, slots: int, turns: int) -> None:
    assert in_a_row(episodes, slots) == turns


def test_a_budget_that_start_and_finish_use_up_is_warned_of() -> None:
    """180 s of these beside 50 s of search, trials of the finals included; 6 minutes are enough."""
    made = plan(budget_seconds=100.0)
    (warning,) = too_short(made)
    assert warning.startswith("WARNING")
    assert "may take 3:50" in warning
    assert "6 minutes are enough" in warning
    assert not too_short(plan())
    assert too_short(plan().with_budget(100.0))


@pytest.mark.parametrize(
    ("slots", "field"), [(1, (2, 1)), (2, (2, 1)), (4, (2, 2)), (6, (3, 2)), (64, (3, 3))]
)
def test_finalists_are_trained_again_on_all_slots(slots: int, field: tuple[int, int]) -> None:
    assert final_field(100, slots, pretrained=False) == field
    assert final_field(100, slots, pretrained=True) == (field[0], 1)
    assert final_field(1, slots, pretrained=False)[0] == 1


def test_another_budget_leaves_the_same_time_to_finish() -> None:
    made = plan()
    longer = made.with_budget(1200.0)
    assert longer.rungs == made.rungs
    assert longer.search_seconds == pytest.approx(made.search_seconds + 600)
    assert made.with_budget(10.0).search_seconds == pytest.approx(5.0)


def test_the_description_names_what_a_user_pays() -> None:
    text = "\n".join(describe(plan(), [Node(cpus=2, gpus=0)]))
    assert "12 trials" in text
    assert "10:00" in text
    assert "ASHA pauses those far behind" in text


def test_clock() -> None:
    assert clock(65) == "1:05"
    assert clock(3661) == "1:01:01"


def test_trials_asked_for_are_all_there_will_be() -> None:
    assert plan(trials=3).most_trials == 3
    assert plan().most_trials > 1000
