"""Differentiable augmentation: small changes of place, shape and tone for a batch of pictures.

Torchvision's transforms draw one change for a whole batch, and both its and kornia's draw from the
global generator, with which no trial could be repeated. So the random amounts are drawn here, and
torch's `grid_sample` does the work.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.change import NO_CHANGE, Change

# What a strength of 1 is of each amount, drawn uniformly between minus and plus it:
ROTATION = math.radians(15)
SHIFT = 0.10  # of a side
SCALE = 0.10
BRIGHTNESS = 0.20  # of the ink, that is of the height above the background
STRETCH = 0.20  # of the logarithm of height by width
SHEAR = 0.20
GAMMA = 0.60  # of the logarithm of the exponent
# And of smooth fields, the deviation of a normal distribution at the knots:
WARP = 0.03  # of a side
SHADE = 0.40  # of the ink
KNOTS = 4  # a side
BACKGROUND = -1.0
DARKEST = 1 / 255  # ink, of at most 1


def augment(images: Tensor, change: Change, generator: torch.Generator) -> Tensor:
    """Change every picture by its own random amounts.

    What comes in from outside is background; coloured pictures, which have none, are mirrored
    there. Gradients flow to `images`.

    Args:
        images: [n, C, S, S] in [-1, 1], -1 the background; any device, not modified.
        change: how much; if nothing, `images` itself is returned and nothing drawn.
        generator: on any device; draws are made on its own.
    Returns:
        [n, C, S, S] in [-1, 1].
    """
    if change == NO_CHANGE:
        return images
    count, smooth = len(images), bool(change.shape or change.tone)
    strengths = [change.place] * 3 + [change.scale, change.brightness]
    angle, right, down, scale, brightness = _uniform(strengths, count, generator)
    size = 1 / (1 + SCALE * scale)
    cosine, sine = torch.cos(ROTATION * angle) * size, torch.sin(ROTATION * angle) * size
    right, down = -2 * SHIFT * right, -2 * SHIFT * down
    # A sampling grid maps places x of the result to places A (x - t) of the picture, so A is the
    # inverse of the change; coordinates run from -1 to 1, so a side is 2 long.
    rows = [(cosine, -sine), (sine, cosine)]
    if smooth:
        strengths = [change.shape] * 2 + [change.tone]
        stretch, shear, gamma = _uniform(strengths, count, generator)
        shape = (count, 3, KNOTS, KNOTS)
        knots = torch.randn(shape, generator=generator, device=generator.device)
        onto = _onto_pixels(images.shape[-1], generator.device, knots.dtype)
        fields = onto @ knots @ onto.mT
        wide, lean = torch.exp(STRETCH * stretch), SHEAR * shear
        rows = [
            ((cosine - lean * sine) * wide, (-sine - lean * cosine) * wide),
            (sine / wide, cosine / wide),
        ]
    theta = torch.stack([torch.stack([a, b, a * right + b * down], 1) for a, b in rows], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    if change.shape:
        grid = grid + 2 * WARP * change.shape * fields[:, :2].movedim(1, 3)
    ink = images - BACKGROUND  # zeros: outside the picture grid_sample reads 0, no ink
    outside = "zeros" if images.shape[1] == 1 else "reflection"
    # Bilinear sampling would blur what is moved by a part of a pixel; cubics overshoot instead.
    moved = F.grid_sample(
        ink, grid.to(images), mode="bicubic", padding_mode=outside, align_corners=False
    ).clamp(min=0)
    light = (1 + BRIGHTNESS * brightness).view(-1, 1, 1, 1)
    if change.tone:
        exponent = torch.exp(GAMMA * gamma).view(-1, 1, 1, 1).to(images)
        # Straight below the darkest level, where a power has no slope, or no end of it.
        curve = 2 * (moved / 2).clamp(min=DARKEST) ** exponent
        line = moved * DARKEST ** (exponent - 1)
        moved = torch.where(moved / 2 > DARKEST, curve, line)
        light = (light + SHADE * change.tone * fields[:, 2:]).clamp(min=0)
    changed: Tensor = (moved * light.to(images) + BACKGROUND).clamp(max=1)
    return changed


def augment_tasks(images: Tensor, change: Change, generator: torch.Generator) -> Tensor:
    """The same of the pictures [T, n, C, S, S] of several tasks."""
    return augment(images.flatten(0, 1), change, generator).view(images.shape)


def augmented_copies(
    shots: Tensor, change: Change, count: int, generator: torch.Generator
) -> Tensor:
    """Shots [E, n, C, S, S], each as often as any other, and changed -> [E, count, C, S, S]."""
    copies = shots[:, torch.arange(count, device=shots.device) % shots.shape[1]]
    return augment_tasks(copies, change, generator)


def _uniform(strengths: list[float], count: int, generator: torch.Generator) -> Tensor:
    """Amounts [len(strengths), count], each uniform between minus and plus its strength."""
    draws = torch.rand((len(strengths), count), generator=generator, device=generator.device)
    most = _column(tuple(strengths), draws.device, draws.dtype)
    return draws.mul_(2 * most).sub_(most)


# Never dropped, as a captured step may read it.
@cache
def _column(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """[len(values), 1] on a device: to bring it there takes longer than to use it."""
    return torch.tensor(values, device=device, dtype=dtype)[:, None]


@cache
def _onto_pixels(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Weights [size, KNOTS] of a smooth curve through evenly spread knots."""
    knots = torch.eye(KNOTS, dtype=dtype)[None]
    both = F.interpolate(knots[None], size=(KNOTS, size), mode="bicubic", align_corners=False)
    weights: Tensor = both[0, 0].mT.contiguous().to(device)
    return weights
