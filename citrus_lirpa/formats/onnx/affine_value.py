"""Tensors that are affine functions of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AffineValue:
    """A tensor as constant + Σ matrix · vector.

    Args:
        constant: (*shape) the constant part.
        parts: (*shape, n) the matrix of each vector of n numbers, by the vector's number.
    """

    constant: np.ndarray
    parts: Mapping[int, np.ndarray]

    @property
    def varies(self) -> bool:
        """Whether it is no constant."""
        return bool(self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.constant.shape

    def flat(self) -> AffineValue:
        """Return its numbers as one vector."""
        parts = {n: part.reshape(-1, part.shape[-1]) for n, part in self.parts.items()}
        return AffineValue(self.constant.reshape(-1), parts)

    def broadcast(self, shape: tuple[int, ...]) -> AffineValue:
        """Return it in a larger shape."""
        missing = (1,) * (len(shape) - self.constant.ndim)
        parts = {
            n: np.broadcast_to(part.reshape(missing + part.shape), (*shape, part.shape[-1]))
            for n, part in self.parts.items()
        }
        return AffineValue(np.broadcast_to(self.constant, shape), parts)

    def times(self, factor: np.ndarray) -> AffineValue:
        """Return it times constants, whose shape broadcasts to its own."""
        wide = np.broadcast_to(factor, self.shape)
        parts = {n: part * wide[..., None] for n, part in self.parts.items()}
        return AffineValue(self.constant * wide, parts)

    def plus(self, other: AffineValue) -> AffineValue:
        """Return the sum with a value of the same shape."""
        parts = dict(self.parts)
        for n, part in other.parts.items():
            parts[n] = parts[n] + part if n in parts else part
        return AffineValue(self.constant + other.constant, parts)

    def taken(self, places: np.ndarray) -> AffineValue:
        """Return some of its numbers, by their places in row-major order."""
        flat = self.flat()
        parts = {n: part[places] for n, part in flat.parts.items()}
        return AffineValue(flat.constant[places], parts)


def joined(values: Sequence[AffineValue]) -> AffineValue:
    """Return the numbers of several tensors as one vector."""
    flat = [value.flat() for value in values]
    columns = {n: part.shape[1] for value in flat for n, part in value.parts.items()}
    parts = {
        n: np.concatenate([v.parts.get(n, np.zeros((len(v.constant), size))) for v in flat])
        for n, size in columns.items()
    }
    return AffineValue(np.concatenate([value.constant for value in flat]), parts)
