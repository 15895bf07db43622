"""Whether an input answers a query: the networks run by onnxruntime, the formula exactly."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from ...formats.query import Atom, Every, Formula, Query, variables_of
from .networks import DTYPES, FileNetwork
from .statement import Statement

#: Decimal places of the real numbers of an answer.
_PLACES = 12


@dataclass(frozen=True)
class Judge:
    """Replays inputs.

    Args:
        query: The query.
        statement: Its free inputs.
        files: The network of each name.
    """

    query: Query
    statement: Statement
    files: Mapping[str, FileNetwork]

    @property
    def rounds(self) -> bool:
        """Whether the query is about floating-point numbers, rather than real ones."""
        return any(d.dtype != "real" for d in self.query.declarations)

    def assignment(self, free: np.ndarray) -> dict[str, list[Fraction]] | None:
        """Return the numbers of all tensors, where the query holds with these free inputs.

        Inputs are rounded to numbers of the declared types within the box.

        Args:
            free: (n,) values of the free inputs.
        """
        types, statement = self._types, self.statement
        ends = zip(statement.free, free, statement.lower, statement.upper, strict=True)
        chosen = [_within(float(v), low, high, types[k[0]]) for k, v, low, high in ends]
        values: dict[str, list[Fraction]] = {
            d.name: [Fraction(0)] * d.size for d in self.query.declarations
        }
        for (name, place), value in statement.inputs(chosen).items():
            values[name][place] = _rounded(value, types[name])
        for network in self.query.networks:
            taken, results = variables_of(network.inputs), variables_of(network.outputs)
            x = np.array([float(values[n][p]) for n, p in taken], dtype=np.float32)
            outputs = self.files[network.name].run(x).tolist()
            for (name, place), y in zip(results, outputs, strict=True):
                if not math.isfinite(y):
                    return None
                values[name][place] = _rounded(Fraction(y), types[name])
        return values if _holds(self._formula, values) else None

    @functools.cached_property
    def _types(self) -> dict[str, Any]:
        return {d.name: DTYPES[d.dtype] for d in self.query.declarations}

    @functools.cached_property
    def _formula(self) -> Formula:
        return self._in_types(self.query.formula)

    def _in_types(self, formula: Formula) -> Formula:
        """Return a formula whose constants are numbers of the type that they are compared in."""
        if not isinstance(formula, Atom):
            return type(formula)(tuple(self._in_types(part) for part in formula.parts))
        used: set[Any] = {self._types[name] for name, _ in formula.left.terms}
        if len(used) != 1:
            return formula
        constant = _rounded(formula.left.constant, used.pop())
        return Atom(replace(formula.left, constant=constant), formula.relation)


def _holds(formula: Formula, values: dict[str, list[Fraction]]) -> bool:
    if isinstance(formula, Atom):
        return formula.holds(formula.left.value(values))
    parts = (_holds(part, values) for part in formula.parts)
    return all(parts) if isinstance(formula, Every) else any(parts)


def _rounded(value: Fraction, dtype: Any) -> Fraction:
    return value if dtype is None else Fraction(float(dtype(float(value))))


def _within(value: float, low: Fraction, high: Fraction, dtype: Any) -> Fraction:
    """Return a number of a type near a value, between two ends, which are rounded to the type."""
    if dtype is None:
        near = Fraction(round(Fraction(value), _PLACES))
        return min(max(near, low), high)
    low, high = _rounded(low, dtype), _rounded(high, dtype)
    return min(max(_rounded(Fraction(value), dtype), low), high)
