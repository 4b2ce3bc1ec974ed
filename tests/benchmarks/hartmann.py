"""MFHartmann of mf-prior-bench: functions with fidelities that nobody here wrote.

Source: Mallik et al., PriorBand: Practical Hyperparameter Optimization in the Age of Deep Learning,
arXiv:2306.12370, after Kandasamy et al., arXiv:1703.06240.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import make_dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.optuna import OptunaSearch
from simulation import Entrant, Ladder, Scored, incumbent, play, stock_asha

from trainables.errors import UserError
from tuner.asha import Asha
from tuner.journal import Journal
from tuner.plan import makespan
from tuner.recorder import Recorder
from tuner.rungs import Rungs
from tuner.search import JournalSearch

PACKAGE = "mf-prior-bench"
FULL = 100  # the highest fidelity: no bias, no noise
SLOTS = 4
DIMENSIONS = {"hartmann3": 3, "hartmann6": 6}
OPTIMA = {"hartmann3": -3.86278, "hartmann6": -3.32237}
KINDS = {"good": (2.5, 2.0), "moderate": (3.0, 3.0), "bad": (3.5, 4.0), "terrible": (4.0, 5.0)}
# Its noise is seeded with the product of seed, fidelity and point: primes keep episodes apart.
EPISODES = (15_485_863, 32_452_843, 49_979_687, 67_867_967, 86_028_121)
MANY = 60  # trials from which a search's length is proportional to their number
_STEPS = (11, 33, FULL)
LADDER = Ladder(steps=_STEPS, costs=tuple(0.05 + 0.95 * (step / FULL) ** 2 for step in _STEPS))


def check_installed() -> None:
    """Raises UserError if the package is missing."""
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{PACKAGE} is not installed: `make bench-search` installs it.") from None


@lru_cache(maxsize=1)
def _generators() -> ModuleType:
    """The functions alone: the package itself imports much that is not installed."""
    place = importlib.metadata.distribution(PACKAGE).locate_file(
        "mfpbench/synthetic/hartmann/generators.py"
    )
    spec = importlib.util.spec_from_file_location("mfpbench_generators", str(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Surrogate:
    """One function of one kind; an episode is a seed of its noise."""

    def __init__(self, function: str, kind: str) -> None:
        """Of `DIMENSIONS` and `KINDS`."""
        self.function = function
        self.names = tuple(f"x{i}" for i in range(DIMENSIONS[function]))
        make = getattr(_generators(), f"MF{function.capitalize()}")
        self._episodes = [make(FULL, *KINDS[kind], seed) for seed in EPISODES]

    def evaluate(self, config: Mapping[str, Any], rung: int) -> list[float]:
        """Scores of all episodes."""
        point = self._point(config)
        return [episode(LADDER.steps[rung], point) for episode in self._episodes]

    def regret(self, config: Mapping[str, Any]) -> float:
        """True value minus the lowest there is."""
        return float(self._episodes[0](FULL, self._point(config)) - OPTIMA[self.function])

    def _point(self, config: Mapping[str, Any]) -> tuple[float, ...]:
        params = config.get("trial_config", config)  # ours has more to say than parameters
        return tuple(float(params[name]) for name in self.names)

    def space(self) -> dict[str, FloatDistribution]:
        """As Optuna has it."""
        return {name: FloatDistribution(0.0, 1.0) for name in self.names}


def _ours(surrogate: Surrogate, journal: Journal, seed: int, budget: float) -> Entrant:
    point = make_dataclass("Point", surrogate.names, frozen=True)

    def space(trial: optuna.Trial, base: None) -> Any:
        return point(*(trial.suggest_float(name, 0.0, 1.0) for name in surrogate.names))

    trials = round(budget / (makespan(MANY, SLOTS) * SLOTS / MANY))
    rungs = Rungs(len(LADDER), planned=max(1, trials))
    search = JournalSearch(
        journal,
        rungs,
        space=space,
        base=None,
        trials=10**6,  # as many as the budget allows, as by default
        sampler="tpe",
        seed=seed,
        deadline=float("inf"),
        common={},
    )
    return Entrant(search=search, scheduler=Asha(rungs), callback=Recorder(journal, ()))


def _stock(surrogate: Surrogate, journal: Journal, seed: int, budget: float) -> Entrant:
    search = OptunaSearch(surrogate.space(), metric="L", mode="min", seed=seed)
    return Entrant(search=search, scheduler=stock_asha(LADDER))


def _random(surrogate: Surrogate, journal: Journal, seed: int, budget: float) -> Entrant:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    search = OptunaSearch(surrogate.space(), metric="L", mode="min", sampler=sampler)
    return Entrant(search=search, scheduler=FIFOScheduler())


METHODS: Mapping[str, Callable[[Surrogate, Journal, int, float], Entrant]] = {
    "ours": _ours,
    "stock ASHA + OptunaSearch": _stock,
    "random search": _random,
}


def regrets(
    method: str, function: str, kind: str, seed: int, budgets: tuple[float, ...]
) -> list[float]:
    """Simple regret of one study's incumbent after each of `budgets`, in full evaluations.

    Args:
        method: of `METHODS`.
        function: of `DIMENSIONS`.
        kind: of `KINDS`.
        seed: of the sampler.
        budgets: ascending; the study is planned for the last one.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    surrogate = Surrogate(function, kind)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder), "bench") as journal:
        entrant = METHODS[method](surrogate, journal, seed, budgets[-1])
        played = play(entrant, LADDER, surrogate.evaluate, slots=SLOTS, budget=budgets[-1])
        if isinstance(entrant.callback, Recorder) and entrant.callback.error is not None:
            raise entrant.callback.error
    return [_regret(surrogate, [p for p in played if p.cost <= spent]) for spent in budgets]


def _regret(surrogate: Surrogate, played: list[Scored]) -> float:
    best = incumbent(played)
    return float("nan") if best is None else surrogate.regret(best.config)
