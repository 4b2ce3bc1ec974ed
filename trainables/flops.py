"""Floating-point operations of a piece of training, counted on the real networks.

By the formulas of torch's own counter, which counts the same (tests/test_flops.py), and imports
torch's compiler and Triton for kernels of which there are none here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


def counted_flops(work: Callable[[], object]) -> float:
    """Of the matrix products and convolutions in `work`, forward and backward."""
    with _left_out("triton"):
        from torch.utils.flop_counter import flop_registry
    counter = _Counter(flop_registry)
    with counter:
        work()
    return counter.total


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what operations take, as they are dispatched."""

    def __init__(self, formulas: dict[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: float = 0.0
        self._formulas = formulas

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """If so, the method below would be given to the compiler, to be left alone."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := self._formulas.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


@contextmanager
def _left_out(package: str) -> Iterator[None]:
    """What is imported meanwhile does without an optional package, and does not warn of it."""
    if package in sys.modules:
        yield
        return
    log = logging.getLogger("torch.utils.flop_counter")
    sys.modules[package], log.disabled = None, True  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        log.disabled = False
