"""One Reptile trial: trains to the next rung, adapts to the scoring episodes, is scored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainables.augment import augmented_copies
from trainables.configs import ReptileConfig
from trainables.cuda_step import WARM_UP
from trainables.evaluation import Scores
from trainables.features import SHOTS
from trainables.gans import Gan
from trainables.grid import sample_grid
from trainables.image_set import ImageSet
from trainables.opened import open_episodes, open_images, open_scorer
from trainables.pipeline import EPISODES_AT_ONCE, Diverged, Report, StudyContext
from trainables.reptile import (
    MetaTraining,
    Pair,
    adapt,
    build_gan,
    meta_iteration_flops,
    step_flops,
)
from trainables.tasks import Episode, Part, Split, class_rows
from trainables.tensors import sample_drawings, to_tensor, to_uint8
from trainables.weights import require_shapes

STOPS = 2  # stopping steps tried: the last affordable one and its half
LOSS_ROWS = 16  # rows of the loss curve kept for each rung


def stopping_steps(last: int) -> tuple[int, ...]:
    """Where along the adaptation pictures are drawn: the last step and its half, ascending."""
    return tuple(sorted({max(1, last >> half) for half in range(STOPS)}))


def generate(
    gan: Gan,
    config: ReptileConfig,
    start: Pair,
    images: ImageSet,
    episodes: Sequence[Episode],
    *,
    stops: Sequence[int],
    count: int,
    device: str,
    fast: bool = False,
) -> npt.NDArray[np.uint8]:
    """Adapt to each episode's shots and draw pictures -> uint8 [stops, E, count, C, S, S].

    The noise belongs to the episodes and not to the trial, so two trials of one latent size
    are compared on the same draws.
    """
    chunks = []
    for first in range(0, len(episodes), EPISODES_AT_ONCE):
        chunk = episodes[first : first + EPISODES_AT_ONCE]
        shots = to_tensor(np.stack([images.images[list(e.shots)] for e in chunk])).to(device)
        rng = torch.Generator(device).manual_seed(chunk[0].seed)
        drawn = adapt(gan, config, start, shots, rng, stops=stops, count=count, fast=fast)
        chunks.append(np.stack([to_uint8(batch) for batch in drawn]))
    return np.concatenate(chunks, axis=1)


class ReptileTrial:
    """A `Pipeline`: Reptile meta-training of a GAN, scored on classes it has never seen."""

    def __init__(self, config: Mapping[str, Any], context: StudyContext, seed: int) -> None:
        self.config, self.context = ReptileConfig(**config), context
        images = open_images(context.image_set)
        self._rows = class_rows(images.labels)
        self._classes = Split.from_dict(context.split).train
        self._images = images
        self._tasks = torch.Generator().manual_seed(seed)  # which task comes next
        noise = torch.Generator(context.device).manual_seed(seed)
        self.training = MetaTraining(self.config, noise, fast=context.fast_gpu)
        self._flops_each = meta_iteration_flops(self.config)
        self._rung = -1
        self._train_seconds = 0.0
        self._score_seconds = 0.0
        self._score_steps = 0

    @property
    def train_flops(self) -> float:
        return self.training.iterations * self._flops_each

    def step(self, should_stop: Callable[[], bool]) -> Report:
        began = time.monotonic()
        target = self._rung + 1
        losses = self._train(self.context.rungs[target], should_stop)
        trained = time.monotonic()
        complete = self.train_flops >= self.context.rungs[target]
        self._rung += complete
        stop, scores, grid = self._score(target)
        self._train_seconds += trained - began
        self._score_seconds += time.monotonic() - trained
        updates = self.training.iterations * self.config.inner_steps * self.config.meta_batch
        metrics = scores.metrics | {
            "adapt_steps": float(stop),
            "rung": float(self._rung),
            "complete": float(complete),
            "meta_iterations": float(self.training.iterations),
            "updates": float(updates),
            "train_flops": self.train_flops,
            "train_seconds": self._train_seconds,
            "score_seconds": self._score_seconds,
            "score_steps": float(self._score_steps),
        }
        episodes = scores.contributions("L").tolist()
        return Report(metrics=metrics, episodes=episodes, losses=losses, grid=grid)

    @property
    def least_flops(self) -> float:
        return self._flops_each

    def train(self, flops: float) -> None:
        self._train(flops, lambda: False)

    def state_dict(self) -> dict[str, Any]:
        return {
            "training": self.training.state_dict(),
            "tasks": self._tasks.get_state(),
            "rung": self._rung,
            "train_seconds": self._train_seconds,
            "score_seconds": self._score_seconds,
            "score_steps": self._score_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.training.load_state_dict(state["training"])
        self._tasks.set_state(state["tasks"])
        self._rung = state["rung"]
        self._train_seconds = state["train_seconds"]
        self._score_seconds = state["score_seconds"]
        self._score_steps = state["score_steps"]

    def weights(self) -> dict[str, Tensor]:
        pair = self.training.scored()
        return {"generator": pair.generator.detach(), "critic": pair.critic.detach()}

    @staticmethod
    def sample(
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        context: StudyContext,
        *,
        part: Part,
        episodes: range,
        stops: Sequence[int],
    ) -> npt.NDArray[np.uint8]:
        gan, rebuilt, start = load_model(config, weights, context.device)
        return generate(
            gan,
            rebuilt,
            start,
            open_images(context.image_set),
            open_episodes(context, part)[episodes.start : episodes.stop],
            stops=stops,
            count=context.samples,
            device=context.device,
            fast=context.fast_gpu,
        )

    @staticmethod
    def imagine(
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        shots: npt.NDArray[np.uint8],
        *,
        stops: Sequence[int],
        count: int,
        seed: int,
        device: str,
        progress: Callable[[int], None],
    ) -> Iterator[npt.NDArray[np.uint8]]:
        gan, own, start = load_model(config, weights, device)
        given = to_tensor(shots)[None].to(device)
        rng = torch.Generator(device).manual_seed(seed)
        for pictures in adapt(
            gan, own, start, given, rng, stops=stops, count=count, noise=seed, progress=progress
        ):
            yield to_uint8(pictures[0])

    @staticmethod
    def augmented(
        config: Mapping[str, Any], shots: Tensor, count: int, rng: torch.Generator
    ) -> Tensor:
        return augmented_copies(shots, ReptileConfig(**config).change, count, rng)

    @staticmethod
    def heaviest(
        config: Mapping[str, Any], device: str, *, episodes: int, samples: int, fast: bool
    ) -> None:
        own = ReptileConfig(**config)
        training = MetaTraining(own, torch.Generator(device).manual_seed(0), fast=fast)
        for _ in range(WARM_UP + 1):  # however few inner steps there are
            training.iterate(_blank(own.meta_batch, own.train_shots, own, device))
        training.rest()
        shots = _blank(min(episodes, EPISODES_AT_ONCE), SHOTS, own, device)
        rng, stops = torch.Generator(device).manual_seed(0), [WARM_UP + 1]
        start = training.scored()
        next(adapt(training.gan, own, start, shots, rng, stops=stops, count=samples, fast=fast))

    @staticmethod
    def source_seconds(
        config: Mapping[str, Any],  # noqa: ARG004
        classes: int,  # noqa: ARG004
        device: str,  # noqa: ARG004
        seconds: float,  # noqa: ARG004
    ) -> float:
        return 0.0  # meta-training is what the rungs count

    @staticmethod
    def training_speed(
        config: Mapping[str, Any], device: str, seconds: float, *, fast: bool = False
    ) -> float:
        rebuilt = ReptileConfig(**config)
        training = MetaTraining(rebuilt, torch.Generator(device).manual_seed(0), fast=fast)
        shots = _blank(rebuilt.meta_batch, rebuilt.train_shots, rebuilt, device)
        training.iterate(shots)  # the first one pays for allocations
        began, done = time.monotonic(), 0
        while (spent := time.monotonic() - began) < seconds:
            training.iterate(shots)
            done += 1
        return done * meta_iteration_flops(rebuilt) / spent

    def _train(
        self, target: float, should_stop: Callable[[], bool]
    ) -> list[tuple[float, float, float]]:
        rows = []
        while self.train_flops < target and not should_stop():
            critic, generator = self.training.iterate(self._draw_tasks())
            if not (math.isfinite(critic) and math.isfinite(generator)):
                raise Diverged(
                    f"losses of meta-iteration {self.training.iterations} are "
                    f"{critic} (critic) and {generator} (generator)"
                )
            rows.append((critic, generator))
        return self._thinned(rows)

    def _draw_tasks(self) -> Tensor:
        """Pictures [T, n, C, S, S] of `meta_batch` training classes."""
        drawn = [
            sample_drawings(self._rows, self._classes, self.config.train_shots, self._tasks)
            for _ in range(self.config.meta_batch)
        ]
        pictures = self._images.images[np.stack(drawn)]
        return to_tensor(pictures).to(self.context.device)

    def _thinned(self, rows: list[tuple[float, float]]) -> list[tuple[float, float, float]]:
        """At most `LOSS_ROWS` means of neighbouring meta-iterations, with the updates so far."""
        if not rows:
            return []
        each = self.config.inner_steps * self.config.meta_batch
        first = self.training.iterations - len(rows)
        curve = []
        for part in np.array_split(np.arange(len(rows)), min(LOSS_ROWS, len(rows))):
            critic, generator = np.mean([rows[i] for i in part], axis=0)
            curve.append((float((first + part[-1] + 1) * each), float(critic), float(generator)))
        return curve

    def _affordable_steps(self, rung: int) -> int:
        """Steps of adaptation that keep scoring within its share of the compute up to `rung`."""
        rungs = self.context.rungs
        training = rungs[rung] - (rungs[rung - 1] if rung else 0.0)
        step = self.context.episodes[rung] * step_flops(self.config, SHOTS)
        share = self.context.scoring_share
        affordable = share / (1 - share) * training / step
        return max(1, min(self.config.adapt_steps, int(affordable)))

    def _score(self, rung: int) -> tuple[int, Scores, npt.NDArray[np.uint8]]:
        """The best stopping step, its scores, and a grid of what it draws."""
        scorer = open_scorer(self.context, "validation")
        episodes = scorer.episodes[: self.context.episodes[rung]]
        stops = stopping_steps(self._affordable_steps(rung))
        self.training.rest()
        self._score_steps += len(episodes) * stops[-1]
        samples = generate(
            self.training.gan,
            self.config,
            self.training.scored(),
            self._images,
            episodes,
            stops=stops,
            count=self.context.samples,
            device=self.context.device,
            fast=self.context.fast_gpu,
        )
        scored = [scorer.score(batch) for batch in samples]
        best = min(range(len(stops)), key=lambda index: scored[index].metrics["L"])
        shots = np.stack([self._images.images[list(e.shots)] for e in episodes])
        return stops[best], scored[best], sample_grid(shots, samples[best])


def _blank(tasks: int, count: int, config: ReptileConfig, device: str) -> Tensor:
    """Pictures of nothing, to be measured with."""
    return torch.zeros(tasks, count, config.channels, config.size, config.size, device=device)


def load_model(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], device: str
) -> tuple[Gan, ReptileConfig, Pair]:
    """A trained model from what a checkpoint holds.

    Raises:
        ValueError: the weights belong to other networks.
    """
    rebuilt = ReptileConfig(**config)
    gan = build_gan(rebuilt)
    require_shapes(weights, {"generator": (gan.generator.size,), "critic": (gan.critic.size,)})
    return gan, rebuilt, Pair(weights["generator"].to(device), weights["critic"].to(device))
