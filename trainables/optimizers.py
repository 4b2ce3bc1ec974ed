"""Adam and gradient descent on tensors that stay where they are, by torch's own kernels.

The classes of `torch.optim` import torch's compiler as soon as one is made, which costs every trial
memory and seconds (docs/benchmarks.md). The functions below them, which these call, compute the
same without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

from trainables.weights import restore


class Optimizer(Protocol):
    """Moves weights by their gradients."""

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Of every weight; strides as the weight's."""

    def restart(self) -> None:
        """Be as before the first step, in place."""


class GradientDescent:
    """Plain descent, without momentum."""

    def __init__(self, weights: Sequence[Tensor], lr: float) -> None:
        self._weights, self._lr = list(weights), lr

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.add_(gradient, alpha=-self._lr)

    def restart(self) -> None:
        """There is no state."""


class Adam:
    """Adam (arXiv:1412.6980), elementwise, so that tasks which share tensors stay independent.

    Args:
        betas: decay of the mean of gradients and of that of their squares.
        fused: in one kernel, which a GPU can capture; it rounds a little otherwise.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        fused: bool = False,
    ) -> None:
        self._weights, self._lr, self._betas = list(weights), lr, betas
        self._fused, self._captured = fused, fused and self._weights[0].is_cuda
        self._means = [torch.zeros_like(weight) for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._weights]
        counted_on = [weight.device if fused else "cpu" for weight in self._weights]
        self._steps = [torch.zeros((), device=device) for device in counted_on]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        adam(
            self._weights,
            list(gradients),
            self._means,
            self._squares,
            [],
            self._steps,
            fused=self._fused or None,  # None: as torch would choose
            capturable=self._captured,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=self._lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def restart(self) -> None:
        for state in (*self._means, *self._squares, *self._steps):
            state.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, own in self.state_dict().items():
            for ours, saved in zip(own, state[name], strict=True):
                restore(ours, saved)
