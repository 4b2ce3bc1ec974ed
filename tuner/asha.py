"""The Ray adapter of `rungs.Rungs`: it decides nothing."""

from __future__ import annotations

import math
import time
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trainables.trainable import COMPLETE, FAIL, RUNG
from tuner.rungs import Rungs

LONGEST_START_SECONDS = 120.0  # of a process that is still waited for


class Asha(FIFOScheduler):
    """Asks `Rungs` at every rung that is not a trial's last.

    Ray asks no scheduler about a result that ends its trial, so failed trials, trials cut by the
    clock and the top rung never come here. Every result is a rung, so none can be skipped.

    A paused trial is over for Ray, which keeps no state of it; `search.JournalSearch` hands it out
    again from its checkpoint when it is promoted.
    """

    def __init__(self, rungs: Rungs) -> None:
        """Decide by `rungs`, which the caller may have filled from the journal."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.rungs = rungs
        self._starting: dict[str, float] = {}  # since when, by Ray's id of the trial

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles a scheduler beside the study for restores that never happen."""
        return {}

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first trial that waits for a slot.

        Ray's own choice is the first that does not run: where many processes start at once that is
        one whose own process is on its way. It would get the process that has just fallen free, and
        its own be ended, time and again. One whose process does not come at all counts as waiting
        after a while.
        """
        pending = [t for t in tune_controller.get_live_trials() if t.status == Trial.PENDING]
        now = time.monotonic()
        starting = [t for t in pending if _has_slot(tune_controller, t)]
        self._starting = {t.trial_id: self._starting.get(t.trial_id, now) for t in starting}
        long_ago = now - LONGEST_START_SECONDS
        waiting = [t for t in pending if self._starting.get(t.trial_id, -math.inf) < long_ago]
        is_free = tune_controller._actor_cache.has_cached_object

        def rank(trial: Any) -> tuple[bool, int]:
            """First those for which a process of their kind is free."""
            return not is_free(trial.placement_group_factory), trial.config["trial_number"]

        return min(waiting, key=rank, default=None)

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
            result["episodes"],
            reference=trial.config["reference"],
        )
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:  # noqa: ARG002
        """Take in the last rung's scores, which others are compared with, or forget a failure."""
        if result["outcome"] == COMPLETE:
            number, reference = trial.config["trial_number"], trial.config["reference"]
            rung = int(result["metrics/rung"])
            self.rungs.restore(rung, number, result["episodes"], paused=False, reference=reference)
        elif result["outcome"] == FAIL:
            self.rungs.forget(trial.config["trial_number"])


def _has_slot(tune_controller: Any, trial: Any) -> bool:
    """Whether a process was begun for a trial that does not run yet."""
    actor = tune_controller._trial_to_actor.get(trial)
    return actor is not None and tune_controller._actor_manager.is_actor_started(actor)
