"""Settings of this process's allocator for large blocks. Needs no torch."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Parameters of `mallopt`, from glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Have malloc keep freed memory for the next batch. False when the C library is not glibc.

    By default glibc maps each block of megabytes anew, and the kernel clears every page of it at its first use: without
    that, one thread reads and decodes 1.2 times as many photographs/s. The process then keeps its memory until it ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0), (_ARENA_MAX, 1))
    return all(mallopt(name, value) == 1 for name, value in settings)
