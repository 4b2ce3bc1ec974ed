"""Runs one study of toys through Ray: `python toy_study.py '<json>'`, for tests that kill it.

Keys: storage, study, trials, slots, seconds (of a step), and optionally rungs, minutes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toy_pipeline import ToyConfig, ToyTrainable, toy_context, toy_space

from cluster.session import session
from tuner.journal import Journal, Space
from tuner.known_points import KnownPoint
from tuner.study import StudyRun, run_study


@dataclass(frozen=True, kw_only=True)
class ToyPlan:
    """A StudyPlan."""

    most_trials: int
    trials: int
    slots: int = 2
    rungs: tuple[float, ...] = toy_context()["rungs"]
    eta: int = 3
    cpus_per_trial: float = 1
    gpus_per_trial: float = 0
    threads: int = 1
    sampler: str = "tpe"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ToyExperiment:
    """A StudyExperiment."""

    base: ToyConfig
    known_points: Sequence[KnownPoint] = ()
    pipeline: str = "toy"
    space: Space = toy_space


class Clock:
    """An observer that prints when things happened."""

    def __init__(self) -> None:
        """Start at 0."""
        self.start = time.monotonic()
        self.ticks = 0

    def _say(self, *what: Any) -> None:
        print(f"{time.monotonic() - self.start:.2f}", *what, flush=True)

    def trial_started(
        self, number: int, label: str, config: Mapping[str, Any], params: Mapping[str, Any]
    ) -> None:
        """Print it."""
        self._say("started", number, label)

    def rung_reached(
        self,
        number: int,
        rung: int,
        metrics: Mapping[str, float],
        losses: Sequence[Any],
        checkpoint: Path,
        decision: str,
    ) -> None:
        """Print it."""
        assert (checkpoint / "state.pt").is_file()
        self._say("rung", number, rung, decision)

    def trial_promoted(self, number: int) -> None:
        """Print it."""
        self._say("promoted", number)

    def trial_ended(self, number: int, state: str, reason: str) -> None:
        """Print it, and be a bad observer."""
        self._say("ended", number, state, reason)
        raise RuntimeError("an observer's error must change nothing")

    def tick(self) -> None:
        """Count."""
        self.ticks += 1


TROUBLES = ("diverge", "nan", "memory", "raise", "die")


def main(options: dict[str, Any]) -> StudyRun:
    """Run or resume the study that `options` describe."""
    storage = Path(options["storage"])
    storage.mkdir(parents=True, exist_ok=True)
    log = str(storage / "steps.log")
    base = ToyConfig(seconds=options["seconds"], log=log)
    points = [KnownPoint(label="best", params={"x": 0.3})] + [
        KnownPoint(label=kind, params={"x": 0.3}, overrides={"trouble": kind})
        for kind in options.get("troubles", [])
    ]
    clock = Clock()
    with Journal(storage, options["study"]) as journal, session(None, cpus=options["slots"]):
        clock._say("ray is up")
        run = run_study(
            ToyPlan(
                most_trials=options["trials"], trials=options["trials"], slots=options["slots"]
            ),
            ToyExperiment(base=base, known_points=points),
            journal=journal,
            context=toy_context(),
            deadline=time.time() + 60 * options.get("minutes", 30),
            observers=[clock],
            trainable=ToyTrainable,
        )
    clock._say("left", f"inside Tune {run.seconds:.2f} s", f"ticks {clock.ticks}")
    for record in run.records:
        print(record.number, record.state, record.reason, [r.decision for r in record.rungs])
    print("interrupted" if run.interrupted else "finished", run.best and run.best.number)
    return run


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
