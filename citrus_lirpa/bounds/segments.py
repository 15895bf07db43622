"""Parts of a network as functions: the affine ones between ReLUs, and what follows a ReLU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .affine import LAYERS, adds_up, is_real, keeps_apart, sizes, squares, terms
from .arithmetic import covering, gamma
from .curves import Bend
from .pieces import Hull

#: The number of the network's input among the sources of segments.
INPUT = -1


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a network: ``segment(*values)`` from the values (N, ...) of its sources.

    Attributes:
        sources: What it starts from, in the order of its arguments: INPUT, or numbers of ReLUs
            and curves, whose outputs it takes.
        shape: Shape of its result for one input.
        names: Names of the sources in the graph.
        end: Name of the result in the graph.
        operations: What computes the result, in order.
        constants: By name, what the operations take beside computed values.
        normalise: Applied to the network's input first.
        knots: The values with intervals of their own that are new in this segment.
        short: The same result computed from these and earlier knots; None for the segment itself.
        curve: What follows it; None for ReLU, and for nothing.
        value_shape: Shape of the value of that curve, or of ReLU, for one input.
        origin: What the curve is called in messages.
        device: Whether it is computed by a device in float32 (:mod:`.arithmetic`).
    """

    sources: tuple[int, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    end: str
    operations: list[Any]
    constants: dict[str, Any]
    normalise: nn.Module | None = None
    knots: tuple[Knot, ...] = ()
    short: Segment | None = None
    curve: Bend | None = None
    value_shape: tuple[int, ...] = ()
    origin: str = ""
    device: bool = False

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Compute the result (N, ...) from the values of the sources."""
        values = dict(self.constants)
        for source, name, value in zip(self.sources, self.names, arguments, strict=True):
            normalise = self.normalise if source == INPUT else None
            values[name] = value if normalise is None else normalise(value)
        for operation in self.operations:
            values[operation.name] = operation.forward(*(values[a] for a in operation.arguments))
        return values[self.end]

    def sizes(
        self, *arguments: Tensor, constant: bool = True, known: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Return what the segment adds up in absolute values: |W||v| + |b|.

        Args:
            arguments: Of each source, (N, ...) the largest absolute values.
            constant: Whether to add |b|.
            known: By name, what operations add up that earlier segments have too. Those of this
                segment are put into it.
        """
        known = {} if known is None else known
        values = dict(self.constants)
        covered = covering if self.device and constant else lambda size: size
        for source, name, value in zip(self.sources, self.names, arguments, strict=True):
            if source == INPUT and self.normalise is not None:
                shift = self.normalise(torch.zeros_like(value))
                value = (self.normalise(value) - shift).abs() + shift.abs() * constant
            values[name] = covered(value)
        for operation in self.operations:
            if operation.name not in known:
                arguments = tuple(values[a] for a in operation.arguments)
                known[operation.name] = covered(sizes(operation, arguments, constant))
            values[operation.name] = known[operation.name]
        return values[self.end]

    def spread(self, axes: Tensor) -> Tensor | None:
        """Return how far the result moves on ellipsoids of inputs, by the ℓ2 norms of its rows.

        Args:
            axes: (N, ...) the half axes of ellipsoids of the network's input.

        Returns:
            (N, ...); None where the segment is more than one linear layer or convolution of the
            input, beside what moves and scales single numbers.
        """
        if self.sources != (INPUT,) or not all(map(keeps_apart, self.operations)):
            return None
        if sum(operation.kind in LAYERS for operation in self.operations) > 1:
            return None
        if self.normalise is not None:
            axes = self.normalise(axes) - self.normalise(torch.zeros_like(axes))
        values, before = {**self.constants, self.names[0]: axes.square()}, axes
        for operation in self.operations:
            value = squares(operation, [values[a] for a in operation.arguments])
            moves = operation.kind != "BoundPad" and operation.kind not in LAYERS
            if moves and value.numel() != before.numel():  # numbers may be there twice
                return None
            values[operation.name] = before = value
        return values[self.end].sqrt()

    def double(self) -> Segment:
        """Return the same function in float64."""
        return replace(
            self,
            constants={k: v.double() if is_real(v) else v for k, v in self.constants.items()},
            knots=tuple(knot.double() for knot in self.knots),
            short=self.short and self.short.double(),
        )

    @property
    def terms(self) -> tuple[int, int]:
        """The most products that one number adds up, forwards and backwards."""
        return 8 + sum(part[0] for part in self._terms), 8 + sum(part[1] for part in self._terms)

    @cached_property
    def _terms(self) -> list[tuple[int, int]]:
        """How many products each operation adds up, forwards and backwards."""
        return [terms(op, [self.constants.get(a) for a in op.arguments]) for op in self.operations]

    @cached_property
    def noise(self) -> float:
        """By what share of its sizes a device may compute it wrongly; 0 for real numbers."""
        if not self.device:
            return 0.0
        return gamma((forwards for forwards, _ in self._terms), at_input=INPUT in self.sources)

    def on_device(self) -> Segment:
        """Return the same function as a device computes it."""
        knots = tuple(
            replace(knot, operands=tuple(operand.on_device() for operand in knot.operands))
            for knot in self.knots
        )
        return replace(self, knots=knots, short=self.short and self.short.on_device(), device=True)

    def frozen(self) -> Segment:
        """Return the same function, differentiable in its arguments alone."""
        values = self.constants.items()
        constants = {k: v.detach() if isinstance(v, Tensor) else v for k, v in values}
        return replace(self, constants=constants)

    @property
    def mixes(self) -> bool:
        """Whether operations that add up numbers follow each other, which makes intervals wide."""
        return sum(map(adds_up, self.operations)) > 1


@dataclass(frozen=True, eq=False)
class Knot:
    """A value within the network with an interval of its own.

    Attributes:
        number: Its number among the sources of short segments, below INPUT.
        operands: The values that the interval follows from.
        hull: The interval in float64, from those of the operands.
    """

    number: int
    operands: tuple[Segment, ...]
    hull: Hull

    def double(self) -> Knot:
        """Return the same value in float64."""
        return replace(self, operands=tuple(operand.double() for operand in self.operands))
