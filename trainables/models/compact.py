"""Generator and critic of 4x4 stride-2 convolutions, written as matrix products.

They do the work of FIGR's 5x5 nets at about a sixth of the cost. On small batches a library
convolution reaches a fraction of the machine's matrix-product rate and its backward pass less, so
a convolution is here one gather of patches and one batched product over the tasks, and a
transposed convolution its adjoint. Pictures travel channels-last inside: [T * n, H, W, C].

Sources: DCGAN, arXiv:1511.06434; layer norm in the nets of WGAN-GP, arXiv:1704.00028; kernels that
draw no checkerboard, Odena et al. 2016, doi:10.23915/distill.00003.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.models.chain import (
    Chain,
    Gradients,
    Kept,
    Layer,
    Linear,
    Standardise,
    apart,
    linear_map,
)
from trainables.models.network import Network, Parameter, Weights

LEAK = 0.2  # slope of the leaky ReLU for negative inputs, as in DCGAN
KERNEL_AREA = 16  # 4 x 4
RESIZED_AREA = 9  # 3 x 3, of a convolution after doubling every pixel
aten = torch.ops.aten


def gather_patches(x: Tensor) -> Tensor:
    """The 4x4 patches that a stride-2 convolution with padding 1 sees, one row each:
    [B, H, W, C] -> [B, H/2, W/2, 16 C], ordered by row, column and channel.
    """
    batch, height, width, channels = x.shape
    padded = x.new_zeros(batch, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = x
    image, row, column, _ = padded.stride()
    # Overlapping windows of one buffer: a patch's row is 4 C neighbours in memory.
    windows = padded.as_strided(
        (batch, height // 2, width // 2, 4, 4 * channels), (image, 2 * row, 2 * column, row, 1)
    )
    return windows.reshape(batch, height // 2, width // 2, KERNEL_AREA * channels)


def scatter_patches(patches: Tensor) -> Tensor:
    """The adjoint of `gather_patches`: [B, h, w, 16 C] -> [B, 2h, 2w, C], overlaps summed."""
    batch, h, w, depth = patches.shape
    channels = depth // KERNEL_AREA
    taps = patches.view(batch, h, w, 4, 4 * channels)
    # Rows first: an even row is tap 1 of its patch and tap 3 of the one above, an odd row tap 2
    # and tap 0 of the one below. Then the columns in the same way.
    rows = patches.new_empty(batch, h, 2, w, 4 * channels)
    rows[:, :, 0] = taps[..., 1, :]
    rows[:, 1:, 0] += taps[:, :-1, :, 3]
    rows[:, :, 1] = taps[..., 2, :]
    rows[:, :-1, 1] += taps[:, 1:, :, 0]
    taps = rows.view(batch, 2 * h, w, 4, channels)
    pixels = patches.new_empty(batch, 2 * h, w, 2, channels)
    pixels[..., 0, :] = taps[..., 1, :]
    pixels[:, :, 1:, 0] += taps[:, :, :-1, 3]
    pixels[..., 1, :] = taps[..., 2, :]
    pixels[:, :, :-1, 1] += taps[:, :, 1:, 0]
    return pixels.view(batch, 2 * h, 2 * w, channels)


class PatchConvolution(Layer):
    """A convolution as one gather of patches and one product a task:
    [T, m, H, W, C] with [T, k k C, D] -> [T, m, h, w, D].

    Args:
        gather: [B, H, W, C] -> [B, h, w, k k C].
        scatter: its adjoint.
    """

    def __init__(self, name: str, gather: Linear, scatter: Linear) -> None:
        self.weight, self.bias = f"{name}.weight", f"{name}.bias"
        self._gather, self._scatter = gather, scatter

    def matrix(self, weights: Weights) -> Tensor:
        """The kernels, [T, k k C, D]."""
        return weights[self.weight]

    def like_kernels(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        return matrix

    def _patches(self, x: Tensor) -> Tensor:
        patches = linear_map(x.flatten(0, 1), self._gather, self._scatter)
        return apart(patches, len(x))

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        patches, bias = self._patches(x), weights[self.bias]
        y = torch.baddbmm(bias.view(len(bias), 1, -1), patches.flatten(1, 3), self.matrix(weights))
        return y.view(*patches.shape[:-1], -1), (patches,)

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        rows = torch.bmm(gradient.flatten(1, 3), self.matrix(weights).transpose(1, 2))
        patches = rows.view(-1, *gradient.shape[2:4], rows.shape[-1])
        return apart(self._scatter(patches), len(gradient)), (gradient,)

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        patches = self._patches(direction)
        y = torch.bmm(patches.flatten(1, 3), self.matrix(weights))
        return y.view(*patches.shape[:-1], -1), (patches,)

    def gradients(self, weights: Weights, kept: Kept, pulled: Kept) -> Gradients:
        own = {self.bias: pulled[0].flatten(1, 3).sum(1).view(weights[self.bias].shape)}
        return own | self.bent_gradients(weights, kept, pulled, kept)

    def bent_gradients(self, weights: Weights, kept: Kept, pulled: Kept, pushed: Kept) -> Gradients:
        (gradient,), (patches,) = pulled, pushed
        matrix = torch.bmm(patches.flatten(1, 3).transpose(1, 2), gradient.flatten(1, 3))
        return {self.weight: self.like_kernels(matrix)}


class Leak(Layer):
    """Leaky ReLU."""

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        return F.leaky_relu(x, LEAK), (x,)

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        return aten.leaky_relu_backward(gradient, *kept, LEAK, False), ()

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        return self.pull(weights, kept, direction)


class Score(Layer):
    """One number a picture: [T, m, H, W, C] with [T, H W C, 1] -> [T, m]."""

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        return self.push(weights, (), x)

    def pull(self, weights: Weights, kept: Kept, gradient: Tensor) -> tuple[Tensor, Kept]:
        direction = weights["score.weight"].view(len(gradient), 1, *kept[0].shape[2:])
        return gradient[..., None, None, None] * direction, (gradient,)

    def push(self, weights: Weights, kept: Kept, direction: Tensor) -> tuple[Tensor, Kept]:
        scores = torch.bmm(direction.flatten(2), weights["score.weight"])
        return scores.squeeze(-1), (direction,)

    def gradients(self, weights: Weights, kept: Kept, pulled: Kept) -> Gradients:
        return self.bent_gradients(weights, kept, pulled, kept)

    def bent_gradients(self, weights: Weights, kept: Kept, pulled: Kept, pushed: Kept) -> Gradients:
        (gradient,), (features,) = pulled, pushed
        return {
            "score.weight": torch.bmm(features.flatten(2).transpose(1, 2), gradient.unsqueeze(-1))
        }


def resized_kernel(weight: Tensor) -> Tensor:
    """The transposed 4x4 stride-2 convolution that equals doubling every pixel and then a 3x3
    convolution: [T, C, 9 D] -> [T, C, 16 D].

    It costs no more, and unlike a free one it cannot treat even and odd pixels differently, which
    shows as a checkerboard.
    """
    tasks, channels, _ = weight.shape
    kernel = weight.view(tasks, channels, 3, 3, -1)
    rows = F.pad(kernel, (0, 0, 0, 0, 0, 1)) + F.pad(kernel, (0, 0, 0, 0, 1, 0))
    return (F.pad(rows, (0, 0, 0, 1)) + F.pad(rows, (0, 0, 1, 0))).view(tasks, channels, -1)


def upsample(x: Tensor, weight: Tensor) -> Tensor:
    """Double every pixel of [T * n, h, w, C] and convolve by 3x3, [T, C, 9 D], ordered by row,
    column and channel of a transposed convolution -> [T * n, 2h, 2w, D]."""
    batch, h, w, channels = x.shape
    tasks = weight.shape[0]
    patches = torch.bmm(x.reshape(tasks, -1, channels), resized_kernel(weight))
    return linear_map(patches.view(batch, h, w, -1), scatter_patches, gather_patches)


def _normalised(x: Tensor) -> Tensor:
    """Layer norm over one picture's channels and pixels, without scale or shift."""
    return F.layer_norm(x, x.shape[1:])


