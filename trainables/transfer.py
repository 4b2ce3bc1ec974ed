"""Transfer between GANs: pre-train on base classes, fine-tune on a few pictures of a new one.

Pre-training and fine-tuning are the same adversarial steps on other pictures; fine-tuning runs for
several new classes at once, each with its own copy of the weights (the leading task axis).

Shapes: T tasks, n pictures a task, B pictures a batch, C channels, S pixels a side, L base
classes, P weights of a net.
Source: sections 2 and 3.2 of the paper; FreezeD, arXiv:2002.10964; L2-SP, arXiv:1802.01483;
differentiable augmentation, arXiv:2006.10738.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trainables.augment import augment_tasks
from trainables.change import Change
from trainables.configs import TransferConfig
from trainables.cuda_step import Stepper, arithmetic, low_precision
from trainables.flops import counted_flops
from trainables.gans import Drawn, Gan, build_transfer_gan
from trainables.losses import (
    gradient_penalty,
    interpolate,
    logistic_critic,
    logistic_generator,
    wasserstein_critic,
    wasserstein_generator,
)
from trainables.models.compact import CompactCritic
from trainables.optimizers import Adam
from trainables.reptile import Pair, newest_weight
from trainables.weights import restore

AUGMENTED = 300  # pictures that four shots become (section 3.2)
PRETRAIN_AVERAGING = 0.1  # share of pre-training that the kept weights average over


def build_gan(config: TransferConfig, labels: int) -> Gan:
    """The nets of `config` for a number of base classes."""
    return build_transfer_gan(
        config.method,
        size=config.size,
        channels=config.channels,
        width=config.width,
        noise=config.latent,
        labels=labels,
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Real pictures [T, B, C, S, S] and, for a conditional net, their labels [T, B, L]."""

    pictures: Tensor
    labels: Tensor


