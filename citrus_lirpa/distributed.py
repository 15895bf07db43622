"""Several processes as one job, as torchrun starts them; alone, a process does nothing here.

Every process makes the same calls in the same order. gloo carries tensors on the CPU, NCCL those
on GPUs.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .errors import DependencyError, DistributedError, expect, reason, require

Result = TypeVar("Result")
#: How long a process waits for the others within a step of training, or at the start.
TIMEOUT = timedelta(minutes=10)
#: How long it waits for another's share of an evaluation; the end of a process is noticed at once.
_PATIENCE = timedelta(days=30)
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class _Job:
    """The processes that work together."""

    rank: int  # of this process
    size: int
    store: dist.Store  # counters that all processes share
    patient: dist.ProcessGroup  # whose exchanges wait without a limit


_job: _Job | None = None
_sharing = False
_numbers = itertools.count()


def launched() -> int:
    """Return how many processes the launcher started, 1 without a launcher."""
    size = os.environ.get("WORLD_SIZE", "1") if "RANK" in os.environ else "1"
    usable = size.isdecimal() and int(size) > 0
    expect(usable, "WORLD_SIZE", size, "a number of processes, as torchrun sets")
    return int(size)


def start(*, cuda: bool = False) -> None:
    """Join the processes that the launcher started; with ``cuda`` they compute on GPUs.

    Raises:
        DependencyError: torch lacks gloo or NCCL.
        DistributedError: The processes do not find each other.
    """
    global _job
    if _job is not None or launched() == 1:
        return
    gloo = dist.is_available() and dist.is_gloo_available()
    missing = "several processes need torch.distributed with gloo; this torch has none"
    require(gloo, missing, DependencyError)
    missing = "several GPUs need NCCL, which this torch lacks; use --device cpu"
    require(not cuda or dist.is_nccl_available(), missing, DependencyError)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        place: dict[str, Any] = {"store": store, "rank": rank, "world_size": size}
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, **place)
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"{launched()} processes could not come together: {reason(error)}; start them "
            "with torchrun, and set GLOO_SOCKET_IFNAME where machines have several networks"
        ) from error
    _job = _Job(rank, size, dist.PrefixStore("citrus-lirpa", store), patient)
    atexit.register(leave)


def leave() -> None:
    """Leave the other processes."""
    global _job
    if _job is not None:
        _job = None
        dist.destroy_process_group()


def size() -> int:
    """Return the number of processes in the job."""
    return 1 if _job is None else _job.size


def size_here() -> int:
    """Return the number of processes of the job on this machine."""
    return 1 if _job is None else int(os.environ.get("LOCAL_WORLD_SIZE", _job.size))


def leads() -> bool:
    """Return whether this is the process that writes files and prints."""
    return _job is None or _job.rank == 0


def draws_bar(wanted: bool | None) -> bool:
    """Return whether to draw a bar; None means: in the first process, on a terminal or notebook."""
    if wanted is not None:
        return wanted
    stream = sys.stderr
    notebook = type(stream).__module__.startswith("ipykernel")
    return leads() and (notebook or bool(stream and stream.isatty()))


def claimed(message: str) -> bool:
    """Return whether another process prints ``message``; if not, this process is to print it."""
    if _job is None:
        return False
    try:
        return _job.store.add(f"claimed {message}", 1) > 1
    except RuntimeError:
        return False  # the launcher is gone


# -- one batch in several parts -----------------------------------------------------------


def rank_slice(total: int, what: str) -> slice:
    """Return which of the ``total`` rows of a batch belong to this process.

    Raises:
        InputError: ``total``, which the message calls ``what``, is not a multiple of the number of
            processes.
    """
    if _job is None:
        return slice(0, total)
    rows, rest = divmod(total, _job.size)
    fitting = f"a multiple of the {_job.size} processes, such as {max(rows, 1) * _job.size}"
    expect(not rest, what, total, fitting)
    return slice(_job.rank * rows, (_job.rank + 1) * rows)


@contextlib.contextmanager
def shared_batch() -> Iterator[None]:
    """Let each process work on its own part of one batch inside the block."""
    global _sharing
    before, _sharing = _sharing, _job is not None
    try:
        yield
    finally:
        _sharing = before


def draw_rows(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """Draw random values for ``rows`` inputs of this process: ``draw(n)`` returns (n, ...).

    In a shared batch every process draws for the whole batch and keeps its own rows, so that
    the values do not depend on the number of processes.
    """
    if _job is None or not _sharing:
        return draw(rows)
    return draw(rows * _job.size)[_job.rank * rows : (_job.rank + 1) * rows]


def averaged(gradient: Tensor) -> Tensor:
    """Return the mean of the processes' gradients of a shared batch."""
    if not _sharing:
        return gradient
    mean = gradient.clone()
    average([mean])
    return mean


