"""A critic as a chain of layers that know their own derivatives, for the step of a WGAN-GP.

The gradient penalty needs a derivative of a derivative. Autograd builds it from many small steps,
one stream of pictures at a time. Written by hand it is one pass forward and one back over all
pictures, and between them one back and one forward over the points that are penalised.

Shapes: T tasks, m pictures a task; activations are [T, m, H, W, C], channels last.
Sources: WGAN-GP, arXiv:1704.00028; the product of a Hessian and a vector as the derivative of a
gradient along it, Pearlmutter 1994, doi:10.1162/neco.1994.6.1.147.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.models.network import Weights

Kept = tuple[Tensor, ...]  # what a layer keeps of a pass, each [T, m, ...]
Gradients = dict[str, Tensor]
Linear = Callable[[Tensor], Tensor]
aten = torch.ops.aten


class Layer(ABC):
    """y = f(x; w) of every picture alone, and its derivatives; J is that of y with respect to x.

    `kept`, `pulled` and `pushed` are what `forward`, `pull` and `push` kept. The defaults are those
    of a layer that is linear in x and has no weights.
    """

    @abstractmethod
    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        """-> y; differentiable by autograd, too."""

    @abstractmethod
    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        """The gradient of y -> that of x: J^T g."""

    @abstractmethod
    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        """A direction of x -> that of y: J t."""

    def bend(self, kept: Kept, pulled: Kept, pushed: Kept) -> Tensor | None:
        """How J^T g changes along t while g does not, like x; None if it does not."""
        return None

    def gradients(self, weights: Weights, kept: Kept, pulled: Kept) -> Gradients:
        """Of g . y with respect to the weights, summed over pictures."""
        return {}

    def bent_gradients(self, weights: Weights, kept: Kept, pulled: Kept, pushed: Kept) -> Gradients:
        """Of g . J t with respect to the weights, summed over pictures."""
        return {}


class Chain:
    """Layers in a row; the first is linear and keeps nothing of a pull but the gradient."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def forward(self, weights: Weights, pictures: Tensor) -> Tensor:
        """Pictures [T, m, C, H, W] -> what the last layer makes of them."""
        x = channels_last(pictures)
        for layer in self.layers:
            x, _ = layer.forward(weights, x)
        return x

    @torch.no_grad()
    def penalised(
        self,
        weights: Weights,
        judged: Tensor,
        between: Tensor,
        loss: Callable[[Tensor], Tensor],
        penalty: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Gradients]:
        """loss(scores of `judged`) + penalty(slope at `between`) -> [T], and its gradients.

        Args:
            judged, between: pictures [T, m, C, H, W] and [T, n, C, H, W].
            loss: scores [T, m] -> [T].
            penalty: the scores' gradient with respect to `between`, like it -> [T].
        """
        count = between.shape[1]
        scores, tape = self._record(weights, torch.cat([judged, between], dim=1))
        value, of_scores = _with_gradient(loss, scores[:, :-count])
        ends = [tuple(each[:, -count:] for each in kept) for kept in tape]
        slope, pulls = self._pull(weights, ends, torch.ones_like(scores[:, -count:]))
        fine, direction = _with_gradient(penalty, slope)
        # The penalty's gradient is that of the scores' derivative along `direction`.
        seconds = zip(ends, pulls, self._push(weights, ends, direction), strict=True)
        gradient = F.pad(of_scores, (0, count))
        return value + fine, self._back(weights, tape, list(seconds), gradient)

    def _record(self, weights: Weights, pictures: Tensor) -> tuple[Tensor, list[Kept]]:
        x, tape = channels_last(pictures), []
        for layer in self.layers:
            x, kept = layer.forward(weights, x)
            tape.append(kept)
        return x, tape

    def _pull(
        self, weights: Weights, tape: list[Kept], gradient: Tensor
    ) -> tuple[Tensor, list[Kept]]:
        """The gradient of scores [T, m] -> that of pictures [T, m, C, H, W]."""
        pulls = []
        for layer, kept in zip(reversed(self.layers), reversed(tape), strict=True):
            gradient, pulled = layer.pull(weights, kept, gradient)
            pulls.append(pulled)
        return gradient.permute(0, 1, 4, 2, 3), pulls[::-1]

    def _push(self, weights: Weights, tape: list[Kept], direction: Tensor) -> list[Kept]:
        """Along a direction of pictures [T, m, C, H, W]."""
        direction, pushes = channels_last(direction), []
        for layer, kept in zip(self.layers, tape, strict=True):
            direction, pushed = layer.push(weights, kept, direction)
            pushes.append(pushed)
        return pushes

    def _back(
        self,
        weights: Weights,
        tape: list[Kept],
        seconds: list[tuple[Kept, Kept, Kept]],
        gradient: Tensor,
    ) -> Gradients:
        """From the gradient of scores [T, m + n] to that of the weights; `seconds` are what the n
        penalised points, the last ones, kept, pulled and pushed."""
        gradients: Gradients = {}
        for index in reversed(range(len(self.layers))):
            layer = self.layers[index]
            pulled: Kept = (gradient,)
            if index:
                gradient, pulled = layer.pull(weights, tape[index], gradient)
            gradients |= layer.gradients(weights, tape[index], pulled)
            for name, bent in layer.bent_gradients(weights, *seconds[index]).items():
                gradients[name] += bent
            if (bend := layer.bend(*seconds[index])) is not None:
                gradient[:, -bend.shape[1] :] += bend
        return gradients


