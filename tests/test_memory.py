"""Freed memory stays with the process, and where it ends is recognised."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from trainables.memory import is_out_of_memory

MEASURED = """
import resource
import torch
from trainables.memory import keep_freed_memory
if {kept}:
    keep_freed_memory()
def work():
    for _ in range(50):
        [torch.ones(2**18) for _ in range(12)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_is_freed_is_not_mapped_anew() -> None:
    # As glibc begins; whether its own threshold has grown by then is chance.
    begins = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}

    def faults(kept: bool) -> int:
        command = [sys.executable, "-c", MEASURED.format(kept=kept)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=begins)
        return int(done.stdout)

    assert faults(kept=True) < 0.1 * faults(kept=False)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("too large"), False),
    ],
)
def test_the_end_of_memory_is_recognised(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) == memory
    later = RuntimeError("CUDA error: operation failed due to a previous error")
    later.__context__ = error  # as where a step is captured
    assert is_out_of_memory(later) == memory
