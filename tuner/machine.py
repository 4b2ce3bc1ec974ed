"""What this machine has, and how fast it trains: measured for every study, kept for dry runs."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import joblib

from trainables.datasets import user_cache
from trainables.durable import write_whole
from trainables.pipeline import load_pipeline
from tuner.journal import installed
from tuner.plugins import records

CALIBRATION_SECONDS = 2.0
_GPU_DRIVERS = ("nvidia*", "dxg", "kfd")  # below /dev: NVIDIA's, its in WSL, AMD's


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained, so that its speed can be told from others.

    Attributes:
        pipeline: its name in `PIPELINES`.
        config: the experiment's base, as plain data.
        classes: of a pre-training.
        device: torch device.
        threads: of one trial.
        fast: whether a GPU computes as `trainables.cuda_step` has it.
        beside: trials that share a card, all of them counted.
    """

    pipeline: str
    config: Mapping[str, Any]
    classes: int
    device: str
    threads: int
    fast: bool = False
    beside: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one trial trains that runs alone, or with those that share its card.

    Attributes:
        flops_per_second: of training.
        source_seconds: of a pre-training; 0 if every trial trains its model from nothing.
        when: Unix seconds at which it was measured.
        earlier: whether that was another command.
    """

    flops_per_second: float
    source_seconds: float
    when: float
    earlier: bool = False

    @property
    def told(self) -> str:
        """Where it is from, for people."""
        if not self.earlier:
            return "measured now"
        return f"measured before, on {datetime.fromtimestamp(self.when):%Y-%m-%d at %H:%M}"


def cpus() -> float:
    """CPU cores that this process may use; a container's quota counts."""
    return float(joblib.cpu_count())


def gpus() -> float:
    """GPUs that torch can use; it is not imported where the system has no driver of any."""
    if sys.platform == "linux" and not any(any(Path("/dev").glob(d)) for d in _GPU_DRIVERS):
        return 0.0
    import torch

    return float(torch.cuda.device_count())


def measured_speed(training: Training) -> Speed:
    """Measure it for some seconds, and keep it for `kept_speed`."""
    import torch

    from trainables.memory import keep_freed_memory

    torch.set_num_threads(training.threads)
    keep_freed_memory()
    pipeline = load_pipeline(training.pipeline)
    config, device = training.config, training.device
    speed = Speed(
        flops_per_second=_flops_per_second(training),
        source_seconds=pipeline.source_seconds(
            config, training.classes, device, CALIBRATION_SECONDS
        ),
        when=time.time(),
    )
    content = {name: value for name, value in asdict(speed).items() if name != "earlier"}
    keep_figures(_place(training), content)
    return speed


def shared_speed(training: Training) -> Speed:
    """The kept one, if any, else measured: beside others that share a card, that takes a minute,
    and a card is less at the mercy of what else runs than cores are."""
    return kept_speed(training) or measured_speed(training)


def _flops_per_second(training: Training) -> float:
    if training.beside > 1:
        from tuner.cards import speed_beside

        return speed_beside(training)
    pipeline, config = load_pipeline(training.pipeline), training.config
    return pipeline.training_speed(config, training.device, CALIBRATION_SECONDS, fast=training.fast)


def kept_speed(training: Training) -> Speed | None:
    """The last one that was measured on this machine with these versions, if any."""
    try:
        kept = json.loads(_place(training).read_text(encoding="utf-8"))
        return Speed(
            flops_per_second=float(kept["flops_per_second"]),
            source_seconds=float(kept["source_seconds"]),
            when=float(kept["when"]),
            earlier=True,
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _place(training: Training) -> Path:
    """The file of a speed, named after all that it depends on and that does not change by itself;
    what else the machine does is left out."""
    key: dict[str, Any] = {
        "training": asdict(training),
        "machine": [platform.node(), platform.machine(), processor(), cpus()],
        "card": card_name(training.device),
        "versions": installed(),
    }
    if used := records():
        key["plugins"] = used
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return user_cache() / "speeds" / f"{training.pipeline}-{digest[:16]}.json"


def processor() -> str:
    """Model of the CPU, where Linux tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def card_name(device: str) -> str:
    """Model of the GPU that a torch device is of; empty for CPUs, and where there is none."""
    if device == "cpu":
        return ""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else ""


def keep_figures(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures of this machine for other commands, which can do without them."""
    with suppress(OSError):
        write_whole(path, json.dumps(content).encode())
