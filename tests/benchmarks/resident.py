"""A trial's process, for its memory: `python resident.py CONTEXT ITERATIONS` prints JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from trainables.configs import ReptileConfig
from trainables.memory import keep_freed_memory
from trainables.pipeline import StudyContext
from trainables.reptile_trial import ReptileTrial
from trainables.trainable import TrialTrainable  # what Ray's process imports


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The most that this process ever had resident; `getrusage` counts its parent's, too."""
    return _status("VmHWM")


def anonymous_bytes() -> int:
    """What this process allocated and has resident: without files, of which it maps the pictures
    page by page as tasks draw them."""
    return _status("RssAnon")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    return value * 1024


def own_bytes(folder: str) -> int:
    """Of the files below a folder that are mapped: what other processes do not share."""
    total, within = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            within = folder in line
        elif within and words[0] in ("Private_Dirty:", "Anonymous:"):
            total += int(words[1]) * 1024
    return total


def measured(context: dict[str, Any], iterations: int) -> dict[str, float]:
    """Bytes: growth of what is allocated over the last nine tenths of the iterations of a small
    net, the peak after one iteration of the largest of width 16, and the pictures' part that is not
    shared."""
    assert TrialTrainable
    torch.set_num_threads(1)
    keep_freed_memory()
    config = ReptileConfig(architecture="dense", meta_batch=1, inner_steps=5, train_shots=4)
    trial = ReptileTrial(asdict(config), StudyContext(**context), 0)
    each = trial.least_flops
    trial.train(each * iterations / 10)
    before = anonymous_bytes()
    trial.train(each * iterations)
    growth = anonymous_bytes() - before
    large = replace(config, architecture="dcgan", meta_batch=4)
    ReptileTrial(asdict(large), StudyContext(**context), 0).train(1.0)
    return {
        "growth": growth,
        "peak": peak_bytes(),
        "private": own_bytes(context["image_set"]),
    }


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]), int(sys.argv[2]))))
