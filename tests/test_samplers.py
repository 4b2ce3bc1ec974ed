"""Every sampler: the same after a resume, quiet, taught by what happened and by nothing else."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import qmc

from tuner import launch_options, samplers
from tuner.experiments import find_experiment
from tuner.journal import Journal
from tuner.known_points import KnownPoint, parameters_of
from tuner.samplers import SAMPLERS, SeededSampler, lesson_of, lessons
from tuner.trial_records import OncePerTrial, RungRecord

TRIALS = {"random": 40, "tpe": 40, "cmaes": 45, "gp": 14}  # that each needs for the toy loss
SEVERAL = ("L", "coverage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Log, integer, categorical, and conditional: `beta` exists for adam alone."""

    lr: float = 0.1
    steps: int = 1
    optimiser: str = "sgd"
    beta: float = 0.0
    mode: str = "corrected"


def space(trial, base):
    optimiser = trial.suggest_categorical("optimiser", ["sgd", "adam"])
    beta = trial.suggest_float("beta", 0.0, 0.9) if optimiser == "adam" else base.beta
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    steps = trial.suggest_int("steps", 1, 20)
    return replace(base, lr=lr, steps=steps, optimiser=optimiser, beta=beta)


KNOWN = [
    KnownPoint(label="paper", params={"lr": 0.5}, overrides={"mode": "faithful"}),
    KnownPoint(label="start", params={"lr": 0.1, "optimiser": "adam", "steps": 10}),
]


def sampler(name, *, seed=0, startup=4, of=space, base=None):
    base = Config() if base is None else base
    return SeededSampler(name, seed=seed, startup=startup, parameters=parameters_of(of, base))


def loss(config):
    """Lowest at lr = .01 and 15 steps."""
    return abs(math.log10(config["lr"] / 0.01)) + abs(config["steps"] - 15) / 20


def rung(k, value, *, decision="continue", complete=1.0, **more):
    metrics = {"L": value, "rung": k, "train_flops": 1e9 * (k + 1), "complete": complete, **more}
    return RungRecord(
        rung=k,
        metrics=metrics,
        losses=[],
        checkpoint="",
        seconds=1.0,
        decision=decision,
        episodes=[value],
    )


def search_on(journal, made, trials):
    """Up to `trials` trials: every third finishes, others pause or diverge, one stays open."""
    journal.study.sampler = made
    while (number := len([r for r in journal.records() if r.state != "WAITING"])) < trials:
        value = loss(journal.ask(space, Config()).config)
        if number % 7 == 5:
            journal.end(number, "FAIL", "diverged: nan")
        elif number % 3:
            journal.add_rung(number, rung(0, value + 1, decision="pause", coverage=0.5))
        elif number % 9 != 6:
            journal.add_rung(number, rung(2, value, decision="done", coverage=value / 9))
            journal.end(number, "COMPLETE", "")


def settings_of(journal):
    return [dict(record.config) for record in journal.records()]


def test_the_command_line_knows_all_samplers():
    assert set(launch_options.SAMPLERS) == set(SAMPLERS)


@pytest.mark.parametrize(
    ("name", "objectives"),
    [(name, ("L",)) for name in sorted(SAMPLERS)]
    + [(name, SEVERAL) for name in sorted(SAMPLERS) if name != "cmaes"],  # it has one objective
)
def test_a_resumed_study_samples_what_an_uninterrupted_one_would(tmp_path, name, objectives):
    def run(folder, sessions):
        for trials in sessions:
            with Journal(folder, "study", objectives) as journal:
                journal.enqueue(KNOWN, space, Config())
                search_on(journal, sampler(name), trials)
        with Journal(folder, "study") as journal:
            return settings_of(journal)

    sessions = [1, 5, 9, 11] if name == "gp" else [1, 5, 14, 22]  # GPs are slow
    once = run(tmp_path / "once", sessions[-1:])
    assert run(tmp_path / "often", sessions) == once
    assert len({config["lr"] for config in once}) > 5


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["cma:optimizer", "cma:optimizer:0"])  # Optuna's has a number
def test_a_pickle_in_a_journal_never_runs(tmp_path, key):
    made = tmp_path / "made"
    with Journal(tmp_path, "study") as journal:
        search_on(journal, sampler("cmaes"), 9)
        text = pickle.dumps(Payload(made)).hex()
        paused = [t for t in journal.study.get_trials() if not t.state.is_finished()]
        for trial in paused:
            journal.study._storage.set_trial_system_attr(trial._trial_id, key, text)
    with Journal(tmp_path, "study") as journal:
        search_on(journal, sampler("cmaes"), 12)
    assert not made.exists()
    pickle.loads(bytes.fromhex(text))
    assert made.exists()  # it would have


