"""Generators of full layers, for small pictures of strokes.

On small pictures a few products of a small batch with large matrices cost less than convolutions,
and the last full layer is a dictionary of whole strokes that a few steps can recombine.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.models.compact import LEAK, RESIZED_AREA, he_bound, to_pictures, upsample
from trainables.models.network import Network, Parameter, Weights


def _full(name: str, before: int, after: int) -> dict[str, Parameter]:
    return {
        f"{name}.weight": Parameter((before, after), he_bound(before)),
        f"{name}.bias": Parameter((1, after)),
    }


def _apply(weights: Weights, name: str, x: Tensor) -> Tensor:
    """[T, n, I] -> [T, n, O]."""
    return torch.baddbmm(weights[f"{name}.bias"], x, weights[f"{name}.weight"])


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(F.layer_norm(x, x.shape[-1:]), LEAK)


class DenseGenerator(Network):
    """Latent [T, n, Z] -> pictures [T, n, C, S, S] in [-1, 1], by full layers alone.

    Args:
        size: S in pixels.
        channels: C.
        width: the two hidden layers have 16 and 32 times as many units.
        latent: Z.
    """

    def __init__(self, *, size: int, channels: int, width: int, latent: int) -> None:
        self.shape = (channels, size, size)
        super().__init__(
            _full("first", latent, 16 * width)
            | _full("second", 16 * width, 32 * width)
            | _full("picture", 32 * width, channels * size**2)
        )

    def forward(self, weights: Weights, batch: Tensor) -> Tensor:
        x = _activate(_apply(weights, "first", batch))
        x = _activate(_apply(weights, "second", x))
        return _apply(weights, "picture", x).tanh().view(*batch.shape[:2], *self.shape)


class PlaneGenerator(Network):
    """Latent [T, n, Z] -> pictures [T, n, C, S, S] in [-1, 1]: full layers up to a plane of half
    the resolution, and one convolution of the plane resized, which smooths what they draw.

    Args:
        size: S in pixels, even.
        channels: C.
        width: even; the hidden layer has 16 times as many units, the plane half as many channels.
        latent: Z.
    """

    def __init__(self, *, size: int, channels: int, width: int, latent: int) -> None:
        if size % 2 or width % 2:
            raise ValueError(f"`size` and `width` must be even, got {size} and {width}.")
        self.half, depth = size // 2, width // 2
        super().__init__(
            _full("hidden", latent, 16 * width)
            | _full("plane", 16 * width, self.half**2 * depth)
            | {
                "picture.weight": Parameter(
                    (depth, RESIZED_AREA * channels), he_bound(RESIZED_AREA * depth)
                ),
                "picture.bias": Parameter((1, 1, 1, channels)),
            }
        )

    def forward(self, weights: Weights, batch: Tensor) -> Tensor:
        x = _activate(_apply(weights, "hidden", batch))
        x = _activate(_apply(weights, "plane", x))
        plane = x.view(-1, self.half, self.half, x.shape[-1] // self.half**2)
        return to_pictures(upsample(plane, weights["picture.weight"]), weights["picture.bias"])
