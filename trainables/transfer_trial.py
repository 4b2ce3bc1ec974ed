"""One transfer trial: fine-tunes to the scoring episodes from rung to rung, and is scored."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainables.augment import augmented_copies
from trainables.change import Change
from trainables.configs import TransferConfig
from trainables.cuda_step import WARM_UP
from trainables.grid import sample_grid
from trainables.image_set import ImageSet
from trainables.opened import open_episodes, open_images, open_scorer
from trainables.pipeline import EPISODES_AT_ONCE, Diverged, Report, StudyContext
from trainables.pretraining import Source, pretrained, source_of
from trainables.reptile import Pair
from trainables.tasks import Episode, Part, Split
from trainables.tensors import to_tensor, to_uint8
from trainables.transfer import (
    AdversarialSteps,
    build_gan,
    cropped_copies,
    fine_tuning,
    step_flops,
)

STOPS = 3  # stopping steps tried between two rungs
LOSS_ROWS = 16  # rows of the loss curve kept for each rung
SOURCE_SEED = 0  # one pre-training for all trials of the same source


# Actors are reused, and most trials of a study start from the same weights.
@lru_cache(maxsize=4)
def _source(
    config: TransferConfig, image_set: str, classes: tuple[int, ...], store: str, device: str
) -> Source:
    return pretrained(
        config,
        open_images(image_set),
        classes,
        seed=SOURCE_SEED,
        store=store,
        device=device,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )


def open_source(config: TransferConfig, context: StudyContext) -> Source:
    """The pre-trained GAN that a config starts from, on the study's training classes."""
    # Only what pre-training depends on, so that trials that differ in the rest share one entry.
    own = TransferConfig(**config.source())
    train = Split.from_dict(context.split).train
    return _source(own, context.image_set, train, context.store, context.device)


