"""Running a function over batches that shrink where memory or time runs out."""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .. import distributed
from ..bounds.deadline import deadline, time_is_over, time_left
from ..errors import OutOfTime, is_out_of_memory
from .crown.adjoints import forget_adjoints
from .free_memory import free_memory

Result = TypeVar("Result")
#: Of the memory that is free at the start; the rest is left to other processes.
_SHARE = 0.75
#: Where there is a deadline: rows of the first batch, and by how much batches may grow.
_FIRST, GROWTH = 8, 8


@contextlib.contextmanager
def allocations_fail_cleanly(device: torch.device) -> Iterator[None]:
    """Make an allocation beyond the free memory raise inside the block, on Linux CPUs.

    Linux promises more memory than it has and kills the process later; a limit on the
    data segment turns that into an error that can be caught and answered.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    page = resource.getpagesize()
    used = int(Path("/proc/self/statm").read_text().split()[5]) * page
    limit = used + int(_SHARE * free_memory(device)) // distributed.size_here()
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def in_batches(
    function: Callable[[Tensor], Result],
    rows: Tensor,
    size: int,
    advance: Callable[[int], object] = lambda done: None,
) -> Iterator[tuple[Tensor, Result | None]]:
    """Yield (some of ``rows``, function of them), in batches that fit into memory.

    Where memory runs out the size is halved for good and the rows are tried again; a single
    row that does not fit yields None. At a deadline (:mod:`..bounds.deadline`) it ends, and the
    rows that are left are not yielded. Batches are then small enough to end in time, if they are
    as fast as the earlier ones.

    Args:
        function: Computes the result of some rows.
        rows: (n,) all rows.
        size: At most so many together.
        advance: Receives how many rows were done, after every batch.
    """
    limited = deadline() < math.inf
    at_once = min(size, _FIRST) if limited else size
    while len(rows) and not time_is_over():
        now, begin = rows[: min(size, at_once)], time.perf_counter()
        try:
            result = function(now)
            pace = max(1e-9, time.perf_counter() - begin) / len(now)
            yield now, result
        except OutOfTime:
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(now) > 1:
                size = len(now) // 2
            else:
                yield now, None
        else:
            rows = rows[len(now) :]
            advance(len(now))
            if limited:
                at_once = max(1, min(GROWTH * len(now), int(time_left() / pace)))
            continue
        _release_memory()
        if len(now) == 1:
            rows = rows[1:]
            advance(1)


class Sized(Protocol):
    """Something that works on so many rows at a time."""

    rows_at_once: int


def in_less_memory(sized: Sized, work: Callable[[], Result]) -> Result | None:
    """Return ``work()``, tried again with half the rows as long as memory runs out.

    None if even single rows do not fit.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        _release_memory()
        if sized.rows_at_once == 1:
            return None
        sized.rows_at_once //= 2


def _release_memory() -> None:
    forget_adjoints()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
