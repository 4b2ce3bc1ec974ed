"""The end of a study: the best trial's model meets the test classes, once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import safetensors.torch
import torch
from PIL import Image
from ray import ObjectRef
from ray.tune import Checkpoint
from rich.console import Console
from rich.progress import track
from torch import Tensor

from trainables.evaluation import Scorer, Scores
from trainables.grid import sample_grid
from trainables.image_set import ImageSet
from trainables.pipeline import EPISODES_AT_ONCE, StudyContext, load_pipeline
from trainables.tasks import Part
from tuner.journal import TrialRecord
from tuner.known_points import trial_seed

Model = ObjectRef[dict[str, Tensor]]  # weights by name, in Ray's store

NOISE = 0.05  # of L, between two stops of one model
STRETCH = (1, 2, 3)  # multiples of adapt_steps that the champion may adapt for
INTERVALS = ("L", "J", "recognisability", "coverage", "density", "copy_share")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """A model on the test classes.

    Attributes:
        scores: of all episodes.
        shots: what was adapted to, uint8 [E, 4, C, S, S].
        samples: the pictures that were scored, uint8 [E, n, C, S, S].
        grid: some of them below their shots, uint8 [H, W, 3].
        adapt_steps: after which they were drawn.
    """

    scores: Scores
    shots: npt.NDArray[np.uint8]
    samples: npt.NDArray[np.uint8]
    grid: npt.NDArray[np.uint8]
    adapt_steps: int

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over test classes of what is reported."""
        return {name: self.scores.interval(name) for name in INTERVALS}


@ray.remote
def _kept_model(checkpoint: str) -> dict[str, Tensor]:
    with Checkpoint(checkpoint).as_directory() as folder:
        return safetensors.torch.load_file(Path(folder, "weights.safetensors"))


@ray.remote
def _trained_again(
    trial: Mapping[str, Any], context: Mapping[str, Any], seed: int, flops: float, threads: int
) -> dict[str, Tensor]:
    torch.set_num_threads(threads)
    pipeline = load_pipeline(trial["pipeline"])(trial["config"], StudyContext(**context), seed)
    pipeline.train(flops)
    return {name: weight.cpu() for name, weight in pipeline.weights().items()}


