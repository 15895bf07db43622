"""Transposed segments, which pass coefficients back; autograd makes them from plain passes."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...bounds.segments import INPUT, Segment


class Adjoint:
    """The transposed linear part of a segment for some rows.

    Args:
        segment: An affine map.
        inputs: (R, ...) zeros in the shape of each of its sources.

    Attributes:
        constant: (neurons,) the value of the segment at zero.
    """

    def __init__(self, segment: Segment, inputs: list[Tensor]):
        with torch.enable_grad():
            self.inputs = [value.requires_grad_(True) for value in inputs]
            self.output = segment(*self.inputs)
        self.constant = self.output[0].detach().flatten()

    def __call__(self, a: Tensor) -> tuple[Tensor, ...]:
        """Return the coefficients on each source of the segment, given those (R, neurons) on it."""
        return torch.autograd.grad(
            self.output, self.inputs, a.view_as(self.output), retain_graph=True
        )


#: Of each segment the last adjoint made: the next batch often has as many rows, and making one
#: costs as much as using it.
_LAST: WeakKeyDictionary[Segment, tuple[object, Adjoint]] = WeakKeyDictionary()


def adjoints(segments: Sequence[Segment], x: Tensor) -> list[Adjoint]:
    """Return the adjoint of each segment, for as many rows as inputs ``x`` (R, ...) and like them.

    ``segments`` begin with a network's first.
    """
    shapes = {INPUT: tuple(x.shape[1:]), **{k: p.value_shape for k, p in enumerate(segments)}}
    wanted = len(x), x.dtype, x.device
    found = []
    for segment in segments:
        last, adjoint = _LAST.get(segment, (None, None))
        if adjoint is None or last != wanted:
            adjoint = Adjoint(segment, [x.new_zeros(len(x), *shapes[s]) for s in segment.sources])
            _LAST[segment] = wanted, adjoint
        found.append(adjoint)
    return found


def forget_adjoints() -> None:
    """Free the graphs that are kept for the next batch."""
    _LAST.clear()
