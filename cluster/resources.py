"""How many trials fit side by side, and how many threads each may use: pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ROUNDING = 1e-9  # 1 / 0.1 must count as ten shares, whatever the last bit says


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What one machine or cluster holds at a time.

    Attributes:
        slots: trials that run side by side, at least 1.
        threads: threads of one trial, at least 1. More threads than a trial's CPUs run many times
            slower than one, because neighbouring trials then fight for the same cores.
    """

    slots: int
    threads: int


def pack(
    *, cpus: float, gpus: float = 0, cpus_per_trial: float = 1, gpus_per_trial: float = 0
) -> Packing:
    """Share out the CPUs and GPUs that exist among trials of one size.

    Args:
        cpus: CPU cores there are, at least 1.
        gpus: GPUs there are, at least 0.
        cpus_per_trial: cores of one trial, above 0; a fraction lets several trials share a core.
        gpus_per_trial: 0, a fraction of one card, or a whole number of cards.
    Raises:
        ValueError: a share that is not a positive number, or a trial that fits nowhere.
    """
    if not (math.isfinite(cpus_per_trial) and cpus_per_trial > 0):
        raise ValueError(f"CPUs per trial must be above 0, got {cpus_per_trial:g}.")
    if not (math.isfinite(gpus_per_trial) and gpus_per_trial >= 0):
        raise ValueError(f"GPUs per trial must be 0 or more, got {gpus_per_trial:g}.")
    if gpus_per_trial > 1 and gpus_per_trial != int(gpus_per_trial):
        raise ValueError(
            f"GPUs per trial above 1 must be a whole number of cards, got {gpus_per_trial:g}."
        )
    if cpus_per_trial > cpus:
        raise ValueError(
            f"A trial asks for {cpus_per_trial:g} CPUs and there are {cpus:g}: "
            "lower --cpus-per-trial."
        )
    if gpus_per_trial > gpus:
        raise ValueError(
            f"A trial asks for {gpus_per_trial:g} GPUs and there are {gpus:g}: "
            "lower --gpus-per-trial."
        )
    slots = math.floor(cpus / cpus_per_trial + _ROUNDING)
    if gpus_per_trial > 0:
        slots = min(slots, _gpu_slots(gpus, gpus_per_trial))
    return Packing(slots=slots, threads=max(1, math.floor(cpus_per_trial)))


def _gpu_slots(gpus: float, gpus_per_trial: float) -> int:
    """Shares of cards; a trial's fraction never straddles two cards."""
    if gpus_per_trial >= 1:
        return math.floor(gpus / gpus_per_trial + _ROUNDING)
    return math.floor(gpus) * math.floor(1 / gpus_per_trial + _ROUNDING)