@ray.remote
def _sample(
    trial: Mapping[str, Any],
    weights: dict[str, Tensor],
    context: Mapping[str, Any],
    part: Part,
    episodes: range,
    stops: Sequence[int],
    threads: int,
) -> npt.NDArray[np.uint8]:
    torch.set_num_threads(threads)
    return load_pipeline(trial["pipeline"]).sample(
        trial["config"],
        weights,
        StudyContext(**context),
        part=part,
        episodes=episodes,
        stops=stops,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finals:
    """Runs last models on all slots of the study's Ray.

    Attributes:
        pipeline: of the experiment.
        context: of the search.
        last_context: of the test; where its split has more training classes than the search's,
            models are trained again on all of them.
        images: what the shots are rows of.
        cpus, gpus, threads: of one slot.
        console: where progress goes.
    """

    pipeline: str
    context: StudyContext
    last_context: StudyContext
    images: ImageSet
    cpus: float
    gpus: float
    threads: int
    console: Console

    def longer_stop(
        self, record: TrialRecord, scorer: Scorer, *, slots: int, seconds: float
    ) -> int:
        """The number of adaptation steps to test with, chosen by L on all validation episodes: the
        one that the trial was best at, or more, which scoring every trial with would have cost
        too much.

        Args:
            scorer: of the validation part.
            slots: that adapt side by side.
            seconds: there are, for this and for the test, which takes as long again.
        """
        own = int(record.rungs[-1].metrics["adapt_steps"])
        if "adapt_steps" not in record.config:  # its rungs have tried every stop there is time for
            return own
        total = len(scorer.episodes)
        last = record.rungs[-1].metrics
        each = 2 * total * last["score_seconds"] / last["score_steps"] / slots
        limit = int(record.config["adapt_steps"])
        stops = affordable_stops(own, limit, each=each, seconds=seconds)
        if len(stops) == 1:
            return own
        model = _kept_model.remote(record.rungs[-1].checkpoint)
        drawn = self._draw(record, model, "validation", total, stops, "adapting longer")
        return earliest_best(stops, [scorer.score(samples).metrics["L"] for samples in drawn])

    def last_models(self, records: Sequence[TrialRecord], *, seed: int) -> list[Model]:
        """What trials are tested with: their last checkpoints; or, where the test's split says
        so, models trained again on more classes, as far as the trials got, side by side.

        Args:
            records: trials with at least one scored rung.
            seed: of the study.
        """
        if self.last_context == self.context:
            return [_kept_model.remote(record.rungs[-1].checkpoint) for record in records]
        remote = _trained_again.options(num_cpus=self.cpus, num_gpus=self.gpus)
        models = [
            remote.remote(
                self._trial(record),
                asdict(self.last_context),
                trial_seed(seed, record.number),
                record.rungs[-1].metrics["train_flops"],
                self.threads,
            )
            for record in records
        ]
        with self.console.status("training on the validation classes, too"):
            ray.wait(models, num_returns=len(models))
        return models

    def test(self, record: TrialRecord, model: Model, scorer: Scorer, *, stop: int) -> Tested:
        """Adapt a model to every test episode for `stop` steps, and score it.

        Args:
            record: the trial that the model is of.
            model: of `last_models`.
            scorer: of the test part.
        """
        (samples,) = self._draw(record, model, "test", len(scorer.episodes), [stop], "testing")
        shots = np.stack([self.images.images[list(e.shots)] for e in scorer.episodes])
        return Tested(
            scores=scorer.score(samples),
            shots=shots,
            samples=samples,
            grid=sample_grid(shots, samples, classes=20),
            adapt_steps=stop,
        )

    def _trial(self, record: TrialRecord) -> dict[str, Any]:
        return {"pipeline": self.pipeline, "config": dict(record.config)}

    def _draw(
        self,
        record: TrialRecord,
        model: Model,
        part: Part,
        total: int,
        stops: Sequence[int],
        what: str,
    ) -> npt.NDArray[np.uint8]:
        """Pictures of all episodes -> [stops, E, samples, C, S, S]."""
        remote = _sample.options(num_cpus=self.cpus, num_gpus=self.gpus)
        trial = self._trial(record)
        context = self.context if part == "validation" else self.last_context
        starts = range(0, total, EPISODES_AT_ONCE)
        waiting = {
            remote.remote(
                trial,
                model,
                asdict(context),
                part,
                range(first, min(first + EPISODES_AT_ONCE, total)),
                stops,
                self.threads,
            ): first
            for first in starts
        }
        parts = {}
        for _ in track(starts, what, console=self.console, transient=True):
            (ready,), _rest = ray.wait(list(waiting), num_returns=1)
            parts[waiting.pop(ready)] = ray.get(ready)
        return np.concatenate([parts[first] for first in starts], axis=1)


def earliest_best(stops: Sequence[int], losses: Sequence[float]) -> int:
    """The first of `stops`, ascending, whose L is within noise of the best: adapting longer copies
    more, and costs more."""
    best = min(losses)
    return next(s for s, loss in zip(stops, losses, strict=True) if loss <= best + NOISE)


def affordable_stops(own: int, limit: int, *, each: float, seconds: float) -> list[int]:
    """The step a trial was best at, and the multiples of its limit beyond that which take no
    longer than `seconds` at `each` seconds a step."""
    longer = [limit * factor for factor in STRETCH]
    return [own] + [stop for stop in longer if stop > own and stop * each <= seconds]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The champion's files: test grid, weights, config, and the samples that were scored."""

    grid: Path
    weights: Path


def save_champion(record: TrialRecord, model: Model, tested: Tested, folder: Path) -> Kept:
    """Keep the champion outside of its trial's folder, where people look for it.

    Writes grid.png, samples.npz (shots and samples, uint8), weights.safetensors, config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = Kept(grid=folder / "grid.png", weights=folder / "weights.safetensors")
    safetensors.torch.save_file(
        {n: w.contiguous() for n, w in ray.get(model).items()}, kept.weights
    )
    config = {**record.config, "adapt_steps": tested.adapt_steps}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    np.savez_compressed(folder / "samples.npz", shots=tested.shots, samples=tested.samples)
    Image.fromarray(tested.grid).save(kept.grid)
    return kept
