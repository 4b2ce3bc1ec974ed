"""The command line on settings that train in a moment: `python quick_launch.py MOMENT OPTIONS`.

For tests of what is around a study. At the moment, unless it is "", the whole process group dies;
at "baselines" it computes for long, without asking Ray for anything.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tuner import background, ending, experiments, launch, machine, plan, preparation
from tuner.final_round import FinalRound
from tuner.result import StudyResult
from tuner.tracking import Tracker

NAME, TRANSFER = "reptile_omniglot", "cgan_fashion_mnist"
QUICK = {"architecture": "plane", "width": 8, "latent": 16, "inner_steps": 5, "adapt_steps": 20}
QUICK |= {"meta_batch": 1, "train_shots": 4}


def die(*_arguments: Any, **_more: Any) -> Any:
    """As by `kill -9`."""
    os.killpg(0, signal.SIGKILL)


def die_between_renames() -> None:
    """The old champion is put aside, and the new one not in its place yet."""
    rename = Path.rename

    def once(self: Path, target: Path) -> Path:
        return die() if self.name == "champion.new" else rename(self, target)

    Path.rename = once  # type: ignore[method-assign]


def compute(*_arguments: Any) -> None:
    """As scores of large classes do."""
    print("computing", flush=True)
    ends = time.monotonic() + 600
    while time.monotonic() < ends:
        pass


MOMENTS = {
    "": lambda: None,
    "champion": die_between_renames,
    "result": lambda: setattr(StudyResult, "write", die),
    "baselines": lambda: setattr(FinalRound, "_baselines", compute),
    "mlflow": lambda: setattr(Tracker, "study_ended", die),
}


def quick(scale: experiments.Scale) -> experiments.Experiment:
    """The experiment with the same first points, by name, and small nets."""
    found = build(scale)
    points = [replace(p, params={**p.params, **QUICK}) for p in found.known_points]
    return replace(found, known_points=points)


def quick_transfer(scale: experiments.Scale) -> experiments.Experiment:
    """The experiment with small nets that are hardly pre-trained."""
    found = build_transfer(scale)
    few = {"pretrain_steps": 4}
    reference, *others = found.known_points
    points = [replace(reference, overrides={**reference.overrides, **few}), *others]
    return replace(found, base=replace(found.base, width=8, **few), known_points=points)


build, build_transfer = experiments.EXPERIMENTS[NAME], experiments.EXPERIMENTS[TRANSFER]

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    machine.CALIBRATION_SECONDS = 0.2
    plan.FINISH_SECONDS = 3600.0  # a busy machine has time for a rematch, too
    preparation.prepare_scorer = partial(preparation.prepare_scorer, steps=20)
    ending.keep = lambda *_study: None  # no other study goes like these
    background.COMMAND = [sys.executable, __file__, sys.argv[1]]
    experiments.EXPERIMENTS |= {NAME: quick, TRANSFER: quick_transfer}
    MOMENTS[sys.argv[1]]()
    sys.exit(launch.main(sys.argv[2:]))
