"""What a VNN-LIB 2.0 query asks: networks, their variables, and a formula of linear constraints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

#: A number of a declared tensor: the tensor's name, and the place in it in row-major order.
Variable: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class Linear:
    """A sum of variables with factors, and a constant.

    Args:
        terms: The factor, not 0, of each variable.
        constant: What is added.
    """

    terms: Mapping[Variable, Fraction]
    constant: Fraction

    def plus(self, other: Linear, factor: Fraction = Fraction(1)) -> Linear:
        """Return ``self + factor * other``."""
        terms = dict(self.terms)
        for variable, value in other.terms.items():
            terms[variable] = terms.get(variable, Fraction(0)) + factor * value
        kept = {variable: value for variable, value in terms.items() if value}
        return Linear(kept, self.constant + factor * other.constant)

    def times(self, factor: Fraction) -> Linear:
        """Return ``factor * self``."""
        return Linear({}, Fraction(0)).plus(self, factor)

    def replaced(self, known: Mapping[Variable, Linear]) -> Linear:
        """Return it with the ``known`` variables replaced by what they equal."""
        result = Linear({v: f for v, f in self.terms.items() if v not in known}, self.constant)
        for variable, factor in self.terms.items():
            if variable in known:
                result = result.plus(known[variable], factor)
        return result

    def value(self, values: Mapping[str, list[Fraction]]) -> Fraction:
        """Return its value where each tensor has the numbers given for it."""
        return self.constant + sum(
            (factor * values[name][place] for (name, place), factor in self.terms.items()),
            Fraction(0),
        )


@dataclass(frozen=True)
class Atom:
    """A constraint: ``left <= 0``, ``left < 0`` where it is strict, or ``left == 0``."""

    left: Linear
    relation: str

    def holds(self, value: Fraction) -> bool:
        """Return whether it holds where its left side has a value."""
        if self.relation == "==":
            return value == 0
        return value < 0 if self.relation == "<" else value <= 0


@dataclass(frozen=True)
class Every:
    """A formula that holds where all its parts do."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True)
class Some:
    """A formula that holds where at least one of its parts does."""

    parts: tuple[Formula, ...]


Formula: TypeAlias = Atom | Every | Some


@dataclass(frozen=True)
class Declaration:
    """A tensor that a network takes or gives.

    Args:
        name: In the query.
        dtype: As the standard writes it: float32, float16, real, ....
        shape: Its sides; () for a single number.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def variables_of(tensors: Iterable[Declaration]) -> list[Variable]:
    """Return the variables of some tensors, in order."""
    return [(tensor.name, place) for tensor in tensors for place in range(tensor.size)]


@dataclass(frozen=True)
class QueryNetwork:
    """A network of a query.

    Args:
        name: In the query.
        inputs: What it takes.
        outputs: What it gives.
        equal_to: The network that it is another copy of; "" for none.
        isomorphic_to: The network whose structure it shares; "" for none.
        hidden: How many values within it the query names.
    """

    name: str
    inputs: tuple[Declaration, ...]
    outputs: tuple[Declaration, ...]
    equal_to: str = ""
    isomorphic_to: str = ""
    hidden: int = 0


@dataclass(frozen=True)
class Query:
    """A question: are there inputs of the networks with which the formula holds?"""

    networks: tuple[QueryNetwork, ...]
    formula: Every

    @property
    def declarations(self) -> list[Declaration]:
        """All tensors, in order: of each network its inputs, then its outputs."""
        return [d for network in self.networks for d in (*network.inputs, *network.outputs)]
