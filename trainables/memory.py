"""Memory of a process: what it keeps of the machine's, and what it may take of a GPU's."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

# Of <malloc.h>; 32 MiB is the most that glibc takes for the first.
M_MMAP_THRESHOLD, LARGEST_BLOCK = -3, 32 * 2**20
M_TRIM_THRESHOLD, MOST_KEPT = -1, 2**30
# Of torch's, Python's, CUDA's and its libraries' errors, in lower case.
_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "status_alloc_failed",
)


def keep_freed_memory() -> None:
    """Do not hand freed blocks back to the kernel, as glibc does with large ones.

    A step of a small net frees all that the one before has allocated; to map it anew, page by
    page, costs time. Where the C library is another, nothing changes.
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def resident_peak() -> int:
    """Bytes that this process had resident at most, so far; what it shares with others counts."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def share_card(share: float) -> None:
    """Let the tensors of this process take no more than a share of its GPU, in (0, 1]; and give
    back what earlier ones left, which neighbours may need.

    Whoever needs more is refused, and not whoever comes next.
    """
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, tells that the memory of this machine or its
    accelerator ended."""
    # torch raises a plain RuntimeError where the CPU's memory ends, a subclass on accelerators,
    # and another error where it ends while a graph is captured.
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if any(words in str(error).lower() for words in _MEMORY_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
