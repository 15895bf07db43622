"""How many rows are bounded together: as many as memory holds and as make it fast."""

from __future__ import annotations

import torch
from torch import Tensor

from ..free_memory import free_memory, sharing

#: Bytes that one batch of rows may need at a time: what stays in the caches of a CPU; on a GPU a
#: share of the memory that is free.
_CACHES, _GPU_SHARE = 1 << 28, 0.25
#: Rows at a time on a CPU and on a GPU at most, and anywhere at least.
_MOST_ON_CPU, _MOST_ON_GPU, _LEAST = 128, 4096, 4
#: Bytes that a row needs for each neuron.
_BYTES = 64
#: Rows that have fewer inputs and neurons together go on at once, by CROWN and by α-CROWN.
_FEW_NUMBERS, _FEW_ASCENDED = 1 << 19, 1 << 18


def rows_at_once(device: torch.device, neurons: int) -> int:
    """Return how many rows of a network with so many neurons a device takes at a time.

    Processes that share a GPU share its memory.
    """
    most, memory = _MOST_ON_CPU, _CACHES
    if device.type == "cuda":
        most, memory = _MOST_ON_GPU, int(_GPU_SHARE * free_memory(device)) // sharing(device)
    return max(_LEAST, min(most, memory // (_BYTES * neurons)))


def few_rows(numbers: int, *, ascended: bool) -> int:
    """Return how many rows of so many inputs and neurons are few, by CROWN or ``ascended``."""
    return (_FEW_ASCENDED if ascended else _FEW_NUMBERS) // numbers


def portions(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Return numbers of ``rows``, at most ``size`` together; none for no rows.

    Portions are of one size as far as they can be: a dual bound of another number of rows costs
    more.
    """
    count = -(-len(rows) // size)
    return torch.arange(len(rows), device=rows.device).chunk(count) if count else ()
