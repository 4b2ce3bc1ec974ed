"""How many trials fit side by side, and what each may use of a machine: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDING = 1e-9  # 1 / 0.1 must count as ten shares, whatever the last bit says
_RAY_UNITS = 10_000  # of a card: Ray rounds to them, and seven sevenths must not be more than one
# Of a card's memory, promised to no trial: allocators leave gaps, and trials differ from the probe.
SPARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU's memory and what a trial needs of it, in bytes, as a probe measured them.

    Attributes:
        total: that there is.
        overhead: of a process beside its tensors: CUDA's context and the libraries' code.
        peak: of the tensors of the largest trial there may be.
    """

    total: int
    overhead: int
    peak: int

    def trials(self, most: int) -> int:
        """Trials that fit side by side, from 1 to `most`."""
        fitting = int((1 - SPARE) * self.total / (self.overhead + self.peak))
        return max(1, min(most, fitting))


def share_of_card(trials: int) -> float:
    """What each of that many trials asks Ray for, at most 1 / trials."""
    return _RAY_UNITS // trials / _RAY_UNITS


def with_fewer(share: float) -> float:
    """The share of a card of a trial that gets half as many neighbours; 1 is the whole card."""
    return share_of_card(max(1, _trials_on(share) // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What one machine may hand out.

    Attributes:
        cpus: cores, at least 0; the head of a cluster may keep its own.
        gpus: cards, at least 0.
        name: address in its cluster, for people.
        id: Ray's own; empty where Ray has not been started yet.
    """

    cpus: float
    gpus: float = 0
    name: str = ""
    id: str = ""


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


def pack(nodes: Sequence[Node], *, cpus_per_trial: float = 1, gpus_per_trial: float = 0) -> Packing:
    """Share out the CPUs and GPUs that exist among trials of one size, none of which straddles two
    machines.

    Args:
        nodes: machines there are.
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
    slots = sum(slots_on(node, cpus_per_trial, gpus_per_trial) for node in nodes)
    if slots == 0:
        raise ValueError(_fits_nowhere(nodes, cpus_per_trial, gpus_per_trial))
    return Packing(slots=slots, threads=max(1, math.floor(cpus_per_trial)))


def counted(number: float, word: str, ending: str = "s") -> str:
    """Such as "1 trial", "0.5 GPUs" or "2 classes"."""
    return f"{number:g} {word}{ending if number != 1 else ''}"


def slots_on(node: Node, cpus_per_trial: float, gpus_per_trial: float) -> int:
    """Trials of one size that a machine runs side by side, 0 where none fits."""
    slots = math.floor(node.cpus / cpus_per_trial + _ROUNDING)
    if gpus_per_trial > 0:
        slots = min(slots, _gpu_slots(node.gpus, gpus_per_trial))
    return slots


def _fits_nowhere(nodes: Sequence[Node], cpus_per_trial: float, gpus_per_trial: float) -> str:
    cpus = max((node.cpus for node in nodes), default=0)
    gpus = max((node.gpus for node in nodes), default=0)
    there = "no node has more than" if len(nodes) > 1 else "there are"
    if cpus_per_trial > cpus:
        return (
            f"A trial asks for {counted(cpus_per_trial, 'CPU')} and {there} {cpus:g}: "
            "lower --cpus-per-trial."
        )
    if gpus_per_trial > gpus:
        return (
            f"A trial asks for {counted(gpus_per_trial, 'GPU')} and {there} {gpus:g}: "
            "lower --gpus-per-trial."
        )
    return (
        f"A trial asks for {counted(cpus_per_trial, 'CPU')} and {counted(gpus_per_trial, 'GPU')}, "
        "and no node has both: lower --cpus-per-trial or --gpus-per-trial."
    )


def _gpu_slots(gpus: float, gpus_per_trial: float) -> int:
    """Shares of cards; a trial's fraction never straddles two cards."""
    if gpus_per_trial >= 1:
        return math.floor(gpus / gpus_per_trial + _ROUNDING)
    return math.floor(gpus) * _trials_on(gpus_per_trial)


def _trials_on(share: float) -> int:
    return math.floor(1 / share + _ROUNDING)
