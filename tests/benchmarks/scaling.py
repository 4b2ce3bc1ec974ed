"""A study of thousands of instant trials on many slots, for what the driver makes of it.

Everything of ours that decides and writes is real, on the real search space: searcher, sampler,
ASHA, journal, MLflow. What is left out is Ray's own controller, and training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from simulation import Entrant, Ladder

from tuner.tracking import Tracker

TRIALS, SLOTS = 10_000, 64
LADDER = Ladder(steps=(1, 3, 9), costs=(1 / 9, 3 / 9, 1.0))
EPISODES = 5
NOISE = 0.1
LOOKS = (100, 300, 1000, 3000, 10_000)  # trials begun


@dataclass(slots=True)
class Spent:
    """Seconds of CPU, by part of the driver."""

    asking: float = 0.0
    deciding: float = 0.0
    writing: float = 0.0
    tracking: float = 0.0


@contextmanager
def _spent_on(spent: Spent, part: str) -> Iterator[None]:
    began = time.thread_time()
    yield
    setattr(spent, part, getattr(spent, part) + time.thread_time() - began)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """At a study that grows.

    Attributes:
        trials: begun so far.
        results: since the look before.
        spent: since the look before.
        resident: memory of the driver's process, bytes.
        journal: its file, bytes.
    """

    trials: int
    results: int
    spent: Spent
    resident: int
    journal: int


class Driver(tune.Callback):
    """A study's parts, which note what they take; searcher, scheduler and callback in one."""

    def __init__(self, parts: Entrant, tracker: Tracker | None, checkpoint: Path) -> None:
        self._parts, self._tracker, self._checkpoint = parts, tracker, checkpoint
        self.spent, self.begun, self.results = Spent(), 0, 0
        self.looked: Callable[[], None] = lambda: None

    def suggest(self, trial_id: str) -> Any:
        with _spent_on(self.spent, "asking"):
            config = self._parts.search.suggest(trial_id)
        if isinstance(config, dict) and config["part"] == 1:
            self.begun += 1
            if self.begun in LOOKS:
                self._catch_up()
                self.looked()
        return config

    def _catch_up(self) -> None:
        """Wait for MLflow's thread: in a study whose trials take minutes it is never behind."""
        if self._tracker is None:
            return
        began, own = time.process_time(), time.thread_time()
        while self._tracker._writer._open:
            time.sleep(0.01)
        self.spent.tracking += (time.process_time() - began) - (time.thread_time() - own)

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        self._parts.scheduler.on_trial_add(controller, trial)
        trial.checkpoint.path = str(self._checkpoint)

    def on_trial_result(self, *call: Any) -> Any:
        """Of the scheduler with three arguments, of the searcher with two, else of the callback."""
        if len(call) == 3:
            with _spent_on(self.spent, "deciding"):
                return self._parts.scheduler.on_trial_result(*call)
        if len(call) == 2:
            return self._parts.search.on_trial_result(*call)
        self.results += 1
        with _spent_on(self.spent, "writing"):
            return self._parts.callback.on_trial_result(*call)

    def on_trial_save(self, *call: Any) -> None:
        with _spent_on(self.spent, "writing"):
            self._parts.callback.on_trial_save(*call)
        if self.results % SLOTS == 0:
            self._catch_up()

    def on_trial_complete(self, *call: Any) -> None:
        part: Any = self._parts.search if isinstance(call[0], str) else self._parts.callback
        if len(call) == 3 and not isinstance(call[0], int):
            part = self._parts.scheduler
        with _spent_on(self.spent, "writing"):
            part.on_trial_complete(*call)


def scores_of(config: Mapping[str, Any], rung: int) -> Sequence[float]:
    """Instant ones, which depend on the learning rate; by episode."""
    rate = abs(np.log10(config["trial_config"]["inner_lr"]) + 3)
    rng = np.random.default_rng((config["trial_number"], rung))
    return list(rate + 1 / (rung + 1) + NOISE * rng.standard_normal(EPISODES))
