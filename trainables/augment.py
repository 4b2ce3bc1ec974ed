"""Differentiable augmentation: small changes of place and tone for a batch of pictures."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ROTATION = math.radians(15)
SHIFT = 0.10  # of a side
SCALE = 0.10
BRIGHTNESS = 0.20  # of the ink, that is of the height above the background
BACKGROUND = -1.0


def augment(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Turn, shift, scale and brighten every picture by its own random amounts.

    At strength 1 these are uniform in +-15 degrees, +-10 % of a side on each axis, +-10 % and
    +-20 % of the ink. What comes in from outside is background; coloured pictures, which have
    none, are mirrored there. Gradients flow to `images`.

    Args:
        images: [n, C, S, S] in [-1, 1], -1 the background; any device, not modified.
        strength: in [0, 1]; 0 returns `images` itself and draws nothing.
        generator: on any device; draws are made on its own.
    Returns:
        [n, C, S, S] in [-1, 1].
    Source: the strong augmentation of four shots that trained generators are compared with.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` must be in [0, 1], got {strength}.")
    if strength == 0:
        return images
    draws = torch.rand((5, len(images)), generator=generator, device=generator.device)
    draws = draws.mul_(2 * strength).sub_(strength)
    angle, right, down, scale, brightness = draws.unbind()
    # A sampling grid maps places x of the result to places A (x - t) of the picture, so A is the
    # inverse of the change; coordinates run from -1 to 1, so a side is 2 long.
    inverse = 1 / (1 + SCALE * scale)
    cosine, sine = torch.cos(ROTATION * angle) * inverse, torch.sin(ROTATION * angle) * inverse
    right, down = -2 * SHIFT * right, -2 * SHIFT * down
    along, across = cosine * right - sine * down, sine * right + cosine * down
    rows = [cosine, -sine, along, sine, cosine, across]
    theta = torch.stack(rows, 1).view(-1, 2, 3).to(images.device, images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    ink = images - BACKGROUND  # zeros: outside the picture grid_sample reads 0, no ink
    outside = "zeros" if images.shape[1] == 1 else "reflection"
    moved = F.grid_sample(ink, grid, mode="bilinear", padding_mode=outside, align_corners=False)
    tone = (1 + BRIGHTNESS * brightness).to(images.device, images.dtype)
    return (moved * tone.view(-1, 1, 1, 1) + BACKGROUND).clamp(max=1)
