"""Optuna's samplers by name, with a memory that is the journal alone and no wrong lessons from it.

Every trial gets a fresh sampler seeded with its own number, so that a resumed study samples what
an uninterrupted one would.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import optuna
from cmaes import CMA  # type: ignore[import-untyped]
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtri

from tuner.known_points import Parameters, trial_seed
from tuner.objectives import losses
from tuner.trial_records import OncePerTrial, record_of

# Failures that the parameters are to blame for.
_REGION_REASONS = ("diverged", "out of memory", "too large")
# How far a trial came: in complete rungs, or
_TO_THE_END, _NOWHERE = float("inf"), -1.0
# Trials that a sampler learns from: the best, and of the others the newest. Models cost as much as
# they see, and what they make of thousands of poor trials is what they make of hundreds.
SEEN, SEEN_BEST = 500, 100

Standing = tuple[float, tuple[float, ...]]  # how far a trial came, and its losses there


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a sampler of one trial is made of.

    Attributes:
        seed: of the study.
        own_seed: of the trial.
        number: of the trial.
        startup: trials to sample at random before a model is used.
        parameters: of the search space.
    """

    seed: int
    own_seed: int
    number: int
    startup: int
    parameters: Parameters


class _Sobol(QMCSampler):
    """One scrambled sequence a study, over all parameters there are; its index is the trial.

    Optuna's own counts its calls, and takes the parameters of the trial that finished first.
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__(
            qmc_type="sobol",
            scramble=True,
            seed=turn.seed,
            independent_sampler=RandomSampler(seed=turn.own_seed),
            warn_independent_sampling=False,
        )
        self._turn = turn

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """All parameters; what a trial's branch of the space has no use for is not asked for."""
        return _open(self._turn.parameters.all)

    def _find_sample_id(
        self,
        study: optuna.Study,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> int:
        return self._turn.number


class _CmaEs(CmaEsSampler):
    """CMA-ES over the numbers that every trial has, from the first trial on.

    Optuna's own takes those that the trials so far have in common. They become fewer where the
    space is conditional, and it then samples at random for the rest of the study. And it keeps its
    optimizer as a pickle, which would run what a stranger's journal has in its place.
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__(
            seed=turn.own_seed,
            n_startup_trials=0,  # known points are told as well, wherever they lie
            warn_independent_sampling=False,
        )
        shared = _open(turn.parameters.shared)
        self._numbers: dict[str, BaseDistribution] = {
            n: d for n, d in shared.items() if not isinstance(d, CategoricalDistribution)
        }
        self._optimizer: CMA | None = None

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Numbers that do not depend on others; the rest is sampled at random."""
        return self._numbers

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, Any]:  # noqa: ARG002
        """What a trial keeps of the optimizer: numbers alone, by name."""
        kept = {name: np.asarray(getattr(self._optimizer, name)).tolist() for name in _LEARNED}
        return {self._attr_key_optimizer: kept}

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> CMA:
        """The newest that a trial has kept, or a new one."""
        space = _SearchSpaceTransform(self._numbers, transform_0_1=True)
        self._optimizer = made = cast(CMA, self._init_optimizer(space, StudyDirection.MINIMIZE))
        kept = (t.system_attrs.get(self._attr_key_optimizer) for t in completed_trials[::-1])
        learned = (_learned(attr, made) for attr in kept if attr is not None)
        vars(made).update(next(filter(None, learned), {}))
        return made


# What CMA-ES has learned: all that telling it changes.
_LEARNED = ("_g", "_mean", "_sigma", "_C", "_p_sigma", "_pc")


