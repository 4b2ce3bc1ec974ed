"""Asynchronous successive halving whose rungs can be rebuilt from the journal.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv:1810.05934.
"""

from __future__ import annotations

import math
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trainables.trainable import RUNG


class Rungs:
    """Who reached which rung with which value, and the rule that lets a trial go on.

    A trial goes on from a rung if its value is among the best max(1, floor(n / eta)) of the n
    values there, its own included. So the first trial passes, and until `eta` have come only the
    best so far does. An equal value that came earlier ranks better: it costs nothing more to keep.
    """

    def __init__(self, count: int, *, eta: int) -> None:
        """Empty rungs.

        Args:
            count: number of rungs, at least 1; nothing is decided at the last one.
            eta: one of `eta` trials goes on, at least 2.
        """
        if count < 1 or eta < 2:
            raise ValueError(f"At least 1 rung and eta 2 are needed, got {count} and {eta}.")
        self.eta = eta
        self._values: tuple[dict[int, float], ...] = tuple({} for _ in range(count))
        self._stopped: tuple[set[int], ...] = tuple(set() for _ in range(count))

    def record(self, rung: int, trial: int, value: float, *, reference: bool = False) -> bool:
        """Enter a trial's value (lower is better) and say whether it goes on.

        A reference always goes on, if its value is finite.

        A trial has one value a rung: entering it again, after a crash, replaces the first. A value
        that is not finite never enters, and its trial stops.
        """
        if not math.isfinite(value):
            return False
        others = self._values[rung]
        others.pop(trial, None)
        rank = 1 + sum(other <= value for other in others.values())
        goes_on = reference or rank <= max(1, (len(others) + 1) // self.eta)
        self.restore(rung, trial, value, stopped=not goes_on)
        return goes_on

    def restore(self, rung: int, trial: int, value: float, *, stopped: bool) -> None:
        """Enter a value whose decision was taken, and journalled, before."""
        self._values[rung][trial] = value
        (self._stopped[rung].add if stopped else self._stopped[rung].discard)(trial)

    @property
    def entered(self) -> tuple[int, ...]:
        """Number of trials that reached each rung."""
        return tuple(len(values) for values in self._values)

    @property
    def stopped(self) -> tuple[int, ...]:
        """Number of trials that were stopped at each rung."""
        return tuple(len(trials) for trials in self._stopped)


class Asha(FIFOScheduler):
    """Asks `Rungs` at every rung that is not a trial's last.

    Ray asks no scheduler about a result that ends its trial, so failed trials, trials cut by the
    clock and the top rung never come here. Every result is a rung, so none can be skipped.
    """

    def __init__(self, rungs: Rungs) -> None:
        """Decide by `rungs`, which the caller may have filled from the journal."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.rungs = rungs

    def on_trial_result(
        self,
        tune_controller: Any,  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
    ) -> str:
        """CONTINUE or STOP; `result` is flat, its values under "metrics/<name>"."""
        assert result["outcome"] == RUNG, result["outcome"]
        goes_on = self.rungs.record(
            int(result["metrics/rung"]),
            trial.config["trial_number"],
            result["metrics/L"],
            reference=trial.config["reference"],
        )
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)
