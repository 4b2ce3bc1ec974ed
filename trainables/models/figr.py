"""The nets of FIGR (arXiv:1901.02199, section 4), which the paper meta-trains: DCGAN and ResNet.

Layer norm and PReLU throughout, 5x5 (DCGAN) or 3x3 (ResNet) convolutions at full resolution
followed by pooling or nearest upsampling. The published size is width 64, depth 4, latent 100.
Several tasks run as the groups of one convolution: inside, activations are [n, T * C, H, W].
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from trainables.models.network import Network, Parameter, Weights


def _check(size: int, depth: int) -> None:
    if depth < 1 or size % 2**depth:
        raise ValueError(f"`size` must be divisible by 2 ** depth, got {size} and depth {depth}.")


def _affine(name: str, inputs: int, shape: tuple[int, ...], outputs: int) -> dict[str, Parameter]:
    """Weight and bias, begun as the reference's framework begins them."""
    bound = 1 / math.sqrt(inputs)
    return {f"{name}.weight": Parameter(shape, bound), f"{name}.bias": Parameter((outputs,), bound)}


def _convolution(name: str, before: int, after: int, kernel: int) -> dict[str, Parameter]:
    return _affine(name, before * kernel**2, (after, before, kernel, kernel), after)


def _norm(name: str, shape: tuple[int, ...]) -> dict[str, Parameter]:
    return {f"{name}.scale": Parameter(shape, fill=1.0), f"{name}.shift": Parameter(shape)}


def _prelu(name: str, channels: int) -> dict[str, Parameter]:
    return {f"{name}.slope": Parameter((channels,), fill=0.25)}


def convolve(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Convolution of odd kernel that keeps the resolution: [n, T * C, H, W] -> [n, T * D, H, W]."""
    weight = weights[f"{name}.weight"]
    tasks, out, before, kernel, _ = weight.shape
    return F.conv2d(
        x,
        weight.reshape(tasks * out, before, kernel, kernel),
        weights[f"{name}.bias"].reshape(-1),
        padding=kernel // 2,
        groups=tasks,
    )


def normalise(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Layer norm over one task's channels and pixels, with a scale and shift for each of them."""
    scale, shift = weights[f"{name}.scale"], weights[f"{name}.shift"]
    grouped = x.view(x.shape[0], *scale.shape)
    return (F.layer_norm(grouped, scale.shape[1:]) * scale + shift).view(x.shape)


def activate(weights: Weights, name: str, x: Tensor) -> Tensor:
    """PReLU with one slope a channel (arXiv:1502.01852)."""
    return F.prelu(x, weights[f"{name}.slope"].reshape(-1))


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
        parameters = _affine("seed", latent, (features, latent), features)
        parameters |= _prelu("seed", features) | _norm("seed", (features,))
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
        slope = weights["seed.slope"].unsqueeze(1)
        x = x.clamp_min(0) + slope * x.clamp_max(0)
        x = F.layer_norm(x, x.shape[-1:]) * weights["seed.scale"].unsqueeze(1)
        x = (x + weights["seed.shift"].unsqueeze(1)).transpose(0, 1)
        x = x.reshape(count, tasks * self.top, self.top_size, self.top_size)
        for level in range(self.depth):
            if self.residual:
                x = _residual(weights, f"block{level}", x)
            x = activate(weights, f"up{level}", convolve(weights, f"up{level}", x))
            x = F.interpolate(normalise(weights, f"up{level}", x), scale_factor=2)
        pictures = convolve(weights, "picture", x).tanh()
        return pictures.view(count, tasks, self.channels, *x.shape[-2:]).transpose(0, 1)


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

    def forward(self, weights: Weights, batch: Tensor) -> Tensor:
        tasks, count, channels, size, _ = batch.shape
        x = batch.transpose(0, 1).reshape(count, tasks * channels, size, size)
        x = self._layer(weights, "picture", x)
        for level in range(self.depth):
            if self.residual:
                x = _residual(weights, f"block{level}", x)
            x = F.avg_pool2d(self._layer(weights, f"down{level}", x), 2)
        if self.residual:
            x = x.mean((2, 3))
        features = x.reshape(count, tasks, -1).transpose(0, 1)
        return linear(weights, "score", features).squeeze(-1)

    def _layer(self, weights: Weights, name: str, x: Tensor) -> Tensor:
        """FIGR's ResNet critic normalises after the PReLU, its DCGAN critic before."""
        x = convolve(weights, name, x)
        if self.residual:
            return normalise(weights, name, activate(weights, name, x))
        return activate(weights, name, normalise(weights, name, x))
