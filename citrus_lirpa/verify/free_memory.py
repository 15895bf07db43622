"""How much memory there is to be had on a device."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from .. import distributed


def free_memory(device: torch.device) -> int:
    """Return the bytes that a device has left; all but GPUs count as the CPU.

    On a CPU these are the ones to be had without swapping, within the limit of a container.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip() != "max":
        free.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(free, default=1 << 62)


def sharing(device: torch.device) -> int:
    """Return how many processes share the memory of a GPU, or of this machine."""
    if device.type != "cuda":
        return distributed.size_here()
    return math.ceil(distributed.size_here() / torch.cuda.device_count())
