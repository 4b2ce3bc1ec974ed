"""What the finals ask Ray's processes for: models, and the pictures that these draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray import ObjectRef
from ray.tune import Checkpoint
from safetensors import SafetensorError
from torch import Tensor

from trainables.errors import one_line
from trainables.memory import is_out_of_memory, keep_freed_memory
from trainables.pipeline import StudyContext, Unfit, load_pipeline
from trainables.tasks import Part
from trainables.weights import read_weights
from tuner.breakdown import require_ray

Model = ObjectRef[dict[str, Tensor]]  # weights by name, in Ray's store

LOOK_SECONDS = 1.0  # between looks at Ray's own processes
PIECES = 20  # of a training, between which it looks at the clock
# Of a task's process, or of the machine it was on.
DEATHS = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
)
T = TypeVar("T")


@ray.remote(num_returns=2)
def kept_model(checkpoint: str) -> tuple[dict[str, Tensor] | None, str]:
    """The weights of a checkpoint; or None, and what is wrong with them."""
    try:
        with Checkpoint(checkpoint).as_directory() as folder:
            return read_weights(Path(folder, "weights.safetensors")), ""
    except (OSError, ValueError, SafetensorError) as error:
        return None, one_line(error)


@ray.remote
def trained_again(
    trial: Mapping[str, Any],
    context: Mapping[str, Any],
    seed: int,
    flops: float,
    seconds: float,
    threads: int,
) -> tuple[dict[str, Tensor] | None, float]:
    """Weights, or None where this seed cannot be trained; and the share of `flops` that there was
    time for, 1 as a rule."""
    torch.set_num_threads(threads)
    keep_freed_memory()

    def train() -> tuple[dict[str, Tensor], float]:
        pipeline = load_pipeline(trial["pipeline"])(trial["config"], StudyContext(**context), seed)
        share = train_within(pipeline.train, flops, seconds)
        return {name: weight.cpu() for name, weight in pipeline.weights().items()}, share

    return _if_it_can(train) or (None, 0.0)


def train_within(train: Callable[[float], None], flops: float, seconds: float) -> float:
    """Train up to `flops`, less far if `seconds` are over -> the share of it that was reached."""
    began = time.monotonic()
    for piece in range(1, PIECES + 1):
        train(flops * piece / PIECES)
        if time.monotonic() - began > seconds:
            break
    return piece / PIECES


def _if_it_can(make: Callable[[], T]) -> T | None:
    """What `make` returns; None where the settings, or the memory, do not allow it."""
    try:
        return make()
    except Unfit:
        return None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def got(reference: ObjectRef[T]) -> T | None:
    """What a task returned; None where its process died.

    Raises:
        Breakdown: Ray died.
    """
    first_over([reference])
    try:
        return ray.get(reference)
    except DEATHS:
        require_ray()
        return None


def first_over(references: Sequence[ObjectRef[Any]]) -> ObjectRef[Any]:
    """The first task that is over.

    Raises:
        Breakdown: Ray died, and no task would ever be over.
    """
    while True:
        ready, _rest = ray.wait(list(references), num_returns=1, timeout=LOOK_SECONDS)
        if ready:
            return ready[0]
        require_ray()


@ray.remote
def sample(
    trial: Mapping[str, Any],
    weights: dict[str, Tensor],
    context: Mapping[str, Any],
    part: Part,
    episodes: range,
    stops: Sequence[int],
    threads: int,
) -> npt.NDArray[np.uint8] | None:
    """Pictures, or None where the memory ended."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    return _if_it_can(
        lambda: load_pipeline(trial["pipeline"]).sample(
            trial["config"],
            weights,
            StudyContext(**context),
            part=part,
            episodes=episodes,
            stops=stops,
        )
    )
