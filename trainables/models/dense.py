"""A generator of full layers and one upsampling, for small pictures of strokes.

A few products of a small batch with large matrices cost less than convolutions, and the last full
layer is a dictionary of whole strokes at half the resolution, which a few steps can recombine.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.models.compact import LEAK, he_bound, to_pictures, upsample
from trainables.models.network import Network, Parameter, Weights


class DenseGenerator(Network):
    """Latent [T, n, Z] -> pictures [T, n, C, S, S] in [-1, 1].

    Args:
        size: S in pixels, even.
        channels: C.
        width: the hidden layer has 16 times as many units, the plane of half the resolution that
            it is spread over half as many channels.
        latent: Z.
    """

    def __init__(self, *, size: int, channels: int, width: int, latent: int) -> None:
        if size % 2 or width % 2:
            raise ValueError(f"`size` and `width` must be even, got {size} and {width}.")
        self.half, self.depth, self.channels = size // 2, width // 2, channels
        hidden, plane = 16 * width, self.half**2 * self.depth
        super().__init__(
            {
                "hidden.weight": Parameter((latent, hidden), he_bound(latent)),
                "hidden.bias": Parameter((1, hidden)),
                "plane.weight": Parameter((hidden, plane), he_bound(hidden)),
                "plane.bias": Parameter((1, plane)),
                "picture.weight": Parameter((self.depth, 16 * channels), he_bound(4 * self.depth)),
                "picture.bias": Parameter((1, 1, 1, channels)),
            }
        )

    def forward(self, weights: Weights, batch: Tensor) -> Tensor:
        tasks, count, _ = batch.shape
        x = batch
        for layer in ("hidden", "plane"):
            x = torch.baddbmm(weights[f"{layer}.bias"], x, weights[f"{layer}.weight"])
            x = F.leaky_relu(F.layer_norm(x, x.shape[-1:]), LEAK)
        x = upsample(x.view(tasks * count, self.half, self.half, -1), weights["picture.weight"])
        return to_pictures(x, weights["picture.bias"])
