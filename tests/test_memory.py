"""Freed memory stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
