"""The nets of FIGR (arXiv:1901.02199, section 4), which the paper meta-trains: DCGAN and ResNet.

Layer norm and PReLU throughout, 5x5 (DCGAN) or 3x3 (ResNet) convolutions at full resolution
followed by pooling or nearest upsampling. The published size is width 64, depth 4, latent 100.
Inside, activations are [T, n, H, W, C]: channels last is what CPU convolutions are fastest at, and
a task's convolution is a call of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.models.chain import (
    Chain,
    Gradients,
    Kept,
    Layer,
    Standardise,
    aten,
    channels_last,
    per_picture,
    per_task,
)
from trainables.models.network import Network, Parameter, Weights
from trainables.models.strips import StripConvolution

SMALL = 4  # pixels a side of maps that are convolved by matrix products


def _check(size: int, depth: int) -> None:
    if depth < 1 or size % 2**depth:
        raise ValueError(f"`size` must be divisible by 2 ** depth, got {size} and depth {depth}.")


def _affine(
    name: str, inputs: int, shape: tuple[int, ...], outputs: int, order: tuple[int, ...] = ()
) -> dict[str, Parameter]:
    """Weight and bias, begun as the reference's framework begins them."""
    bound = 1 / math.sqrt(inputs)
    return {
        f"{name}.weight": Parameter(shape, bound, order=order),
        f"{name}.bias": Parameter((outputs,), bound),
    }


def _convolution(name: str, before: int, after: int, kernel: int) -> dict[str, Parameter]:
    shape = (after, before, kernel, kernel)
    return _affine(name, before * kernel**2, shape, after, order=(0, 2, 3, 1))


def _norm(name: str, shape: tuple[int, ...]) -> dict[str, Parameter]:
    return {
        f"{name}.scale": Parameter(shape, fill=1.0, order=(1, 2, 0)),
        f"{name}.shift": Parameter(shape, order=(1, 2, 0)),
    }


def _prelu(name: str, channels: int) -> dict[str, Parameter]:
    return {f"{name}.slope": Parameter((channels,), fill=0.25)}


