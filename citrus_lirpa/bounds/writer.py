"""How operations are written as pieces, one after the other."""

from __future__ import annotations

from typing import Any

import torch

from .curves import Bend
from .graph import Graph, Operation
from .pieces import Hull, Piece, Relu, Sum
from .tracing import place


class Written(Graph):
    """A graph that is written piece by piece, from the input and to the output of another one.

    Args:
        graph: The other one.

    Attributes:
        knots: By name, the values with intervals of their own: names of the operands that these
            follow from, and the intervals.
        curves: By name, those of ``relus`` that are curves or products.
        origins: Of these, what they are called in messages.
    """

    def __init__(self, graph: Graph):
        self.input, self.output = graph.input, graph.output
        self.operations: dict[str, Any] = {}
        self.relus: list[str] = []
        self.curves: dict[str, Bend] = {}
        self.origins: dict[str, str] = {}
        self.knots: dict[str, tuple[tuple[str, ...], Hull]] = {}


class Writer:
    """Writes one operation as pieces, the last of which has the operation's name.

    Attributes:
        shape: The shape of the values of the pieces to come.
        constants: The operation's constants by name, and the numbers that were made.
    """

    def __init__(self, graph: Written, operation: Operation, dtype: torch.dtype):
        self.graph, self.operation, self.node, self.dtype = graph, operation, operation.node, dtype
        self.shape, self.constants = operation.shape, operation.constants()
        self._count = 0

    def add(self, kind: type[Piece], *arguments: str, last: bool = False, **options: Any) -> str:
        """Add a piece; return its name, which is the operation's for the last one."""
        self._count += 1
        name = self.operation.name if last else f"{self.operation.name}:{self._count}"
        constants = {a: self.constants[a] for a in arguments if a in self.constants}
        piece = kind(name, arguments, self.shape, constants)
        vars(piece).update(options)
        self.graph.operations[name] = piece
        if kind is Relu:
            self.graph.relus.append(name)
        return name

    def sum(self, *parts: tuple[int, str], last: bool = False) -> str:
        """Add a sum of values times factors."""
        factors, names = zip(*parts, strict=True)
        return self.add(Sum, *names, factors=factors, last=last)

    def larger(self, a: str, b: str, *, last: bool = False) -> str:
        """Add the maximum of two values, of which b may be a constant."""
        over = self.add(Relu, self.sum((1, a), (-1, b)))
        return self.sum((1, b), (1, over), last=last)

    def smaller(self, a: str, b: str, *, last: bool = False) -> str:
        """Add the minimum of two values, of which b may be a constant."""
        under = self.add(Relu, self.sum((1, b), (-1, a)))
        return self.sum((1, b), (-1, under), last=last)

    def number(self, value: float) -> str:
        """Return the name of a number as a constant."""
        name = f"{self.operation.name}={value}"
        self.constants[name] = torch.tensor(value, dtype=self.dtype)
        return name

    def bend(self, x: str, bend: Bend, *, last: bool = False) -> str:
        """Add a curve or product."""
        if x == self.graph.input:  # which no affine map ends in
            x = self.sum((1, x))
        name = self.add(Piece, x, last=last)
        self.graph.relus.append(name)
        self.graph.curves[name] = bend
        kind = self.operation.kind.removeprefix("Bound")
        self.graph.origins[name] = f"{kind}{place(self.node)}"
        return name

    def knot(self, name: str, hull: Hull, *operands: str) -> None:
        """Note the interval of a value."""
        self.graph.knots[name] = operands, hull
