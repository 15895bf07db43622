"""Dual bounds: linear lower bounds of margins, for several inputs under one perturbation.

For input i of a tuple and a margin c_i, the relaxed network gives L_i(u) = A_i·(x_i + u) + b_i
<= margin for every ‖u‖ <= ε, where A_i and b_i depend on the lower slopes α of unstable ReLUs
and on multipliers β of split ones (β-CROWN, Wang et al. 2021). For any weights w >= 0 that
sum to one, min over u of Σ_i w_i L_i(u) > 0 proves that no u breaks all members of the tuple
(RACoon, Banerjee & Singh 2024). α, β and w are ascended together. Their gradient needs no
autograd: by the envelope theorem it is read off a forward pass of the relaxed network at the
minimising u, so that an iteration costs one transposed and one plain pass.

Shapes: D tuples of s members, R = D·s rows, row d·s + i; M unstable neurons of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.segments import INPUT, Segment
from .adjoints import adjoints
from .planes import Plane
from .relaxation import Relaxation
from .rounding import SUMS, downward, largest_input, unit
from .tangents import Line
from .worst import shortfall, worst_shared


@dataclass
class Point:
    """One evaluation of a dual function.

    Args:
        value: (D,) the bounds, less what rounding can have added to them.
        line: (D, s) the values of L_i at the minimum.
        u: (D, ...) the perturbations at which it stands.
        slope: (R, M) the slopes of the unstable neurons' lower lines.
        coefficients: (R, M) the bound's coefficients on the outputs of these neurons.
        rounding: (D,) what was taken off for rounding.
        lines: By layer, those in place of curves.
        reached: (M, D) X v + b, of a :class:`~.reduced_tuple.ReducedTuple`, at the minimum; empty
            for whole networks.
    """

    value: Tensor
    line: Tensor
    u: Tensor
    slope: Tensor
    coefficients: Tensor
    rounding: Tensor
    lines: dict[int, Line | Plane] = field(default_factory=dict)
    reached: Tensor = field(default_factory=lambda: torch.empty(0))


class DualBound:
    """The dual function of D tuples, for fixed bounds, as a function of (α or β, w).

    Args:
        segments: The network's affine maps between ReLUs, in network order.
        relaxation: Of the R rows, without splits.
        x: (R, ...) inputs.
        c: (R, ...) coefficients on the outputs of ``segments[-1]``.
        ball: The perturbations.
        members: s, how many consecutive rows share a perturbation.
        signs: (R, M) of the split neurons, 1 for z >= 0 and -1 for z <= 0; None for no splits.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        relaxation: Relaxation,
        x: Tensor,
        c: Tensor,
        ball: Ball,
        *,
        members: int = 1,
        signs: Tensor | None = None,
    ):
        self.segments, self.x, self.c = segments, x, c
        self.ball, self.members = ball, members
        self.signs = torch.zeros_like(relaxation.lower) if signs is None else signs.to(x.dtype)
        self.relaxation = relaxation.split(self.signs)
        lower, upper = self.relaxation.lower, self.relaxation.upper
        self.up = upper / (upper - lower).clamp(min=torch.finfo(x.dtype).tiny)
        self.unstable = self.relaxation.free
        u = unit(x.dtype)  # by which the upper lines are raised, so that they are above ReLU
        offset = (-lower * self.up * (1 + 8 * u) + 8 * u * upper) * self.unstable
        self.offset = offset.split(relaxation.widths, dim=1)
        most = max(x[:1].numel(), *(math.prod(segment.shape) for segment in segments))
        self.sums, self.terms = 16 * SUMS * most, [segment.terms[1] for segment in segments]
        self.adjoints = adjoints(segments, x)

    @property
    def domains(self) -> int:
        """D, the number of tuples."""
        return len(self.x) // self.members

    @cached_property
    def largest(self) -> Tensor:
        """(R, ...) the largest absolute values of the perturbed inputs."""
        return largest_input(self.x, self.ball)

    def rows(self, which: Tensor, segments: Sequence[Segment], dtype: torch.dtype) -> DualBound:
        """Return the dual function of some rows (whole tuples), in another precision.

        Args:
            which: (r,) numbers of rows.
            segments: The network's affine maps in that precision.
            dtype: The precision.
        """
        return DualBound(
            segments,
            self.relaxation.rows(which).to(dtype),
            self.x[which].to(dtype),
            self.c[which].to(dtype),
            self.ball,
            members=self.members,
            signs=self.signs[which],
        )

    def in_float64(self, segments: Sequence[Segment]) -> DualBound:
        """Return the same dual function in float64; ``segments`` are the affine maps in float64."""
        every = torch.arange(len(self.x), device=self.x.device)
        return self.rows(every, segments, torch.float64)

    def start(self) -> Tensor:
        """Return CROWN's slopes (R, M): the lower line that cuts off the smaller triangle.

        For curves they are 0.5: tangents at the middle of the interval, where these are sound.
        """
        r = self.relaxation
        start = ((r.upper > -r.lower) & self.unstable).to(self.x.dtype)
        for part, curved in zip(start.split(r.widths, 1), r.curved, strict=True):
            if curved is not None:
                part.fill_(0.5)
        return start

    def __call__(self, parameter: Tensor, weight: Tensor) -> Point:
        """Evaluate the bounds.

        Args:
            parameter: (R, M), α in [0, 1] of unstable neurons, β >= 0 of split ones.
            weight: (D, s), at least 0, with sum 1 in every tuple.
        """
        slope = torch.where(self.unstable, parameter, self.up)
        lines: dict[int, Line | Plane] = {}
        coefficients, a, bias, off = self._transposed(slope, self.signs * parameter, lines)
        shape = (-1, self.members, *self.x.shape[1:])
        a, x = a.view(shape), self.x.view(shape)
        u = worst_shared(a, weight, x, self.ball)
        moved = self.ball.cut(x + u.unsqueeze(1))
        line = bias.view(-1, self.members) + (a * moved).flatten(2).sum(2, dtype=torch.float64)
        terms = 16 + 8 * self.members
        size = (a.abs() * self.largest.view(shape)).flatten(2).sum(2)
        off = off.view(-1, self.members) + (unit(self.x.dtype) * terms + self.sums) * size
        line = line - off
        value = (weight * line).sum(1)
        if self.ball.norm == 2:
            value = value - shortfall(a, weight, x, self.ball, u)
        slack = 4 * unit(torch.float64) * self.members * line.abs().amax(1)
        line, value = downward(line, self.x.dtype), downward(value - slack, self.x.dtype)
        rounding = (weight * off).sum(1).to(value.dtype)
        seen = torch.cat([slope[:, :0], *coefficients], 1)
        return Point(value, line, u, slope, seen, rounding, lines)

    def planes(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Return a (R, ...) and b (R,) in float64: margin >= a·input + b, without splits."""
        slope = torch.where(self.unstable, parameter, self.up)
        _, a, bias, off = self._transposed(slope, self.signs * parameter, {})
        return a.view_as(self.x), bias - off

    def folded(self, inner: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Write each row as Σ h·(outputs of unstable neurons) + a·input + b.

        Args:
            inner: (R, M) what is added to it of the inputs of these neurons.

        Returns:
            h (R, M), a (R, ...), b (R,), and how far rounding can have moved the sum at most (R,).
        """
        zero = torch.zeros_like(self.up)
        h, a, b, off = self._transposed(zero, -inner, {})
        return torch.cat([zero[:, :0], *h], 1), a, b, off

    def gradient(self, point: Point) -> Tensor:
        """Return the gradient (R, M) of every row's L_i in its own α and β, at ``point``.

        By the envelope theorem u may be held fixed. What is left is how much the lower line
        α·z moves, times its coefficient (where the bound uses that line at all), and for β by
        how much the neuron's input violates the split. Lines of curves turn, of which only the sign
        counts, and the size up to a factor.
        """
        inputs = self._forward(point)
        slopes = point.coefficients.clamp(min=0) * inputs * self.unstable
        if point.lines:
            parts = [part.split(self.relaxation.widths, 1) for part in (slopes, inputs)]
            for k, line in point.lines.items():
                a = point.coefficients.split(self.relaxation.widths, 1)[k]
                parts[0][k].copy_(line.turn(a[:, : line.offset.shape[1]], parts[1][k]))
        return slopes - self.signs * inputs

    def _transposed(
        self, slope: Tensor, multiplier: Tensor, lines: dict[int, Line | Plane]
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Return coefficients on the unstable outputs of every ReLU and on the input, and the bias.

        The bias is in float64; last comes what rounding can have added to the bound.

        Going backwards, each ReLU is replaced by a line: its upper one where the coefficient on
        it is negative (which adds ``offset`` to the bias), its lower one elsewhere. Stable
        neurons pass their coefficient on, or drop it. The lines of curves are put into ``lines``.
        """
        r, widths = self.relaxation, self.relaxation.widths
        slopes, ups = slope.split(widths, 1), self.up.split(widths, 1)
        multipliers = multiplier.split(widths, 1)
        pending: dict[int, Tensor] = {len(widths): self.c}
        seen = [torch.zeros_like(s) for s in slopes]
        bias = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        off = torch.zeros_like(bias)
        for k in reversed(range(len(self.segments))):
            # without a path from this ReLU to the output there is nothing yet
            a = pending.pop(k).flatten(1) if k in pending else self._nothing(k)
            if k < len(widths):
                curved = r.curved[k]
                if curved is None:
                    seen[k] = a.gather(1, r.index[k])
                    bias += (seen[k].clamp(max=0) * self.offset[k]).sum(1, dtype=torch.float64)
                    inner = seen[k] * torch.where(seen[k] > 0, slopes[k], ups[k]) - multipliers[k]
                    a = (a * r.active[k]).scatter_add_(1, r.index[k], inner)
                else:
                    line = lines[k] = curved.line(slopes[k], a > 0, a.dtype)
                    constants = a.double() * line.offset
                    bias += constants.sum(1)
                    off += self.sums * constants.abs().sum(1)
                    times = widths[k] // a.shape[1]
                    seen[k] = a if times == 1 else a.repeat(1, times)
                    a = line.back(a)
            bias += a.double() @ self.adjoints[k].constant.double()
            off += self._charge(k, a)
            for source, part in zip(self.segments[k].sources, self.adjoints[k](a), strict=True):
                pending[source] = pending[source] + part if source in pending else part
        return seen, pending[INPUT], bias, off

    def _nothing(self, k: int) -> Tensor:
        return self.x.new_zeros(len(self.x), math.prod(self.segments[k].value_shape))

    def _charge(self, k: int, a: Tensor) -> Tensor:
        """Return what rounding can make of a (R, neurons) on segment k; see :mod:`.rounding`."""
        factor = unit(self.x.dtype) * self.terms[k] + self.sums + self.segments[k].noise
        size = self.relaxation.sizes[k]
        return factor * (a.abs().view(len(a), size.shape[1], -1).sum(2) * size).sum(1)

    def _forward(self, point: Point) -> Tensor:
        """Return inputs (R, M) of the unstable neurons in the relaxed network at the minimum."""
        r, widths = self.relaxation, self.relaxation.widths
        slopes, ups = point.slope.split(widths, 1), self.up.split(widths, 1)
        coefficients = point.coefficients.split(widths, 1)
        x = self.x.view(-1, self.members, *self.x.shape[1:])
        values = {INPUT: self.ball.cut(x + point.u.unsqueeze(1)).flatten(0, 1)}
        inputs = []
        for k, segment in enumerate(self.segments[:-1]):
            z = segment(*(values[source] for source in segment.sources))
            flat = z.flatten(1)
            if k in point.lines:
                inputs.append(flat)
                values[k] = point.lines[k].value(flat).view(len(flat), *segment.value_shape)
                continue
            inputs.append(flat.gather(1, r.index[k]))
            inner = torch.where(
                coefficients[k] > 0, inputs[k] * slopes[k], inputs[k] * ups[k] + self.offset[k]
            )
            flat = (flat * r.active[k]).scatter_add_(1, r.index[k], inner)
            values[k] = flat.view_as(z)
        return torch.cat(inputs, 1)
