"""Curves, and by what lines they are bounded, in float64 with errors that are accounted for.

The offset of a line of slope s below f on [l, u] is at most the least of g(x) = f(x) - s x. Where f
is convex, on [a, b], so is g: for any t in [a, b], g(x) >= g(t) + g'(t) (x - t), which is least at
a or b. Elsewhere f is concave, and g is least at an end. Lines above f are lines below -f.

exp(x) is 2^k exp(r), |r| <= 0.35, by 15 terms of a series, and is off by less than 2^-49 of it.
The series of log(1 + w) and of the normal distribution have no negative terms, so that nothing
cancels; what is left out of them is below 2^-56. So values are off by less than ``_OFF`` times
1 + |x|, and slopes by less than ``_OFF``. Places of inflection and minima are given within 1e-7:
this moves an offset by less than 2e-15 of u - l, which ``_OFF`` covers too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Function = Callable[[Array], Array]
_OFF = 2.0**-44
_ALL = ((-math.inf, math.inf),)
_LEFT, _RIGHT = ((-math.inf, 0.0),), ((0.0, math.inf),)


class Curve(NamedTuple):
    """A function, its derivative (at a kink any number between both), and its shape.

    ``convex`` and ``concave`` are where it is so. It falls before ``lowest``, and grows behind.
    """

    value: Function
    slope: Function
    convex: tuple[tuple[float, float], ...]
    concave: tuple[tuple[float, float], ...]
    lowest: float = -math.inf

    def hull(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return the ends of the values on an interval, moved outward."""
        lowest = np.clip(self.lowest, lower, upper)
        values = [self.value(x) for x in (lower, lowest, upper)]
        off = _OFF * (1 + np.maximum(abs(lower), abs(upper)))
        return np.minimum.reduce(values) - off, np.maximum.reduce(values) + off

    def offsets(self, lines: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return the offsets of lines below and above.

        Args:
            lines: (4, n, R), slope and place of touch of lines below, then above.
            lower: (n, 1) ends of intervals.
            upper: Likewise.
        """
        below = self._least(1, self.convex, lines[:2], (lower, upper))
        return below, -self._least(-1, self.concave, lines[2:], (lower, upper))

    def _least(self, sign: int, stretches: Any, line: Array, ends: tuple[Array, Array]) -> Array:
        """Return what g, or -g, is at least; -f is convex where f is concave."""
        (s, t), (low, up) = line, ends

        def g(x: Array) -> Array:
            return np.asarray(sign * (self.value(x) - s * x))

        found = np.minimum(g(low), g(up))
        for begin, end in stretches:
            a, b = np.clip(low, begin, end), np.clip(up, begin, end)
            best = np.full_like(found, -np.inf)
            for at in (np.clip(t, a, b), a, b):
                d = sign * (self.slope(at) - s)
                best = np.maximum(best, g(at) + np.minimum(d * (a - at), d * (b - at)))
            found = np.where(a < b, np.minimum(found, best), found)
        largest = np.maximum(abs(low), abs(up))
        return np.asarray(found - _OFF * ((1 + largest) * (1 + abs(s)) + (up - low)))


def exp(x: Array) -> Array:
    """Return e^x, for |x| cut to 700."""
    x = np.clip(x, -700, 700)
    k = np.rint(x / math.log(2))
    # log 2 in two parts, the first of which times k is exact
    r = (x - k * float.fromhex("0x1.62e42feep-1")) - k * float.fromhex("0x1.a39ef35793c76p-33")
    series = np.ones_like(r)
    for n in range(15, 0, -1):
        series = 1 + series * r / n
    return np.asarray(np.ldexp(series, k.astype(int)))


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^-x)."""
    return np.asarray(1 / (1 + exp(-x)))


def softplus(x: Array) -> Array:
    """Return log(1 + e^x): max(x, 0) + 2 artanh(w / (2 + w)), w = e^-|x|."""
    w = exp(-abs(x))
    z = w / (2 + w)
    total = sum(z ** (2 * n + 1) / (2 * n + 1) for n in range(18))
    return np.asarray(np.maximum(x, 0) + 2 * total)


def density(x: Array) -> Array:
    """Return the normal density."""
    return np.asarray(exp(-x * x / 2) / math.sqrt(2 * math.pi))


def normal(x: Array) -> Array:
    """Return the normal distribution function: 1/2 + density(x) (x + x^3/3 + x^5/(3·5) + ...)."""
    x = np.clip(x, -9, 9)
    term = total = x
    for n in range(1, 120):
        term = term * x * x / (2 * n + 1)
        total = total + term
    return np.asarray(0.5 + density(x) * total)


def _of_sigmoid(x: Array) -> Array:
    return np.asarray(sigmoid(x) * sigmoid(-x))


def _waved(value: Function, slope: Function, turn: float, lowest: float) -> Curve:
    """Return a curve that is convex between its places of inflection at ±turn."""
    return Curve(
        value, slope, ((-turn, turn),), ((-math.inf, -turn), (turn, math.inf)), lowest
    )  # fmt: skip


SIGMOID = Curve(sigmoid, _of_sigmoid, _LEFT, _RIGHT)
TANH = Curve(
    lambda x: 2 * sigmoid(2 * x) - 1, lambda x: 4 * _of_sigmoid(2 * x), _LEFT, _RIGHT
)  # fmt: skip
SOFTPLUS = Curve(softplus, sigmoid, _ALL, ())
SILU = _waved(
    lambda x: x * sigmoid(x), lambda x: sigmoid(x) + x * _of_sigmoid(x), 2.3993572805, -1.2784645428
)


def softplus_of(b: float) -> Curve:
    """Return log(1 + e^(b x)) / b."""
    return Curve(lambda x: softplus(b * x) / b, lambda x: sigmoid(b * x), _ALL, ())


def elu(alpha: float) -> Curve:
    """Return ELU for alpha from 0 to 1, where it is convex."""
    return Curve(
        lambda x: np.where(x < 0, alpha * (exp(np.minimum(x, 0)) - 1), x),
        lambda x: np.where(x < 0, alpha * exp(np.minimum(x, 0)), 1),
        _ALL, (),
    )  # fmt: skip


def gelu(k: float) -> Curve:
    """Return x times the normal distribution function of k x."""
    return _waved(
        lambda x: x * normal(k * x), lambda x: normal(k * x) + k * x * density(k * x),
        math.sqrt(2) / k, -0.7517915247 / k,
    )  # fmt: skip


def tanh_gelu(a: float, b: float) -> Curve:
    """Return x/2 (1 + tanh(a (x + b x^3))), for the a and b of GELU."""

    def inner(x: Array) -> Array:
        return np.asarray(2 * a * (x + b * x**3))

    def slope(x: Array) -> Array:
        cut = np.clip(x, -30, 30)
        return sigmoid(inner(cut)) + cut * _of_sigmoid(inner(cut)) * 2 * a * (1 + 3 * b * cut * cut)

    return _waved(
        lambda x: x * sigmoid(inner(np.clip(x, -30, 30))), slope, 1.4185040088, -0.7524614221
    )
