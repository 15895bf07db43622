"""How the C library hands out memory: training on a CPU asks for large blocks all the time."""

from __future__ import annotations

import ctypes
import sys

#: Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let glibc keep the memory that is freed for the next block of its size; whether it does.

    By default it gives blocks above 32 MiB back to the kernel, which clears every page of the
    next one anew: half the time of a step with large boxes. Other C libraries stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
