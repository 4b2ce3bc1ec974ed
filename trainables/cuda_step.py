"""Training steps, made quick on a GPU: TF32, bfloat16, and a step that is captured and replayed.

A step of small nets is hundreds of small kernels, which take longer to launch than to run. A CUDA
graph launches them all at once, on the memory and in the order of the step that was captured.

`fast` switches all of it on. It changes what numbers are rounded to, and whether one repeats none:
the same kernels run on the same random numbers. On a CPU nothing is captured, and without `fast` a
step is a plain call.

Sources: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs and its section on TF32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Losses = tuple[Tensor, Tensor]

WARM_UP = 2  # steps before the captured one: they load libraries and make the optimizers' state


class Stepper:
    """Takes the steps of one loop, all alike.

    The step must be a function over static memory: it reads and writes, in place, tensors that
    stay where they are, draws from `rng` alone and looks at no number. What it returns lasts until
    the next step.

    Args:
        rng: on the device of all tensors.
        fast: see the module.
        capture: False for a step that does look at numbers; it is then called every time.
    """

    def __init__(self, rng: torch.Generator, *, fast: bool, capture: bool = True) -> None:
        self._rng, self._fast = rng, fast
        self._captures = capture and fast and rng.device.type == "cuda"
        self._done = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._losses: Losses | None = None  # where the graph writes them

    def __call__(self, step: Callable[[], Losses]) -> Losses:
        """Take one step. It is given anew every time, since a stepper that kept it would be a part
        of a cycle with its loop, and memory of the GPU would wait for the garbage collector."""
        if self._graph is None:
            with arithmetic(self._rng.device, fast=self._fast):
                if not self._captures:
                    return step()
                if self._done < WARM_UP:
                    self._done += 1
                    return self._beside(step)
                self._graph = self._captured(step)
        self._graph.replay()
        assert self._losses is not None
        return self._losses

    def _beside(self, step: Callable[[], Losses]) -> Losses:
        """A step on the stream that will be captured: what libraries keep for a stream is made."""
        here = torch.cuda.current_stream(self._rng.device)
        stream = _side_stream(self._rng.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            losses = step()
        here.wait_stream(stream)
        return losses

    def _captured(self, step: Callable[[], Losses]) -> torch.cuda.CUDAGraph:
        """Record a step; nothing runs, and no random number is used up, until it is replayed."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._rng)  # each replay goes on where the last one ended
        device = self._rng.device
        # Torch leaves the stream of a capture in use where that cannot be ended.
        here = torch.cuda.stream(torch.cuda.current_stream(device))
        with here, torch.cuda.graph(graph, stream=_side_stream(device)):
            self._losses = step()
        return graph


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all loops, or each would leave memory behind that only its own stream can use."""
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _STREAMS[device]


@contextmanager
def arithmetic(device: torch.device, *, fast: bool) -> Iterator[None]:
    """Of products and convolutions on a GPU: TF32 or float32, and the same every time. Nothing
    changes on a CPU."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    products, convolutions = torch.backends.cuda.matmul, cudnn.conv
    before = products.fp32_precision, convolutions.fp32_precision, cudnn.deterministic
    try:
        products.fp32_precision = convolutions.fp32_precision = "tf32" if fast else "ieee"
        cudnn.deterministic = True
        yield
    finally:
        products.fp32_precision, convolutions.fp32_precision, cudnn.deterministic = before


def low_precision(
    forward: Callable[..., Tensor], device: torch.device, *, fast: bool
) -> Callable[..., Tensor]:
    """A net's forward pass with its products and convolutions in bfloat16, if `fast`.

    Weights, and what comes out, are float32: pictures are moved and losses summed in that. Not for
    a gradient penalty, which is a difference of nearly equal numbers near its minimum.
    """
    if not fast:
        return forward

    def lowered(*inputs: Any) -> Tensor:
        # Cached casts of weights would outlive the memory of a captured step.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return forward(*inputs).float()

    return lowered
