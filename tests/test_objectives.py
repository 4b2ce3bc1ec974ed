"""What a study searches on, and the front of trials that nobody beats."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_trial import record
from test_plan import plan as plan_for

from trainables.errors import UserError
from tuner.objectives import OBJECTIVES, losses, pareto_front, parse_objectives
from tuner.standing import far_trials
from tuner.study import StudyRun
from tuner.summary import _pareto


def test_l_is_always_among_the_objectives_and_first():
    assert parse_objectives("coverage, train_seconds") == ("L", "coverage", "train_seconds")
    assert parse_objectives("copy_share,L,copy_share") == ("L", "copy_share")
    assert parse_objectives("L") == ("L",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("L,covrage", "got 'covrage'. Did you mean 'coverage'?"),
        ("fd", "must be some of L, coverage, copy_share, train_seconds"),
        (" , ", "--objectives must be"),
    ],
)
def test_other_names_are_refused(text, words):
    with pytest.raises(UserError, match="--objectives must be") as caught:
        parse_objectives(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


scores = st.integers(0, 4).map(float)


@settings(max_examples=30)
@given(st.lists(st.tuples(scores, scores, scores), max_size=10))
def test_the_front_is_optunas(values):
    names = ("L", "coverage", "train_seconds")
    study = optuna.create_study(directions=[OBJECTIVES[name] for name in names])
    for value in values:
        study.add_trial(optuna.trial.create_trial(values=value))
    front = pareto_front([losses(value, names) for value in values])
    assert front == sorted(trial.number for trial in study.best_trials)


def test_a_trial_that_came_less_far_is_on_no_front_and_the_champion_is():
    plan = plan_for(objectives=("L", "coverage"))
    full = plan.rungs[-1]

    def trial(number, value, coverage, flops=full):
        made = record(number, (flops, value), state="COMPLETE" if flops == full else "PRUNED")
        made.rungs[0].metrics["coverage"] = coverage
        return made

    records = (
        trial(0, 0.5, 0.4),
        trial(1, 0.6, 0.3),  # worse in both than trial 0
        trial(2, 0.9, 0.8),
        trial(3, 0.1, 0.9, flops=full / 9),
    )
    run = StudyRun(
        records=records,
        best=records[0],
        interrupted=False,
        seconds=0.0,
        paused=(),
        fidelity={},
    )
    pareto = _pareto(run, plan)
    assert pareto.objectives == {"L": "minimize", "coverage": "maximize"}
    assert [(t.number, t.values) for t in pareto.front] == [
        (0, {"L": 0.5, "coverage": 0.4}),
        (2, {"L": 0.9, "coverage": 0.8}),
    ]
    assert [r.number for r in far_trials(records, full)] == [0, 1, 2]
    assert _pareto(run, plan_for()) is None
