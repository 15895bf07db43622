"""How operations pass coefficients on windows (:mod:`.windows`) back to what they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import BatchNorm
from .pieces import Scaled, Sum, Taken, spacing
from .steps import Linear
from .windows import Pair, Place, Shape, Window, channels_last, layout

#: Sums and differences, and the factors of their parts.
_FACTORS = {"BoundAdd": (1, 1), "BoundSub": (1, -1), "BoundNeg": (-1,)}
_SAME = {"BoundIdentity", "BoundDropout"}
#: What keeps all numbers in their order.
_RESHAPES = {"BoundFlatten", "BoundReshape", "BoundSqueeze", "BoundUnsqueeze"}
#: Convolutions of windows are matrix products of at most so many weights, zeros among them: small
#: ones take a tenth of the time then.
_DENSE = 1 << 15
#: Convolutions of more numbers than this are not made of few sizes.
_LARGE = 1 << 18


class Spaced(NamedTuple):
    """Coefficients on evenly spaced rows or columns of a map.

    Attributes:
        window: The coefficients, on windows of these rows or columns alone; zero outside them.
        axis: 0 for rows, 1 for columns.
        step: How far they are apart.
        start: The first of them.
    """

    window: Window
    axis: int
    step: int
    start: int

    def between(self, others: Sequence[Spaced]) -> Window:
        """Return the same on the whole map's windows, with ``others`` on the next rows or columns.

        These are ``step - 1``; without any, all that lies between is zero.
        """
        values, axis = self.window.values, 2 + self.axis
        missing = self.step - 1 - len(others)
        parts = [values, *(other.window.values for other in others)]
        parts += [torch.zeros_like(values)] * missing
        if self.step > 1:
            values = torch.stack(parts, axis + 1).flatten(axis, axis + 1)
            values = values.narrow(axis, 0, values.shape[axis] - missing)
        scale, shift = [1, 1], [0, 0]
        scale[self.axis], shift[self.axis] = self.step, self.start
        size = values.shape[2], values.shape[3]
        moved = self.window.moved((scale[0], scale[1]), (shift[0], shift[1]), size, values)
        return replace(moved, clean=True)  # a place that is in the result is in the value


Passed = Window | Spaced
Back = Callable[[Window], Sequence[Passed]]


def added(parts: Sequence[Passed], shape: Shape) -> Window:
    """Return the sum of coefficients on a map of a shape."""
    spaced = sorted((p for p in parts if isinstance(p, Spaced)), key=lambda p: p[1:])
    windows = [p for p in parts if isinstance(p, Window)]
    while spaced:
        run = _run(spaced)
        windows.append(run[0].between(run[1:]))
        spaced = spaced[len(run) :]
    return reduce(lambda total, part: total.plus(part, shape), windows)


def _run(spaced: Sequence[Spaced]) -> Sequence[Spaced]:
    """Return the first parts if they are on all rows or columns between them, else the first."""
    run = spaced[: spaced[0].step]
    whole = len(run) == run[0].step and all(map(_follows, run, run[1:]))
    return run if whole else run[:1]


def _follows(before: Spaced, after: Spaced) -> bool:
    """Return whether the rows or columns of one are next to those of another."""
    alike = before.window.place == after.window.place and before.axis == after.axis
    return alike and before.step == after.step and after.start == before.start + 1


def back_of(operation: Any, constants: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Back:
    """Return what passes coefficients on an operation's value back to its sources, in order.

    What it adds, and the network's normalisation, are left out.

    Args:
        operation: What computes the value.
        constants: By name, what it takes beside computed values.
        shapes: By name, those of its value and its sources for one input.
    """
    before = [shapes[name] for name in operation.sources]
    mine = shapes[operation.name]
    given = [constants.get(name) for name in operation.arguments]
    factors = operation.factors if isinstance(operation, Sum) else _FACTORS.get(operation.kind)
    if factors is not None and all(shape == mine for shape in before):
        varying = zip(factors, operation.varying, strict=True)
        used = [factor for factor, varies in varying if varies]
        return lambda window: [_times(window, factor) for factor in used]
    if len(before) == 1:
        source = before[0]
        if operation.kind in _RESHAPES and math.prod(source) == math.prod(mine):
            return lambda window: [_reshaped(window.whole(mine), mine, source)]
        rule = _rule(operation, given, source)
        if rule is not None:
            return lambda window: [
                rule(window.whole(mine) if window.place.fixed else window.cleaned(mine))
            ]
    return lambda window: _by_autograd(operation, given, window.whole(mine), before)


def _times(window: Window, factor: Any) -> Window:
    if isinstance(factor, int) and factor == 1:
        return window
    return replace(window, values=window.values * factor)


Rule = Callable[[Window], Passed]


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
        return _Convolution(node, constants[1], before)
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


class _Convolution:
    """Passes coefficients back through a convolution, on few numbers by one matrix product.

    Args:
        node: auto_LiRPA's node.
        weight: Its weights.
        before: The shape of the map that it takes.
    """

    def __init__(self, node: Any, weight: Tensor, before: Shape):
        self._weight, self._before, self._groups = weight, before, node.groups
        sides = node.stride, node.padding, node.dilation
        self._stride, self._padding, self._dilation = map(tuple, sides)
        self._matrices: dict[tuple[bool, Pair], Tensor] = {}

    def __call__(self, window: Window) -> Window:
        fixed, size = window.place.fixed, window.place.size
        stride, padding, kernel = self._stride, self._padding, self._weight.shape[2:]
        dilation, cut, beyond = self._dilation, (0, 0), (0, 0)
        if fixed:  # on the whole map, and the result too
            cut, sizes = padding, (self._before[1:], size, kernel, stride, padding, dilation)
            sides = zip(*sizes, strict=True)
            beyond = tuple(n - 1 - (m - 1) * s + 2 * p - d * (k - 1) for n, m, k, s, p, d in sides)
        sides = zip(size, stride, cut, dilation, kernel, beyond, strict=True)
        after = [(m - 1) * s - 2 * c + d * (k - 1) + b + 1 for m, s, c, d, k, b in sides]
        ends = after[0], after[1]
        options = stride, cut, beyond, self._groups, dilation
        numbers = math.prod(size) * window.values.shape[4], math.prod(ends) * self._before[0]
        if math.prod(numbers) <= _DENSE:
            matrix = self._matrix(fixed, size, numbers, options)
            shape = *window.values.shape[:2], *ends, self._before[0]
            values = (window.values.flatten(2) @ matrix).view(shape)
        else:
            images = _images(window)
            found = F.conv_transpose2d(_of_few_sizes(images), self._weight, None, *options)
            values = _values(found[: len(images)], window)
        shift = (cut[0] - padding[0], cut[1] - padding[1])
        return replace(window.moved(stride, shift, ends, values), clean=fixed)

    def _matrix(self, fixed: bool, size: Pair, numbers: Pair, options: Any) -> Tensor:
        """Return what coefficients on a window, in one row, are multiplied by; made once."""
        if (fixed, size) not in self._matrices:
            units = torch.diag(self._weight.new_ones(numbers[0])).view(numbers[0], *size, -1)
            images = F.conv_transpose2d(units.permute(0, 3, 1, 2), self._weight, None, *options)
            self._matrices[fixed, size] = images.permute(0, 2, 3, 1).reshape(numbers)
        return self._matrices[fixed, size]


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
    """Evenly spaced slices along the height or the width."""
    axis, index = operation.axis - 2, operation.index
    step = spacing(index)
    if len(before) != 3 or axis not in (0, 1) or step is None:
        return None
    return lambda window: Spaced(window, axis, step, index[0])


def _reshaped(window: Window, shape: Shape, before: Shape) -> Window:
    """Return coefficients on a whole map of a shape as those of one before, in the same order."""
    places, rows = window.values.shape[:2]
    values = _images(window).reshape(places * rows, *shape).reshape(places * rows, *before)
    return _whole(values, window, before)


def _whole(values: Tensor, window: Window, shape: Shape) -> Window:
    """Return coefficients (P·Q, ...) on whole maps of a shape, of the neurons of a window."""
    height, width, channels = layout(shape)
    last = channels_last(values).reshape(*window.values.shape[:2], height, width, channels)
    return Window(last, window.at, Place((0, 0), (0, 0), (height, width)), True)


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
    return [_whole(part, window, shape) for part, shape in zip(found, before, strict=True)]