def test_what_cmaes_has_learned_is_kept_as_numbers(tmp_path):
    with Journal(tmp_path, "study") as journal:
        search_on(journal, sampler("cmaes"), 22)
        kept = [t.system_attrs.get("cma:optimizer") for t in journal.study.get_trials()]
    assert {attr["_g"] for attr in kept if attr is not None} == {1, 2, 3}


@pytest.mark.parametrize(
    "change",
    [{"_sigma": 0}, {"_g": -1}, {"_mean": [0.5]}, {"_C": "words"}, {"_pc": [float("nan")] * 2}],
)
def test_what_cmaes_cannot_have_learned_is_passed_over(tmp_path, change):
    parameters = parameters_of(space, Config())
    turn = samplers.Turn(seed=0, own_seed=0, number=22, startup=4, parameters=parameters)
    with Journal(tmp_path, "study") as journal:
        search_on(journal, sampler("cmaes"), 22)
        told = [t for t in journal.study.get_trials() if "cma:optimizer" in t.system_attrs]
        fresh = samplers._CmaEs(turn)
        optimizer = fresh._restore_optimizer(told)
        assert optimizer.generation == told[-1].system_attrs["cma:optimizer"]["_g"]
        told[-1].system_attrs["cma:optimizer"] |= change
        assert fresh._restore_optimizer(told).generation == optimizer.generation - 1


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_trial_asked_and_lost_is_sampled_again_as_it_was(tmp_path, name):
    """A crash between asking and writing the config, and another one in the repetition."""
    with Journal(tmp_path, "study") as journal:
        search_on(journal, sampler(name), 9)
        trial = journal.study.ask()
        expected = space(trial, Config())
    for _ in range(2):
        with Journal(tmp_path, "study") as journal:
            journal.study.sampler = sampler(name)
            again = optuna.Trial(journal.study, journal._id(9))
            assert space(again, Config()) == expected


