"""The end of a study: the best trial's model meets the test classes, once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import safetensors.torch
import torch
from PIL import Image
from ray.tune import Checkpoint
from rich.console import Console
from rich.progress import track

from trainables.evaluation import Scorer, Scores
from trainables.grid import sample_grid
from trainables.image_set import ImageSet
from trainables.pipeline import EPISODES_AT_ONCE, StudyContext, load_pipeline
from tuner.journal import TrialRecord

INTERVALS = ("L", "J", "recognisability", "coverage", "density", "copy_share")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """A model on the test classes.

    Attributes:
        scores: of all episodes.
        shots: what was adapted to, uint8 [E, 4, C, S, S].
        samples: the pictures that were scored, uint8 [E, n, C, S, S].
        grid: some of them below their shots, uint8 [H, W, 3].
    """

    scores: Scores
    shots: npt.NDArray[np.uint8]
    samples: npt.NDArray[np.uint8]
    grid: npt.NDArray[np.uint8]

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over test classes of what is reported."""
        return {name: self.scores.interval(name) for name in INTERVALS}


@ray.remote
def _sample(
    trial: Mapping[str, Any],
    checkpoint: str,
    context: Mapping[str, Any],
    episodes: range,
    adapt_steps: int,
    threads: int,
) -> npt.NDArray[np.uint8]:
    torch.set_num_threads(threads)
    with Checkpoint(checkpoint).as_directory() as folder:
        weights = safetensors.torch.load_file(Path(folder, "weights.safetensors"))
    return load_pipeline(trial["pipeline"]).sample(
        trial["config"],
        weights,
        StudyContext(**context),
        part="test",
        episodes=episodes,
        adapt_steps=adapt_steps,
    )


def test_model(
    record: TrialRecord,
    *,
    pipeline: str,
    context: StudyContext,
    scorer: Scorer,
    images: ImageSet,
    cpus: float,
    gpus: float,
    threads: int,
    console: Console,
) -> Tested:
    """Adapt a trial's last model to every test episode, on all the slots of the study's Ray.

    Args:
        record: a trial with at least one scored rung.
        scorer: of the test part.
        cpus, gpus, threads: of one slot.
    """
    last = record.rungs[-1]
    total = len(scorer.episodes)
    starts = range(0, total, EPISODES_AT_ONCE)
    remote = _sample.options(num_cpus=cpus, num_gpus=gpus)
    waiting = {
        remote.remote(
            {"pipeline": pipeline, "config": dict(record.config)},
            last.checkpoint,
            asdict(context),
            range(first, min(first + EPISODES_AT_ONCE, total)),
            int(last.metrics["adapt_steps"]),
            threads,
        ): first
        for first in starts
    }
    parts = {}
    for _ in track(starts, "testing", console=console, transient=True):
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        parts[waiting.pop(ready)] = ray.get(ready)
    samples = np.concatenate([parts[first] for first in starts])
    shots = np.stack([images.images[list(episode.shots)] for episode in scorer.episodes])
    return Tested(
        scores=scorer.score(samples),
        shots=shots,
        samples=samples,
        grid=sample_grid(shots, samples, classes=20),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The champion's files: test grid, weights, config, and the samples that were scored."""

    grid: Path
    weights: Path


def save_champion(record: TrialRecord, tested: Tested, folder: Path) -> Kept:
    """Keep the champion outside of its trial's folder, where people look for it.

    Writes grid.png, samples.npz (shots and samples, uint8), weights.safetensors, config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = Kept(grid=folder / "grid.png", weights=folder / "weights.safetensors")
    with Checkpoint(record.rungs[-1].checkpoint).as_directory() as checkpoint:
        shutil.copyfile(Path(checkpoint, "weights.safetensors"), kept.weights)
    adapt_steps = int(record.rungs[-1].metrics["adapt_steps"])
    config = {**record.config, "adapt_steps": adapt_steps}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    np.savez_compressed(folder / "samples.npz", shots=tested.shots, samples=tested.samples)
    Image.fromarray(tested.grid).save(kept.grid)
    return kept
