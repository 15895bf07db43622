"""Operations that no node of a graph stands for: what piecewise linear ones are written as."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .box import Box

#: The interval of a value from those of its operands, rounded outward.
Hull = Callable[..., Box]


class Piece:
    """An operation that no node stands for; attributes as those of an :class:`Operation`.

    Args:
        name: The name of its value.
        arguments: Names of all values that ``forward`` takes.
        shape: The shape of its value, for one input.
        constants: Those of the arguments that do not vary, by name.
    """

    kind = "piece"

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        shape: tuple[int, ...],
        constants: dict[str, Any] | None = None,
    ):
        self.name, self.arguments, self.shape = name, list(arguments), shape
        self._constants = constants or {}
        self.varying = [argument not in self._constants for argument in arguments]
        self.sources = [a for a in arguments if a not in self._constants]

    def constants(self) -> dict[str, Any]:
        """Return the arguments that do not vary, by name."""
        return self._constants

    def forward(self, *values: Tensor) -> Tensor:
        """Return the value."""
        raise NotImplementedError

    def sizes(self, values: Sequence[Tensor], constant: bool) -> Tensor:
        """Return what is added up in absolute values; without constants if not ``constant``."""
        return self.forward(*values)

    @property
    def terms(self) -> tuple[int, int]:
        """The most products that one number adds up, forwards and backwards."""
        return 8, 8


class Relu(Piece):
    """ReLU."""

    def forward(self, *values: Tensor) -> Tensor:
        """Return the value."""
        return values[0].relu()


class Sum(Piece):
    """The sum of values times ``factors``, which are small powers of two, or minus one."""

    factors: tuple[int, ...]

    def forward(self, *values: Tensor) -> Tensor:
        """Return the value."""
        first, *others = (f * v for f, v in zip(self.factors, values, strict=True))
        return sum(others, start=first)

    def sizes(self, values: Sequence[Tensor], constant: bool) -> Tensor:
        """Return the sum of absolute values."""
        parts = zip(self.factors, values, self.varying, strict=True)
        first, *others = (abs(f) * v.abs() * (constant or varies) for f, v, varies in parts)
        return sum(others, start=first)


class Scaled(Piece):
    """A value times a constant, which is the second argument."""

    def forward(self, *values: Tensor) -> Tensor:
        """Return the value."""
        return values[0] * values[1]

    def sizes(self, values: Sequence[Tensor], constant: bool) -> Tensor:
        """Return the absolute value."""
        return values[0] * values[1].abs()


class Divided(Piece):
    """A value by a constant, which is the second argument."""

    def forward(self, *values: Tensor) -> Tensor:
        """Return the value."""
        return values[0] / values[1]

    def sizes(self, values: Sequence[Tensor], constant: bool) -> Tensor:
        """Return the absolute value."""
        return values[0] / values[1].abs()


class Taken(Piece):
    """Some places along an axis of a value, in the order of ``index``."""

    axis: int
    index: tuple[int, ...]

    def forward(self, *values: Tensor) -> Tensor:
        """Return the value."""
        return taken(values[0], self.axis, self.index)

    @property
    def terms(self) -> tuple[int, int]:
        """The most products that one number adds up: backwards, as often as it is taken."""
        return 8, 8 + max(map(self.index.count, self.index))


class Joined(Piece):
    """Values one after the other along an axis."""

    axis: int

    def forward(self, *values: Tensor) -> Tensor:
        """Return the value."""
        return torch.cat(values, self.axis)


class Stacked(Joined):
    """Two values that are multiplied, one after the other along a new axis, in the same shape."""

    def forward(self, *values: Tensor) -> Tensor:
        """Return the value."""
        rows = max(map(len, values))
        return torch.stack([value.expand(rows, *self.shape[1:]) for value in values], 1)

    #: How often a number of the smaller value is there.
    repeats: int

    @property
    def terms(self) -> tuple[int, int]:
        """The most products that one number adds up."""
        return 8, 8 + self.repeats


def taken(x: Tensor, axis: int, index: Sequence[int]) -> Tensor:
    """Return some places along an axis; as a view where they are evenly spaced."""
    step = spacing(index)
    if step is not None:
        place = [slice(None)] * axis + [slice(index[0], index[-1] + 1, step)]
        return x[tuple(place)]
    return x.index_select(axis, torch.tensor(index, device=x.device))


def spacing(index: Sequence[int]) -> int | None:
    """Return how far apart places are that are evenly spaced and in order; None for others."""
    step = index[1] - index[0] if len(index) > 1 else 1
    even = step > 0 and list(index) == list(range(index[0], index[-1] + 1, step))
    return step if even else None


def repeats(shape: Sequence[int], parts: Iterable[Sequence[int]]) -> int:
    """Return how often a value of ``shape`` has a number of the smallest of its parts."""
    return max(math.prod(shape) // max(1, math.prod(part)) for part in parts)
