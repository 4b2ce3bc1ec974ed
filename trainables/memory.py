"""Memory that is freed stays with the process that will need it again."""

from __future__ import annotations

import ctypes
import sys

# Of <malloc.h>; 32 MiB is the most that glibc takes for the first.
M_MMAP_THRESHOLD, LARGEST_BLOCK = -3, 32 * 2**20
M_TRIM_THRESHOLD, MOST_KEPT = -1, 2**30


def keep_freed_memory() -> None:
    """Do not hand freed blocks back to the kernel, as glibc does with large ones.

    A step of a small net frees all that the one before has allocated; to map it anew, page by
    page, costs time. Where the C library is another, nothing changes.
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
