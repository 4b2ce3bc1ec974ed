"""What trials need of a GPU and how fast they are on it, measured in processes of their own: a
lack of memory may end them, and what they take of the GPU ends with them."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Barrier
from typing import Any

import torch

from trainables.memory import is_out_of_memory, keep_freed_memory
from trainables.pipeline import load_pipeline

START_SECONDS = 120.0  # that a process may take until it trains
WARM_SECONDS = 0.1  # of training before what is measured

_others: Barrier  # of this process and those that it is measured beside


def meet(others: Barrier) -> None:
    """Initialise a process that measures beside others."""
    global _others
    _others = others


def memory_of(
    pipeline: str, config: Mapping[str, Any], *, episodes: int, samples: int, fast: bool
) -> tuple[int, int, int] | None:
    """Bytes of a GPU, of this process on it beside its tensors, and of all tensors of a trial at
    most; None if the GPU is too small for the trial. Nobody else may use the GPU meanwhile.

    Args: as `Pipeline.heaviest`.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        work = load_pipeline(pipeline).heaviest
        work(config, "cuda", episodes=episodes, samples=samples, fast=fast)
        torch.cuda.synchronize()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    free, total = torch.cuda.mem_get_info()
    overhead = total - free - torch.cuda.memory_reserved()
    return total, overhead, torch.cuda.max_memory_reserved()


def speed_of(
    pipeline: str,
    config: Mapping[str, Any],
    device: str,
    *,
    threads: int,
    seconds: float,
    fast: bool,
) -> float:
    """FLOPs of training a second while the other processes train, too.

    Args: as `Pipeline.training_speed`.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    measure = load_pipeline(pipeline).training_speed
    measure(config, device, WARM_SECONDS, fast=fast)
    _others.wait(START_SECONDS)
    return measure(config, device, seconds, fast=fast)
