"""What a user asks for."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.added_data import ADDED
from trainables.datasets import PUBLISHED
from tuner.events import SILENT, Events

SIZE = 32  # pixels a side, unless asked for otherwise
# Of studies and registered models; it becomes a folder, and part of what databases are asked.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
RULE = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100"  # for it


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
    plugins: tuple[Path, ...] = ()  # files, as they were named
    bucket: str | None = None  # address that `storage` is a mirror of
    quiet: bool = False
    on_finish: tuple[str, ...] = ()  # words of a command
    events: Events = SILENT  # for `--json`


def is_study_name(text: str) -> bool:
    """Whether a study may be called so."""
    return re.fullmatch(NAME, text) is not None


def is_name(data: Path) -> bool:
    """Whether `--data` names a published set or a plugin's, and no folder."""
    return str(data) in (*PUBLISHED, *ADDED) and not os.path.isdir(data)
