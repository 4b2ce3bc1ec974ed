import math
import pickle
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from trainables.trainable import COMPLETE, FAIL, RUNG
from tuner.asha import LONGEST_START_SECONDS, Asha
from tuner.rungs import _UNTOLD, Rungs

scores = st.lists(st.floats(-10, 10), min_size=3, max_size=3)
studies = st.lists(scores, min_size=3, max_size=20)


def filled(study, planned=9):
    rungs = Rungs(3, planned=planned)
    for trial, values in enumerate(study):
        rungs.restore(0, trial, values, paused=True)
    return rungs


def all_promotable(rungs):
    """Who would be promoted if nothing else happened, in order."""
    promoted = []
    while (trial := rungs.promotable()) is not None:
        rungs.promote(trial)
        promoted.append(trial)
    return promoted


def test_nobody_goes_on_before_there_are_others_to_compare_with():
    rungs = Rungs(2, planned=9)
    assert not rungs.record(0, 0, [1.0, 1.0])
    assert not rungs.record(0, 1, [5.0, 5.0])
    assert rungs.promotable() is None
    assert not rungs.record(0, 2, [5.0, 5.1])
    assert rungs.promotable() == 0  # late good news: the first was the best of three
    assert rungs.entered == (3, 0)
    assert rungs.paused == (3, 0)


def test_without_noise_the_first_few_go_on():
    values = [0.0, 1.0, 2.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert all_promotable(filled([[v, v, v] for v in values])) == [0, 1]


def test_who_is_within_noise_of_the_best_goes_on_and_who_is_not_does_not():
    """Means .0, .1, .2 and .5 in ten; episodes' scores are pairs at mean -+ 1 or -+ .001."""
    means = [0.0, 0.1, 0.2, *[0.5] * 7]

    def study(noise):
        signs = np.random.default_rng(0).permuted(np.tile([-1, 1], (10, 8)), axis=1)
        return [[m + noise * s for s in row] for m, row in zip(means, signs, strict=True)]

    assert len(all_promotable(filled(study(1.0)))) > len(all_promotable(filled(study(0.001))))
    assert sorted(all_promotable(filled(study(0.001)))) == [0, 1]


def test_what_is_hard_for_all_is_no_noise():
    """Episodes that differ by 100 for all trials alike change nothing."""
    means = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    rest = np.random.default_rng(0).normal(0, 0.1, (6, 4))
    plain = [(m + r).tolist() for m, r in zip(means, rest, strict=True)]
    hard = [(m + r + [0, 100, 200, 300]).tolist() for m, r in zip(means, rest, strict=True)]
    assert all_promotable(filled(plain)) == all_promotable(filled(hard))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_and_never_enters(value):
    rungs = Rungs(1, planned=1)
    assert not rungs.record(0, 0, [1.0, value], reference=True)
    assert rungs.entered == (0,)
    assert rungs.untelling == {}


def test_a_reference_always_goes_on():
    rungs = filled([[1.0], [2.0], [3.0], [4.0]])
    assert rungs.record(0, 4, [99.0], reference=True)
    assert rungs.record(1, 4, [99.0], reference=True)


def test_a_study_does_not_end_without_a_trial_that_was_trained_to_the_end():
    rungs = Rungs(2, planned=2)
    rungs.restore(0, 0, [2.0], paused=False, reference=True)
    rungs.restore(1, 0, [2.0], paused=False, reference=True)
    rungs.restore(0, 1, [9.0], paused=True)
    assert rungs.promotable() is None
    assert rungs.promotable(no_more=True) == 1


def test_the_highest_rung_is_promoted_first():
    rungs = filled([[0.0], [0.1], [5.0], [6.0], [7.0], [8.0]])
    rungs.restore(1, 1, [0.1], paused=True)
    assert rungs.promotable() == 1


def test_a_failed_trial_is_forgotten():
    rungs = filled([[1.0], [5.0], [5.1], [5.2]])
    asha = Asha(rungs)
    trial = SimpleNamespace(config={"trial_number": 0, "reference": False})
    asha.on_trial_complete(None, trial, {"outcome": FAIL})
    assert rungs.entered == (3, 0, 0)
    assert rungs.promotable() == 1
    asha.on_trial_error(None, SimpleNamespace(config={"trial_number": 1}))
    assert rungs.entered == (3, 0, 0)  # it is tried again, from its last rung


def test_rungs_that_tell_nothing_decide_nothing_and_are_told_of_once():
    """The order at the first rung is not that at the second, again and again."""
    told = []
    rungs = Rungs(3, planned=12, doubted=lambda *doubt: told.append(doubt))
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 10), 8 * rng.normal(0, 1, 10)
    for trial in range(10):
        rungs.restore(0, trial, [first[trial]] * 4, paused=False)
        rungs.restore(1, trial, [second[trial]] * 4, paused=True)
    assert rungs.untelling[0] < _UNTOLD
    assert not told  # it has decided nothing yet
    for trial in (10, 11):
        assert rungs.record(0, trial, [2.0] * 4)  # among the worst
    ((rung, correlation),) = told
    assert rung == 0
    assert 0 < correlation < _UNTOLD


