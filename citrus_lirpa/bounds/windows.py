"""Affine maps passed back on windows: a neuron of a map has coefficients in its window only.

A neuron of a convolution depends on few places of the map before it. Seen from all neurons of a map
these windows have one size, and begin where a neuron's own place times a step says. Coefficients
are kept on windows through convolutions, sums, average pooling and strided slices. Before all other
operations, and where windows grow larger than the map, they are laid on the whole map.

Values of shape (C, H, W) are maps; all others count as maps of one place, with all their numbers as
channels. Coefficients are (P, Q, h, w, C): of P places, Q rows for each, channels last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import BatchNorm
from .pieces import Scaled, Sum, Taken, spacing
from .segments import Segment
from .steps import Linear

Shape = tuple[int, ...]
Pair = tuple[int, int]
#: Sums and differences, and the factors of their parts.
_FACTORS = {"BoundAdd": (1, 1), "BoundSub": (1, -1), "BoundNeg": (-1,)}
_SAME = {"BoundIdentity", "BoundDropout"}
#: Convolutions of more numbers than this are not made of few sizes.
_LARGE = 1 << 18


class Place(NamedTuple):
    """Where windows are in a map: at row ``step * p + start`` for neurons at row p; so columns.

    Attributes:
        step: 0 where the window is the same for all neurons.
        start: Where the window of the neuron at (0, 0) begins.
        size: Of the windows.
    """

    step: Pair
    start: Pair
    size: Pair

    @property
    def fixed(self) -> bool:
        """Whether the window is the same for all neurons."""
        return self.step == (0, 0)


@dataclass(frozen=True)
class Window:
    """Coefficients on windows of a map.

    Attributes:
        values: (P, Q, h, w, C).
        at: (P, 2) the places of the neurons in their own map.
        place: Where the windows are.
        clean: Whether the coefficients are zero outside the map.
    """

    values: Tensor
    at: Tensor
    place: Place
    clean: bool

    def lines(self) -> list[Tensor]:
        """Return which rows (P, h) and columns (P, w) of the map the windows have."""
        step, start, size = self.place
        return [
            (self.at[:, k] * step[k] + start[k]).unsqueeze(1)
            + torch.arange(size[k], device=self.at.device)
            for k in (0, 1)
        ]

    def places(self, shape: Shape) -> Tensor:
        """Return the numbers (P, h·w) of the places in a map, -1 outside."""
        height, width, _ = layout(shape)
        y, x = (line.unsqueeze(k) for line, k in zip(self.lines(), (2, 1), strict=True))
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return torch.where(inside, y * width + x, -1).flatten(1)

    def cleaned(self, shape: Shape) -> Window:
        """Return it with zeros outside a map of a shape."""
        if self.clean:
            return self
        inside = (self.places(shape) >= 0).view(len(self.at), 1, *self.place.size, 1)
        return replace(self, values=self.values * inside, clean=True)

    def whole(self, shape: Shape) -> Window:
        """Return the same coefficients on a whole map of a shape."""
        height, width, _ = layout(shape)
        place = Place((0, 0), (0, 0), (height, width))
        if self.place == place:
            return self
        if self.place.fixed:
            return replace(self.extended(place), clean=True)
        values = F.pad(self.values, (0, 0, 0, 1, 0, 1))  # what is in no window is in the last line
        index = []
        for line, sides, end in zip(self.lines(), (height, width), self.place.size, strict=True):
            to = torch.arange(sides, device=line.device) - line[:, :1]
            index.append(torch.where((to >= 0) & (to < end), to, end))
        p = torch.arange(len(values), device=values.device).view(-1, 1, 1)
        places = p, index[0].unsqueeze(2), index[1].unsqueeze(1)
        found = values.permute(0, 2, 3, 1, 4)[places].permute(0, 3, 1, 2, 4).contiguous()
        return Window(found, self.at, place, True)

    def extended(self, place: Place) -> Window:
        """Return it with zeros around it, so that it is at a place of the same step."""
        sides = [0, 0]
        for k in (1, 0):
            before = self.place.start[k] - place.start[k]
            sides += [before, place.size[k] - self.place.size[k] - before]
        return replace(self, values=F.pad(self.values, sides), place=place)

    def plus(self, other: Window, shape: Shape) -> Window:
        """Return the sum of two, on windows around both, of a map of a shape."""
        mine, its = self, other
        if mine.place.step != its.place.step:
            mine, its = mine.whole(shape), its.whole(shape)
        if mine.place != its.place:
            step, begin, size = mine.place
            others, sizes = its.place.start, its.place.size
            start = min(begin[0], others[0]), min(begin[1], others[1])
            ends = [max(begin[k] + size[k], others[k] + sizes[k]) - start[k] for k in (0, 1)]
            place = Place(step, start, (ends[0], ends[1]))
            mine, its = mine.extended(place), its.extended(place)
        return Window(mine.values + its.values, self.at, mine.place, mine.clean and its.clean)

    def moved(self, scale: Pair, shift: Pair, size: Pair, values: Tensor) -> Window:
        """Return other values on windows at ``scale`` times the start, plus ``shift``."""
        step, start, _ = self.place
        place = Place(
            (step[0] * scale[0], step[1] * scale[1]),
            (start[0] * scale[0] + shift[0], start[1] * scale[1] + shift[1]),
            size,
        )
        return Window(values, self.at, place, False)


def layout(shape: Shape) -> tuple[int, int, int]:
    """Return height, width and channels of values of a shape."""
    if len(shape) == 3:
        return shape[1], shape[2], shape[0]
    return 1, 1, math.prod(shape)


def channels_last(values: Tensor) -> Tensor:
    """Return (n, ...) values as (n, height, width, channels)."""
    if values.ndim == 4:
        return values.permute(0, 2, 3, 1)
    return values.reshape(len(values), 1, 1, -1)


def transposed(segment: Segment, window: Window, sources: Sequence[Shape]) -> list[Window]:
    """Pass coefficients on the result of a segment back to its sources, of these shapes.

    The segment's constant and normalisation are left out.
    """
    pending = {segment.end: window}
    shapes = dict(zip(segment.names, sources, strict=True))
    shapes |= {operation.name: tuple(operation.shape) for operation in segment.operations}
    for operation in reversed(segment.operations):
        parts = _back(operation, segment, pending.pop(operation.name), shapes)
        for name, part in zip(operation.sources, parts, strict=True):
            pending[name] = pending[name].plus(part, shapes[name]) if name in pending else part
    return [pending[name] for name in segment.names]


# -- operations ------------------------------------------------------------------------------


def _back(
    operation: Any, segment: Segment, window: Window, shapes: Mapping[str, Shape]
) -> list[Window]:
    """Return the coefficients on what an operation is computed from."""
    before = [shapes[name] for name in operation.sources]
    mine = shapes[operation.name]
    constants = [segment.constants.get(name) for name in operation.arguments]
    factors = operation.factors if isinstance(operation, Sum) else _FACTORS.get(operation.kind)
    if factors is not None and all(shape == mine for shape in before):
        varying = zip(factors, operation.varying, strict=True)
        used = [factor for factor, varies in varying if varies]
        return [_times(window, factor) for factor in used]
    if len(before) == 1:
        rule = _rule(operation, constants, before[0])
        if rule is not None:
            return [rule(window.whole(mine) if window.place.fixed else window.cleaned(mine))]
    return _by_autograd(operation, constants, window.whole(mine), before)


def _times(window: Window, factor: Any) -> Window:
    if isinstance(factor, int) and factor == 1:
        return window
    return replace(window, values=window.values * factor)


Rule = Callable[[Window], Window]


def _rule(operation: Any, constants: list[Any], before: Shape) -> Rule | None:
    """Return how an operation of one value is passed back on windows, where that is known."""
    node: Any = getattr(operation, "node", None)
    if operation.kind in _SAME:
        return lambda window: window
    if isinstance(operation, BatchNorm) and len(before) in (1, 3):
        scale, _ = operation.scale_and_shift(*constants[1:])
        return lambda window: _times(window, scale)
    if isinstance(operation, Scaled) and constants[1].numel() == 1:
        return lambda window: _times(window, constants[1].flatten())
    if isinstance(operation, Taken):
        return _taken(operation, before)
    if operation.kind == "BoundConv" and len(before) == 3:
        return lambda window: _convolution(node, constants[1], window, before)
    if operation.kind == "BoundAveragePool" and len(before) == 3 and _is_plain_pool(node):
        return lambda window: _average_pool(node, window)
    if operation.kind == "BoundLinear" and len(before) == 1 and Linear.computes(node):
        weight = constants[1] if node.transB else constants[1].T
        return lambda window: replace(window, values=window.values @ weight)
    return None


def _images(window: Window) -> Tensor:
    """The coefficients as (P·Q, C, h, w), channels last in memory."""
    return window.values.flatten(0, 1).permute(0, 3, 1, 2)


def _values(images: Tensor, window: Window) -> Tensor:
    """What ``_images`` gave, as coefficients."""
    images = images.permute(0, 2, 3, 1).contiguous()
    return images.view(*window.values.shape[:2], *images.shape[1:])


def _of_few_sizes(images: Tensor) -> Tensor:
    """Return images with some of zeros behind them, so that few numbers of images occur.

    A CPU prepares a convolution anew for each of them, which costs more than small ones take.
    """
    count = len(images)
    missing = -count % (1 << max(0, count.bit_length() - 3))
    if not missing or images.numel() > _LARGE:
        return images
    return F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing))


def _convolution(node: Any, weight: Tensor, window: Window, before: Shape) -> Window:
    stride, padding, dilation = tuple(node.stride), tuple(node.padding), tuple(node.dilation)
    fixed, cut, beyond = window.place.fixed, (0, 0), (0, 0)
    if fixed:  # on the whole map, and the result too
        sizes = before[1:], window.place.size, weight.shape[2:]
        sides = zip(*sizes, stride, padding, dilation, strict=True)
        cut = padding
        beyond = tuple(n - 1 - (m - 1) * s + 2 * p - d * (k - 1) for n, m, k, s, p, d in sides)
    options = stride, cut, beyond, node.groups, dilation
    images = _images(window)
    found = F.conv_transpose2d(_of_few_sizes(images), weight, None, *options)[: len(images)]
    shift = (cut[0] - padding[0], cut[1] - padding[1])
    moved = window.moved(stride, shift, (found.shape[2], found.shape[3]), _values(found, window))
    return replace(moved, clean=fixed)


def _is_plain_pool(node: Any) -> bool:
    return not any(node.padding) and not node.ceil_mode


def _average_pool(node: Any, window: Window) -> Window:
    kernel, stride = tuple(node.kernel_size), tuple(node.stride)
    sides = zip(window.place.size, kernel, stride, strict=True)
    size = tuple((n - 1) * s + k for n, k, s in sides)
    images = _images(window)
    with torch.enable_grad():
        x = images.new_zeros(*images.shape[:2], *size).requires_grad_()
        (found,) = torch.autograd.grad(F.avg_pool2d(x, kernel, stride), x, images)
    moved = window.moved(stride, (0, 0), (size[0], size[1]), _values(found, window))
    return replace(moved, clean=window.place.fixed)


def _taken(operation: Taken, before: Shape) -> Rule | None:
    """Strided slices along the height or the width."""
    axis, index = operation.axis - 2, operation.index
    step = spacing(index)
    if len(before) != 3 or axis not in (0, 1) or step is None:
        return None

    def back(window: Window) -> Window:
        size, scale, shift = list(window.place.size), [1, 1], [0, 0]
        scale[axis], shift[axis] = step, index[0]
        taken: list[Any] = [slice(None)] * 5
        if step > 1:
            size[axis] = (size[axis] - 1) * step + 1
            taken[2 + axis] = slice(None, None, step)
            shape = (*window.values.shape[:2], *size, window.values.shape[4])
            values = window.values.new_zeros(shape)
            values[tuple(taken)] = window.values
        else:
            values = window.values
        moved = window.moved((scale[0], scale[1]), (shift[0], shift[1]), (size[0], size[1]), values)
        return replace(moved, clean=True)  # a place that is in the result is in the value

    return back


def _by_autograd(
    operation: Any, constants: list[Any], window: Window, before: list[Shape]
) -> list[Window]:
    """Pass coefficients on whole maps back through any affine operation."""
    rows = window.values.shape[0] * window.values.shape[1]
    given = _images(window).reshape(rows, *operation.shape)
    with torch.enable_grad():
        values = [given.new_zeros(rows, *shape).requires_grad_() for shape in before]
        varying = iter(values)
        each = zip(constants, operation.varying, strict=True)
        result = operation.forward(*(next(varying) if varies else c for c, varies in each))
        found = torch.autograd.grad(result, values, given)
    windows = []
    for part, shape in zip(found, before, strict=True):
        height, width, channels = layout(shape)
        last = channels_last(part).reshape(*window.values.shape[:2], height, width, channels)
        windows.append(Window(last, window.at, Place((0, 0), (0, 0), (height, width)), True))
    return windows
