"""Elementwise functions of large tensors, computed a few rows at a time on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .box import Interval

#: Numbers of a tensor that are computed at a time on the CPU: half a MiB of them.
_PART = 2**17


def interval_relu(box: Interval) -> Interval:
    """Return the box around ReLU of a box."""
    return Interval(*_IntervalRelu.apply(*box))


class _IntervalRelu(torch.autograd.Function):
    """ReLU of a box; backward needs nothing but the results, which the next layer keeps."""

    @staticmethod
    def forward(ctx: Any, centre: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
        found = by_parts(_box_of_relu, 2, centre, radius)
        ctx.save_for_backward(*found)
        return found

    @staticmethod
    def backward(ctx: Any, to_centre: Tensor, to_radius: Tensor) -> tuple[Tensor, ...]:
        return by_parts(_gradient_of_relu, 2, *ctx.saved_tensors, to_centre, to_radius)


def _box_of_relu(centre: Tensor, radius: Tensor, *out: Tensor) -> tuple[Tensor, Tensor]:
    # nothing in place: torch.compile (2.11) would then give wrong gradients, silently
    lower, upper = (centre - radius).relu(), (centre + radius).relu()
    return _middle(lower, upper, *out)


def _gradient_of_relu(
    centre: Tensor, radius: Tensor, to_centre: Tensor, to_radius: Tensor, *out: Tensor
) -> tuple[Tensor, Tensor]:
    active = torch.ops.aten.threshold_backward  # its first where its second is positive
    to_upper = active(to_centre + to_radius, centre, 0)
    to_lower = active(to_centre - to_radius, centre - radius, 0)
    return _middle(to_lower, to_upper, *out)


def _middle(
    lower: Tensor, upper: Tensor, to_centre: Tensor | None = None, to_radius: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the middle, and how far it is from ``upper``."""
    centre = torch.lerp(lower, upper, 0.5, out=to_centre)
    return centre, torch.sub(upper, centre, out=to_radius)


def by_parts(function: Callable[..., Any], results: int, *values: Tensor) -> tuple[Tensor, ...]:
    """Compute an elementwise function of tensors (N, ...), on the CPU a few rows at a time.

    What lies between arguments and results then stays in the cache, and needs no memory: glibc
    hardly ever gives a block of memory that was freed to a tensor of the same size.

    Where gradients of gradients are asked for, all rows are computed at once.

    Args:
        function: Takes the arguments, and after them as many tensors as it has results, to write
            these to, or none. Returns the results, a tuple of tensors shaped as its arguments, of
            which it changes none.
        results: How many results it has.
        values: The arguments, all of one shape and type.
    """
    parts = row_parts(values[0])
    if len(parts) == 1 or torch.is_grad_enabled():  # autograd knows nothing of ``out``
        return tuple(function(*values))
    found = tuple(torch.empty_like(values[0]) for _ in range(results))
    for part in parts:
        function(*(tensor[part] for tensor in (*values, *found)))
    return found


def row_parts(x: Tensor) -> list[slice]:
    """Return the rows of a tensor (N, ...) to compute at a time: a few on the CPU, else all."""
    rows = max(1, _PART // max(1, x[:1].numel()))
    if len(x) <= rows or x.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(0, len(x))]
    return [slice(begin, begin + rows) for begin in range(0, len(x), rows)]