def _learned(kept: Any, fresh: CMA) -> dict[str, Any] | None:
    """What a trial kept, for an optimizer that has learned nothing; None if it is not for that."""
    try:
        told = {name: np.asarray(kept[name], np.float64) for name in _LEARNED}
    except (ValueError, TypeError, LookupError):
        return None
    fits = all(
        value.shape == np.shape(getattr(fresh, name)) and np.isfinite(value).all()
        for name, value in told.items()
    )
    if not fits or told["_sigma"] <= 0 or told["_g"] < 0:
        return None
    return told | {"_g": int(told["_g"]), "_sigma": float(told["_sigma"])}


def _open(distributions: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """Those that hold more than one value."""
    return {name: d for name, d in distributions.items() if not d.single()}


def _tpe(turn: Turn) -> BaseSampler:
    # `group` models parameters that exist for some trials only.
    return TPESampler(
        seed=turn.own_seed,
        n_startup_trials=turn.startup,
        multivariate=True,
        group=True,
        constant_liar=True,
    )


def _gp(turn: Turn) -> BaseSampler:
    return GPSampler(
        seed=turn.own_seed, n_startup_trials=turn.startup, warn_independent_sampling=False
    )


def _nsgaii(turn: Turn) -> BaseSampler:
    return NSGAIISampler(seed=turn.own_seed, population_size=turn.startup)


def _random(turn: Turn) -> BaseSampler:
    return RandomSampler(seed=turn.own_seed)


SAMPLERS: Mapping[str, Callable[[Turn], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _CmaEs,
    "nsgaii": _nsgaii,
    "random": _random,
    "sobol": _Sobol,
}


class SeededSampler(BaseSampler):
    """One of Optuna's samplers as this project uses it; see the module."""

    def __init__(self, name: str, *, seed: int, startup: int, parameters: Parameters) -> None:
        """A sampler for one study.

        Args:
            name: one of `SAMPLERS`.
            seed: of the study.
            startup: trials to sample at random before a model is used, at least 2.
            parameters: of the search space.
        """
        self._make, self._seed, self._startup = SAMPLERS[name], seed, startup
        self._parameters = parameters
        self._number = -1
        self._sampler: BaseSampler = RandomSampler()
        self._seen: optuna.Study | None = None
        self._lessons: OncePerTrial[Lesson | None] | None = None

    def _begin(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.number == self._number:
            return
        turn = Turn(
            seed=self._seed,
            own_seed=trial_seed(self._seed, trial.number),
            number=trial.number,
            startup=self._startup,
            parameters=self._parameters,
        )
        with _unmarked():
            self._sampler = self._make(turn)
        self._number = trial.number
        objectives = study.metric_names or ("L",)
        if self._lessons is None:
            self._lessons = OncePerTrial(partial(lesson_of, objectives=objectives))
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        seen = _Lessons(study, lessons(others, objectives, self._lessons))
        self._seen = cast(optuna.Study, seen)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Parameters that are sampled together."""
        self._begin(study, trial)
        assert self._seen is not None
        return self._sampler.infer_relative_search_space(self._seen, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for them."""
        self._begin(study, trial)
        assert self._seen is not None
        return self._sampler.sample_relative(self._seen, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value for a parameter that is sampled alone."""
        self._begin(study, trial)
        assert self._seen is not None
        return self._sampler.sample_independent(self._seen, trial, param_name, param_distribution)


@contextmanager
def _unmarked() -> Iterator[None]:
    """Optuna marks some of this as experimental, which is no news to anybody at a terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class _Lessons:
    """A study as a sampler should see it."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(
        self, *, states: Container[TrialState] | None = None, **_copying: bool
    ) -> list[FrozenTrial]:
        return [t for t in self._trials if states is None or t.state in states]

    _get_trials = get_trials  # the name by which Optuna's samplers call it


class Lesson(NamedTuple):
    """What a trial has to tell."""

    standing: Standing
    trial: FrozenTrial  # as if it were COMPLETE; its values are set when it is told


def lessons(
    trials: Sequence[FrozenTrial],
    objectives: Sequence[str] = ("L",),
    known: OncePerTrial[Lesson | None] | None = None,
) -> list[FrozenTrial]:
    """The trials as a sampler may learn from them.

    All that say something are COMPLETE, since most samplers learn from no others, and their values
    are places, not scores: first the trials that finished, in order of their scores, then those
    that stand at the last rung but one, and so on, and last the failures that their parameters are
    to blame for. So no score of a low rung, with little training behind it, competes with one of
    a higher rung, and failures are the worst there are without a number made up for them. A place
    is told as the quantile of a normal distribution, which models that look at values expect.
    With several objectives, each has its own places.

    A running trial stands where its last score was. Left out are trials that ran other settings
    than their parameters say, ends that say nothing, and of more than `SEEN` trials with a score
    those that are neither new nor among the `SEEN_BEST` best; trials without a score stay as they
    are.

    Args:
        trials: of the study, in order of number.
        objectives: its names, in the order of its values.
        known: `lesson_of` these objectives, from earlier calls; what they returned changes.
    """
    known = known or OncePerTrial(partial(lesson_of, objectives=objectives))
    there = [(trial, known(trial)) for trial in trials if not trial.user_attrs.get("overrides")]
    keys = np.array(
        [(-lesson.standing[0], *lesson.standing[1]) for _, lesson in there if lesson is not None]
    ).reshape(-1, 1 + len(objectives))
    places = np.array([_places(keys[:, [0, n]]) for n in range(1, 1 + len(objectives))])
    kept = iter(_kept(places))
    seen: list[FrozenTrial] = []
    own = iter(places.T.tolist())
    for trial, lesson in there:
        if lesson is None:
            if not trial.state.is_finished():
                seen.append(trial)
            continue
        values = losses(next(own), objectives)  # back to the study's own signs
        if next(kept):
            lesson.trial.values = values
            seen.append(lesson.trial)
    return seen


def lesson_of(trial: FrozenTrial, objectives: Sequence[str]) -> Lesson | None:
    """What a trial has to tell, if anything."""
    standing = _standing(trial, objectives)
    if standing is None:
        return None
    told = copy.copy(trial)
    told.state = TrialState.COMPLETE
    return Lesson(standing, told)


def _kept(places: npt.NDArray[np.float64]) -> list[bool]:
    """Which of the trials with a score a sampler sees; `places` by objective and trial."""
    kept = np.arange(places.shape[1])[::-1] < SEEN - SEEN_BEST
    kept[places.argsort(axis=1, kind="stable")[:, :SEEN_BEST]] = True
    return list(map(bool, kept)) if len(kept) > SEEN else [True] * len(kept)


def _standing(trial: FrozenTrial, objectives: Sequence[str]) -> Standing | None:
    """How far a trial came, and its losses there; None if it has nothing to tell."""
    if trial.state == TrialState.COMPLETE:
        return _TO_THE_END, losses(trial.values, objectives)
    if trial.state == TrialState.FAIL:
        blamed = trial.user_attrs.get("reason", "").startswith(_REGION_REASONS)
        return (_NOWHERE, (0.0,) * len(objectives)) if blamed else None
    rungs = record_of(trial).rungs
    if not rungs:
        return None
    values = [rungs[-1].metrics[name] for name in objectives]
    return sum(rung.complete for rung in rungs), losses(values, objectives)


def _places(keys: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Normal scores of the ranks of `keys` [trial, 2], lowest first, by the first column and then
    by the second; equal keys share their mean rank."""
    if not len(keys):
        return np.empty(0)
    order = np.lexsort(keys.T[::-1])
    ordered = keys[order]
    begins = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))  # of equal ones
    sizes = np.diff(np.append(np.flatnonzero(begins), len(keys)))
    ranks = np.empty(len(keys))
    ranks[order] = (np.cumsum(sizes) - (sizes - 1) / 2)[np.cumsum(begins) - 1]  # from 1
    return np.asarray(ndtri((ranks - 0.5) / len(keys)), dtype=np.float64)
