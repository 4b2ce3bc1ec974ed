"""FIGR's training loop as its authors would write it: the oracle of our faithful mode.

Written from the paper (Algorithm 1), FIGR (arXiv:1901.02199) and what is known of its code: plain
modules, fakes that stay attached in the critic's step, real and fake pictures in passes of their
own, weights copied to and fro. Nothing here is optimised, and nothing of `trainables` is used, so
that agreement means something.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

SIZE = 32
LEVELS = 4
LATENT = 100
PENALTY = 10.0
INNER_LR = 1e-3
OUTER_LR = 1e-4


class Generator(nn.Module):
    """Noise [n, Z] -> pictures [n, 1, 32, 32]: FIGR's DCGAN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.top = width * 2**LEVELS
        self.seed = nn.Linear(LATENT, 4 * self.top)
        self.seed_slope = nn.PReLU(4 * self.top)
        self.seed_norm = nn.LayerNorm(4 * self.top)
        self.up = nn.ModuleList()
        for level in range(LEVELS):
            before, here = self.top // 2**level, 2 ** (level + 1)
            self.up.append(
                nn.Sequential(
                    nn.Conv2d(before, before // 2, 5, padding=2),
                    nn.PReLU(before // 2),
                    nn.LayerNorm([before // 2, here, here]),
                    nn.Upsample(scale_factor=2),
                )
            )
        self.picture = nn.Conv2d(width, 1, 5, padding=2)

    def forward(self, noise: Tensor) -> Tensor:
        x = self.seed_norm(self.seed_slope(self.seed(noise))).view(-1, self.top, 2, 2)
        for stage in self.up:
            x = stage(x)
        return self.picture(x).tanh()


class Critic(nn.Module):
    """Pictures [n, 1, 32, 32] -> scores [n]: FIGR's DCGAN."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def layer(before: int, after: int, here: int) -> list[nn.Module]:
            return [
                nn.Conv2d(before, after, 5, padding=2),
                nn.LayerNorm([after, here, here]),
                nn.PReLU(after),
            ]

        stages = layer(1, width, SIZE)
        for level in range(LEVELS):
            before = width * 2**level
            stages += [*layer(before, 2 * before, SIZE // 2**level), nn.AvgPool2d(2)]
        self.stages = nn.Sequential(*stages)
        self.score = nn.Linear(width * 2**LEVELS * (SIZE // 2**LEVELS) ** 2, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.score(self.stages(pictures).flatten(1)).squeeze(1)


class FigrReference:
    """Algorithm 1 with FIGR's settings.

    Args:
        inner_steps: K.
        rng: draws the noise and the interpolates.
    """

    def __init__(self, width: int, inner_steps: int, rng: torch.Generator) -> None:
        self.inner_steps, self.rng = inner_steps, rng
        self.generator, self.critic = Generator(width), Critic(width)
        self.outer = [
            torch.optim.Adam(net.parameters(), lr=OUTER_LR) for net in (self.generator, self.critic)
        ]

    def iterate(self, real: Tensor) -> tuple[float, float]:
        """One meta-iteration on the pictures [n, 1, 32, 32] of a task -> the critic's and the
        generator's mean loss over the K steps."""
        generator, critic = copy.deepcopy(self.generator), copy.deepcopy(self.critic)
        optimizers = [torch.optim.SGD(net.parameters(), lr=INNER_LR) for net in (generator, critic)]
        losses = []
        for _ in range(self.inner_steps):
            critic_loss = self._critic_loss(generator, critic, real)
            optimizers[1].zero_grad()
            critic_loss.backward()
            optimizers[1].step()
            generator_loss = critic(generator(self._noise(len(real)))).mean()
            optimizers[0].zero_grad()
            generator_loss.backward()
            optimizers[0].step()
            losses.append((critic_loss.item(), generator_loss.item()))
        for meta, adapted, outer in zip(
            (self.generator, self.critic), (generator, critic), self.outer, strict=True
        ):
            for weight, after in zip(meta.parameters(), adapted.parameters(), strict=True):
                weight.grad = (weight - after).detach()
            outer.step()
        critic_mean, generator_mean = np.mean(losses, axis=0)
        return float(critic_mean), float(generator_mean)

    def _critic_loss(self, generator: Generator, critic: Critic, real: Tensor) -> Tensor:
        """Real pictures are scored down, fake ones up; the norm is over the channel of a pixel."""
        fake = generator(self._noise(len(real)))
        difference = (critic(real).sum() - critic(fake).sum()) / (2 * len(real))
        share = torch.rand(len(real), 1, 1, 1, generator=self.rng)
        between = (real + share * (fake - real)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        return difference + PENALTY * ((slope.norm(dim=1) - 1) ** 2).mean()

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, LATENT, generator=self.rng)