def to_pictures(x: Tensor, bias: Tensor) -> Tensor:
    """Channels-last activations [T * n, H, W, C] and a bias [T, 1, 1, 1, C] -> pictures
    [T, n, C, H, W] in [-1, 1]."""
    _, height, width, channels = x.shape
    pictures = (x.view(len(bias), -1, height, width, channels) + bias).tanh()
    if channels == 1:
        return pictures.view(len(bias), -1, 1, height, width)
    return pictures.permute(0, 1, 4, 2, 3)


def he_bound(fan_in: int) -> float:
    """Uniform bound that keeps the variance through a leaky ReLU (arXiv:1502.01852)."""
    return math.sqrt(6 / ((1 + LEAK**2) * fan_in))


def _stages(size: int) -> int:
    stages = int(math.log2(size)) - 2
    if size < 8 or 4 * 2**stages != size:
        raise ValueError(f"`size` must be a power of two of at least 8, got {size}.")
    return stages


class CompactGenerator(Network):
    """Latent [T, n, Z] -> pictures [T, n, C, S, S] in [-1, 1].

    Args:
        size: S in pixels, a power of two of at least 8.
        channels: C.
        width: channels at half the full resolution; doubled at every halving of it.
        latent: Z.
    """

    def __init__(self, *, size: int, channels: int, width: int, latent: int) -> None:
        self.latent, self.channels = latent, channels
        self.stages = _stages(size)
        depths = [width * 2**stage for stage in reversed(range(self.stages))] + [channels]
        self.top = depths[0]
        parameters = {
            "seed.weight": Parameter((latent, 16 * self.top), he_bound(latent)),
            "seed.bias": Parameter((1, 16 * self.top)),
        }
        for stage, (before, after) in enumerate(pairwise(depths)):
            bound = he_bound(RESIZED_AREA * before)
            parameters[f"up{stage}.weight"] = Parameter((before, RESIZED_AREA * after), bound)
            parameters[f"up{stage}.bias"] = Parameter((1, 1, 1, after))
        super().__init__(parameters)

    def forward(self, weights: Weights, batch: Tensor) -> Tensor:
        tasks, count, _ = batch.shape
        x = torch.baddbmm(weights["seed.bias"], batch, weights["seed.weight"])
        x = x.view(tasks * count, 4, 4, self.top)
        for stage in range(self.stages):
            x = upsample(F.leaky_relu(_normalised(x), LEAK), weights[f"up{stage}.weight"])
            bias = weights[f"up{stage}.bias"]
            if stage < self.stages - 1:
                x = (x.view(tasks, count, *x.shape[1:]) + bias).view(x.shape)
        return to_pictures(x, bias)


