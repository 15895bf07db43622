"""Several processes as one job, as torchrun starts them. Alone, nothing here does anything.

Every process makes the same calls in the same order; gloo carries tensors on the CPU, NCCL
those on GPUs.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .errors import DependencyError, DistributedError, InputError, reason

Result = TypeVar("Result")
#: How long a process waits for the others within a step of training, or to come together.
TIMEOUT = timedelta(minutes=10)
#: How long for another's share of an evaluation; its end is noticed at once nevertheless.
_PATIENCE = timedelta(days=30)
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class _Job:
    """store: shared counters; patient: the group that waits without a limit."""

    rank: int
    size: int
    store: dist.Store
    patient: dist.ProcessGroup


_job: _Job | None = None
_sharing = False
_numbers = itertools.count()


def launched() -> int:
    """How many processes the launcher started, by its environment; 1 without one."""
    size = os.environ.get("WORLD_SIZE", "1") if "RANK" in os.environ else "1"
    if not size.isdecimal() or int(size) < 1:
        raise InputError(
            f"WORLD_SIZE is '{size}'; expected a number of processes, as torchrun sets"
        )
    return int(size)


def start(*, cuda: bool = False) -> None:
    """Join the processes that the launcher started; they compute on GPUs where ``cuda``.

    Raises DependencyError where torch lacks the means, DistributedError where they do not
    find each other.
    """
    global _job
    if _job is not None or launched() == 1:
        return
    if not dist.is_available() or not dist.is_gloo_available():
        raise DependencyError(
            "several processes need torch.distributed with gloo; this torch has none"
        )
    if cuda and not dist.is_nccl_available():
        raise DependencyError("several GPUs need NCCL, which this torch lacks; use --device cpu")
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"{launched()} processes could not come together: {reason(error)}; start them "
            "with torchrun, and set GLOO_SOCKET_IFNAME where machines have several networks"
        ) from error
    _job = _Job(rank, size, dist.PrefixStore("citrus-lirpa", store), patient)
    atexit.register(leave)


def leave() -> None:
    """Part from the other processes."""
    global _job
    if _job is not None:
        _job = None
        dist.destroy_process_group()


def size() -> int:
    """Processes in the job."""
    return 1 if _job is None else _job.size


def size_here() -> int:
    """Of them, those on this machine."""
    return 1 if _job is None else int(os.environ.get("LOCAL_WORLD_SIZE", _job.size))


def leads() -> bool:
    """Whether this is the process that writes files and talks."""
    return _job is None or _job.rank == 0


def said(message: str) -> bool:
    """Whether another process has claimed to say ``message``; else it is this one's to say."""
    if _job is None:
        return False
    try:
        return _job.store.add(f"said {message}", 1) > 1
    except RuntimeError:
        return False  # the launcher is gone


# -- one batch in several parts -----------------------------------------------------------


def own_part(total: int, what: str) -> slice:
    """The rows of ``total`` that are this process's; InputError where parts would differ."""
    if _job is None:
        return slice(0, total)
    if total % _job.size:
        fitting = max(total - total % _job.size, _job.size)
        raise InputError(
            f"{what} is {total}, which {_job.size} processes cannot share evenly; use a multiple "
            f"of {_job.size} such as {fitting}"
        )
    rows = total // _job.size
    return slice(_job.rank * rows, (_job.rank + 1) * rows)


@contextlib.contextmanager
def shared_batch() -> Iterator[None]:
    """Inside the block, each process works on its own part of one batch."""
    global _sharing
    before, _sharing = _sharing, _job is not None
    try:
        yield
    finally:
        _sharing = before


def own_rows(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """``draw(rows)``: random values of ``rows`` inputs; of a shared batch, this process's rows of
    the draw for all of it, so that the numbers do not depend on how many share it."""
    if _job is None or not _sharing:
        return draw(rows)
    return draw(rows * _job.size)[_job.rank * rows : (_job.rank + 1) * rows]


def averaged(gradient: Tensor) -> Tensor:
    """The mean of the processes' gradients of a shared batch."""
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


def means(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each over the processes; NaN where one of them has NaN."""
    if _job is None:
        return dict(values)
    stacked = torch.tensor(list(values.values()), dtype=torch.float64)
    average([stacked])
    return dict(zip(values, stacked.tolist(), strict=True))


def highest(*values: float) -> list[float]:
    """The largest of each over the processes; of truths, whether one has it."""
    if _job is None:
        return list(values)
    stacked = torch.tensor(values, dtype=torch.float64)
    with _reaching_others():
        dist.all_reduce(stacked, dist.ReduceOp.MAX)
    return stacked.tolist()


def copy_from_leader(tensors: list[Tensor]) -> None:
    """Replace tensors by the first process's, in place."""
    if _job is not None:
        with _reaching_others(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


# -- work in several parts ----------------------------------------------------------------


def share(
    work: Callable[[int], Result],
    count: int,
    device: torch.device,
    elsewhere: Callable[[int], object] = lambda finished: None,
) -> list[Result]:
    """[work(0), ..., work(count - 1)], each done by a process that is free; all get all.

    Results are tensors, plain values and containers of them; tensors come back on ``device``.
    ``elsewhere`` is told how many more the other processes have finished.
    """
    if _job is None:
        return [work(number) for number in range(count)]
    job = _job
    taken, done = (f"{key} {next(_numbers)}" for key in ("taken", "done"))
    mine: dict[int, Result] = {}
    known = 0

    def look() -> None:
        nonlocal known
        finished = job.store.add(done, 0) - len(mine)
        elsewhere(finished - known)
        known = finished

    with _reaching_others(only=dist.DistError):
        while (number := job.store.add(taken, 1) - 1) < count:
            mine[number] = work(number)
            job.store.add(done, 1)
            look()
    _wait(look)
    found = {
        number: result for part in _gather(job, mine, device) for number, result in part.items()
    }
    return [found[number] for number in range(count)]


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """The block runs in the first process, and then in all the others at once."""
    if not leads():
        _wait()
    yield
    if leads():
        _wait()


def agreed(value: Result) -> Result:
    """The first process's ``value``."""
    return value if _job is None else _gather(_job, value, torch.device("cpu"))[0]


def _wait(look: Callable[[], object] = lambda: None) -> None:
    """Until every process is here, however long that takes. Signals are heard meanwhile, and
    the end of a process too."""
    if _job is None:
        return
    with _reaching_others():
        everybody = dist.all_reduce(torch.zeros(1), group=_job.patient, async_op=True)
        while not everybody.is_completed():
            look()
            time.sleep(_POLL_SECONDS)
        everybody.wait()
        look()


def _gather(job: _Job, value: Any, device: torch.device) -> list[Any]:
    """The ``value`` of every process, in their order, with tensors on ``device``."""
    parts: list[Any] = [None] * job.size
    with _reaching_others():
        dist.all_gather_object(parts, _moved(value, torch.device("cpu")), group=job.patient)
    return [_moved(part, device) for part in parts]


def _moved(value: Any, device: torch.device) -> Any:
    """``value`` with its tensors on ``device``."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


@contextlib.contextmanager
def _reaching_others(only: type[RuntimeError] = RuntimeError) -> Iterator[None]:
    """Failures to reach the other processes become one line."""
    try:
        yield
    except only as error:
        raise DistributedError(
            f"another process of this job ended or cannot be reached ({reason(error)}); "
            "what was saved is whole: continue with --resume"
        ) from error
