"""The three GANs of the transfer pipelines, behind one face: DCGAN, conditional DCGAN, InfoGAN.

Shapes: T tasks, n pictures a task, C channels, S pixels a side, Z noise, L labels or categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.models.compact import CompactCritic, CompactGenerator
from trainables.models.conditional import CodeCritic, LabelCritic
from trainables.models.network import Weights

METHODS = ("dcgan", "cgan", "infogan")
CONTINUOUS = 2  # continuous codes of the InfoGAN, uniform in [-1, 1]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Generator inputs [T, n, Z + ...], and the labels [T, n, L] or codes that they hold."""

    latent: Tensor
    condition: Tensor | None = None


class Dcgan:
    """An unconditional GAN; the base of the other two.

    Args:
        shape: size, channels and width of both nets.
        noise: Z.
        labels: L, of the base classes; ignored here.
    """

    def __init__(self, shape: dict[str, Any], noise: int, labels: int) -> None:
        self.noise, self.labels = noise, labels
        self.generator = CompactGenerator(**shape, latent=noise + self.extra_inputs())
        self.critic = self._critic(shape)

    def extra_inputs(self) -> int:
        """Numbers in the latent beside the noise."""
        return 0

    def _critic(self, shape: dict[str, Any]) -> CompactCritic:
        return CompactCritic(**shape)

    def draw(self, tasks: int, count: int, prior: Tensor, rng: torch.Generator) -> Drawn:
        """Inputs of the generator; `prior` [T, L] is how likely each label or category is."""
        del prior
        return Drawn(self._noise(tasks, count, rng))

    def _noise(self, tasks: int, count: int, rng: torch.Generator) -> Tensor:
        return torch.randn(tasks, count, self.noise, generator=rng, device=rng.device)

    def scores(self, weights: Weights, pictures: Tensor, condition: Tensor | None) -> Tensor:
        """Critic's scores [T, n] of pictures [T, n, C, S, S]."""
        del condition
        return self.critic.forward(weights, pictures)

    def lost_information(self, weights: Weights, pictures: Tensor, drawn: Drawn) -> Tensor | None:
        """What cannot be recovered of the codes, [T]; None where there are none."""
        del weights, pictures, drawn
        return None

    def prior(self, weights: Weights, shots: Tensor, nearest: Tensor) -> Tensor:
        """Labels or categories to draw a new class with -> [T, L].

        Args:
            weights: of the pre-trained critic, [1, ...].
            shots: [T, n, C, S, S].
            nearest: the base class that each task's shots are nearest to, [T].
        """
        del weights, shots
        return F.one_hot(nearest, self.labels).float()


class Cgan(Dcgan):
    """Label joined to the latent and shown to the critic; a new class begins as the base class
    that its shots are nearest to."""

    def extra_inputs(self) -> int:
        return self.labels

    def _critic(self, shape: dict[str, Any]) -> CompactCritic:
        return LabelCritic(**shape, labels=self.labels)

    def draw(self, tasks: int, count: int, prior: Tensor, rng: torch.Generator) -> Drawn:
        labels = _categories(prior, count, rng)
        return Drawn(torch.cat([self._noise(tasks, count, rng), labels], -1), labels)

    def scores(self, weights: Weights, pictures: Tensor, condition: Tensor | None) -> Tensor:
        assert isinstance(self.critic, LabelCritic)
        assert condition is not None
        return self.critic.conditional(weights, pictures, condition)


class InfoGan(Dcgan):
    """Categories and continuous codes in the latent, recovered by Q; a new class is drawn with the
    categories that Q sees in its shots."""

    def extra_inputs(self) -> int:
        return self.labels + CONTINUOUS

    def _critic(self, shape: dict[str, Any]) -> CompactCritic:
        return CodeCritic(**shape, codes=self.labels + CONTINUOUS)

    def draw(self, tasks: int, count: int, prior: Tensor, rng: torch.Generator) -> Drawn:
        category = _categories(prior, count, rng)
        place = torch.rand(tasks, count, CONTINUOUS, generator=rng, device=rng.device) * 2 - 1
        codes = torch.cat([category, place], -1)
        return Drawn(torch.cat([self._noise(tasks, count, rng), codes], -1), codes)

    def lost_information(self, weights: Weights, pictures: Tensor, drawn: Drawn) -> Tensor | None:
        assert isinstance(self.critic, CodeCritic)
        assert drawn.condition is not None
        told = self.critic.recovered(weights, pictures)
        at = self.labels
        logits, means = told[..., :at], told[..., at:]
        category, place = drawn.condition[..., :at], drawn.condition[..., at:]
        missed: Tensor = -(category * logits.log_softmax(-1)).sum(-1)
        return (missed + 0.5 * (means - place).square().sum(-1)).mean(1)

    def prior(self, weights: Weights, shots: Tensor, nearest: Tensor) -> Tensor:
        del nearest
        assert isinstance(self.critic, CodeCritic)
        told = self.critic.recovered(weights, shots.flatten(0, 1)[None])[..., : self.labels]
        return told.softmax(-1).view(*shots.shape[:2], self.labels).mean(1).detach()


def _categories(prior: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """One-hot draws from [T, L] -> [T, n, L]."""
    drawn = torch.multinomial(prior, count, replacement=True, generator=rng)
    return F.one_hot(drawn, prior.shape[1]).to(prior.dtype)


def build_transfer_gan(
    method: str, *, size: int, channels: int, width: int, noise: int, labels: int
) -> Dcgan:
    """The nets of a method of `METHODS`."""
    kinds = {"dcgan": Dcgan, "cgan": Cgan, "infogan": InfoGan}
    shape = {"size": size, "channels": channels, "width": width}
    return kinds[method](shape, noise, labels)