class TransferTrial:
    """A `Pipeline`: a GAN of base classes, fine-tuned to the shots of classes it has never seen.

    What training means here is fine-tuning on the validation episodes of the first rung, all at
    once; every rung goes on with them for longer. The model that is kept is the pre-trained one.
    """

    def __init__(self, config: Mapping[str, Any], context: StudyContext, seed: int) -> None:
        self.config, self.context = TransferConfig(**config), context
        self._images = open_images(context.image_set)
        self._source = open_source(self.config, context)
        self._seed = seed
        self._rung = -1
        self._train_seconds = self._score_seconds = 0.0
        self._score_steps = 0
        # Of all stops so far the best by L: its step, and its pictures.
        self._best: tuple[float, int, Tensor] | None = None

    @cached_property
    def _episodes(self) -> Sequence[Episode]:
        return open_scorer(self.context, "validation").episodes[: self.context.episodes[0]]

    @cached_property
    def _each(self) -> float:
        """FLOPs of one step of all episodes."""
        return step_flops(self.config, len(self._source.means)) * len(self._episodes)

    @cached_property
    def tuning(self) -> AdversarialSteps:
        """The fine-tuning of all episodes, where it stands."""
        device = self.context.device
        rng = torch.Generator(device).manual_seed(self._seed)
        return _fine_tuning(
            self.config,
            self._source,
            _shots(self._images, self._episodes),
            rng,
            device,
            fast=self.context.fast_gpu,
        )

    @property
    def train_flops(self) -> float:
        return self.tuning.steps * self._each

    def step(self, should_stop: Callable[[], bool]) -> Report:
        began = time.monotonic()
        target = self._rung + 1
        scoring = 0.0
        losses: list[tuple[float, float, float]] = []
        first = self.tuning.steps
        last = math.ceil(self.context.rungs[target] / self._each)
        for part in range(1, STOPS + 1):
            losses += self._tune(first + (last - first) * part // STOPS, should_stop)
            scoring += self._score()
            if should_stop():
                break
        complete = self.tuning.steps >= last
        self._rung += complete
        self._score_seconds += scoring
        self._train_seconds += time.monotonic() - began - scoring
        assert self._best is not None
        _, stop, samples = self._best
        drawn = samples.numpy()
        scores = open_scorer(self.context, "validation").score(drawn)
        metrics = scores.metrics | {
            "adapt_steps": float(stop),
            "rung": float(self._rung),
            "complete": float(complete),
            "meta_iterations": float(self.tuning.steps),
            "updates": float(self.tuning.steps * len(self._episodes)),
            "train_flops": self.train_flops,
            "train_seconds": self._train_seconds,
            "score_seconds": self._score_seconds,
            "score_steps": float(self._score_steps),
        }
        shots = _shots(self._images, self._episodes)
        return Report(
            metrics=metrics,
            episodes=scores.contributions("L").tolist(),
            losses=losses,
            grid=sample_grid(shots, drawn),
        )

    @property
    def least_flops(self) -> float:
        return self._each

    def train(self, flops: float) -> None:
        """Nothing: what is kept was pre-trained."""

    def _tune(
        self, target: int, should_stop: Callable[[], bool]
    ) -> list[tuple[float, float, float]]:
        """Fine-tune up to `target` steps -> a few rows of the loss curve."""
        rows = []
        while self.tuning.steps < target and not should_stop():
            critic, generator = (float(loss.mean()) for loss in self.tuning.step())
            if not (math.isfinite(critic) and math.isfinite(generator)):
                raise Diverged(
                    f"losses of step {self.tuning.steps} are {critic} (critic) and "
                    f"{generator} (generator)"
                )
            rows.append((float(self.tuning.steps * len(self._episodes)), critic, generator))
        parts = np.array_split(np.array(rows), min(len(rows), LOSS_ROWS // STOPS)) if rows else []
        return [(float(p[-1, 0]), *map(float, p[:, 1:].mean(0))) for p in parts]  # type: ignore[misc]

    def _score(self) -> float:
        """Draw where the fine-tuning stands and keep it if it is the best yet -> seconds."""
        began = time.monotonic()
        samples = to_uint8(self.tuning.draw(self.context.samples))
        loss = open_scorer(self.context, "validation").score(samples).metrics["L"]
        self._score_steps += len(self._episodes)
        if self._best is None or loss < self._best[0]:
            self._best = (loss, self.tuning.steps, torch.from_numpy(samples))
        return time.monotonic() - began

    def state_dict(self) -> dict[str, Any]:
        return {
            "tuning": self.tuning.state_dict(),
            "best": self._best,
            "rung": self._rung,
            "train_seconds": self._train_seconds,
            "score_seconds": self._score_seconds,
            "score_steps": self._score_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tuning.load_state_dict(state["tuning"])
        self._best = state["best"]
        self._rung = state["rung"]
        self._train_seconds = state["train_seconds"]
        self._score_seconds = state["score_seconds"]
        self._score_steps = state["score_steps"]

    def weights(self) -> dict[str, Tensor]:
        source = self._source
        return {
            "generator": source.weights.generator,
            "critic": source.weights.critic,
            "means": source.means,
        }

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
        own, images = TransferConfig(**config), open_images(context.image_set)
        source = source_of(own, weights, len(weights["means"]))
        chosen = open_episodes(context, part)[episodes.start : episodes.stop]
        chunks = []
        for first in range(0, len(chosen), EPISODES_AT_ONCE):
            chunk = chosen[first : first + EPISODES_AT_ONCE]
            rng = torch.Generator(context.device).manual_seed(chunk[0].seed)
            shots = _shots(images, chunk)
            tuning = _fine_tuning(own, source, shots, rng, context.device, fast=context.fast_gpu)
            drawn = []
            for stop in stops:
                while tuning.steps < stop:
                    tuning.step()
                drawn.append(to_uint8(tuning.draw(context.samples)))
            chunks.append(np.stack(drawn))
        return np.concatenate(chunks, axis=1)

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
        own = TransferConfig(**config)
        source = source_of(own, weights, len(weights["means"]))
        rng = torch.Generator(device).manual_seed(seed)
        tuning = _fine_tuning(own, source, shots[None], rng, device, fast=False)
        for stop in stops:
            while tuning.steps < stop:
                tuning.step()
                progress(tuning.steps)
            drawing = torch.Generator(device).manual_seed(seed)  # the same at every stop
            yield to_uint8(tuning.draw(count, drawing)[0])

    @staticmethod
    def augmented(
        config: Mapping[str, Any], shots: Tensor, count: int, rng: torch.Generator
    ) -> Tensor:
        own = TransferConfig(**config)
        if own.augmentation == "crop":
            return augmented_copies(cropped_copies(shots, own, rng), Change(), count, rng)
        return augmented_copies(shots, own.change, count, rng)

    @staticmethod
    def source_seconds(
        config: Mapping[str, Any], classes: int, device: str, seconds: float
    ) -> float:
        own = TransferConfig(**config)
        as_pretraining = replace(own, batch=own.pretrain_batch)
        rate = _steps_a_second(as_pretraining, classes, 1, device, seconds, fast=False)
        return own.pretrain_steps / rate

    @staticmethod
    def heaviest(
        config: Mapping[str, Any], device: str, *, episodes: int, samples: int, fast: bool
    ) -> None:
        own = TransferConfig(**config)
        as_pretraining = replace(own, batch=own.pretrain_batch)
        _blank_tuning(as_pretraining, 2, 1, device, fast=False).step()
        tuning = _blank_tuning(own, 2, episodes, device, fast=fast)
        for _ in range(WARM_UP + 1):
            tuning.step()
        tuning.draw(samples)

    @staticmethod
    def training_speed(
        config: Mapping[str, Any], device: str, seconds: float, *, fast: bool = False
    ) -> float:
        own, labels, tasks = TransferConfig(**config), 2, EPISODES_AT_ONCE
        rate = _steps_a_second(own, labels, tasks, device, seconds, fast=fast)
        return rate * tasks * step_flops(own, labels)


def _steps_a_second(
    config: TransferConfig, labels: int, tasks: int, device: str, seconds: float, *, fast: bool
) -> float:
    """How fast `tasks` tasks are stepped at once, measured on empty pictures."""
    tuning = _blank_tuning(config, labels, tasks, device, fast=fast)
    tuning.step()  # the first one pays for allocations
    began, done = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds:
        tuning.step()
        done += 1
    return done / spent


def _blank_tuning(
    config: TransferConfig, labels: int, tasks: int, device: str, *, fast: bool
) -> AdversarialSteps:
    """Steps on empty pictures, to be measured."""
    gan, rng = build_gan(config, labels), torch.Generator(device).manual_seed(0)
    start = Pair(
        gan.generator.initial(torch.Generator()).to(device),
        gan.critic.initial(torch.Generator()).to(device),
    )
    shape = (config.channels, config.size, config.size)
    means, shots = torch.zeros(labels, *shape), torch.zeros(tasks, 4, *shape)
    return fine_tuning(gan, config, start, means.to(device), shots.to(device), rng, fast=fast)


def _shots(images: ImageSet, episodes: Sequence[Episode]) -> npt.NDArray[np.uint8]:
    """What is adapted to, [E, n, C, S, S]."""
    return np.stack([images.images[list(episode.shots)] for episode in episodes])


def _fine_tuning(
    config: TransferConfig,
    source: Source,
    shots: npt.NDArray[np.uint8],
    rng: torch.Generator,
    device: str,
    *,
    fast: bool,
) -> AdversarialSteps:
    gan = build_gan(config, len(source.means))
    start = Pair(source.weights.generator.to(device), source.weights.critic.to(device))
    given = to_tensor(shots).to(device)
    return fine_tuning(gan, config, start, source.means.to(device), given, rng, fast=fast)
