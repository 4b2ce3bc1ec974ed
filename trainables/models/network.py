"""A network as a pure function of its weights, so that several tasks' weights run in one call.

Reptile adapts one copy of the same network per task. Every weight therefore carries a leading
task axis, and the nets of this package are written for it: no loop over tasks, no module state.

Shapes: T tasks, n pictures a task, C channels, H height, W width, P all weights of one network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from trainables.models.chain import Chain

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One weight of a network: its shape without the task axis, and how it begins."""

    shape: tuple[int, ...]
    bound: float = 0.0  # drawn uniformly from fill - bound to fill + bound
    fill: float = 0.0
    order: tuple[int, ...] = ()  # of the axes in memory in training, outermost first

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def laid(self, weight: Tensor) -> Tensor:
        """A copy of [T, *shape], of the same shape, as it should lie in memory for training."""
        order = [0, *(axis + 1 for axis in self.order or range(len(self.shape)))]
        back = [order.index(axis) for axis in range(len(order))]
        return weight.permute(*order).clone(memory_format=torch.contiguous_format).permute(*back)


class Network(ABC):
    """A function of weights [T, P] and a batch; `parameters` names the slices of P in order."""

    chain: Chain | None = None  # of a critic whose derivatives are written by hand

    def __init__(self, parameters: dict[str, Parameter]) -> None:
        self.parameters = parameters
        self.sizes = [parameter.size for parameter in parameters.values()]
        self.size = sum(self.sizes)  # P

    def initial(self, rng: torch.Generator) -> Tensor:
        """Freshly drawn weights [P], float32 on the CPU."""
        return torch.cat(
            [
                torch.empty(p.size).uniform_(p.fill - p.bound, p.fill + p.bound, generator=rng)
                for p in self.parameters.values()
            ]
        )

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """View weights [T, P] by name, each [T, *shape]; gradients flow back to `flat`.

        Raises:
            ValueError: the last axis is not P long.
        """
        if flat.shape[-1] != self.size:
            raise ValueError(f"`flat` must hold {self.size} weights a task, got {flat.shape[-1]}.")
        tasks = flat.shape[0]
        pieces = torch.split(flat, self.sizes, dim=1)
        return {
            name: piece.view(tasks, *parameter.shape)
            for (name, parameter), piece in zip(self.parameters.items(), pieces, strict=True)
        }

    def flat(self, named: Weights) -> Tensor:
        """The inverse of `named`: one tensor [T, P], a copy."""
        return torch.cat([named[name].detach().flatten(1) for name in self.parameters], dim=1)

    def __call__(self, flat: Tensor, batch: Tensor) -> Tensor:
        """Run weights [T, P] on a batch [T, n, ...]."""
        return self.forward(self.named(flat), batch)

    @abstractmethod
    def forward(self, weights: Weights, batch: Tensor) -> Tensor: ...