@torch.enable_grad()
def _with_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A number a task [T], and its gradient with respect to x."""
    point = x.detach().requires_grad_()
    value = function(point)
    (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient


def linear_map(x: Tensor, function: Linear, adjoint: Linear) -> Tensor:
    """function(x); autograd takes each of the two as the other's derivative, to any order."""
    return _LinearMap.apply(x, function, adjoint)  # type: ignore[no-any-return]


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Linear, adjoint: Linear) -> Tensor:
        ctx.maps = adjoint, function
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return linear_map(gradient, *ctx.maps), None, None


def channels_last(pictures: Tensor) -> Tensor:
    """[T, n, C, H, W] -> [T, n, H, W, C]."""
    return pictures.permute(0, 1, 3, 4, 2)


def per_picture(x: Tensor) -> Tensor:
    """[T, m, H, W, C] -> [T * m, C, H, W], a view where memory allows."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def per_task(x: Tensor, tasks: int) -> Tensor:
    """The inverse of `per_picture`."""
    return apart(x.permute(0, 2, 3, 1), tasks)


def apart(x: Tensor, tasks: int) -> Tensor:
    """[T * m, ...] -> [T, m, ...], a view."""
    return x.view(tasks, -1, *x.shape[1:])


class Standardise(Layer):
    """Layer norm over one picture's pixels and channels, without scale or shift."""

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        each = torch.native_layer_norm(x.flatten(0, 1), x.shape[2:], None, None, 1e-5)
        y, mean, inverse = (apart(part, len(x)) for part in each)
        return y, (x, y, mean, inverse)

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        pulled = self._derivative(kept, gradient)
        return pulled, (gradient, pulled)

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        """J is symmetric."""
        pushed = self._derivative(kept, direction)
        return pushed, (direction, pushed)

    @staticmethod
    def _derivative(kept: Kept, along: Tensor) -> Tensor:
        """J v = (v - mean(v) - y mean(v y)) / deviation."""
        x, _, mean, inverse = (each.flatten(0, 1) for each in kept)
        v = along.flatten(0, 1)
        result: Tensor = aten.native_layer_norm_backward(
            v, x, v.shape[1:], mean, inverse, None, None, [True, False, False]
        )[0]
        return result.view(along.shape)

    def bend(self, kept: Kept, pulled: Kept, pushed: Kept) -> Tensor:
        """-(mean(t y) J g + mean(g y) J t + y mean(t . J g)) / deviation."""
        _, y, _, inverse = kept
        (g, back), (t, along) = pulled, pushed
        bent = _mean(t * y) * back
        bent.addcmul_(_mean(g * y), along).addcmul_(_mean(t * back), y)
        return bent.mul_(-inverse)


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3, 4), keepdim=True)
