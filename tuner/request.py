"""What a user asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.datasets import PUBLISHED

SIZE = 32  # pixels a side, unless asked for otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asked for; None leaves a choice to the plan. See `launch --help`."""

    experiment: str
    trials: int | None
    budget_seconds: float | None
    scale: Literal["auto", "cpu", "paper"]
    seed: int
    data_root: Path | None
    data: Path | None
    size: int
    target: tuple[str, ...] | None
    base: tuple[str, ...] | None
    storage: Path
    study: str | None
    tracking_uri: str | None
    address: str | None
    cpus_per_trial: float | None
    gpus_per_trial: float | None
    dry_run: bool
    resume: bool
    timings: bool = False
    sampler: str | None = None
    objectives: tuple[str, ...] | None = None
    points: tuple[str, ...] = ()
    warm_start: tuple[str, ...] = ()
    fast_gpu: bool = True
    detach: bool = False


def is_name(data: Path) -> bool:
    """Whether `--data` names a published set, and no folder."""
    return str(data) in PUBLISHED and not os.path.isdir(data)
