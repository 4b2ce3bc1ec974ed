"""Convolutions of maps of a few pixels as matrix products, which are fastest there on a CPU.

A library's gradient of the kernels takes several times as long on such maps, and it multiplies by
margin, which is half of what a 5x5 kernel sees of 4x4 pixels. Here every row of the kernels is a
product with what it sees but margin.

Shapes: T tasks, m pictures a task, maps of H x W pixels and C channels convolved to D, kernels of
k x k; `reach` is how far to a side a pixel sees another: at most k // 2, and H - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainables.models.chain import Gradients, Kept, Layer, linear_map
from trainables.models.network import Weights


def gather_strips(x: Tensor, reach: int) -> Tensor:
    """What a row of the kernels sees of every pixel, ordered by column and channel:
    [T, m, H, W, C] -> [T, H, m, W, (2 reach + 1) C]."""
    tasks, count, height, width, channels = x.shape
    padded = x.new_zeros(tasks, height, count, width + 2 * reach, channels)
    padded[:, :, :, reach : reach + width] = x.transpose(1, 2)
    # Overlapping windows of one buffer: a window is (2 reach + 1) C neighbours in memory.
    strips = (tasks, height, count, width, (2 * reach + 1) * channels)
    return padded.as_strided(strips, padded.stride()).contiguous()


def scatter_strips(strips: Tensor, reach: int) -> Tensor:
    """The adjoint of `gather_strips`, overlaps summed."""
    tasks, height, count, width, _ = strips.shape
    taps = strips.view(tasks, height, count, width, 2 * reach + 1, -1)
    padded = strips.new_zeros(tasks, height, count, width + 2 * reach, taps.shape[-1])
    for tap in range(2 * reach + 1):
        padded[:, :, :, tap : tap + width] += taps[..., tap, :]
    return padded[:, :, :, reach : reach + width].transpose(1, 2).contiguous()


class StripConvolution(Layer):
    """As `convolve`, of small square maps: a product for each row of the kernels with what it sees.

    Rows and columns of kernels that see nothing but margin on so small a map are left out.
    """

    def __init__(self, name: str, kernel: int, size: int) -> None:
        self.weight, self.bias = f"{name}.weight", f"{name}.bias"
        self._reach = min(kernel // 2, size - 1)
        gather, scatter = (partial(f, reach=self._reach) for f in (gather_strips, scatter_strips))
        self._gather, self._scatter = gather, scatter

    def _strips(self, x: Tensor) -> Tensor:
        return linear_map(x, self._gather, self._scatter)

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        strips = self._strips(x)
        kernels = weights[self.weight]
        y = _Trilinear.apply(strips, kernels, None, kernels.shape[-1], self._reach)
        y = y.add_(weights[self.bias][:, None, None, None])
        return y.transpose(1, 2).contiguous(), (strips,)

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        rows = gradient.transpose(1, 2).contiguous()
        return self._scatter(_spread(rows, weights[self.weight], self._reach)), (rows,)

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        strips = self._strips(direction)
        y = _correlate(strips, weights[self.weight], self._reach)
        return y.transpose(1, 2).contiguous(), (strips,)

    def gradients(self, weights: Weights, kept: Kept, pulled: Kept) -> Gradients:
        own = {self.bias: pulled[0].sum((1, 2, 3))}
        return own | self.bent_gradients(weights, kept, pulled, kept)

    def bent_gradients(self, weights: Weights, kept: Kept, pulled: Kept, pushed: Kept) -> Gradients:
        (strips,), (rows,), kernel = pushed, pulled, weights[self.weight].shape[-1]
        return {self.weight: _of_kernels(strips, rows, kernel, self._reach)}


def _rows(kernels: Tensor, size: int, reach: int) -> Iterator[tuple[Tensor, slice, slice]]:
    """Of kernels laid out as [T, D, k, k, C], every row that sees some of a map of `size` rows:
    what it holds, [T, D, (2 reach + 1) C], for which rows of a map, and from which."""
    margin = kernels.shape[2] // 2
    columns = slice(margin - reach, margin + reach + 1)
    for shift in range(-reach, reach + 1):
        held = kernels[:, :, margin + shift, columns].flatten(2)
        yield (
            held,
            slice(max(0, -shift), size - max(0, shift)),
            slice(max(0, shift), size + min(0, shift)),
        )


def _matrix(x: Tensor, rows: slice) -> Tensor:
    """Some rows of [T, H, m, W, C] -> [T, rows m W, C], a view."""
    return x[:, rows].view(len(x), -1, x.shape[-1])


def _correlate(strips: Tensor, kernels: Tensor, reach: int) -> Tensor:
    """Strips [T, H, m, W, (2 reach + 1) C] with kernels [T, D, C, k, k] -> [T, H, m, W, D]."""
    y = strips.new_zeros(*strips.shape[:-1], kernels.shape[1])
    for held, here, seen in _rows(kernels.permute(0, 1, 3, 4, 2), y.shape[1], reach):
        _matrix(y, here).add_(torch.bmm(_matrix(strips, seen), held.transpose(1, 2)))
    return y


def _spread(gradient: Tensor, kernels: Tensor, reach: int) -> Tensor:
    """The adjoint of `_correlate` in the strips: the gradient of y -> that of them."""
    depth = (2 * reach + 1) * kernels.shape[2]
    strips = gradient.new_zeros(*gradient.shape[:-1], depth)
    for held, here, seen in _rows(kernels.permute(0, 1, 3, 4, 2), strips.shape[1], reach):
        _matrix(strips, seen).add_(torch.bmm(_matrix(gradient, here), held))
    return strips


def _of_kernels(strips: Tensor, gradient: Tensor, kernel: int, reach: int) -> Tensor:
    """The adjoint of `_correlate` in the kernels: [T, D, C, k, k], channels last."""
    tasks, channels = len(strips), strips.shape[-1] // (2 * reach + 1)
    shape = tasks, gradient.shape[-1], kernel, kernel, channels
    whole = kernel == 2 * reach + 1  # else some see nothing
    kernels = strips.new_empty(shape) if whole else strips.new_zeros(shape)
    for held, here, seen in _rows(kernels, strips.shape[1], reach):
        torch.bmm(_matrix(gradient, here).transpose(1, 2), _matrix(strips, seen), out=held)
    return kernels.permute(0, 1, 4, 2, 3)


class _Trilinear(torch.autograd.Function):
    """The derivative of sum(_correlate(strips, kernels) * gradient) by that operand which is None.

    It is linear in the other two, and its own derivatives are those by them: autograd goes to any
    order.
    """

    @staticmethod
    def forward(
        ctx: Any,
        strips: Any,
        kernels: Any,
        gradient: Any,
        kernel: int,
        reach: int,
    ) -> Tensor:
        ctx.save_for_backward(strips, kernels, gradient)
        ctx.shape = kernel, reach
        if gradient is None:
            return _correlate(strips, kernels, reach)
        if strips is None:
            return _spread(gradient, kernels, reach)
        return _of_kernels(strips, gradient, kernel, reach)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        operands = [along.contiguous() if x is None else x for x in ctx.saved_tensors]

        def by(which: int) -> Tensor:
            others = (None if i == which else x for i, x in enumerate(operands))
            return _Trilinear.apply(*others, *ctx.shape)  # type: ignore[no-any-return]

        asked = ctx.needs_input_grad[:3]
        return *(by(which) if needed else None for which, needed in enumerate(asked)), None, None
