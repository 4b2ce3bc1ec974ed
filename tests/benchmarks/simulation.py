"""Studies played without training: searchers and schedulers meet as in Tune, time is simulated."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from trainables.trainable import COMPLETE, RUNG
from tuner.asha import Asha
from tuner.rungs import Rungs

ETA = 3

Evaluate = Callable[[Mapping[str, Any], int], Sequence[float]]  # (Ray config, rung) -> episodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The rungs of a study.

    Attributes:
        steps: training at each rung, as Ray counts it (`training_iteration`); ascending.
        costs: of training to each rung from nothing, in full trials; ascending, the last is 1.
    """

    steps: tuple[int, ...]
    costs: tuple[float, ...]

    def __len__(self) -> int:
        """Number of rungs."""
        return len(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """What decides in a study: Tune's searcher and scheduler, and a callback if they need one."""

    search: Searcher
    scheduler: TrialScheduler
    callback: tune.Callback = field(default_factory=tune.Callback)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A trial's score at a rung, and what all trials together had cost by then."""

    config: Mapping[str, Any]
    rung: int
    score: float
    cost: float


def play(
    entrant: Entrant,
    ladder: Ladder,
    evaluate: Evaluate,
    *,
    slots: int = 1,
    budget: float = math.inf,
) -> list[Scored]:
    """Play one study, in the order of calls of Tune's controller.

    Args:
        entrant: fresh; its searcher's configs may say how many rungs a trial has behind it
            (`rungs_done`).
        ladder: where trials are scored.
        evaluate: scores by episode, lower is better.
        slots: trials side by side; one that falls free is filled at once if the searcher can.
        budget: of all slots together, in full trials; what has not reached its rung by then never
            does.
    Returns:
        All scores, in order of time.
    """
    played: list[Scored] = []
    running: list[tuple[float, int, SimpleNamespace]] = []  # (time of its next rung, order, trial)
    order, now = itertools.count(), 0.0

    def run_on(trial: SimpleNamespace) -> None:
        before = ladder.costs[trial.rung - 1] if trial.rung else 0.0
        done = now + ladder.costs[trial.rung] - before
        heapq.heappush(running, (done, next(order), trial))

    while True:
        while len(running) < slots and (trial := _begun(entrant, next(order))) is not None:
            run_on(trial)
        if not running:
            return played
        now, _, trial = heapq.heappop(running)
        if now * slots > budget:
            return played
        scores = list(map(float, evaluate(trial.config, trial.rung)))
        mean = sum(scores) / len(scores)
        played.append(Scored(config=trial.config, rung=trial.rung, score=mean, cost=now * slots))
        if _goes_on(entrant, trial, _result(ladder, trial.rung, mean, scores)):
            trial.rung += 1
            run_on(trial)


def _begun(entrant: Entrant, order: int) -> SimpleNamespace | None:
    name = f"t{order}"
    config = entrant.search.suggest(name)
    if config is None or config == Searcher.FINISHED:
        return None
    trial = SimpleNamespace(
        trial_id=name,
        config=config,
        rung=config.get("rungs_done", 0),
        checkpoint=SimpleNamespace(filesystem=SimpleNamespace(type_name="local"), path="/none"),
        metric_analysis={},
        metric_n_steps={},
    )
    entrant.scheduler.on_trial_add(None, trial)
    return trial


def _result(ladder: Ladder, rung: int, mean: float, scores: list[float]) -> dict[str, Any]:
    """What a trial reports: for Ray's own parts, and for ours."""
    last = rung == len(ladder) - 1
    steps = ladder.steps[rung]
    return {
        "training_iteration": steps,
        "L": mean,
        "done": last,
        "outcome": COMPLETE if last else RUNG,
        "metrics": {"L": mean, "rung": rung, "complete": 1.0, "train_flops": steps * 1e9},
        "metrics/rung": rung,
        "episodes": scores,
        "losses": [],
        "time_this_iter_s": 0.0,
    }


def _goes_on(entrant: Entrant, trial: SimpleNamespace, result: dict[str, Any]) -> bool:
    search, scheduler, callback = entrant.search, entrant.scheduler, entrant.callback
    decision = TrialScheduler.STOP
    if not result["done"]:
        decision = scheduler.on_trial_result(None, trial, result)
    stops = decision == TrialScheduler.STOP
    if stops:
        result["done"] = True
    else:
        search.on_trial_result(trial.trial_id, result)
    callback.on_trial_result(0, [], trial, result)
    callback.on_trial_save(0, [], trial)
    if stops:
        scheduler.on_trial_complete(None, trial, result)
        search.on_trial_complete(trial.trial_id, result)
        callback.on_trial_complete(0, [], trial)
    return not stops


def incumbent(played: Sequence[Scored]) -> Scored | None:
    """What a study would return: the lowest score among trials that came as far as any."""
    furthest = max((scored.rung for scored in played), default=0)
    there = [scored for scored in played if scored.rung == furthest]
    return min(there, key=lambda scored: scored.score, default=None)


class Pool(Searcher):
    """Hands out given trials, in order; before them paused ones that `rungs` promotes.

    It stands for `tuner.search.JournalSearch` where there is nothing to sample and no need to
    write thousands of journals.
    """

    def __init__(self, trials: int, rungs: Rungs | None = None) -> None:
        """Trials 0 to `trials` - 1; without `rungs` none is promoted."""
        super().__init__()
        self._left, self._rungs = list(range(trials)), rungs
        self._reached: dict[int, int] = {}  # trial -> rungs behind it
        self._live: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's config."""
        number = self._next()
        if number is None:
            return None
        self._live[trial_id] = number
        done = self._reached.get(number, 0)
        return {"trial_number": number, "reference": False, "rungs_done": done}

    def _next(self) -> int | None:
        if self._rungs is not None:
            idle = not self._left and not self._live
            promoted = self._rungs.promotable(no_more=idle)
            if promoted is not None:
                self._rungs.promote(promoted)
                return promoted
        return self._left.pop(0) if self._left else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing is learnt."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A slot falls free."""
        assert result is not None
        self._reached[self._live.pop(trial_id)] = int(result["metrics/rung"]) + 1


def our_pool(trials: int, ladder: Ladder) -> Entrant:
    """Our forecast, pausing and promoting, on given trials."""
    rungs = Rungs(len(ladder), planned=trials)
    return Entrant(search=Pool(trials, rungs), scheduler=Asha(rungs))


def stock_pool(trials: int, ladder: Ladder) -> Entrant:
    """Ray's ASHA on given trials."""
    return Entrant(search=Pool(trials), scheduler=stock_asha(ladder))


def full_pool(trials: int, ladder: Ladder) -> Entrant:
    """Every trial to the end, in order: random search, as the order is."""
    return Entrant(search=Pool(trials), scheduler=FIFOScheduler())


def stock_asha(ladder: Ladder) -> ASHAScheduler:
    """Ray's ASHA with our rungs."""
    first, last = ladder.steps[0], ladder.steps[-1]
    return ASHAScheduler(
        metric="L", mode="min", max_t=last, grace_period=first, reduction_factor=ETA
    )
