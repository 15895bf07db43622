"""CROWN bounds of many neurons of a layer, passed back on windows (:mod:`...bounds.windows`).

Lines do not depend on the row that they are used for, so that they are made once for each image and
layer. With z = W h + b and low·z + m <= f(z) <= up·z + n,

    Σ a f(z) >= Σ (a⁺ low + a⁻ up) W h + Σ a⁺ (low·b + m) + Σ a⁻ (up·b + n).

What rounding can make of it (:mod:`.rounding`) is taken off low·b + m and added to up·b + n.

A ReLU that one bound shows to be certain needs no other one: its lines do not depend on it, only
what rounding is charged does. So that bound comes from the same coefficients: where f(z) is at most
``gap`` away from both lines, Σ a f(z) lies no more than Σ |a| gap above its lower bound. Where no
layer comes before, the two are its exact bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.segments import INPUT, Segment
from ...bounds.windows import Window, channels_last, layout, place_of
from ..free_memory import free_memory, sharing
from .layer_lines import LayerLines, table
from .relaxation import Bent
from .rounding import SUMS, downward, largest_input, unit
from .sweep import sweep_of
from .worst import shortfall, worst_shared

#: Numbers at once that a processor works on best, and the share of the free memory that they and
#: what is computed from them, so many tensors, may take.
_BEST = {"cpu": 1 << 20, "cuda": 1 << 26}
_SHARE, _TENSORS = 0.25, 8
#: Places go together whose numbers of neurons differ by this factor at most, and others as long as
#: they add no more rows in vain than this share of what fits: a batch of its own costs more.
_SIMILAR, _SPARE = 0.7, 1 / 16
#: Roundings of one product of a coefficient and a line, and of the constants of lines.
_PRODUCTS = 16
#: Roundings of a coefficient times an input.
_INPUTS = 24


class _Rows(NamedTuple):
    """What rows of coefficients give, without constants.

    Attributes:
        least: (P, U) lower bounds, in float64.
        width: (P, U) how far above them the values may lie, if it was asked for.
    """

    least: Tensor
    width: Tensor


#: Numbers of images and of neurons, and lower and upper bounds of these in float64, each (r,);
#: one of the bounds may be infinite.
Found = tuple[Tensor, Tensor, Tensor, Tensor]


class Windowed:
    """CROWN of a network without products on some images, layer by layer.

    Args:
        segments: The network's affine maps between ReLUs and curves.
        x: (n, ...) inputs, in the type to compute in.
        ball: The perturbations.
        both: Whether certain ReLUs get both of CROWN's bounds too.
    """

    def __init__(self, segments: Sequence[Segment], x: Tensor, ball: Ball, *, both: bool = False):
        self.segments, self.x, self.ball = segments, x, ball
        self.shapes = {INPUT: tuple(x.shape[1:]), **{k: s.shape for k, s in enumerate(segments)}}
        most = max(math.prod(shape) for shape in self.shapes.values())
        free = _SHARE * free_memory(x.device) / (_TENSORS * x.element_size() * sharing(x.device))
        best = _BEST.get(x.device.type, _BEST["cpu"])
        self.sums = 16 * SUMS * most
        self._numbers_at_once = int(min(best, free))
        self._lines: list[LayerLines] = []
        self._both = both or any(segment.curve is not None for segment in segments)
        self._sweep = sweep_of(segments, self.shapes, x)
        self._centres = self._sweep.inputs_of_layers(segments, x)
        normalise: Any = segments[0].normalise
        scale = 1.0 if normalise is None else 1 / normalise.std.double()
        largest, box = largest_input(x, ball).double(), ball.box(x)
        off = (unit(x.dtype) * _INPUTS + self.sums) * largest
        lower, upper = scale * (box.lower.double() - off), scale * (box.upper.double() + off)
        ends = downward(lower, x.dtype), -downward(-upper, x.dtype)
        self._ends = [table(channels_last(end)) for end in ends]

    def charge(self, k: int, size: Tensor) -> Tensor:
        """Return what rounding can make of a coefficient 1 on neurons (n, H, W, C) of segment k."""
        shape = self.shapes[k]
        size = size.double().view(*size.shape, *[1] * (len(shape) - 1)).expand(-1, *shape)
        terms = self.segments[k].terms[1] + self._sweep.additions[k] + _PRODUCTS
        share = unit(self.x.dtype) * terms + self.sums + self.segments[k].noise
        return share * channels_last(size)

    def add(
        self, k: int, lower: Tensor, upper: Tensor, size: Tensor, neurons: Bent | None = None
    ) -> None:
        """Take what lines of ReLU or curve k need.

        Args:
            k: The number of the layer.
            lower: (n, ...) lower bounds of its inputs.
            upper: (n, ...) likewise.
            size: (n, channels) of segment k.
            neurons: Those of a curve, within these bounds; None for ReLU.
        """
        constant, charge = channels_last(self._sweep.constants[k].double()), self.charge(k, size)
        tiny, dtype = _PRODUCTS * unit(self.x.dtype), self.x.dtype
        self._lines.append(LayerLines.of(lower, upper, neurons, constant, charge, tiny, dtype))

    def bounds(self, k: int, wanted: Tensor, size: Tensor) -> Iterator[Found]:
        """Bound inputs of ReLU or curve k, whose lines before it are known.

        The bound comes first that is on the side of zero where a neuron is without perturbation.

        Args:
            k: The number of the layer.
            wanted: (n, neurons) which of them.
            size: (n, channels) of segment k.
        """
        if not wanted.any():
            return
        height, width, channels = layout(self.shapes[k])
        wanted = channels_last(wanted.view(-1, *self.shapes[k])).reshape(-1, channels)
        positive = channels_last(self._centres[k] >= 0).reshape(-1, channels)
        charge = self.charge(k, size).reshape(-1, channels)
        constant = channels_last(self._sweep.constants[k].double()).reshape(-1, channels)
        certain = torch.zeros_like(wanted)
        few = 2 * int(wanted.sum()) <= self._at_once(k)
        affine = self.segments[k].sources == (INPUT,)  # both bounds come from one pass
        sides = (positive,) if affine else (positive, ~positive)
        if few and not affine:
            sides = (torch.cat(sides),)
        for side in sides:
            left = (wanted & ~certain).repeat(len(side) // len(wanted), 1)
            for part, channel in self._parts(k, left):
                place = part % len(wanted)
                image, at = place // (height * width), place % (height * width)
                sign = side[part].gather(1, channel).double() * 2 - 1
                spot = torch.stack([at // width, at % width], 1)
                wide = affine or (side is positive and not self._both)
                rows = self._row_bounds(k, image, spot, channel, sign, wide=wide)
                base, off = constant[at].gather(1, channel), charge[place].gather(1, channel)
                size = rows.least.abs() + rows.width + base.abs()
                off = off + 8 * unit(torch.float64) * size
                least = rows.least + sign * base - off
                most = torch.full_like(least, torch.inf)
                if wide:
                    sure = (least >= 0) | affine
                    certain[place.unsqueeze(1).expand_as(channel)[sure], channel[sure]] = True
                    most[sure] = (least + rows.width + 2 * off)[sure]
                ends = torch.stack([least, most])
                lower, upper = torch.where(sign > 0, ends, -ends.flip(0))
                neuron = channel * (height * width) + at.unsqueeze(1)
                keep = left[part].gather(1, channel)
                images = image.unsqueeze(1).expand_as(neuron)
                for own in (keep & (sign > 0), keep & (sign < 0)):  # no neuron twice
                    yield images[own], neuron[own], lower[own], upper[own]

    def _parts(self, k: int, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield places (P,) of all images, and channels (P, U) there, with all that are wanted.

        Places go together that have about as many; as many as may be worked on at once.
        """
        counts, order = wanted.sum(1).sort(descending=True)
        many = counts[counts > 0].tolist()
        if not many:
            return
        begin = 0
        while begin < len(many):
            fitting = self._at_once(k)
            end, most = begin + 1, min(len(many), begin + max(1, fitting // many[begin]))
            spare = _SPARE * fitting
            while end < most:
                spare -= many[begin] - many[end]
                if spare < 0 and many[end] <= _SIMILAR * many[begin]:
                    break
                end += 1
            place = order[begin:end]
            channel = wanted[place].to(torch.int8).topk(many[begin], dim=1).indices
            for some in channel.split(fitting, dim=1):
                yield place, some
            begin = end

    def _at_once(self, k: int) -> int:
        """Return how many rows are passed back from segment k at once."""
        return max(1, self._numbers_at_once // self._sweep.widest(k))

    def _row_bounds(
        self, k: int, image: Tensor, at: Tensor, channel: Tensor, sign: Tensor, *, wide: bool
    ) -> _Rows:
        """Bound neurons (P, U) times their signs; ``wide`` asks for the width too."""
        places, neurons = channel.shape
        values = self.x.new_zeros(places, neurons, layout(self.shapes[k])[2])
        values.scatter_(2, channel.unsqueeze(2), sign.to(values.dtype).unsqueeze(2))
        values = values.view(places, neurons, 1, 1, -1)
        least = sign.new_zeros(places, neurons)
        spread = torch.zeros_like(least)

        def through(j: int, window: Window) -> Window:
            window, constants, gaps = self._through(j, window, image, wide)
            least.add_(constants)
            if wide:
                spread.add_(gaps)
            return window

        start = Window(values, at, place_of(self.shapes[k]), True)
        window = self._sweep.passed_back(k, start, through)
        at_input = self._at_input(window, image)
        if wide:
            opposite = replace(window, values=-window.values)
            spread = spread - at_input - self._at_input(opposite, image)
        return _Rows(least + at_input, spread)

    def _through(
        self, j: int, window: Window, image: Tensor, wide: bool
    ) -> tuple[Window, Tensor, Tensor | float]:
        """Replace layer j by lines: coefficients on its inputs, what is added (P, Q), and gaps."""
        window = window.fitted(self.shapes[j])
        low, below, up, above, *gap = self._seen(self._lines[j][: 4 + wide], window, image, j)
        gaps: Tensor | float = 0.0
        if wide:
            terms = gap[0][0].numel()
            gaps = (window.values.abs().flatten(2) @ gap[0].flatten(1).unsqueeze(2)).squeeze(2)
            gaps = gaps.double() * (1 + 2 * terms * unit(gaps.dtype))
        positive, negative = window.values.clamp(min=0), window.values.clamp(max=0)
        bias = (positive * below).addcmul_(negative, above).flatten(2).sum(2, dtype=torch.float64)
        values = positive.mul_(low).addcmul_(negative, up)
        return Window(values, window.at, window.place, True), bias, gaps

    def _seen(
        self, tables: Sequence[Tensor], window: Window, image: Tensor, j: int
    ) -> list[Tensor]:
        """Return what windows have of tables of the places of layer j, (P, 1, h, w, C) each."""
        height, width, _ = layout(self.shapes[j])
        many, shape = height * width, (len(image), 1, *window.place.size, -1)
        if window.place.fixed and window.place.size == (height, width):
            whole = (table[:-1].view(len(self.x), -1) for table in tables)
            return [table.index_select(0, image).view(shape) for table in whole]
        places = window.places(self.shapes[j])
        numbers = places + image.unsqueeze(1) * many
        numbers = torch.where(places < 0, len(self.x) * many, numbers).flatten()
        return [table.index_select(0, numbers).view(shape) for table in tables]

    def _at_input(self, window: Window, image: Tensor) -> Tensor:
        """Return the least (P, Q) of coefficients times perturbed inputs."""
        if self.ball.norm == 2:
            return self._in_ball(window.whole(self.shapes[INPUT]), image)
        lower, upper = self._seen(self._ends, window, image, INPUT)
        least = window.values.clamp(min=0) * lower
        least.addcmul_(window.values.clamp(max=0), upper)
        return least.flatten(2).sum(2, dtype=torch.float64)

    def _in_ball(self, window: Window, image: Tensor) -> Tensor:
        """Return the least (P, Q) of coefficients on whole inputs in ℓ2 balls."""
        places, rows = window.values.shape[:2]
        a = window.values.permute(0, 1, 4, 2, 3).reshape(places * rows, 1, *self.x.shape[1:])
        normalise: Any = self.segments[0].normalise
        a = a if normalise is None else a / normalise.std
        x = self.x[image].repeat_interleave(rows, 0).unsqueeze(1)
        weight = a.new_ones(len(a), 1)
        u = worst_shared(a, weight, x, self.ball)
        size = a.abs() * largest_input(x, self.ball)
        off = (unit(a.dtype) * _INPUTS + self.sums) * size.flatten(1).sum(1, dtype=torch.float64)
        line = (a * self.ball.cut(x + u.unsqueeze(1))).flatten(1).sum(1, dtype=torch.float64)
        return (line - off - shortfall(a, weight, x, self.ball, u)).view(places, rows)
