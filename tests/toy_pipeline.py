"""A pipeline without learning: an instant, known curve that can diverge, crash, run out of memory
or dawdle. For tests of everything around a trial."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor

from trainables.pipeline import Diverged, Pipeline, Report, StudyContext
from trainables.trainable import TrialTrainable

OPTIMUM = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig:
    """What a toy trial does.

    Attributes:
        x: L at rung k is |x - OPTIMUM| + 1 / (k + 1).
        trouble: what happens on the way to rung `trouble_at`: "", "diverge", "nan", "memory",
            "raise", "die" (the process ends, the first time only), "crowd" (the memory of its GPU
            ends, the first time only) or "large" (at once).
        seconds: of every step.
        log: file that gets a line "<seed> <rung>" for every step, or "".
    """

    x: float = 0.5
    trouble: str = ""
    trouble_at: int = 0
    seconds: float = 0.0
    log: str = ""


def toy_space(trial: optuna.Trial, base: ToyConfig) -> ToyConfig:
    """One number."""
    return ToyConfig(
        x=trial.suggest_float("x", 0.0, 1.0),
        trouble=base.trouble,
        trouble_at=base.trouble_at,
        seconds=base.seconds,
        log=base.log,
    )


def toy_context(rungs: int = 3) -> dict[str, Any]:
    """A StudyContext as plain data, whose rungs are 1, 2, ... GFLOPs."""
    return {
        "image_set": "",
        "scorer": "",
        "split": {},
        "rungs": tuple(1e9 * (k + 1) for k in range(rungs)),
        "episodes": (1,) * rungs,
        "samples": 1,
        "device": "cpu",
        "store": "",
    }


class ToyPipeline:
    """A trial whose whole state is the number of rungs done."""

    def __init__(self, config: Mapping[str, Any], context: StudyContext, seed: int) -> None:
        """Nothing is built."""
        self.config, self.context, self.seed = ToyConfig(**config), context, seed
        self.done = 0

    def step(self, should_stop: Callable[[], bool]) -> Report:
        """One rung further, or half of one if told to stop."""
        end = time.monotonic() + self.config.seconds
        while time.monotonic() < end and not should_stop():
            time.sleep(0.01)
        cut = should_stop()
        value = abs(self.config.x - OPTIMUM) + 1 / (self.done + 1)
        if self.config.trouble and self.done == self.config.trouble_at:
            value = self._trouble(value)
        if self.config.log:
            with Path(self.config.log).open("a", encoding="utf-8") as log:
                log.write(f"{self.seed} {self.done}\n")
        print(f"rung {self.done} is reached", flush=True)
        losses = [(self.done + 1.0, value, value)]
        reached = self.context.rungs[self.done] - (5e8 if cut else 0)
        self.done += 0 if cut else 1
        metrics = {
            "L": value,
            "rung": self.done - 1,
            "train_flops": reached,
            "complete": float(not cut),
        }
        grid = np.zeros((4, 4, 3), dtype=np.uint8)
        return Report(metrics=metrics, episodes=[value], losses=losses, grid=grid)

    def _trouble(self, value: float) -> float:
        kind = self.config.trouble
        if kind == "diverge":
            raise Diverged("loss went through the roof")
        if kind == "memory":
            raise MemoryError
        if kind == "raise":
            raise KeyError("a bug")
        if kind == "die" and self._first_time():
            os._exit(1)
        if kind == "crowd" and self._first_time():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return math.nan if kind == "nan" else value

    def _first_time(self) -> bool:
        mark = Path(f"{self.config.log}.{self.seed}.{self.config.trouble}")
        there = mark.exists()
        mark.touch()
        return not there

    @property
    def least_flops(self) -> float:
        """Nothing is too large, unless it is to make trouble."""
        return 1e12 if self.config.trouble == "large" else 1.0

    def train(self, flops: float) -> None:
        """Every toy model is the same."""

    def state_dict(self) -> dict[str, Any]:
        """Rungs done."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rungs done."""
        self.done = state["done"]

    def weights(self) -> dict[str, Tensor]:
        """One number."""
        return {"done": torch.tensor([float(self.done)])}

    @staticmethod
    def source_seconds(
        config: Mapping[str, Any], classes: int, device: str, seconds: float
    ) -> float:
        """Nothing is trained before."""
        return 0.0


class ToyTrainable(TrialTrainable):
    """Knows the toy alone."""

    @staticmethod
    def pipeline_class(name: str) -> type[Pipeline]:
        """The toy."""
        assert name == "toy", name
        return ToyPipeline
