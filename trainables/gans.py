"""The kinds of GAN behind one face: unconditional, conditional on a label, InfoGAN.

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
from trainables.models.network import Network, Weights

CATEGORIES = 10  # of an InfoGAN that is trained on single classes
CONTINUOUS = 2  # continuous codes of the InfoGAN, uniform in [-1, 1]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Generator inputs [T, n, Z + ...], and the labels [T, n, L] or codes that they hold."""

    latent: Tensor
    condition: Tensor | None = None


class Gan:
    """An unconditional GAN; the base of the other two. Weights travel apart from the nets.

    Args:
        generator: of latents of `noise` numbers and those of `extra_inputs`.
        critic: of the kind that the class is for.
        noise: Z.
        labels: L, of base classes or categories; ignored here.
    """

    def __init__(self, generator: Network, critic: Network, noise: int, labels: int = 0) -> None:
        self.generator, self.critic = generator, critic
        self.noise, self.labels = noise, labels

    @staticmethod
    def extra_inputs(labels: int) -> int:
        """Numbers in the latent beside the noise."""
        del labels
        return 0

    def draw(self, prior: Tensor, count: int, rng: torch.Generator) -> Drawn:
        """Inputs of the generator, `count` for every task; `prior` [T, L] is how likely each label
        or category is."""
        return Drawn(self._noise(len(prior), count, rng))

    def _noise(self, tasks: int, count: int, rng: torch.Generator) -> Tensor:
        return torch.randn(tasks, count, self.noise, generator=rng, device=rng.device)

    def scores(self, weights: Weights, pictures: Tensor, condition: Tensor | None) -> Tensor:
        """Critic's scores [T, n] of pictures [T, n, C, S, S]."""
        del condition
        return self.critic.forward(weights, pictures)

    def uniform(self, tasks: int, device: torch.device) -> Tensor:
        """A prior that prefers no label, [T, L]."""
        return torch.ones(tasks, self.labels, device=device) / max(1, self.labels)

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


class Cgan(Gan):
    """Label joined to the latent and shown to the critic; a new class begins as the base class
    that its shots are nearest to."""

    @staticmethod
    def extra_inputs(labels: int) -> int:
        return labels

    def draw(self, prior: Tensor, count: int, rng: torch.Generator) -> Drawn:
        labels = _categories(prior, count, rng)
        return Drawn(torch.cat([self._noise(len(prior), count, rng), labels], -1), labels)

    def scores(self, weights: Weights, pictures: Tensor, condition: Tensor | None) -> Tensor:
        assert isinstance(self.critic, LabelCritic)
        assert condition is not None
        return self.critic.conditional(weights, pictures, condition)


class InfoGan(Gan):
    """Categories and continuous codes in the latent, recovered by Q; a new class is drawn with the
    categories that Q sees in its shots."""

    @staticmethod
    def extra_inputs(labels: int) -> int:
        return labels + CONTINUOUS

    def draw(self, prior: Tensor, count: int, rng: torch.Generator) -> Drawn:
        category = _categories(prior, count, rng)
        place = torch.rand(len(prior), count, CONTINUOUS, generator=rng, device=rng.device) * 2 - 1
        codes = torch.cat([category, place], -1)
        return Drawn(torch.cat([self._noise(len(prior), count, rng), codes], -1), codes)

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
) -> Gan:
    """The nets of a method of `METHODS`."""
    shape: dict[str, Any] = {"size": size, "channels": channels, "width": width}
    kinds: dict[str, tuple[type[Gan], Network]] = {
        "dcgan": (Gan, CompactCritic(**shape)),
        "cgan": (Cgan, LabelCritic(**shape, labels=labels)),
        "infogan": (InfoGan, code_critic(shape, labels)),
    }
    kind, critic = kinds[method]
    generator = CompactGenerator(**shape, latent=noise + kind.extra_inputs(labels))
    return kind(generator, critic, noise, labels)


def code_critic(shape: dict[str, Any], labels: int) -> CodeCritic:
    """Discriminator and Q of an InfoGAN with that many categories."""
    return CodeCritic(**shape, codes=InfoGan.extra_inputs(labels))
