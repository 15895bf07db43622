"""CROWN bounds of many neurons of a layer, passed back on windows (:mod:`...bounds.windows`).

Lines do not depend on the row that they are used for, so that they are made once for each image and
layer: value = Σ a (W h + b) with lines low·z + m <= f(z) <= up·z + n becomes Σ a⁺ (low·W h + low·b + m)
+ Σ a⁻ (up·W h + up·b + n). What rounding can make of it (:mod:`.rounding`) is taken off low·b + m, and
added to up·b + n.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.curves import Curve
from ...bounds.segments import INPUT, Segment
from ...bounds.windows import Place, Window, channels_last, layout, transposed
from .rounding import SUMS, downward, largest_input, unit
from .tangents import Curved
from .worst import shortfall, worst_shared

#: Of these many numbers at once a processor's cache holds what a pass works on.
_CACHED = {"cpu": 1 << 19, "cuda": 1 << 26}
#: Roundings of one product of a coefficient and a line, and of the constants of lines.
_PRODUCTS = 16
#: Roundings of a coefficient times an input.
_INPUTS = 24


class _Lines(NamedTuple):
    """Lines of the neurons of a layer: slope and value at zero, each (n·H·W + 1, C).

    Places are numbered through all images; the last one, of zeros, stands for all places outside.
    """

    low: Tensor
    below: Tensor
    up: Tensor
    above: Tensor


#: Numbers of images and of neurons, and lower and upper bounds of these in float64, each (r,).
Found = tuple[Tensor, Tensor, Tensor, Tensor]


class Windowed:
    """CROWN of a network on some images, layer by layer.

    Args:
        segments: The network's affine maps between ReLUs and curves.
        x: (n, ...) inputs, in the type to compute in.
        ball: The perturbations.
        rows: At most so many rows of coefficients on whole maps at once.
    """

    def __init__(self, segments: Sequence[Segment], x: Tensor, ball: Ball, rows: int):
        self.segments, self.x, self.ball = segments, x, ball
        self.shapes = {INPUT: tuple(x.shape[1:]), **{k: s.shape for k, s in enumerate(segments)}}
        most = max(math.prod(shape) for shape in self.shapes.values())
        self.sums, self._most = 16 * SUMS * most, rows * most
        self._lines: list[_Lines] = []
        self._constants = [
            segment(*(x.new_zeros(1, *self.shapes[s]) for s in segment.sources))
            for segment in segments
        ]
        scale = 1.0 if segments[0].normalise is None else 1 / segments[0].normalise.std.double()
        largest, box = largest_input(x, ball).double(), ball.box(x)
        off = (unit(x.dtype) * _INPUTS + self.sums) * largest
        lower, upper = scale * (box.lower.double() - off), scale * (box.upper.double() + off)
        ends = downward(lower, x.dtype), -downward(-upper, x.dtype)
        self._ends = [_table(channels_last(end)) for end in ends]
        self._largest_row = 1

    def charge(self, k: int, size: Tensor) -> Tensor:
        """Return what rounding can make of a coefficient 1 on neurons (n, H, W, C) of segment k."""
        shape = self.shapes[k]
        size = size.double().view(*size.shape, *[1] * (len(shape) - 1)).expand(-1, *shape)
        terms = self.segments[k].terms[1] + _PRODUCTS
        return (unit(self.x.dtype) * terms + self.sums) * channels_last(size)

    def add(self, k: int, lower: Tensor, upper: Tensor, size: Tensor) -> None:
        """Take bounds (n, ...) of the input of ReLU or curve k, and ``size`` of its segment."""
        curve, dtype = self.segments[k].curve, self.x.dtype
        ends = (channels_last(end.double()) for end in (lower, upper))
        low, m, up, n = _lines_of(*ends, curve, dtype)
        constant, charge = channels_last(self._constants[k].double()), self.charge(k, size)
        tiny = _PRODUCTS * unit(dtype)
        below = low.double() * constant + m - low.abs() * charge - tiny * m.abs()
        above = up.double() * constant + n + up.abs() * charge + tiny * n.abs()
        below, above = downward(below, dtype), -downward(-above, dtype)
        self._lines.append(_Lines(*map(_table, (low, below, up, above))))

    def bounds(self, k: int, wanted: Tensor, size: Tensor) -> Iterator[Found]:
        """Bound inputs of ReLU or curve k, whose lines before it are known.

        Args:
            k: The number of the layer.
            wanted: (n, neurons) which of them.
            size: (n, channels) of segment k.
        """
        height, width, channels = layout(self.shapes[k])
        wanted = channels_last(wanted.view(-1, *self.shapes[k])).contiguous()
        charge, constant = self.charge(k, size), channels_last(self._constants[k])
        counts, order = wanted.sum(3).flatten().sort(descending=True)
        first, counts = 0, counts[counts > 0].tolist()
        while first < len(counts):
            last = self._end(counts, first)
            place = order[first:last]
            image, at = place // (height * width), place % (height * width)
            spot = torch.stack([at // width, at % width], 1)
            mine = wanted.view(-1, channels)[place]
            real, channel = mine.to(torch.int8).topk(counts[first], dim=1)
            found = self._row_bounds(k, image, spot, channel)
            base = constant.reshape(-1, channels)[at].gather(1, channel).double()
            off = charge.reshape(-1, channels)[place].gather(1, channel)
            lower, upper = found[:, :, 0] + base - off, base + off - found[:, :, 1]
            keep = real > 0
            neuron = channel * (height * width) + at.unsqueeze(1)
            images = image.unsqueeze(1).expand_as(neuron)
            yield images[keep], neuron[keep], lower[keep], upper[keep]
            first = last

    def _end(self, counts: list[int], first: int) -> int:
        """Return the end of the places that go together with the one at ``first``."""
        cached = _CACHED.get(self.x.device.type, _CACHED["cpu"])
        fitting = min(cached, self._most) // (2 * self._largest_row)
        most = max(1, fitting // counts[first])
        last = first + 1
        while last < len(counts) and last - first < most and counts[last] > 0.7 * counts[first]:
            last += 1
        return last

    def _row_bounds(self, k: int, image: Tensor, at: Tensor, channel: Tensor) -> Tensor:
        """Return lower bounds (P, U, 2) of neurons and of their negatives, without constants."""
        height, width, channels = layout(self.shapes[k])
        places, neurons = channel.shape
        signs = self.x.new_tensor([1.0, -1.0]).expand(places, neurons, 2).unsqueeze(3)
        index = channel.unsqueeze(2).expand(places, neurons, 2).unsqueeze(3)
        values = self.x.new_zeros(places, neurons, 2, channels).scatter_(3, index, signs)
        step = 0 if height * width == 1 else 1
        place = Place((step, step), (0, 0), (1, 1))
        window = Window(values.view(places, 2 * neurons, 1, 1, channels), at, place, True)
        pending, bias = {k: window}, torch.zeros(1, dtype=torch.float64, device=self.x.device)
        self._largest_row = 1
        for j in reversed(range(k + 1)):
            if j not in pending:
                continue
            window = pending.pop(j)
            if j < k:
                window, part = self._through(j, window, image)
                bias = bias + part
            segment = self.segments[j]
            shapes = {n: self.shapes[s] for n, s in zip(segment.names, segment.sources, strict=True)}
            for source, part in zip(segment.sources, transposed(segment, window, shapes), strict=True):
                self._largest_row = max(self._largest_row, part.values[0, 0].numel())
                shape = self.shapes[source]
                pending[source] = pending[source].plus(part, shape) if source in pending else part
        bias = bias + self._at_input(pending[INPUT], image)
        return bias.view(places, neurons, 2)

    def _through(self, j: int, window: Window, image: Tensor) -> tuple[Window, Tensor]:
        """Replace layer j by lines: coefficients on its inputs, and what is added (P, Q)."""
        height, width, channels = layout(self.shapes[j])
        if math.prod(window.place.size) >= height * width:
            window = window.whole(self.shapes[j])
        numbers = self._numbers(window, image, j)
        low, below, up, above = (
            table.index_select(0, numbers).view(len(image), 1, *window.place.size, channels)
            for table in self._lines[j]
        )
        positive, negative = window.values.clamp(min=0), window.values.clamp(max=0)
        bias = (positive * below).addcmul_(negative, above).flatten(2).sum(2, dtype=torch.float64)
        values = positive.mul_(low).addcmul_(negative, up)
        return Window(values, window.at, window.place, True), bias

    def _numbers(self, window: Window, image: Tensor, j: int) -> Tensor:
        """Return which lines of layer j, or inputs, windows (P, h, w) have, in one row."""
        height, width, _ = layout(self.shapes[j])
        places, many = window.places(self.shapes[j]), height * width
        numbers = places + image.unsqueeze(1) * many
        return torch.where(places < 0, len(self.x) * many, numbers).flatten()

    def _at_input(self, window: Window, image: Tensor) -> Tensor:
        """Return the least (P, Q) of coefficients times perturbed inputs."""
        if self.ball.norm == 2:
            return self._in_ball(window.whole(self.shapes[INPUT]), image)
        lower, upper = (end.index_select(0, self._numbers(window, image, INPUT)) for end in self._ends)
        shape = len(image), 1, *window.place.size, lower.shape[1]
        least = window.values.clamp(min=0) * lower.view(shape)
        least.addcmul_(window.values.clamp(max=0), upper.view(shape))
        return least.flatten(2).sum(2, dtype=torch.float64)

    def _in_ball(self, window: Window, image: Tensor) -> Tensor:
        """Return the least (P, Q) of coefficients on whole inputs in ℓ2 balls."""
        places, rows = window.values.shape[:2]
        a = window.values.permute(0, 1, 4, 2, 3).reshape(places * rows, 1, *self.x.shape[1:])
        normalise = self.segments[0].normalise
        a = a if normalise is None else a / normalise.std
        x = self.x[image].repeat_interleave(rows, 0).unsqueeze(1)
        weight = a.new_ones(len(a), 1)
        u = worst_shared(a, weight, x, self.ball)
        size = a.abs() * largest_input(x, self.ball)
        off = (unit(a.dtype) * _INPUTS + self.sums) * size.flatten(1).sum(1, dtype=torch.float64)
        line = (a * self.ball.cut(x + u.unsqueeze(1))).flatten(1).sum(1, dtype=torch.float64)
        return (line - off - shortfall(a, weight, x, self.ball, u)).view(places, rows)


def _lines_of(
    lower: Tensor, upper: Tensor, curve: Curve | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return slope and value at zero, in float64, of CROWN's lines below and above."""
    if curve is not None:
        neurons, half = Curved(curve, lower, upper), torch.full_like(lower, 0.5)
        low, up = (neurons.line(half, half > end, dtype) for end in (0, 1))
        return low.slope, low.offset, up.slope, up.offset
    free, active = (lower < 0) & (upper > 0), (lower >= 0) & (upper > 0)
    low = torch.where(free, upper > -lower, active).to(dtype)
    up = torch.where(free, upper / (upper - lower), active.double()).to(dtype)
    above = torch.maximum(-up.double() * lower, upper - up.double() * upper)
    return low, torch.zeros_like(lower), up, torch.where(free, above, 0.0)


def _table(values: Tensor) -> Tensor:
    """Return the places of maps (n, H, W, C) one below the other, and a last one of zeros."""
    places = values.flatten(0, 2)
    return torch.cat([places, torch.zeros_like(places[:1])])