def average(tensors: list[Tensor]) -> None:
    """Replace tensors of one type by their mean over the processes, in place."""
    if _job is None or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    with _reaching_others():
        dist.all_reduce(flat)
    parts = flat.div_(_job.size).split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def highest(*values: float) -> list[float]:
    """Return the maximum of each value over the processes."""
    if _job is None:
        return list(values)
    stacked = torch.tensor(values, dtype=torch.float64)
    with _reaching_others():
        dist.all_reduce(stacked, dist.ReduceOp.MAX)
    return stacked.tolist()


def copy_from_leader(tensors: list[Tensor]) -> None:
    """Replace tensors by those of the first process, in place."""
    if _job is not None:
        with _reaching_others(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


# -- work in several parts ----------------------------------------------------------------


def share(
    work: Callable[[int], Result],
    count: int,
    device: torch.device,
    on_remote_progress: Callable[[int], object] = lambda finished: None,
) -> list[Result]:
    """Return ``work(0)``, ..., ``work(count - 1)``, of which each process does the next one.

    All processes return all results.

    Args:
        work: Returns tensors, plain values, or containers of them.
        count: The number of calls.
        device: Where the tensors of all results are put.
        on_remote_progress: Called with how many more calls the other processes have finished.
    """
    if _job is None:
        return [work(number) for number in range(count)]
    job = _job
    taken, done = (f"{key} {next(_numbers)}" for key in ("taken", "done"))
    mine: dict[int, Result] = {}
    known = 0

    def report() -> None:
        nonlocal known
        finished = job.store.add(done, 0) - len(mine)
        on_remote_progress(finished - known)
        known = finished

    with _reaching_others(only=dist.DistError):
        while (number := job.store.add(taken, 1) - 1) < count:
            mine[number] = work(number)
            job.store.add(done, 1)
            report()
    _wait(report)
    found: dict[int, Result] = {}
    for part in _gather(job, mine, device):
        found.update(part)
    return [found[number] for number in range(count)]


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """Run the block in the first process, and then in all the others at once."""
    if not leads():
        _wait()
    yield
    if leads():
        _wait()


def agreed(value: Result) -> Result:
    """Return the ``value`` of the first process."""
    return value if _job is None else _gather(_job, value, torch.device("cpu"))[0]


def _wait(report: Callable[[], object] = lambda: None) -> None:
    """Wait until every process is here, however long that takes.

    Signals are handled meanwhile, and the end of another process is noticed.
    """
    if _job is None:
        return
    with _reaching_others():
        everybody = dist.all_reduce(torch.zeros(1), group=_job.patient, async_op=True)
        while not everybody.is_completed():
            report()
            time.sleep(_POLL_SECONDS)
        everybody.wait()
        report()


def _gather(job: _Job, value: Any, device: torch.device) -> list[Any]:
    """Return the ``value`` of every process, in order, with tensors on ``device``."""
    parts: list[Any] = [None] * job.size
    with _reaching_others():
        dist.all_gather_object(parts, _moved(value, torch.device("cpu")), group=job.patient)
    return [_moved(part, device) for part in parts]


def _moved(value: Any, device: torch.device) -> Any:
    """Return ``value`` with its tensors on ``device``."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


@contextlib.contextmanager
def _reaching_others(only: type[RuntimeError] = RuntimeError) -> Iterator[None]:
    """Turn failures to reach the other processes into one line."""
    try:
        yield
    except only as error:
        raise DistributedError(
            f"another process of this job ended or cannot be reached ({reason(error)}); "
            "what was saved is whole: continue with --resume"
        ) from error