@pytest.mark.parametrize("experiment", ["reptile_omniglot", "infogan_fashion_mnist"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_takes_our_spaces_without_a_word(tmp_path, capfd, name, experiment):
    made = find_experiment(experiment)("cpu")
    with Journal(tmp_path, "study") as journal:
        journal.enqueue(made.known_points, made.space, made.base)
        journal.study.sampler = sampler(name, of=made.space, base=made.base)
        for number in range(7):
            journal.ask(made.space, made.base)
            journal.add_rung(number, rung(0, float(number), decision="pause"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
def test_models_find_a_known_optimum(tmp_path, name):
    def mean_of_last(name):
        with Journal(tmp_path / name, "study") as journal:
            journal.study.sampler = sampler(name, seed=1)
            for number in range(TRIALS[name]):
                value = loss(journal.ask(space, Config()).config)
                journal.add_rung(number, rung(2, value, decision="done"))
                journal.end(number, "COMPLETE", "")
            return np.mean([record.score for record in journal.records()[-5:]])

    assert mean_of_last(name) < 0.75 * mean_of_last("random")


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
def test_trials_that_all_stopped_teach_as_well(tmp_path, name):
    """Optuna's GP and CMA-ES on their own learn from finished trials alone."""

    def mean_of_last(name):
        with Journal(tmp_path / name, "study") as journal:
            journal.study.sampler = sampler(name, seed=2)
            for number in range(TRIALS[name]):
                value = loss(journal.ask(space, Config()).config)
                journal.add_rung(number, rung(0, value, decision="pause"))
                if number % 2:
                    journal.end(number, "PRUNED", "asha: rung 0")
            return np.mean([record.score for record in journal.records()[-5:]])

    assert mean_of_last(name) < 0.75 * mean_of_last("random")


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_point_with_overrides_teaches_nothing(name):
    def next_x(with_reference):
        study = optuna.create_study(sampler=sampler(name, startup=3))
        for number in range(8):
            told(study, number / 8, value=float(number))
        if with_reference:
            told(study, None, value=-5.0, attrs={"overrides": {"mode": "faithful"}})
        else:
            told(study, None, state=TrialState.FAIL)  # so that the numbers agree
        return study.ask().suggest_float("x", 0, 1)

    assert next_x(True) == next_x(False)


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_a_diverged_region_is_avoided_and_a_dead_worker_is_not_held_against_it(name):
    def share_above_half(reason):
        study = optuna.create_study(sampler=sampler(name))
        for number in range(10):
            told(study, 0.3 + 0.05 * (number % 3), value=1.0)
            attrs = {"reason": reason}
            told(study, 0.55 + 0.04 * number, state=TrialState.FAIL, attrs=attrs)
        drawn = []
        for _ in range(10 if name == "gp" else 30):
            trial = study.ask()
            drawn.append(trial.suggest_float("x", 0, 1))
            study.tell(trial, state=TrialState.FAIL)
        return sum(x > 0.5 for x in drawn) / len(drawn)

    assert share_above_half("diverged: nan") < share_above_half("worker died")


def told(study, x, *, state=TrialState.COMPLETE, value=None, attrs=None):
    distribution = optuna.distributions.FloatDistribution(0, 1)
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=value,
            params={} if x is None else {"x": x},
            distributions={} if x is None else {"x": distribution},
            user_attrs=attrs or {},
        )
    )


# Sobol


def test_the_sequence_goes_on_whatever_happens_to_trials(tmp_path):
    """Its index is the trial, over all parameters, and gaps leave the others where they are."""
    with Journal(tmp_path, "study") as journal:
        journal.enqueue(KNOWN, space, Config())
        search_on(journal, sampler("sobol"), 32)
        drawn = {r.number: r.params for r in journal.records() if not r.label}
    points = qmc.Sobol(4, scramble=True, seed=0).random(32)  # beta, lr, optimiser, steps
    assert len(drawn) == 30
    for number, params in drawn.items():
        beta, lr, optimiser, steps = points[number]
        assert math.log10(params["lr"]) / 4 + 1 == pytest.approx(lr)
        assert params["optimiser"] == ("sgd", "adam")[int(optimiser * 2)]
        assert params["steps"] == min(20, int(steps * 20) + 1)
        if "beta" in params:
            assert params["beta"] / 0.9 == pytest.approx(beta)


def test_the_sequence_is_more_even_than_chance_and_depends_on_the_seed(tmp_path):
    def drawn(name, seed):
        study = optuna.create_study(sampler=sampler(name, seed=seed))
        configs = [space(study.ask(), Config()) for _ in range(64)]
        return [(math.log10(c.lr) / 4 + 1, (c.steps - 0.5) / 20) for c in configs]

    even = [qmc.discrepancy(drawn("sobol", seed)) for seed in range(3)]
    chance = [qmc.discrepancy(drawn("random", seed)) for seed in range(3)]
    assert max(even) < 0.5 * min(chance)
    assert drawn("sobol", 0) != drawn("sobol", 1)


# Lessons


def journal_of(tmp_path, objectives=("L",)):
    journal = Journal(tmp_path, "study", objectives)
    journal.study.sampler = sampler("random")
    return journal


def test_no_low_rung_ranks_ahead_of_a_higher_one_and_failures_are_last(tmp_path):
    with journal_of(tmp_path) as journal:
        for _ in range(7):
            journal.ask(space, Config())
        journal.add_rung(0, rung(2, 9.0, decision="done"))
        journal.end(0, "COMPLETE", "")
        journal.add_rung(1, rung(0, 0.1, decision="pause"))
        journal.end(1, "PRUNED", "asha: rung 0")
        journal.add_rung(2, rung(0, 0.1, decision="pause"))
        journal.add_rung(2, rung(1, 5.0, decision="pause"))  # still waiting
        journal.end(3, "FAIL", "out of memory")
        journal.add_rung(4, rung(0, 0.2, complete=0.0, decision="done"))
        journal.end(4, "PRUNED", "time")
        journal.end(5, "FAIL", "worker died")
        trials = journal.study.get_trials()
        seen = lessons(trials)
    told = {t.number: t.value for t in seen if t.state == TrialState.COMPLETE}
    assert sorted(told, key=told.get) == [0, 2, 1, 4, 3]
    assert [t.number for t in seen if t.state == TrialState.RUNNING] == [6]
    assert len(seen) == 6  # not the dead worker
    assert [t.state.name for t in trials].count("COMPLETE") == 1  # the study is left alone


def test_places_are_quantiles_and_equal_scores_share_theirs():
    study = optuna.create_study()
    for value in (3.0, 1.0, 1.0, 1e9):
        told(study, 0.1, value=value)
    values = [trial.value for trial in lessons(study.trials)]
    assert values[1] == values[2] < values[0] < values[3]  # and 1e9 is no outlier
    assert values[0] == pytest.approx(0.3186, abs=1e-4)  # the 62.5 % quantile
    assert values[3] == pytest.approx(1.1503, abs=1e-4)  # the 87.5 % quantile


def test_of_very_many_trials_the_best_and_the_newest_teach(monkeypatch):
    monkeypatch.setattr(samplers, "SEEN", 5)
    monkeypatch.setattr(samplers, "SEEN_BEST", 2)
    study = optuna.create_study()
    for value in (7.0, 1.0, 6.0, 2.0, 5.0, 4.0, 3.0, 8.0):
        told(study, 0.1, value=value)
    everything = {t.number: t.value for t in _places_of_all(study)}
    seen = lessons(study.trials)
    assert [t.number for t in seen] == [1, 3, 5, 6, 7]
    assert all(t.value == everything[t.number] for t in seen)  # among all, not among these


def _places_of_all(study):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "SEEN", 10**6)
        return lessons(study.trials)


def test_what_is_known_changes_nothing(tmp_path):
    known = OncePerTrial(partial(lesson_of, objectives=("L",)))
    with journal_of(tmp_path) as journal:
        for number in range(4):
            journal.ask(space, Config())
            journal.add_rung(number, rung(0, 1.0 + number, decision="pause"))
        for change in (
            lambda: journal.promote(2),
            lambda: journal.add_rung(2, rung(1, 0.5, decision="pause")),
            lambda: journal.add_rung(0, rung(0, 9.0, decision="pause")),  # scored once more
            lambda: journal.end(3, "FAIL", "diverged"),
            lambda: journal.end(1, "FAIL", "worker died"),
        ):
            change()
            trials = journal.study.get_trials(deepcopy=False)
            told, fresh = lessons(trials, ("L",), known), lessons(trials)
            assert [(t.number, t.value) for t in told] == [(t.number, t.value) for t in fresh]


def test_every_objective_has_its_own_places(tmp_path):
    with journal_of(tmp_path, SEVERAL) as journal:
        for number, (value, coverage) in enumerate([(1.0, 0.9), (2.0, 0.5), (0.5, 0.99)]):
            journal.ask(space, Config())
            done = number < 2
            journal.add_rung(
                number,
                rung(2 * done, value, decision="done" if done else "pause", coverage=coverage),
            )
            journal.end(number, "COMPLETE" if done else "PRUNED", "")
        best, worse, stopped = (t.values for t in lessons(journal.study.trials, SEVERAL))
    assert best[0] < worse[0] < stopped[0]
    assert best[1] > worse[1] > stopped[1]  # coverage is maximized