def convolve(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Convolution of odd kernel that keeps the resolution: [T, m, H, W, C] -> [T, m, H, W, D]."""
    kernel = weights[f"{name}.weight"].shape[-1]
    return _convolution_layer(name, kernel, x.shape[2]).forward(weights, x)[0]


def _convolution_layer(name: str, kernel: int, size: int) -> Layer:
    """On the smallest maps a library's gradient of the kernels takes several times as long."""
    return StripConvolution(name, kernel, size) if size <= SMALL else Convolution(name)


def _convolved(x: Tensor, kernels: Tensor, *biases: Tensor) -> Tensor:
    margin = kernels.shape[-1] // 2

    def one(pictures: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.conv2d(pictures.permute(0, 3, 1, 2), kernel, bias, padding=margin)
        return y.permute(0, 2, 3, 1)

    return _each_task(one, x, kernels, *biases)


def _each_task(one: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """`one` of every task's own operands, stacked; a single task's is not copied."""
    results = [one(*own) for own in zip(*operands, strict=True)]
    return torch.stack(results) if len(results) > 1 else results[0].unsqueeze(0)


def normalise(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Layer norm over channels and pixels, with a scale and shift for each of them."""
    scale, shift = _maps(weights, name)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[2:]), scale)


def _maps(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """A norm's scale and shift, [T, 1, H, W, C]."""
    scale, shift = (weights[f"{name}.{part}"].movedim(1, -1) for part in ("scale", "shift"))
    return scale.unsqueeze(1), shift.unsqueeze(1)


def activate(weights: Weights, name: str, x: Tensor) -> Tensor:
    """PReLU with one slope a channel (arXiv:1502.01852)."""
    return x * _steepness(x, weights[f"{name}.slope"][:, None, None, None])


def _steepness(x: Tensor, slope: Tensor) -> Tensor:
    """1 where x is positive, `slope` elsewhere.

    By a kernel without branches: those of `torch.where` and of the PReLU's backward pass guess the
    signs of activations, wrong half of the time, and take ten times as long.
    """
    rise: Tensor = aten.leaky_relu_backward(1 - slope, x.detach(), 0.0, False)
    return rise.add_(slope)


def linear(weights: Weights, name: str, batch: Tensor) -> Tensor:
    """[T, n, I] -> [T, n, O]."""
    return batch @ weights[f"{name}.weight"].transpose(1, 2) + weights[f"{name}.bias"].unsqueeze(1)


def _residual_parameters(name: str, channels: int, size: int) -> dict[str, Parameter]:
    parameters: dict[str, Parameter] = {}
    for part in range(4):
        parameters |= _convolution(f"{name}.conv{part}", channels, channels, 3)
        parameters |= _prelu(f"{name}.conv{part}", channels)
        parameters |= _norm(f"{name}.norm{part}", (channels, size, size))
    return parameters


def _residual(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Two residual pairs of convolution, PReLU and norm."""
    for pair in (0, 2):
        branch = x
        for part in (pair, pair + 1):
            branch = convolve(weights, f"{name}.conv{part}", branch)
            branch = activate(weights, f"{name}.conv{part}", branch)
            branch = normalise(weights, f"{name}.norm{part}", branch)
        x = x + branch
    return x


class FigrGenerator(Network):
    """Latent [T, n, Z] -> pictures [T, n, C, S, S] in [-1, 1].

    Args:
        size: S in pixels, divisible by 2 ** depth.
        channels: C.
        width: channels at full resolution; doubled at every halving of it.
        depth: number of halvings; FIGR uses 4.
        latent: Z.
        residual: ResNet (four 3x3 convolutions and a transition at each resolution) or DCGAN
            (one 5x5 convolution at each).
    """

    def __init__(
        self, *, size: int, channels: int, width: int, depth: int, latent: int, residual: bool
    ) -> None:
        _check(size, depth)
        self.latent, self.channels, self.depth, self.residual = latent, channels, depth, residual
        self.top, self.top_size = width * 2**depth, size // 2**depth
        features = self.top * self.top_size**2
        parameters = _affine("seed", latent, (features, latent), features, (1, 0))
        parameters |= _prelu("seed", features)
        parameters |= {
            "seed.scale": Parameter((features,), fill=1.0),
            "seed.shift": Parameter((features,)),
        }
        for level in range(depth):
            before, after = self.top // 2**level, self.top // 2 ** (level + 1)
            here = self.top_size * 2**level
            if residual:
                parameters |= _residual_parameters(f"block{level}", before, here)
            parameters |= _convolution(f"up{level}", before, after, 3 if residual else 5)
            parameters |= _prelu(f"up{level}", after) | _norm(f"up{level}", (after, here, here))
        super().__init__(parameters | _convolution("picture", width, channels, 5))

    def forward(self, weights: Weights, batch: Tensor) -> Tensor:
        tasks, count, _ = batch.shape
        x = linear(weights, "seed", batch)
        x = x * _steepness(x, weights["seed.slope"].unsqueeze(1))
        x = F.layer_norm(x, x.shape[-1:]) * weights["seed.scale"].unsqueeze(1)
        x = (x + weights["seed.shift"].unsqueeze(1)).view(
            tasks, count, self.top, self.top_size, self.top_size
        )
        x = channels_last(x)
        for level in range(self.depth):
            if self.residual:
                x = _residual(weights, f"block{level}", x)
            x = activate(weights, f"up{level}", convolve(weights, f"up{level}", x))
            x = per_picture(normalise(weights, f"up{level}", x))
            x = per_task(F.interpolate(x, scale_factor=2), tasks)
        pictures = convolve(weights, "picture", x).tanh()
        return pictures.permute(0, 1, 4, 2, 3)


class Convolution(Layer):
    """As `convolve`."""

    def __init__(self, name: str) -> None:
        self.weight, self.bias = f"{name}.weight", f"{name}.bias"

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        return _convolved(x, weights[self.weight], weights[self.bias]), (x,)

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        def one(*own: Tensor) -> Tensor:
            return _convolution_backward(*own, of_kernel=False).permute(0, 2, 3, 1)

        return _each_task(one, gradient, *kept, weights[self.weight]), (gradient,)

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        return _convolved(direction, weights[self.weight]), (direction,)

    def gradients(self, weights: Weights, kept: Kept, pulled: Kept) -> Gradients:
        own = {self.bias: pulled[0].sum((1, 2, 3))}
        return own | self.bent_gradients(weights, kept, pulled, kept)

    def bent_gradients(self, weights: Weights, kept: Kept, pulled: Kept, pushed: Kept) -> Gradients:
        def one(*own: Tensor) -> Tensor:
            return _convolution_backward(*own, of_kernel=True).permute(0, 2, 3, 1)

        stacked = _each_task(one, *pulled, *pushed, weights[self.weight])
        return {self.weight: stacked.permute(0, 1, 4, 2, 3)}


def _convolution_backward(
    gradient: Tensor, x: Tensor, kernel: Tensor, *, of_kernel: bool
) -> Tensor:
    """The gradient of one task's kernel [D, C, k, k], or else of its input [m, C, H, W]."""
    margin = kernel.shape[-1] // 2
    asked = [not of_kernel, of_kernel, False]
    steps: list[Any] = [[1, 1], [margin, margin], [1, 1], False, [0, 0], 1]
    planes = gradient.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)
    result: Tensor = aten.convolution_backward(*planes, kernel, None, *steps, asked)[of_kernel]
    return result


class ScaledPRelu(Layer):
    """The scale and shift of a layer norm, then a PReLU."""

    def __init__(self, name: str) -> None:
        self.name = name

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        scale, shift = _maps(weights, self.name)
        inside = torch.addcmul(shift, x, scale)
        steepness = _steepness(inside, weights[f"{self.name}.slope"][:, None, None, None])
        return inside * steepness, (x, inside, steepness)

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        inner = gradient * kept[2]
        return inner * _maps(weights, self.name)[0], (gradient, inner)

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        inner = direction * _maps(weights, self.name)[0]
        return inner * kept[2], (direction, inner)

    def gradients(self, weights: Weights, kept: Kept, pulled: Kept) -> Gradients:
        (x, inside, _), (gradient, inner) = kept, pulled
        return {
            f"{self.name}.slope": _per_channel(inside.clamp_max(0).mul_(gradient)),
            f"{self.name}.scale": _map(inner * x),
            f"{self.name}.shift": _map(inner),
        }

    def bent_gradients(self, weights: Weights, kept: Kept, pulled: Kept, pushed: Kept) -> Gradients:
        (gradient, inner), (direction, along) = pulled, pushed
        falling = aten.leaky_relu_backward(gradient * along, -kept[1], 0.0, False)
        return {
            f"{self.name}.slope": _per_channel(falling),
            f"{self.name}.scale": _map(inner * direction),
        }


def _map(x: Tensor) -> Tensor:
    """[T, m, H, W, C] summed over pictures -> [T, C, H, W]."""
    return x.sum(1).movedim(-1, 1)


def _per_channel(x: Tensor) -> Tensor:
    """[T, m, H, W, C] summed over pictures and pixels -> [T, C]."""
    return x.sum(1).sum((1, 2))


class Pool(Layer):
    """The mean of 2x2 pixels."""

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        return per_task(F.avg_pool2d(per_picture(x), 2), len(x)), (x,)

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        options: list[Any] = [[2, 2], [2, 2], [0, 0], False, True, None]
        planes = per_picture(gradient), per_picture(kept[0])
        return per_task(aten.avg_pool2d_backward(*planes, *options), len(gradient)), ()

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        return self.forward(weights, direction)


class FigrScore(Layer):
    """One number a picture, of features ordered by channel, row and column:
    [T, m, H, W, C] -> [T, m]."""

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        scores, kept = self.push(weights, (), x)
        return scores + weights["score.bias"], kept

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        _, _, height, width, channels = kept[0].shape
        weight = weights["score.weight"].view(-1, 1, channels, height, width)
        return gradient[..., None, None, None] * channels_last(weight), (gradient,)

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        weight = weights["score.weight"].transpose(1, 2)
        return torch.bmm(_features(direction), weight).squeeze(-1), (direction,)

    def gradients(self, weights: Weights, kept: Kept, pulled: Kept) -> Gradients:
        own = {"score.bias": pulled[0].sum(1, keepdim=True)}
        return own | self.bent_gradients(weights, kept, pulled, kept)

    def bent_gradients(self, weights: Weights, kept: Kept, pulled: Kept, pushed: Kept) -> Gradients:
        return {"score.weight": torch.bmm(pulled[0].unsqueeze(1), _features(pushed[0]))}


def _features(x: Tensor) -> Tensor:
    return x.movedim(-1, 2).flatten(2)


class FigrCritic(Network):
    """Pictures [T, n, C, S, S] -> scores [T, n].

    Args: as `FigrGenerator`, without the latent.
    """

    def __init__(self, *, size: int, channels: int, width: int, depth: int, residual: bool) -> None:
        _check(size, depth)
        self.depth, self.residual = depth, residual
        parameters = _convolution("picture", channels, width, 7 if residual else 5)
        parameters |= _prelu("picture", width) | _norm("picture", (width, size, size))
        for level in range(depth):
            before, here = width * 2**level, size // 2**level
            if residual:
                parameters |= _residual_parameters(f"block{level}", before, here)
            parameters |= _convolution(f"down{level}", before, 2 * before, 3 if residual else 5)
            parameters |= _prelu(f"down{level}", 2 * before)
            parameters |= _norm(f"down{level}", (2 * before, here, here))
        features = width * 2**depth * (1 if residual else (size // 2**depth) ** 2)
        super().__init__(parameters | _affine("score", features, (1, features), 1))
        self._sizes = {"picture": size} | {f"down{n}": size // 2**n for n in range(depth)}
        if not residual:
            self.chain = Chain([*self._layers()])

    def _layers(self) -> Iterator[Layer]:
        for name, here in self._sizes.items():
            yield _convolution_layer(name, 5, here)
            yield Standardise()
            yield ScaledPRelu(name)
            if name != "picture":
                yield Pool()
        yield FigrScore()

    def forward(self, weights: Weights, batch: Tensor) -> Tensor:
        if self.chain:
            return self.chain.forward(weights, batch)
        x = self._layer(weights, "picture", channels_last(batch))
        for level in range(self.depth):
            x = self._layer(weights, f"down{level}", _residual(weights, f"block{level}", x))
            x = per_task(F.avg_pool2d(per_picture(x), 2), len(x))
        return linear(weights, "score", x.mean((2, 3))).squeeze(-1)

    @staticmethod
    def _layer(weights: Weights, name: str, x: Tensor) -> Tensor:
        """FIGR's ResNet critic normalises after the PReLU, its DCGAN critic before."""
        return normalise(weights, name, activate(weights, name, convolve(weights, name, x)))