class CompactCritic(Network):
    """Pictures [T, n, C, S, S] -> scores [T, n].

    Args:
        size: S in pixels, a power of two of at least 8.
        channels: C.
        width: channels at half the full resolution; doubled at every halving of it.
        layer_norm: normalise after every convolution but the first.
    """

    chain: Chain

    def __init__(self, *, size: int, channels: int, width: int, layer_norm: bool = True) -> None:
        self.stages = _stages(size)
        self.layer_norm = layer_norm
        self.flat_features = 16 * width * 2 ** (self.stages - 1)
        self.chain = Chain([*self._layers(), Score()])
        super().__init__(self._trunk(channels, width) | self.heads())

    def heads(self) -> dict[str, Parameter]:
        """Weights of what is read off the last features."""
        return {"score.weight": Parameter((self.flat_features, 1), he_bound(self.flat_features))}

    def _trunk(self, channels: int, width: int) -> dict[str, Parameter]:
        depths = [channels] + [width * 2**stage for stage in range(self.stages)]
        parameters = {}
        for stage, (before, after) in enumerate(pairwise(depths)):
            bound = he_bound(16 * before)
            parameters[f"down{stage}.weight"] = Parameter((16 * before, after), bound)
            parameters[f"down{stage}.bias"] = Parameter((1, after))
        return parameters

    def _layers(self) -> Iterator[Layer]:
        for stage in range(self.stages):
            yield PatchConvolution(f"down{stage}", gather_patches, scatter_patches)
            if stage and self.layer_norm:
                yield Standardise()
            yield Leak()

    def forward(self, weights: Weights, batch: Tensor) -> Tensor:
        return self.chain.forward(weights, batch)

    def features(self, weights: Weights, batch: Tensor) -> Tensor:
        """Pictures [T, n, C, S, S] -> the last features [T, n, F]."""
        trunk = Chain(self.chain.layers[:-1])
        return trunk.forward(weights, batch).flatten(2)
