"""Runs one study of toys through Ray: `python toy_study.py '<json>'`, for tests that kill it.

Keys: storage, study, trials, slots, seconds (of a step), and optionally minutes, troubles (known
points that make them), gpus (simulated cards, of which a trial gets the share that its slot is),
address (of a cluster, on which there are as many slots as cores), tracked (True for a branching
space and MLflow in `storage`) and reserve (bytes of the disk that the study must not touch).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from toy_pipeline import ToyConfig, ToyTrainable, toy_context, toy_space

from cluster.resources import Card, share_of_card
from cluster.session import dead_processes, session
from tuner import breakdown
from tuner.capacity import Capacity
from tuner.exit_codes import BROKEN_DOWN
from tuner.journal import Journal, Space
from tuner.known_points import KnownPoint
from tuner.newcomers import Newcomers
from tuner.premises import Question
from tuner.result import TrackingPlace
from tuner.study import StudyRun, run_study
from tuner.study_tracking import replay
from tuner.tracking import Tracker


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
    card: Card | None = None


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


def branching_space(trial: Any, base: ToyConfig) -> ToyConfig:
    """Three parameters, one of them for some trials only: asking writes them one by one."""
    x = trial.suggest_float("low", 0.0, 0.5)
    if trial.suggest_categorical("where", ["low", "high"]) == "high":
        x += trial.suggest_float("more", 0.0, 0.5)
    return replace(base, x=x)


BRANCHING = (
    KnownPoint(label="reference", params={"low": 0.1, "where": "low"}, reference=True),
    KnownPoint(label="other", params={"low": 0.1}, overrides={"x": 0.9}),
    KnownPoint(label="bad", params={"low": 0.2}, overrides={"trouble": "diverge"}),
)


@contextmanager
def tracking(journal: Journal, storage: Path, plan: ToyPlan) -> Iterator[Tracker]:
    """MLflow as the conductor has it."""
    with Tracker(
        None,
        storage=storage,
        experiment="toy",
        study=journal.folder.name,
        study_id=journal.folder.name,
        plan={"trials": plan.trials},
        tags={},
        remember=lambda number, run_id: journal.set_attr(f"run/{number}", run_id),
        report=print,
        deliver="the same again",
        place=(known := journal.attr("mlflow")) and TrackingPlace(**known),
    ) as tracker:
        journal.set_attr("mlflow", asdict(tracker.place))
        replay(journal, tracker)
        yield tracker


def stopped(dead: Sequence[str]) -> int:
    """What the conductor says where Ray has died -> exit code."""
    print(f"Stopped: {breakdown.ray_died(dead)}", flush=True)
    return BROKEN_DOWN


TROUBLES = ("diverge", "nan", "memory", "raise", "die")


def main(options: dict[str, Any]) -> StudyRun:
    """Run or resume the study that `options` describe."""
    storage = Path(options["storage"])
    storage.mkdir(parents=True, exist_ok=True)
    log = str(storage / "steps.log")
    base = ToyConfig(seconds=options["seconds"], log=log)
    tracked = options.get("tracked", False)
    breakdown.RESERVE_BYTES = options.get("reserve", breakdown.RESERVE_BYTES)
    points = BRANCHING if tracked else [KnownPoint(label="best", params={"x": 0.3})]
    points = [*points] + [
        KnownPoint(label=kind, params={"x": 0.3}, overrides={"trouble": kind})
        for kind in options.get("troubles", [])
    ]
    clock = Clock()
    slots, gpus = options["slots"], options.get("gpus", 0)
    plan = ToyPlan(
        most_trials=options["trials"],
        trials=options["trials"],
        slots=slots,
        gpus_per_trial=share_of_card(slots // gpus) if gpus else 0,
    )
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(storage, options["study"]))
        tracker = [stack.enter_context(tracking(journal, storage, plan))] if tracked else []
        address = options.get("address")
        here = {"cpus": slots, "gpus": gpus} if address is None else {}
        ray = stack.enter_context(session(address, **here, bereaved=stopped))
        clock._say("ray is up")
        capacity, newcomers = None, None
        if address is not None:
            said = partial(clock._say, "slots")
            known = [n for n in ray.nodes if n.cpus >= options.get("known_from_cpus", 0)]
            newcomers = Newcomers(known, partial(Question, storage=storage), clock._say)
            stack.callback(newcomers.close)
            capacity = Capacity(
                1, 0, grows=False, changed=lambda _nodes, slots: said(slots), fit=newcomers.fit
            )
        try:
            run = run_study(
                plan,
                ToyExperiment(
                    base=base, known_points=points, space=branching_space if tracked else toy_space
                ),
                journal=journal,
                context=toy_context(),
                deadline=time.time() + 60 * options.get("minutes", 30),
                observers=[*tracker, clock],
                trainable=ToyTrainable,
                slots=capacity,
                newcomers=newcomers,
            )
        except Exception:
            if dead := dead_processes():
                sys.exit(stopped(dead))
            raise
    clock._say("left", f"inside Tune {run.seconds:.2f} s", f"ticks {clock.ticks}")
    for record in run.records:
        print(record.number, record.state, record.reason, [r.decision for r in record.rungs])
    print("interrupted" if run.interrupted else "finished", run.best and run.best.number)
    return run


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
