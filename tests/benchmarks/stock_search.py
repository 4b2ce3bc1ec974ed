"""The search that a user would write today with Ray's, Optuna's and MLflow's own parts.

Its trial is a function in the style of the reference code: pictures are decoded and resized one by
one at every draw, tasks and episodes come one after another, fakes stay attached in the critic's
step, real and fake pictures pass the critic apart, losses are read at every step. The space, the
nets, the losses, the augmentation and the scores are ours, so that only the way differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import safetensors.torch
import torch
from optuna.trial import FixedTrial
from PIL import Image
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor

from search_spaces.reptile import cpu_space
from trainables.augment import augment
from trainables.change import NO_CHANGE, Change
from trainables.configs import ReptileConfig
from trainables.gans import Drawn
from trainables.losses import (
    gradient_penalty,
    interpolate,
    wasserstein_critic,
    wasserstein_generator,
)
from trainables.opened import open_scorer
from trainables.pipeline import StudyContext
from trainables.reptile import Pair, build_gan, initial_weights, newest_weight
from trainables.tensors import to_tensor, to_uint8

RUNG_SECONDS = 8.0  # of training before the first score, as our plan has it on two cores
RESOURCES = (1, 3, 9)  # of that time; where ASHA compares
EPISODES = 8  # that a score is the mean of
Named = dict[str, Tensor]


class FolderOfCharacters:
    """Drawings in a folder a character, read anew whenever they are drawn."""

    def __init__(self, characters: list[list[Path]], size: int, seed: int) -> None:
        self.characters, self.size = characters, size
        self.rng = np.random.default_rng(seed)

    def task(self, count: int) -> Tensor:
        """`count` drawings of a character -> [count, 1, S, S] in [-1, 1], ink is 1."""
        files = self.characters[self.rng.integers(len(self.characters))]
        chosen = self.rng.choice(len(files), count, replace=False)
        return torch.stack([self._read(files[index]) for index in chosen])

    def _read(self, file: Path) -> Tensor:
        with Image.open(file) as opened:
            picture = opened.convert("L").resize((self.size, self.size), Image.Resampling.LANCZOS)
        return 1 - torch.tensor(np.array(picture), dtype=torch.get_default_dtype())[None] / 127.5


class PlainReptile:
    """Algorithms 1 and 2, step by step."""

    def __init__(self, config: ReptileConfig, pictures: FolderOfCharacters, seed: int) -> None:
        self.config, self.pictures, self.gan = config, pictures, build_gan(config)
        self.rng = torch.Generator().manual_seed(seed)
        self.meta = initial_weights(self.gan, self.rng)
        self.average = self.meta.clone()
        self.outer = [
            torch.optim.Adam([weights], lr=config.outer_step)
            for weights in (self.meta.generator, self.meta.critic)
        ]
        self.iterations = self.updates = 0

    def iterate(self) -> None:
        """A meta-iteration."""
        ends = []
        for _ in range(self.config.meta_batch):
            loop = PlainLoop(self, self.meta, self.pictures.task(self.config.train_shots))
            for _ in range(self.config.inner_steps):
                loop.step()
                self.updates += 1
            ends.append(loop.weights())
        self._move(ends)
        self.iterations += 1
        newest = newest_weight(self.iterations, self.config.averaging)
        self.average.generator.lerp_(self.meta.generator, newest)
        self.average.critic.lerp_(self.meta.critic, newest)

    def _move(self, ends: list[Pair]) -> None:
        adapted = Pair(
            *(torch.stack(part).mean(0) for part in zip(*map(_parts, ends), strict=True))
        )
        for meta, after, outer in zip(_parts(self.meta), _parts(adapted), self.outer, strict=True):
            if self.config.outer_optimizer == "adam":
                meta.grad = meta - after
                outer.step()
            else:
                meta.lerp_(after, self.config.outer_step)

    def draw(self, shots: Tensor, count: int) -> Tensor:
        """Pictures [count, 1, S, S] of the character of `shots` [n, 1, S, S]."""
        config = self.config
        loop = PlainLoop(self, self.average, shots, config.adapt_lr_ratio, config.layer)
        average = {name: weight.detach().clone() for name, weight in loop.generator.items()}
        for step in range(1, config.adapt_steps + 1):
            loop.step()
            newest = newest_weight(step, config.adapt_averaging)
            for name, weight in loop.generator.items():
                average[name].lerp_(weight.detach(), newest)
        with torch.no_grad():
            return loop.pictures(average, loop.noise(count))


class PlainLoop:
    """Copies of both nets, trained on the pictures of one task."""

    def __init__(
        self,
        trial: PlainReptile,
        start: Pair,
        shots: Tensor,
        lr_ratio: float = 1.0,
        layer: Change = NO_CHANGE,
    ) -> None:
        self.config, self.gan, self.rng = trial.config, trial.gan, trial.rng
        self.shots, self.layer = shots, layer
        self.prior = self.gan.uniform(1, shots.device)
        self.generator = self._copy(self.gan.generator.named(start.generator[None]))
        self.critic = self._copy(self.gan.critic.named(start.critic[None]))
        lr = self.config.inner_lr * lr_ratio
        self.generator_optimizer = self._optimizer(self.generator, lr)
        self.critic_optimizer = self._optimizer(self.critic, lr * self.config.critic_lr_ratio)
        self.losses: list[tuple[float, float]] = []

    def step(self) -> None:
        for _ in range(self.config.critic_steps):
            critic_loss = self._critic_loss()
            self.critic_optimizer.zero_grad()
            critic_loss.backward()
            self.critic_optimizer.step()
        inputs = self.noise(self.shots.shape[0])
        fake = self.pictures(self.generator, inputs)
        scores = self.gan.critic.forward(self.critic, fake[None])
        loss = wasserstein_generator(scores, faithful=False).sum()
        loss = self._with_information(loss, fake, inputs)
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()
        self.losses.append((critic_loss.item(), loss.item()))

    def noise(self, count: int) -> Drawn:
        return self.gan.draw(self.prior, count, self.rng)

    def pictures(self, generator: Named, inputs: Drawn) -> Tensor:
        return augment(
            self.gan.generator.forward(generator, inputs.latent)[0], self.layer, self.rng
        )

    def weights(self) -> Pair:
        return Pair(
            self.gan.generator.flat(self.generator)[0], self.gan.critic.flat(self.critic)[0]
        )

    def _critic_loss(self) -> Tensor:
        real = augment(self.shots, self.config.change, self.rng)
        inputs = self.noise(len(real))
        fake = self.pictures(self.generator, inputs)
        critic = self.gan.critic
        difference = wasserstein_critic(
            critic.forward(self.critic, real[None]),
            critic.forward(self.critic, fake[None]),
            faithful=False,
        )
        slope = gradient_penalty(
            lambda x: critic.forward(self.critic, x),
            interpolate(real[None], fake[None], self.rng),
            faithful=False,
        )
        loss = (difference + self.config.penalty * slope).sum()
        return self._with_information(loss, fake, inputs)

    def _with_information(self, loss: Tensor, fake: Tensor, inputs: Drawn) -> Tensor:
        missed = self.gan.lost_information(self.critic, fake[None], inputs)
        return loss if missed is None else loss + self.config.information * missed.sum()

    @staticmethod
    def _copy(weights: Named) -> Named:
        return {name: w.detach().clone().requires_grad_() for name, w in weights.items()}

    def _optimizer(self, weights: Named, lr: float) -> torch.optim.Optimizer:
        if self.config.inner_optimizer == "sgd":
            return torch.optim.SGD(weights.values(), lr=lr)
        return torch.optim.Adam(weights.values(), lr=lr, betas=(0.0, 0.9))


def _parts(pair: Pair) -> tuple[Tensor, Tensor]:
    return pair.generator, pair.critic


def suggest(job: str, trial: Any) -> dict[str, Any]:
    """Our space, as OptunaSearch takes one."""
    cpu_space(trial, ReptileConfig())
    return {"job": job}


def train(config: dict[str, Any]) -> None:
    """A trial: trained for a while, scored, reported, and again."""
    params = dict(config)
    job = json.loads(Path(params.pop("job")).read_text())
    reptile = cpu_space(FixedTrial(params), ReptileConfig())
    characters = [[Path(file) for file in files] for files in job["characters"]]
    trial = PlainReptile(
        reptile, FolderOfCharacters(characters, reptile.size, job["seed"]), job["seed"]
    )
    context = StudyContext(**job["context"])
    spent = 0.0
    for resource in RESOURCES:
        while spent < resource * RUNG_SECONDS:
            began = time.monotonic()
            trial.iterate()
            spent += time.monotonic() - began
        _report(trial, context, resource)


def _report(trial: PlainReptile, context: StudyContext, resource: int) -> None:
    scorer = open_scorer(context, "validation")
    drawn = [
        to_uint8(trial.draw(to_tensor(shots), context.samples)) for shots in scorer.shots[:EPISODES]
    ]
    metrics = scorer.score(np.stack(drawn)).metrics
    metrics |= {"resource": resource, "updates": trial.updates}
    with tempfile.TemporaryDirectory() as folder:
        weights = dict(zip(("generator", "critic"), _parts(trial.average), strict=True))
        safetensors.torch.save_file(weights, Path(folder) / "weights.safetensors")
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def main() -> int:
    """Search for so many seconds; what came of it lies in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="JSON: characters, context, seed")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    job, out = arguments.job.absolute(), arguments.out.absolute()
    space = partial(suggest, str(job))
    ray.init(log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                space, metric="L", mode="min", seed=json.loads(job.read_text())["seed"]
            ),
            scheduler=ASHAScheduler(
                time_attr="resource",
                metric="L",
                mode="min",
                max_t=RESOURCES[-1],
                grace_period=RESOURCES[0],
                reduction_factor=3,
            ),
            num_samples=-1,
            time_budget_s=arguments.seconds,
        ),
        run_config=tune.RunConfig(
            storage_path=str(out),
            name="ray",
            verbose=0,
            callbacks=[
                MLflowLoggerCallback(
                    tracking_uri=f"sqlite:///{out / 'mlflow.db'}",
                    experiment_name="stock",
                    save_artifact=True,
                )
            ],
        ),
    )
    tuner.fit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
