"""Affine maps of a network, forwards and backwards, in float64 or in fractions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Refused(Exception):
    """A proof does not hold, or cannot be read; the message names what and why."""


def require(holds: Any, message: str) -> None:
    """Raise Refused unless something holds."""
    if not bool(holds):
        raise Refused(message)


class Numbers:
    """The arithmetic: float64 with twice its unit roundoff, or fractions with none."""

    def __init__(self, exact: bool):
        self.exact = exact
        self.unit: float = 0 if exact else 2.0**-52
        self.tiny: float = 0 if exact else 1e-280

    def of(self, values: Any) -> Array:
        """Return float values as numbers of this arithmetic."""
        array = np.asarray(values, np.float64)
        require(np.isfinite(array).all(), "a number is infinite or NaN")
        made = np.frompyfunc(Fraction, 1, 1)(array) if self.exact else array
        return np.asarray(made, object if self.exact else np.float64)

    def out(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return ends moved outward by one rounding."""
        if self.exact:
            return lower, upper
        return np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf)


class Affine:
    """An affine map, by default of elements: ``weight`` x + ``constant``, as images need it.

    ``sizes`` are at least |constant|, ``terms`` how many products one number adds up.
    """

    def __init__(self, weight: Any, constant: Any = None, sizes: Any = None, terms: int = 1):
        self.weight, self.constant, self.terms = weight, constant, terms + 16
        self.sizes = 0 if constant is None else abs(constant) if sizes is None else sizes

    def apply(self, *x: Array) -> Array:
        """Return the result (R, ...) of values (R, ...)."""
        linear = self.forward(self.weight, *x)
        return linear if self.constant is None else linear + self.constant

    def forward(self, weight: Any, *x: Array) -> Array:
        """Return the linear part of values (R, ...), for ``weight`` or its absolute value."""
        return x[0] * weight

    def back(self, a: Array) -> tuple[Array, ...]:
        """Return coefficients (R, ...) on the sources, of coefficients on the result."""
        return (a * self.weight,)


class Sum(Affine):
    """The weighted sum of values, with one weight each."""

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return np.asarray(sum(w * value for w, value in zip(weight, x, strict=True)))

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        return tuple(a * w for w in self.weight)


class Matrix(Affine):
    """A product with a matrix (out, in)."""

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return x[0] @ weight.T

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        return (a @ self.weight,)


class Reshape(Affine):
    """The same numbers in another shape; ``before`` and ``after`` without the first axis."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return x[0].reshape(len(x[0]), *self.after)

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        return (a.reshape(len(a), *self.before),)


class Convolution(Affine):
    """A convolution by ``weight`` (out, in, h, w), or, where it is (h, w), of each channel."""

    strides: list[int]
    pads: list[int]
    before: tuple[int, ...]

    def _windows(self, padded: Array) -> Iterator[tuple[int, int, Any]]:
        """Yield the places of the kernel, and what of the padded image each is multiplied by."""
        sizes = self.weight.shape[-2:]
        ends = [padded.shape[k] - sizes[k - 2] + 1 for k in (2, 3)]
        for i, j in np.ndindex(*sizes):
            yield (
                i,
                j,
                padded[:, :, i : i + ends[0] : self.strides[0], j : j + ends[1] : self.strides[1]],
            )

    def _padded(self, x: Array) -> Array:
        top, left, bottom, right = self.pads
        return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        total: Any = 0
        for i, j, part in self._windows(self._padded(x[0])):
            w = weight[..., i, j]
            if w.ndim:
                product = (w @ part.reshape(*part.shape[:2], -1)).reshape(
                    len(part), -1, *part.shape[2:]
                )
            total = total + (product if w.ndim else part * w)
        return np.asarray(total)

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        padded = self._padded(np.zeros((len(a), *self.before), a.dtype))
        for i, j, part in self._windows(padded):
            w = self.weight[..., i, j]
            if w.ndim:
                product = (w.T @ a.reshape(*a.shape[:2], -1)).reshape(len(a), -1, *a.shape[2:])
            part += product if w.ndim else a * w
        top, left = self.pads[:2]
        return (padded[:, :, top : top + self.before[1], left : left + self.before[2]],)


class Average(Convolution):
    """Means over windows by their numbers inside the image; ``weight`` (h, w) are ones."""

    share: Any = 1

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return super().forward(weight, *x) * self.share

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        return super().back(a * self.share)


class Total(Affine):
    """Sums over axes, each times ``weight``; ``before`` is the shape without the first axis."""

    def __init__(self, weight: Any, axes: tuple[int, ...], keeps: bool, before: tuple[int, ...]):
        super().__init__(weight, terms=int(np.prod([before[axis - 1] for axis in axes])))
        self.axes, self.keeps, self.before = axes, keeps, before

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return np.asarray(x[0].sum(self.axes, keepdims=self.keeps)) * weight

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        wide = a if self.keeps else np.expand_dims(a, self.axes)
        return (np.broadcast_to(wide * self.weight, (len(a), *self.before)),)


class Selection(Affine):
    """Numbers of a value at other places, each as often as it is named.

    Args:
        index: For each number of the result, its place among the flat numbers of the value; -1
            for 0.
        before: The value's shape, without the first axis.
        constant: What is added, where the index is -1.
    """

    def __init__(self, index: Array, before: tuple[int, ...], constant: Any = None):
        most = int(np.bincount(index.ravel() + 1)[1:].max(initial=1))
        super().__init__(1, constant, terms=most)
        self.index, self.before = index, before

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        flat = x[0].reshape(len(x[0]), -1)
        found = np.where(self.index.ravel() < 0, 0 * flat[:, :1], flat[:, self.index.ravel()])
        return found.reshape(len(flat), *self.index.shape)

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        inside = np.flatnonzero(self.index.ravel() >= 0)
        total = np.zeros((int(np.prod(self.before)), len(a)), a.dtype)
        np.add.at(total, self.index.ravel()[inside], a.reshape(len(a), -1)[:, inside].T)
        return (np.ascontiguousarray(total.T).reshape(len(a), *self.before),)


class Joined(Affine):
    """Values one after the other along ``axis``, the first axis not counted."""

    def __init__(self, axis: int, sizes: Sequence[int]):
        super().__init__(1)
        self.axis, self.ends = axis + 1, np.cumsum(sizes)[:-1]

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return np.concatenate(x, self.axis)

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        return tuple(np.split(a, self.ends, self.axis))