def test_rungs_that_tell_enough_are_not_doubted():
    rungs = Rungs(2, planned=9, doubted=lambda *doubt: pytest.fail(f"{doubt}"))
    for trial in range(8):
        for rung in range(2):
            rungs.restore(rung, trial, [float(trial)] * 4, paused=False)
    assert not rungs.record(0, 8, [8.0] * 4)


def test_fidelity_is_the_rank_correlation_with_the_last_rung():
    rungs = Rungs(3, planned=4)
    for rung, values in enumerate([[1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 3, 4]]):
        for trial, value in enumerate(values):
            rungs.restore(rung, trial, [float(value)], paused=False)
    # Spearman by hand: 1 - 6 (1 + 1) / (4 (16 - 1)) = .8
    assert rungs.fidelity() == pytest.approx({0: 1.0, 1: 0.8})


@settings(deadline=None)
@given(studies, st.randoms())
def test_decisions_depend_on_what_was_recorded_and_not_on_its_order(study, random):
    order = list(enumerate(study))
    random.shuffle(order)
    shuffled = Rungs(3, planned=9)
    for trial, values in order:
        shuffled.restore(0, trial, values, paused=True)
    assert all_promotable(shuffled) == all_promotable(filled(study))


@settings(deadline=None)
@given(studies)
def test_the_best_so_far_always_goes_on(study):
    means = [sum(values) for values in study]
    best = min(means)
    if means.count(best) == 1:
        assert means.index(best) in all_promotable(filled(study))


@settings(deadline=None)
@given(studies)
def test_reporting_a_rung_again_counts_once(study):
    rungs = Rungs(3, planned=9)
    for trial, values in enumerate(study):
        first = rungs.record(0, trial, values)
        assert rungs.record(0, trial, values) == first  # redone after a crash
    assert rungs.entered == (len(study), 0, 0)


@pytest.mark.parametrize(("count", "planned"), [(0, 1), (1, 0)])
def test_nonsense_is_refused(count, planned):
    with pytest.raises(ValueError, match="At least"):
        Rungs(count, planned=planned)


def test_a_scheduler_that_tells_a_table_can_be_pickled():
    """Ray does it when it begins."""
    rungs = filled([[1.0], [2.0]])
    rungs._doubted = threading.Lock().acquire
    pickle.dumps(Asha(rungs))


def test_the_scheduler_answers_in_rays_words():
    asha = Asha(Rungs(2, planned=3))

    def report(number, value):
        trial = SimpleNamespace(config={"trial_number": number, "reference": False})
        result = {"outcome": RUNG, "metrics/rung": 0.0, "episodes": [value]}
        return asha.on_trial_result(None, trial, result)

    assert report(0, 5.0) == TrialScheduler.STOP
    assert report(1, 5.1) == TrialScheduler.STOP
    assert report(2, 1.0) == TrialScheduler.CONTINUE
    trial = SimpleNamespace(config={"trial_number": 2, "reference": False})
    done = {"outcome": COMPLETE, "metrics/rung": 1.0, "episodes": [0.5]}
    asha.on_trial_complete(None, trial, done)
    assert asha.rungs.entered == (3, 1)


class Pending(SimpleNamespace):
    """One of Ray's trials."""

    __hash__ = object.__hash__


@pytest.fixture
def controller():
    """Ray's, with a trial in each state; `trials` by name, `free` processes by kind."""
    trials = {
        name: Pending(
            trial_id=name,
            config={"trial_number": number},
            status=status,
            placement_group_factory=kind,
        )
        for name, number, status, kind in (
            ("running", 0, Trial.RUNNING, "small"),
            ("starting", 1, Trial.PENDING, "small"),
            ("over", 2, Trial.TERMINATED, "small"),
            ("large", 3, Trial.PENDING, "large"),
            ("queued", 4, Trial.PENDING, "small"),
            ("later", 5, Trial.PENDING, "small"),
        )
    }
    started = {"another", "its process"}
    return SimpleNamespace(
        trials=trials,
        free=set(),
        _trial_to_actor={
            trials["running"]: "another",
            trials["starting"]: "its process",
            trials["queued"]: "one that waits",
        },
        _actor_manager=SimpleNamespace(is_actor_started=started.__contains__),
        _actor_cache=SimpleNamespace(),
        get_live_trials=lambda: {*trials.values()} - {trials["over"]},
    )


def chosen(asha, controller):
    controller._actor_cache.has_cached_object = controller.free.__contains__
    trial = asha.choose_trial_to_run(controller)
    return trial and trial.trial_id


def test_the_first_trial_that_waits_for_a_slot_is_next(controller):
    """Not one whose process is starting, which would be ended for the one that fell free."""
    asha = Asha(filled([]))
    assert chosen(asha, controller) == "large"
    controller.free.add("small")
    assert chosen(asha, controller) == "queued"
    controller._trial_to_actor.clear()
    assert chosen(asha, controller) == "starting"
    controller.get_live_trials = lambda: {controller.trials["running"]}
    assert chosen(asha, controller) is None


def test_a_trial_whose_process_does_not_come_waits_again(controller, monkeypatch):
    asha = Asha(filled([]))
    controller.free.add("small")
    assert chosen(asha, controller) == "queued"
    now = time.monotonic() + LONGEST_START_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert chosen(asha, controller) == "starting"
