"""Adversarial losses and penalties: pure functions of scores, pictures and a critic.

Shapes: T tasks, n pictures a task, C channels, H height, W width. Losses are one number a task,
[T]: summed before the backward pass, they leave every task its own gradient.

Two conventions. `corrected` is Gulrajani et al. (arXiv:1704.00028). `faithful` repeats the code
behind FIGR (arXiv:1901.02199), which the paper builds on: real pictures are scored down and fake
ones up, the difference is halved by a mean over the 2n scores, and the penalty's norm runs over
the channel axis of every pixel instead of over the picture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def wasserstein_critic(real_Tn: Tensor, fake_Tn: Tensor, *, faithful: bool) -> Tensor:
    """What the critic minimises, without the penalty -> [T].

    corrected: mean(fake) - mean(real).  faithful: (mean(real) - mean(fake)) / 2.
    """
    difference = fake_Tn.mean(1) - real_Tn.mean(1)
    return -difference / 2 if faithful else difference


def wasserstein_generator(fake_Tn: Tensor, *, faithful: bool) -> Tensor:
    """What the generator minimises -> [T]: -mean(fake), or +mean(fake) when faithful."""
    return fake_Tn.mean(1) if faithful else -fake_Tn.mean(1)


def logistic_critic(real_Tn: Tensor, fake_Tn: Tensor) -> Tensor:
    """What the discriminator of a plain GAN minimises -> [T]: -log D(real) - log(1 - D(fake)).

    Source: arXiv:1406.2661; scores are logits.
    """
    return F.softplus(-real_Tn).mean(1) + F.softplus(fake_Tn).mean(1)


def logistic_generator(fake_Tn: Tensor) -> Tensor:
    """What the generator of a plain GAN minimises, not saturating -> [T]: -log D(fake)."""
    return F.softplus(-fake_Tn).mean(1)


def interpolate(real_TnCHW: Tensor, fake_TnCHW: Tensor, rng: torch.Generator) -> Tensor:
    """A uniformly drawn point on the line between each real picture and its fake one.

    Raises:
        ValueError: the batches differ in shape.
    """
    if real_TnCHW.shape != fake_TnCHW.shape:
        raise ValueError(
            "`real` and `fake` must have one shape to be interpolated, got "
            f"{tuple(real_TnCHW.shape)} and {tuple(fake_TnCHW.shape)}."
        )
    share = torch.rand(real_TnCHW.shape[:2], generator=rng, device=rng.device)
    return torch.lerp(real_TnCHW, fake_TnCHW, share.view(*share.shape, 1, 1, 1))


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], pictures_TnCHW: Tensor, *, faithful: bool
) -> Tensor:
    """How far the critic's slope at `pictures` is from 1, squared and averaged -> [T].

    corrected: (norm over the whole picture - 1)^2, mean over pictures.
    faithful:  (norm over the channels of a pixel - 1)^2, mean over pictures and pixels.
    Source: arXiv:1704.00028, section 4.
    """
    return slope_penalty(slope_at(critic, pictures_TnCHW), faithful=faithful)


def slope_at(critic: Callable[[Tensor], Tensor], pictures_TnCHW: Tensor) -> Tensor:
    """The gradient of the critic's scores with respect to `pictures`, like them; it can be
    differentiated."""
    points = pictures_TnCHW.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return slope


def slope_penalty(slope_TnCHW: Tensor, *, faithful: bool) -> Tensor:
    """How far slopes are from 1, as `gradient_penalty` says -> [T]."""
    axes = (2,) if faithful else (2, 3, 4)
    # Its derivative where the slope is zero is zero, to any order.
    norm: Tensor = torch.linalg.vector_norm(slope_TnCHW, dim=axes)
    return (norm - 1).square().flatten(1).mean(1)