class AdversarialSteps:
    """Steps of critic and generator for T tasks at once, from common weights.

    Args:
        start: weights [P] of both nets; not modified.
        prior: how likely each label or category is in what is generated, [T, L].
        real: gives a batch of real pictures of every task.
        batch: pictures of every task that the generator draws for its own step.
        lr: of the generator.
        frozen: names of weights that stay as they are.
        averaging: share of the steps that `average` covers.
        rng: draws everything random; on the device of the pictures.
        fast: see `cuda_step`; not for batches that come from elsewhere than the device.
    """

    def __init__(
        self,
        gan: Gan,
        config: TransferConfig,
        start: Pair,
        *,
        prior: Tensor,
        real: Callable[[], Batch],
        batch: int,
        lr: float,
        frozen: frozenset[str],
        averaging: float,
        rng: torch.Generator,
        fast: bool = False,
    ) -> None:
        self.gan, self.config, self.prior, self.real, self.rng = gan, config, prior, real, rng
        self._scores = low_precision(gan.scores, rng.device, fast=fast)
        self._generate = low_precision(gan.generator.forward, rng.device, fast=fast)
        self._batch, self._averaging, self.steps = batch, averaging, 0
        capture = type(gan) is Gan or batch > 1  # a single category is looked at
        self._stepper = Stepper(rng, fast=fast, capture=capture)
        tasks = len(prior)
        self.generator = _copies(gan.generator.named(start.generator[None]), tasks)
        self.critic = _copies(gan.critic.named(start.critic[None]), tasks)
        self.average = {name: weight.clone() for name, weight in self.generator.items()}
        self._source = (
            {name: weight.clone() for name, weight in self.generator.items()},
            {name: weight.clone() for name, weight in self.critic.items()},
        )
        self._trained = (
            {n: w.requires_grad_() for n, w in self.generator.items() if n not in frozen},
            {n: w.requires_grad_() for n, w in self.critic.items() if n not in frozen},
        )
        rates = (lr, lr * config.critic_lr_ratio)
        self._optimizers = [
            Adam(list(w.values()), rate, (config.beta1, 0.9), fused=True)
            for w, rate in zip(self._trained, rates, strict=True)
        ]

    def step(self) -> tuple[Tensor, Tensor]:
        """One generator update after `critic_steps` critic updates -> their losses, each [T], which
        last until the next step."""
        critic_loss, generator_loss = self._stepper(self._update)
        self.steps += 1
        weight = newest_weight(self.steps, self._averaging)
        for name, newest in self._trained[0].items():
            self.average[name].lerp_(newest.detach(), weight)
        return critic_loss, generator_loss

    def _update(self) -> tuple[Tensor, Tensor]:
        for _ in range(self.config.critic_steps):
            critic_loss = self._critic_step()
        return critic_loss, self._generator_step()

    def draw(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        """New pictures of every task by the averaged generator -> [T, count, C, S, S]; `rng` is
        that of the steps if None."""
        rng = self.rng if rng is None else rng
        drawn = self.gan.draw(self.prior, count, rng)
        with torch.no_grad(), arithmetic(rng.device, fast=False):
            pictures = self.gan.generator.forward(self.average, drawn.latent)
            return augment_tasks(pictures, self.config.layer, rng)

    def _generated(self, drawn: Drawn) -> Tensor:
        pictures = self._generate(self.generator, drawn.latent)
        return augment_tasks(pictures, self.config.layer, self.rng)

    def _critic_step(self) -> Tensor:
        gan, config, weights = self.gan, self.config, self.critic
        batch = self.real()
        drawn = gan.draw(self.prior, batch.pictures.shape[1], self.rng)
        with torch.no_grad():
            fake = self._generated(drawn)
        real, seen = self._shown(batch.pictures), self._shown(fake)
        score = self._scores
        scored = score(weights, real, batch.labels), score(weights, seen, drawn.condition)
        if config.loss == "wasserstein":
            loss = wasserstein_critic(*scored, faithful=False)
        else:
            loss = logistic_critic(*scored)
        if config.penalty:
            loss = loss + config.penalty * gradient_penalty(
                lambda x: gan.scores(weights, x, batch.labels),
                interpolate(real, seen, self.rng),
                faithful=False,
            )
        missed = gan.lost_information(weights, seen, drawn)
        if missed is not None:
            loss = loss + config.information * missed
        self._descend(1, loss)
        return loss.detach()

    def _generator_step(self) -> Tensor:
        gan, config = self.gan, self.config
        drawn = gan.draw(self.prior, self._batch, self.rng)
        fake = self._shown(self._generated(drawn))
        frozen = {name: weight.detach() for name, weight in self.critic.items()}
        scores = self._scores(frozen, fake, drawn.condition)
        if config.loss == "wasserstein":
            loss = wasserstein_generator(scores, faithful=False)
        else:
            loss = logistic_generator(scores)
        missed = gan.lost_information(frozen, fake, drawn)
        if missed is not None:
            loss = loss + config.information * missed
        self._descend(0, loss)
        return loss.detach()

    def _shown(self, pictures: Tensor) -> Tensor:
        """What the critic gets to see: real and fake pictures changed in the same ways."""
        return augment_tasks(pictures, Change.affine(self.config.shared_strength), self.rng)

    def _descend(self, which: int, loss: Tensor) -> None:
        weights, source = self._trained[which], self._source[which]
        if self.config.l2_source:
            ways = [(weight - source[name]).flatten(1) for name, weight in weights.items()]
            loss = loss + self.config.l2_source * torch.cat(ways, 1).square().sum(1)
        gradients = torch.autograd.grad(loss.sum(), list(weights.values()))
        # The fused Adam takes a gradient's memory as it lies, whatever its strides say.
        self._optimizers[which].step([gradient.contiguous() for gradient in gradients])

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs but the start, the prior and the pictures."""
        return {
            "generator": {n: w.detach() for n, w in self.generator.items()},
            "critic": {n: w.detach() for n, w in self.critic.items()},
            "average": dict(self.average),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "rng": self.rng.get_state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("generator", "critic", "average"):
            for key, weight in getattr(self, name).items():
                restore(weight.detach(), state[name][key])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.rng.set_state(state["rng"].cpu())
        self.steps = state["steps"]


def _copies(named: dict[str, Tensor], tasks: int) -> dict[str, Tensor]:
    """Independent copies of weights [1, ...] for every task."""
    return {
        name: weight.detach().repeat(tasks, *[1] * (weight.dim() - 1))
        for name, weight in named.items()
    }


def frozen_names(gan: Gan, config: TransferConfig) -> frozenset[str]:
    """Weights that fine-tuning leaves alone: the critic's first and the generator's last stages."""
    assert isinstance(gan.critic, CompactCritic)
    stages = gan.critic.stages
    first = range(min(config.frozen_critic, stages))
    last = range(max(0, stages - config.frozen_generator), stages)
    kept = [f"down{i}" for i in first] + [f"up{i}" for i in last]
    return frozenset(f"{name}.{part}" for name in kept for part in ("weight", "bias"))


def cropped_copies(shots: Tensor, config: TransferConfig, rng: torch.Generator) -> Tensor:
    """The paper's 300 pictures: RandomCrop and ColorJitter of the shots, at `crop_strength` -> [T,
    300, C, S, S]. At strength 1 a crop moves by up to an eighth of a side."""
    from torchvision.transforms import v2  # takes a second, and is seldom needed

    size, strength = shots.shape[-1], config.crop_strength
    mode = "constant" if config.channels == 1 else "reflect"
    change = v2.Compose(
        [
            v2.RandomCrop(size, padding=max(1, round(size / 8 * strength)), padding_mode=mode),
            v2.ColorJitter(brightness=0.4 * strength, contrast=0.4 * strength),
        ]
    )
    seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
    # torchvision draws from the global generator alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ink = (shots.cpu() + 1) / 2
        many = [torch.stack([change(own[i % len(own)]) for i in range(AUGMENTED)]) for own in ink]
    return (torch.stack(many) * 2 - 1).to(shots.device)


class ShotSource:
    """Fine-tuning batches from the shots [T, n, C, S, S] of T tasks."""

    def __init__(
        self, shots: Tensor, labels: Tensor, config: TransferConfig, rng: torch.Generator
    ) -> None:
        self._config, self._rng = config, rng
        self._labels = labels[:, None].expand(-1, config.batch, -1)
        crop = config.augmentation == "crop"
        self._pictures = cropped_copies(shots, config, rng) if crop else shots

    def __call__(self) -> Batch:
        tasks, count = self._pictures.shape[:2]
        size = (tasks, self._config.batch)
        rows = torch.randint(count, size, generator=self._rng, device=self._rng.device)
        if count <= self._config.batch:  # every picture as often as any other, to one
            rows = (torch.arange(size[1], device=rows.device) + rows[:, :1]) % count
        pictures = self._pictures[torch.arange(tasks, device=rows.device)[:, None], rows]
        if self._config.augmentation != "crop":
            pictures = augment_tasks(pictures, self._config.change, self._rng)
        return Batch(pictures, self._labels)


def fine_tuning(
    gan: Gan,
    config: TransferConfig,
    start: Pair,
    means: Tensor,
    shots: Tensor,
    rng: torch.Generator,
    *,
    fast: bool = False,
) -> AdversarialSteps:
    """Steps that teach a pre-trained GAN T new classes, each from its own shots.

    Args:
        start: pre-trained weights [P].
        means: mean picture of each base class, [L, C, S, S].
        shots: [T, n, C, S, S].
    """
    away = (shots.mean(1)[:, None] - means[None]).square().flatten(2).mean(2)  # [T, L]
    nearest = away.argmin(1)
    labels = torch.nn.functional.one_hot(nearest, len(means)).float()
    prior = gan.prior(gan.critic.named(start.critic[None]), shots, nearest)
    return AdversarialSteps(
        gan,
        config,
        start,
        prior=prior,
        real=ShotSource(shots, labels, config, rng),
        batch=config.batch,
        lr=config.lr,
        frozen=frozen_names(gan, config),
        averaging=config.averaging,
        rng=rng,
        fast=fast,
    )


def step_flops(config: TransferConfig, labels: int) -> float:
    """Floating-point operations of one fine-tuning step of one task, by torch's own counter."""
    names = ("method", "size", "channels", "width", "latent", "loss", "critic_steps", "batch")
    every = asdict(config)
    return _counted(tuple((n, every[n]) for n in names), bool(config.penalty), labels)


@lru_cache(maxsize=256)
def _counted(fields: tuple[tuple[str, Any], ...], penalised: bool, labels: int) -> float:
    config = TransferConfig(
        **dict(fields),
        penalty=float(penalised),
        augment_place=0.0,
        augment_shape=0.0,
        augment_tone=0.0,
    )
    gan, rng = build_gan(config, labels), torch.Generator().manual_seed(0)
    start = Pair(gan.generator.initial(rng), gan.critic.initial(rng))
    shape = (config.channels, config.size, config.size)
    steps = fine_tuning(
        gan, config, start, torch.zeros(labels, *shape), torch.zeros(1, 4, *shape), rng
    )
    return counted_flops(steps.step)
