"""The small net behind scoring, for the embedding and the recogniser alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 32  # pixels that the nets look at; larger pictures are averaged down
AT_ONCE = 128  # pictures: more would leave the processor's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One of the two nets: convolution widths, features out, most training steps."""

    name: str
    widths: tuple[int, int, int]
    features: int
    most_steps: int


class FeatureNet(nn.Module):
    """Three 3x3 convolutions, each halving the side, and a linear layer: [N, C, S, S] -> [N, d]."""

    def __init__(self, recipe: Recipe, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in recipe.widths:
            # Pooling before the normalisation saves three quarters of its work.
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [convolution, nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.out = nn.Linear(channels * (SIDE // 8) ** 2, recipe.features)

    def forward(self, images: Tensor) -> Tensor:
        """Return features of pictures in [-1, 1]."""
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, size=(SIDE, SIDE), mode="area")
        features: Tensor = self.out(self.body(images.contiguous(memory_format=torch.channels_last)))
        return features

    def run(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """Return features of uint8 pictures, [N, C, S, S] -> [N, d], without gradients."""
        with torch.inference_mode():
            parts = [
                self(torch.from_numpy(np.array(images[i : i + AT_ONCE])).float().div(127.5).sub(1))
                for i in range(0, len(images), AT_ONCE)
            ]
            return torch.cat(parts)
