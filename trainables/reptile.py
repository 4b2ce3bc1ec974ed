"""Reptile meta-training of a WGAN-GP GAN: Algorithms 1 and 2 of the paper, as pure steps.

Both algorithms share one inner loop: K steps of critic and generator on pictures of one task,
begun at the meta-weights. Algorithm 1 (training) then moves the meta-weights towards where the
loop ended; Algorithm 2 (generation) draws pictures from there.

Shapes: T tasks, n pictures a task, C channels, S pixels a side, Z latent size, P weights.
Sources: FIGR, arXiv:1901.02199; Reptile, arXiv:1803.02999; WGAN-GP, arXiv:1704.00028.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trainables.augment import augment_tasks
from trainables.change import NO_CHANGE, Change
from trainables.configs import ReptileConfig
from trainables.cuda_step import Stepper, arithmetic, low_precision
from trainables.flops import counted_flops
from trainables.gans import CATEGORIES, Drawn, Gan, InfoGan, code_critic
from trainables.generators import GENERATORS, load_generator
from trainables.losses import (
    interpolate,
    slope_at,
    slope_penalty,
    wasserstein_critic,
    wasserstein_generator,
)
from trainables.models.compact import CompactCritic
from trainables.models.dense import PlaneGenerator
from trainables.models.figr import FigrCritic, FigrGenerator
from trainables.models.network import Network, Weights
from trainables.optimizers import Adam, GradientDescent, Optimizer
from trainables.weights import restore


@dataclass(slots=True)
class Pair:
    """Weights of generator and critic: [P] each, or [T, P] with a task axis."""

    generator: Tensor
    critic: Tensor

    def clone(self) -> Pair:
        return Pair(self.generator.detach().clone(), self.critic.detach().clone())


def build_gan(config: ReptileConfig) -> Gan:
    """The networks that `config` names."""
    shape: dict[str, Any] = {
        "size": config.size,
        "channels": config.channels,
        "width": config.width,
    }
    if config.architecture == "infogan":
        inputs = config.latent + InfoGan.extra_inputs(CATEGORIES)
        generator: Network = PlaneGenerator(**shape, latent=inputs)
        return InfoGan(generator, code_critic(shape, CATEGORIES), config.latent, CATEGORIES)
    if config.architecture in GENERATORS:
        generator = load_generator(config.architecture)(**shape, latent=config.latent)
        return Gan(generator, CompactCritic(**shape), config.latent)
    figr = shape | {"depth": config.depth, "residual": config.architecture == "resnet"}
    return Gan(FigrGenerator(**figr, latent=config.latent), FigrCritic(**figr), config.latent)


def initial_weights(gan: Gan, rng: torch.Generator) -> Pair:
    return Pair(gan.generator.initial(rng), gan.critic.initial(rng))


def _leaves(network: Network, start: Tensor, tasks: int) -> dict[str, Tensor]:
    """`tasks` independent copies of weights [P], by name, to be trained.

    Apart, because the gradient of one flat tensor would have to be put together at every step.
    """
    named = network.named(start.detach().expand(tasks, -1))
    return {name: network.parameters[name].laid(w) for name, w in named.items()}


def _optimizer(config: ReptileConfig, weights: Weights, lr: float) -> Optimizer:
    leaves = [weight.requires_grad_() for weight in weights.values()]
    if config.inner_optimizer == "sgd":
        return GradientDescent(leaves, lr)
    return Adam(leaves, lr, (0.0, 0.9), fused=True)


def _descend(weights: Weights, gradients: Weights, optimizer: Optimizer) -> None:
    # The fused Adam takes a gradient's memory as it lies, whatever its strides say.
    optimizer.step([_laid_like(weight, gradients[name]) for name, weight in weights.items()])


def _laid_like(weight: Tensor, gradient: Tensor) -> Tensor:
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)


def _gradients(loss: Tensor, weights: Weights) -> dict[str, Tensor]:
    """Of losses [T] with respect to weights; zero where a loss does not see one."""
    leaves = list(weights.values())
    gradients = torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)
    return dict(zip(weights, gradients, strict=True))


def newest_weight(step: int, share: float) -> float:
    """Weight of the newest of `step` values in an average over about the last `share` of them.

    A power function of time, so that no end has to be known; `share` 0 keeps the newest alone.
    Source: arXiv:2312.02696, section 3.
    """
    return 1 - (1 - 1 / step) ** (1 / share) if share else 1.0


class InnerLoop:
    """The operator U of equation 1: steps of critic and generator on the pictures of T tasks.

    Args:
        start: meta-weights [P]; not modified.
        shots: pictures [T, n, C, S, S] in [-1, 1]; `restart` writes over them.
        rng: draws the noise, the interpolates and the augmentation; on the device of `shots`.
        layer: the last one of the generator, a change of all that it draws.
        fast: see `cuda_step`.
    """

    def __init__(
        self,
        gan: Gan,
        config: ReptileConfig,
        start: Pair,
        shots: Tensor,
        rng: torch.Generator,
        layer: Change = NO_CHANGE,
        *,
        fast: bool = False,
    ) -> None:
        self.gan, self.config, self.shots, self.rng = gan, config, shots, rng
        self._layer = layer
        capture = not isinstance(gan, InfoGan) or shots.shape[1] > 1  # one category is looked at
        self._stepper = Stepper(rng, fast=fast, capture=capture)
        self._generate = low_precision(gan.generator.forward, shots.device, fast=fast)
        self._score = low_precision(gan.critic.forward, shots.device, fast=fast)
        self._prior = gan.uniform(len(shots), shots.device)
        self.generator = _leaves(gan.generator, start.generator, len(shots))
        self.critic = _leaves(gan.critic, start.critic, len(shots))
        critic_lr = config.inner_lr * config.critic_lr_ratio
        self._generator_optimizer = _optimizer(config, self.generator, config.inner_lr)
        self._critic_optimizer = _optimizer(config, self.critic, critic_lr)

    @property
    def weights(self) -> Pair:
        """Where the loop stands: [T, P] each, copies."""
        return Pair(self.gan.generator.flat(self.generator), self.gan.critic.flat(self.critic))

    def restart(self, start: Pair, shots: Tensor) -> None:
        """Begin again at other meta-weights and with other pictures of the same shape, as a new
        loop would, in the same memory."""
        nets = (self.gan.generator, self.gan.critic)
        flats = (start.generator, start.critic)
        for net, flat, leaves in zip(nets, flats, (self.generator, self.critic), strict=True):
            for name, weight in net.named(flat.detach()[None]).items():
                leaves[name].detach().copy_(weight)
        self._generator_optimizer.restart()
        self._critic_optimizer.restart()
        self.shots.copy_(shots)

    def step(self) -> tuple[Tensor, Tensor]:
        """One generator update after `critic_steps` critic updates -> their losses, each [T], which
        last until the next step."""
        return self._stepper(self._update)

    def _update(self) -> tuple[Tensor, Tensor]:
        for _ in range(self.config.critic_steps):
            critic_loss = self._critic_step()
        return critic_loss, self._generator_step()

    def draw(
        self, count: int, weights: Weights | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        """New pictures of every task -> [T, count, C, S, S] in [-1, 1]; `weights` of the generator
        are those the loop stands at if None, and `rng` the loop's own."""
        rng = self.rng if rng is None else rng
        inputs = self.gan.draw(self._prior, count, rng)
        weights = self.generator if weights is None else weights
        with torch.no_grad(), arithmetic(self.shots.device, fast=False):
            pictures = self.gan.generator.forward(weights, inputs.latent)
            return augment_tasks(pictures, self._layer, rng)

    def _generated(self, inputs: Drawn) -> Tensor:
        return augment_tasks(self._generate(self.generator, inputs.latent), self._layer, self.rng)

    def _critic_step(self) -> Tensor:
        real = augment_tasks(self.shots, self.config.change, self.rng)
        inputs = self.gan.draw(self._prior, real.shape[1], self.rng)
        with torch.no_grad():
            fake = self._generated(inputs)
        between = interpolate(real, fake, self.rng)
        loss, gradients = self._judged(real, fake, between)
        missed = self.gan.lost_information(self.critic, fake, inputs)
        if missed is not None:
            loss = loss + self.config.information * missed.detach()
            of_missed = _gradients(self.config.information * missed, self.critic)
            gradients = {name: of_missed[name] + gradients.get(name, 0) for name in of_missed}
        _descend(self.critic, gradients, self._critic_optimizer)
        return loss

    def _judged(
        self, real: Tensor, fake: Tensor, between: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's loss [T] but for an InfoGAN's part, and its gradients."""
        critic, faithful, count = self.gan.critic, self.config.faithful, real.shape[1]
        # No net mixes pictures, so one pass over both is the same as two.
        judged = torch.cat([real, fake], dim=1)

        def loss(scores: Tensor) -> Tensor:
            return wasserstein_critic(scores[:, :count], scores[:, count:], faithful=faithful)

        def penalty(slope: Tensor) -> Tensor:
            return self.config.penalty * slope_penalty(slope, faithful=faithful)

        if critic.chain:
            return critic.chain.penalised(self.critic, judged, between, loss, penalty)
        value = loss(self._score(self.critic, judged))
        value = value + penalty(slope_at(lambda x: critic.forward(self.critic, x), between))
        return value.detach(), _gradients(value, self.critic)

    def _generator_step(self) -> Tensor:
        inputs = self.gan.draw(self._prior, self.shots.shape[1], self.rng)
        fake = self._generated(inputs)
        frozen = {name: weight.detach() for name, weight in self.critic.items()}
        scores = self._score(frozen, fake)
        loss = wasserstein_generator(scores, faithful=self.config.faithful)
        missed = self.gan.lost_information(frozen, fake, inputs)
        if missed is not None:  # both nets of an InfoGAN lose what Q cannot tell of the codes
            loss = loss + self.config.information * missed
        gradients = _gradients(loss, self.generator)
        _descend(self.generator, gradients, self._generator_optimizer)
        return loss.detach()


def reptile_update(start: Tensor, adapted: Tensor, *, step: float) -> Tensor:
    """Move the meta-weights [P] towards the mean of the adapted ones [T, P] -> [P].

    Args:
        step: fraction of the way, in (0, 1]; 1 lands on the mean.
    Source: batched Reptile, arXiv:1803.02999, section 2.
    """
    return torch.lerp(start, _mean(adapted), step)


def reptile_gradient(start: Tensor, adapted: Tensor) -> Tensor:
    """Phi - W, averaged over tasks: what Algorithm 1 hands to the outer Adam -> [P]."""
    return start - _mean(adapted)


def _mean(adapted: Tensor) -> Tensor:
    """Over tasks; a single one is not summed up, which takes longer than all else here."""
    return adapted[0] if len(adapted) == 1 else adapted.mean(0)


class MetaTraining:
    """Algorithm 1, a meta-iteration at a time; everything it will ever need can be saved.

    Args:
        rng: draws the first weights and all noise; on the device to train on.
        fast: see `cuda_step`.
    """

    def __init__(self, config: ReptileConfig, rng: torch.Generator, *, fast: bool = False) -> None:
        self.config, self.rng, self.gan = config, rng, build_gan(config)
        self._fast = fast
        self._loop: InnerLoop | None = None  # of the meta-iteration before
        # Weights begin on the CPU, so that a seed means the same network on every device.
        first = initial_weights(self.gan, torch.Generator().manual_seed(rng.initial_seed()))
        self.meta = Pair(first.generator.to(rng.device), first.critic.to(rng.device))
        self.average = self.meta.clone()
        self.iterations = 0
        nets = (self.meta.generator, self.meta.critic)
        steered = nets if config.outer_optimizer == "adam" else ()  # interpolation keeps no state
        self._outer = [Adam([weights], config.outer_step, fused=True) for weights in steered]

    def iterate(self, shots: Tensor) -> tuple[float, float]:
        """One meta-iteration on the pictures [T, n, C, S, S] of T tasks.

        Returns:
            The critic's and the generator's loss, averaged over the K steps and the tasks.
        """
        loop = self._begun(shots)
        losses = [torch.stack(loop.step()).mean(1) for _ in range(self.config.inner_steps)]
        self._move(loop.weights)
        self.iterations += 1
        self._average()
        critic, generator = torch.stack(losses).mean(0).tolist()
        return critic, generator

    def _begun(self, shots: Tensor) -> InnerLoop:
        """The inner loop of these pictures: the last one's memory, or the step captured in it, is
        used again."""
        if self._loop is None or self._loop.shots.shape != shots.shape:
            own = shots.clone()
            self._loop = InnerLoop(self.gan, self.config, self.meta, own, self.rng, fast=self._fast)
        else:
            self._loop.restart(self.meta, shots)
        return self._loop

    def rest(self) -> None:
        """Let go of the memory that only iterations need; the next one takes it again."""
        self._loop = None
        if self.rng.device.type == "cuda":  # what a captured step held serves no other
            torch.cuda.empty_cache()

    def scored(self) -> Pair:
        """The meta-weights that generation starts from."""
        return self.average

    def _move(self, adapted: Pair) -> None:
        pairs = (
            (self.meta.generator, adapted.generator),
            (self.meta.critic, adapted.critic),
        )
        if self._outer:
            for (meta, after), outer in zip(pairs, self._outer, strict=True):
                outer.step([reptile_gradient(meta, after)])
        else:
            for meta, after in pairs:
                meta.copy_(reptile_update(meta, after, step=self.config.outer_step))

    def _average(self) -> None:
        """Follow the newest share of all iterations so far."""
        weight = newest_weight(self.iterations, self.config.averaging)
        self.average.generator.lerp_(self.meta.generator, weight)
        self.average.critic.lerp_(self.meta.critic, weight)

    def state_dict(self) -> dict[str, Any]:
        return {
            "meta": {"generator": self.meta.generator, "critic": self.meta.critic},
            "average": {"generator": self.average.generator, "critic": self.average.critic},
            "outer": [outer.state_dict() for outer in self._outer],
            "rng": self.rng.get_state(),
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, pair in (("meta", self.meta), ("average", self.average)):
            restore(pair.generator, state[name]["generator"])
            restore(pair.critic, state[name]["critic"])
        for outer, saved in zip(self._outer, state["outer"], strict=True):
            outer.load_state_dict(saved)
        self.rng.set_state(state["rng"].cpu())
        self.iterations = state["iterations"]


def adapt(
    gan: Gan,
    config: ReptileConfig,
    start: Pair,
    shots: Tensor,
    rng: torch.Generator,
    *,
    stops: Sequence[int],
    count: int,
    fast: bool = False,
    noise: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Algorithm 2 for T tasks at once: `count` new pictures a task at every stop.

    It may take smaller steps than training does, and more of them. The two nets circle each other,
    so the generator that draws is the average of the newest share of its steps (`adapt_averaging`);
    the loop itself is unchanged by that.

    Args:
        start: meta-weights [P]; not modified.
        shots: the given pictures [T, n, C, S, S] in [-1, 1].
        stops: numbers of inner steps after which to generate, ascending.
        fast: see `cuda_step`; what is drawn is drawn in float32.
        noise: seed of what pictures are drawn from, the same at every stop, so that a stop's
            pictures do not depend on which others there are; None draws from `rng`.
        progress: is told the number of inner steps done, after each.
    Yields:
        Pictures [T, count, C, S, S] in [-1, 1], one batch a stop.
    """
    slower = replace(config, inner_lr=config.inner_lr * config.adapt_lr_ratio)
    loop = InnerLoop(gan, slower, start, shots, rng, config.layer, fast=fast)
    average = {name: weight.detach().clone() for name, weight in loop.generator.items()}
    done = 0
    for stop in stops:
        for step in range(done + 1, stop + 1):
            loop.step()
            weight = newest_weight(step, config.adapt_averaging)
            for name, newest in loop.generator.items():
                average[name].lerp_(newest.detach(), weight)
            if progress is not None:
                progress(step)
        done = stop
        drawing = None if noise is None else torch.Generator(rng.device).manual_seed(noise)
        yield loop.draw(count, average, drawing)


@lru_cache(maxsize=256)
def _counted_flops(config: ReptileConfig, count: int) -> float:
    """Counted by torch on a step of the real networks: matrix products and convolutions, forward
    and backward, the gradient penalty's second derivative included."""
    gan = build_gan(config)
    rng = torch.Generator().manual_seed(0)
    shots = torch.zeros(1, count, config.channels, config.size, config.size)
    loop = InnerLoop(gan, config, initial_weights(gan, rng), shots, rng)
    return counted_flops(loop.step)


def meta_iteration_flops(config: ReptileConfig) -> float:
    """Floating-point operations of one meta-iteration: K steps of every task."""
    each = step_flops(config, config.train_shots)
    return each * config.inner_steps * config.meta_batch


def step_flops(config: ReptileConfig, count: int) -> float:
    """Floating-point operations of one inner step of one task on `count` pictures."""
    # Nothing but the nets and the numbers of pictures and critic steps changes the count.
    shape = replace(
        ReptileConfig(augment_place=0.0, augment_shape=0.0, augment_tone=0.0),
        architecture=config.architecture,
        size=config.size,
        channels=config.channels,
        width=config.width,
        depth=config.depth,
        latent=config.latent,
        critic_steps=config.critic_steps,
    )
    return _counted_flops(shape, count)
