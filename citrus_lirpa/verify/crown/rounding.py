"""Rounding: how far off computed bounds can be, so that they can be moved outward by it.

A sum of t products a_i W_ij x_j, in any order and with or without fused operations, is off by at
most t u / (1 - t u) Σ |a_i| |W_ij| |x_j|, u the unit roundoff (Higham 2002, section 3.1). Let S =
|W||x| + |b| for the largest |x| that bounds allow. Then W x + b is off by at most t u S. And
coefficients a on W x + b that become a'W on x change a bound by at most t u |a|·S, which takes one
product more than the bound itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...bounds.arithmetic import few_roundings
from ...bounds.box import Ball, Box, RoundBox
from ...bounds.margins import wrong_classes
from ...bounds.segments import INPUT, Segment
from ...errors import ModelError
from .relaxation import Bounds

#: What covers the rounding of the errors themselves, t u being small.
_SAFE = 1.01
#: What a term of a sum in float64 is charged with: more than a checker in float64 does.
SUMS = 2.0**-51


def unit(dtype: torch.dtype) -> float:
    """Return the unit roundoff of a type, a little enlarged."""
    return _SAFE * torch.finfo(dtype).eps / 2


def downward(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values in another precision, rounded down where they are no numbers of it."""
    if values.dtype == dtype:
        return values
    found = values.to(dtype)
    lower = torch.nextafter(found, torch.full_like(found, -torch.inf))
    return torch.where(found > values, lower, found)


def largest_input(x: Tensor, ball: Ball) -> Tensor:
    """Return the largest absolute values (n, ...) of perturbed inputs, a little enlarged."""
    box = ball.box(x)
    return _SAFE * torch.maximum(box.lower.abs(), box.upper.abs())


class Sizes:
    """What segments add up in absolute values, computed along the network.

    Args:
        segments: The network's affine maps between ReLUs.
        x: (n, ...) inputs.
        ball: The perturbations.
    """

    def __init__(self, segments: Sequence[Segment], x: Tensor, ball: Ball):
        self._segments, self._dtype = segments, x.dtype
        self._largest = {INPUT: largest_input(x, ball)}
        self._known: dict[str, Tensor] = {}
        every = enumerate(segments)
        self._last = {operation.name: k for k, part in every for operation in part.operations}

    def of(self, k: int) -> Tensor:
        """Return the most (n, channels) of segment k, once the ReLUs before it are bounded.

        Segments go in order.
        """
        segment = self._segments[k]
        given = (self._largest[source] for source in segment.sources)
        sizes = _SAFE * segment.sizes(*given, known=self._known)
        for operation in segment.operations:
            if self._last[operation.name] == k:
                del self._known[operation.name]
        return sizes.flatten(2).amax(2) if sizes.ndim > 2 else sizes

    def bounded(self, k: int, lower: Tensor, upper: Tensor) -> None:
        """Take bounds (n, ...) of the input of ReLU k."""
        curve = self._segments[k].curve
        if curve is None:
            self._largest[k] = upper.clamp(min=0).to(self._dtype)
            return
        ends = curve.hull(Box(lower.double(), upper.double()))
        self._largest[k] = _SAFE * torch.maximum(*(end.abs() for end in ends)).to(self._dtype)

    @staticmethod
    def all(segments: Sequence[Segment], x: Tensor, ball: Ball, bounds: Bounds) -> list[Tensor]:
        """Return those (n, channels) of every segment, within bounds of all ReLU inputs."""
        sizes = Sizes(segments, x, ball)
        for k, ends in enumerate(bounds):
            sizes.bounded(k, *ends)
        return [sizes.of(k) for k in range(len(segments))]


def intervals(segments: Sequence[Segment], x: Tensor, ball: Ball) -> tuple[Bounds, dict[int, Box]]:
    """Bound ReLU inputs by IBP, moved outward by what rounding can make of the bounds.

    Args:
        segments: The network's affine maps between ReLUs, in float64.
        x: (n, ...) inputs, in float64.
        ball: The perturbations.

    Returns:
        (lower, upper), each (n, ...), of every ReLU's input, and the boxes of what segments start
        from, by the number of the source.
    """
    boxes = {INPUT: ball.box(x)}
    bounds: Bounds = []
    for k, segment in enumerate(segments[:-1]):
        lower, upper = _interval(_shortened(segment, boxes), boxes)
        bounds.append((lower, upper))
        box = Box(lower, upper)
        if segment.curve is None:
            boxes[k] = Box(*(e.relu() for e in box))
        else:
            bounds[k] = box = _within_domain(segment, box)
            boxes[k] = segment.curve.hull(box)
    return bounds, boxes


