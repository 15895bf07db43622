"""All networks of a statement as one: from its free inputs to the values of its constraints."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...formats.flat_network import Box, FlatNetwork, linear_interval, linear_layer
from ...formats.query import Linear, Query, Variable, variables_of
from .networks import FileNetwork
from .statement import Statement, UndecidedError
from .tree import tree_of

#: What float32 can make of an input or of an end of the box, relative to their size.
_ROUNDING = 2.0**-22
#: Relative rounding of numbers that are declared as float16.
_HALF = 2.0**-10


class Scaling(nn.Module):
    """``scale * z + shift``, number by number."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: np.ndarray, shift: np.ndarray):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))

    def forward(self, z: Tensor) -> Tensor:
        """Return the scaled vector."""
        return z * self.scale + self.shift

    def interval(self, lower: Tensor, upper: Tensor) -> Box:
        """Return bounds of its values on a box."""
        centre, radius = self((lower + upper) / 2), (upper - lower) / 2 * self.scale.abs()
        return centre - radius, centre + radius


class Joint(nn.Module):
    """The rows of a statement: row r of the result is at most 0 where its constraint holds.

    It takes z (N, n) in [-1, 1], from which the free inputs are centre + radius · z.

    Args:
        statement: What is asked.
        query: Of which query.
        files: The network of each name.

    Attributes:
        tree: The formula over rows.
        rows: What each row is.
        size: n, the number of free inputs.
    """

    def __init__(self, statement: Statement, query: Query, files: Mapping[str, FileNetwork]):
        super().__init__()
        if statement.formula is None:
            raise UndecidedError("nothing is asked")
        self.statement = statement
        self.tree, self.rows = tree_of(statement.formula)
        self.size = len(statement.free)
        ends = np.array([[float(v) for v in statement.lower], [float(v) for v in statement.upper]])
        self.centre, self.radius = ends.mean(0), (ends[1] - ends[0]) / 2
        self._wide = self.radius + _ROUNDING * (np.abs(self.centre) + self.radius)
        self._columns = {v: i for i, v in enumerate(statement.free)}
        self.inputs, self.networks, self.outputs = (nn.ModuleList() for _ in range(3))
        constant = np.zeros(max(2, len(self.rows)))
        constant[len(self.rows) :] = 1.0  # a network has two rows at least
        constant[: len(self.rows)] = [float(row.constant) for row in self.rows]
        used = {v for row in self.rows for v in row.terms}
        for network in query.networks:
            file = files[network.name]
            results = variables_of(network.outputs)
            if not used.intersection(results):
                continue
            taken = self._inputs(variables_of(network.inputs), file)
            weights = self._weights({v: i for i, v in enumerate(results)}, len(results))
            if "float16" in {d.dtype for d in (*network.inputs, *network.outputs)}:
                constant -= np.abs(weights) @ _half_rounding(file, taken, self.size)
            self.inputs.append(taken)
            self.networks.append(file.module)
            self.outputs.append(linear_layer(weights, np.zeros(len(weights))))
        direct = self._weights(self._columns, self.size)
        constant += direct @ self.centre
        self.direct = linear_layer(direct * self._wide, constant)

    def forward(self, z: Tensor) -> Tensor:
        """Return (N, R) rows of z (N, n)."""
        total = self.direct(z)
        for taken, network, result in zip(self.inputs, self.networks, self.outputs, strict=True):
            total = total + result(network(taken(z)))
        return total

    @property
    def functions(self) -> set[str]:
        """The elementwise functions of its networks; those of images have ReLU alone."""
        found: set[str] = set()
        for network in self.networks:
            found |= network.functions if isinstance(network, FlatNetwork) else {"Relu"}
        return found

    def interval(self, lower: Tensor, upper: Tensor) -> Box:
        """Return bounds (N, R) of the rows on boxes (N, n) of z; all networks must be flat."""
        low, high = linear_interval(self.direct, lower, upper)
        for taken, network, result in zip(self.inputs, self.networks, self.outputs, strict=True):
            inner: Any = network
            box = inner.interval(*_taken_interval(taken, lower, upper))
            below, above = linear_interval(result, *box)
            low, high = low + below, high + above
        return low, high

    def _inputs(self, variables: list[Variable], file: FileNetwork) -> nn.Module:
        """Return what makes a network's inputs of z."""
        one, zero = Fraction(1), Fraction(0)
        linear = [self.statement.tied.get(v, Linear({v: one}, zero)) for v in variables]
        constant = np.array([float(v.constant) for v in linear])
        places = [
            (i, self._columns[v], float(f))
            for i, row in enumerate(linear)
            for v, f in row.terms.items()
        ]
        for i, column, factor in places:
            constant[i] += factor * self.centre[column]
        shift = (constant - file.mean) / file.std
        if len(variables) == self.size and all(i == column for i, column, _ in places):
            scale = np.zeros(self.size)
            for i, column, factor in places:
                scale[i] = factor * self._wide[column] / file.std[i]
            return Scaling(scale, shift)
        weights = np.zeros((len(variables), self.size))
        for i, column, factor in places:
            weights[i, column] = factor * self._wide[column] / file.std[i]
        return linear_layer(weights, shift)

    def _weights(self, columns: dict[Variable, int], size: int) -> np.ndarray:
        """Return the factors (R, size) that rows have of some variables."""
        weights = np.zeros((max(2, len(self.rows)), size))
        for number, row in enumerate(self.rows):
            for variable, factor in row.terms.items():
                if variable in columns:
                    weights[number, columns[variable]] = float(factor)
        return weights


def _taken_interval(taken: Any, lower: Tensor, upper: Tensor) -> Box:
    """Return bounds of a network's inputs on a box of z."""
    if isinstance(taken, Scaling):
        return taken.interval(lower, upper)
    return linear_interval(taken, lower, upper)


def _half_rounding(file: FileNetwork, taken: nn.Module, size: int) -> np.ndarray:
    """Return what declaring numbers as float16 can make of a network's outputs, at most."""
    if not isinstance(file.module, FlatNetwork):
        raise UndecidedError("float16 is decided for small networks only")
    with torch.no_grad():
        ends = _taken_interval(taken, *(torch.full((1, size), v) for v in (-1.0, 1.0)))
        lower, upper = file.module.interval(*ends)
    return _HALF * torch.maximum(lower.abs(), upper.abs())[0].double().numpy()