def _within_domain(segment: Segment, box: Box) -> Box:
    """Return a box of a curve's inputs, NaN where the curve is not defined on all of it."""
    domain = None if segment.curve is None else segment.curve.domain
    if domain is None:
        return box
    inside = domain.contains(box)
    if len(inside) and not bool(inside.flatten(1).all(1).any()):
        low, high = (float(e) for e in (box.lower[~inside].min(), box.upper[~inside].max()))
        raise ModelError(
            f"{segment.origin} may get values from {low:.4g} to {high:.4g}; expected values "
            f"{domain.expected}: {domain.instead} before it, or take a smaller ε"
        )
    return Box(*(end.masked_fill(~inside, torch.nan) for end in box))


def _interval(segment: Segment, boxes: dict[int, Box]) -> Box:
    """Return the interval of a segment's result, from the boxes of what it starts from."""
    before = [boxes[s] for s in segment.sources]
    if not segment.operations and segment.sources != (INPUT,):
        return before[0]
    centre = segment(*(box.centre for box in before))
    radius = segment.sizes(*(box.radius for box in before), constant=False)
    error = _error(segment, before)
    found = Box(centre - radius - error, centre + radius + error)
    return _rounder(found, segment, before[0], error) if len(before) == 1 else found


def _rounder(found: Box, segment: Segment, before: Box, error: Tensor) -> Box:
    """Return an interval of a segment's result cut with that by ℓ2 norms, where it has one."""
    spread = segment.spread(before.round.radius) if isinstance(before, RoundBox) else None
    if spread is None or not isinstance(before, RoundBox):
        return found
    middle = segment(before.round.centre)
    reach = spread * (1 + 16 * SUMS * segment.terms[0]) + error
    lower, upper = middle - reach, middle + reach
    return Box(torch.maximum(found.lower, lower), torch.minimum(found.upper, upper))


def _shortened(segment: Segment, boxes: dict[int, Box]) -> Segment:
    """Return a segment that starts from the last knots, whose boxes are put into ``boxes``."""
    for knot in segment.knots:
        box = knot.hull(*(_interval(operand, boxes) for operand in knot.operands))
        if segment.device:
            box = Box(box.lower - few_roundings(box.lower), box.upper + few_roundings(box.upper))
        boxes[knot.number] = box
    return segment.short or segment


def interval_margins(last: Segment, boxes: dict[int, Box], y: Tensor) -> Tensor:
    """Bound margins (n, K-1) of labels from below by the boxes of what the last segment takes.

    It is in float64 and ends in the logits; the boxes are as of :func:`intervals`.
    """
    last = _shortened(last, boxes)
    before = [boxes[s] for s in last.sources]
    logits = last(*(box.centre for box in before))
    wrong, own = wrong_classes(y, logits.shape[1]), y.unsqueeze(1)
    radius = torch.cat([box.radius.flatten(1) for box in before], 1)
    weight = torch.cat([part.flatten(1) for part in _weights(last, before)], 1)
    spread = [((weight[y] - weight[c]).abs() * radius).sum(1) for c in wrong.unbind(1)]
    margins = logits.gather(1, own) - logits.gather(1, wrong) - torch.stack(spread, 1)
    error = _error(last, before, more=radius.shape[1])
    return margins - error.gather(1, own) - error.gather(1, wrong)


def _error(segment: Segment, boxes: Sequence[Box], more: int = 0) -> Tensor:
    """Return what rounding can make of a segment's intervals in float64, and what a device can.

    Proofs claim these intervals. The checker computes its own layer by layer, and may count the
    terms of the transposed layer, which are more: hence the factor. ``more`` terms come behind.
    """
    largest = [torch.maximum(box.lower.abs(), box.upper.abs()) for box in boxes]
    return (128 * SUMS * (segment.terms[0] + more) + segment.noise) * segment.sizes(*largest)


def _weights(segment: Segment, boxes: Sequence[Box]) -> tuple[Tensor, ...]:
    """Return the weights (K, ...) of a segment that ends in K logits, on each of its sources."""
    classes = segment.shape[0]
    with torch.enable_grad():
        zeros = [box.lower.new_zeros(classes, *box.lower.shape[1:]) for box in boxes]
        inputs = [value.requires_grad_(True) for value in zeros]
        output = segment(*inputs)
    return torch.autograd.grad(output, inputs, torch.eye(classes).to(output))
