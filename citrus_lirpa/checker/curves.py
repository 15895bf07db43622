"""Curves, and by what lines they are bounded, in float64 with errors that are accounted for.

The offset of a line of slope s below f on [l, u] is at most the least of g(x) = f(x) - s x. Where f
is convex, on [a, b], so is g: for any t in [a, b], g(x) >= g(t) + g'(t) (x - t), which is least at
a or b. Elsewhere f is concave, and g is least at an end. Lines above f are lines below -f.

Values are off by less than ``_OFF`` times 1 + |x| + |f(x)|, and slopes by less than ``_OFF`` times
1 + |f'(x)|; :mod:`.functions` says why. Places of inflection and minima are given within 1e-7: this
moves an offset by less than 2e-15 of u - l, which ``_OFF`` covers too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .functions import density, exp, log, normal, power, sigmoid, softplus
from .network import Array, Numbers, require

Function = Callable[[Array], Array]
Stretches = tuple[tuple[float, float], ...]
_OFF = 2.0**-44
_ALL: Stretches = ((-math.inf, math.inf),)
_LEFT: Stretches = ((-math.inf, 0.0),)
_RIGHT: Stretches = ((0.0, math.inf),)
_NONE: Stretches = ()
#: The largest argument of exp, the least one of log, and the range of powers by both.
_MOST, _LEAST, _RANGE = 700.0, 1e-300, (1e-40, 1e40)


class Curve(NamedTuple):
    """A function, its derivative, and its shape.

    ``convex`` and ``concave`` are where it is so. At a kink the derivative is one that tangents on
    both sides may have, each as far as its own stretch goes. The function falls before ``lowest``,
    and grows behind, or else only grows or only falls. An interval must be in one of ``domain``.
    """

    value: Function
    slope: Function
    convex: Stretches
    concave: Stretches
    lowest: float = -math.inf
    domain: Stretches = _ALL

    def hull(self, numbers: Numbers, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return the ends of the values on intervals, moved outward."""
        inside = [(begin <= lower) & (upper <= end) for begin, end in self.domain]
        require(np.logical_or.reduce(inside).all(), "a curve is not defined on an interval")
        low, up = numbers.floats(lower, upper)
        values = np.stack([self.value(x) for x in (low, np.clip(self.lowest, low, up), up)])
        off = _OFF * (1 + np.maximum(abs(low), abs(up)) + abs(values))
        return numbers.of((values - off).min(0)), numbers.of((values + off).max(0))

    def lines(
        self, numbers: Numbers, stated: Array, lower: Array, upper: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return slopes and offsets of lines below, then of lines above, on intervals (n, 1).

        ``stated`` (4, n, R) has slope and place of touch of lines below, then above.
        """
        ends = numbers.floats(lower, upper)
        below = self._least(1, self.convex, stated[:2], *ends)
        above = -self._least(-1, self.concave, stated[2:], *ends)
        return numbers.of(stated[0]), numbers.of(below), numbers.of(stated[2]), numbers.of(above)

    def _least(self, sign: int, stretches: Stretches, line: Array, low: Array, up: Array) -> Array:
        """Return what g, or -g, is at least; -f is convex where f is concave."""
        s, t = line

        def g(x: Array) -> Array:
            value = self.value(x)
            return sign * (value - s * x) - _OFF * ((1 + abs(x)) * (1 + abs(s)) + abs(value))

        found = np.minimum(g(low), g(up))
        for begin, end in stretches:
            a, b = np.clip(low, begin, end), np.clip(up, begin, end)
            best = np.full_like(found, -np.inf)
            for at in (np.clip(t, a, b), a, b):
                slope = self.slope(at)
                with np.errstate(invalid="ignore"):  # a slope at an end may be infinite
                    d = sign * (slope - s)
                    turn = np.minimum(d * (a - at), d * (b - at))
                    off = _OFF * (1 + abs(slope) + abs(s)) * (up - low)
                    best = np.fmax(best, g(at) + turn - off)
            found = np.where(a < b, np.minimum(found, best), found)
        return np.asarray(found)


def _of_sigmoid(x: Array) -> Array:
    return sigmoid(x) * sigmoid(-x)


def _waved(value: Function, slope: Function, left: float, right: float, lowest: float) -> Curve:
    """Return a curve that is convex between two places of inflection, and concave beyond."""
    concave = ((-math.inf, left), (right, math.inf))
    return Curve(value, slope, ((left, right),), concave, lowest)


# -- curves without parameters -----------------------------------------------------------------


def _mish(x: Array) -> Array:
    return x * _gate(x)[0]


def _of_mish(x: Array) -> Array:
    gate, rest = _gate(x)
    return gate + x * rest * (1 + gate) * sigmoid(x)


def _gate(x: Array) -> tuple[Array, Array]:
    """Return tanh(softplus(x)) and 1 less that: n / (n + 2) and 2 / (n + 2), n = w (w + 2)."""
    w = exp(np.clip(x, -700, 40))
    n = w * (w + 2)
    return n / (n + 2), 2 / (n + 2)


SIGMOID = Curve(sigmoid, _of_sigmoid, _LEFT, _RIGHT)
TANH = Curve(
    lambda x: 2 * sigmoid(2 * x) - 1, lambda x: 4 * _of_sigmoid(2 * x), _LEFT, _RIGHT
)  # fmt: skip
SOFTSIGN = Curve(lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2, _LEFT, _RIGHT)
LOG_SIGMOID = Curve(lambda x: -softplus(-x), lambda x: sigmoid(-x), (), _ALL)
EXP = Curve(exp, exp, _ALL, (), domain=((-math.inf, _MOST),))
LOG = Curve(log, lambda x: 1 / x, (), _ALL, domain=((_LEAST, math.inf),))
SILU = _waved(
    lambda x: x * sigmoid(x), lambda x: sigmoid(x) + x * _of_sigmoid(x),
    -2.3993572805, 2.3993572805, -1.2784645428,
)  # fmt: skip
MISH = _waved(_mish, _of_mish, -2.2563763964, 1.4905711795, -1.1924312145)

# -- curves with parameters --------------------------------------------------------------------


def softplus_of(b: float) -> Curve:
    """Return log(1 + e^(b x)) / b."""
    return Curve(lambda x: softplus(b * x) / b, lambda x: sigmoid(b * x), _ALL, ())


def elu(alpha: float, scale: float = 1.0, width: float = 1.0) -> Curve:
    """Return scale * x, and below 0 scale * alpha * (e^(x / width) - 1)."""
    left, turn = scale * alpha, scale * alpha / width
    convex, concave = (_ALL, ()) if 0 <= turn <= scale else (_LEFT, _RIGHT)
    if alpha < 0:
        convex, concave = _RIGHT, _LEFT
    return Curve(
        lambda x: np.where(x < 0, left * (exp(np.minimum(x, 0) / width) - 1), scale * x),
        lambda x: np.where(x <= 0, turn * exp(np.minimum(x, 0) / width), scale),
        convex, concave, 0.0 if alpha < 0 else -math.inf,
    )  # fmt: skip


def hard_swish(a: float) -> Curve:
    """Return x times a x + 1/2, cut to [0, 1]."""
    end = 0.5 / a
    return _waved(
        lambda x: x * np.clip(a * x + 0.5, 0, 1),
        lambda x: np.where(abs(x) <= end, 2 * a * x + 0.5, x > 0),
        -end, end, -end / 2,
    )  # fmt: skip


def gelu(k: float) -> Curve:
    """Return x times the normal distribution function of k x."""
    return _waved(
        lambda x: x * normal(k * x), lambda x: normal(k * x) + k * x * density(k * x),
        -math.sqrt(2) / k, math.sqrt(2) / k, -0.7517915247 / k,
    )  # fmt: skip


def tanh_gelu(a: float, b: float) -> Curve:
    """Return x/2 (1 + tanh(a (x + b x^3))), for the a and b of GELU."""

    def inner(x: Array) -> Array:
        return 2 * a * (x + b * x**3)

    def slope(x: Array) -> Array:
        cut = np.clip(x, -30, 30)
        return sigmoid(inner(cut)) + cut * _of_sigmoid(inner(cut)) * 2 * a * (1 + 3 * b * cut * cut)

    return _waved(
        lambda x: x * sigmoid(inner(np.clip(x, -30, 30))), slope,
        -1.4185040088, 1.4185040088, -0.7524614221,
    )  # fmt: skip


def power_of(p: float) -> Curve:
    """Return x^p, for p other than 0 and 1 and not beyond 64."""
    require(0 < abs(p) <= 64 and p != 1, f"a power of {p:g} is not read")
    even, whole = p % 2 == 0, p == int(p)
    convex, concave = _RIGHT, _LEFT
    domain: Any = _ALL if p > 0 else ((-math.inf, -_RANGE[0]), (_RANGE[0], math.inf))
    if even:
        convex, concave = _ALL if p > 0 else (*_LEFT, *_RIGHT), _NONE
    elif not whole:
        domain = ((0.0 if p == 0.5 or p > 1 else _RANGE[0], _RANGE[1]),)
        convex, concave = (_NONE, _RIGHT) if 0 < p < 1 else (_RIGHT, _NONE)
    lowest = 0.0 if even and p > 0 else -math.inf
    return Curve(
        lambda x: power(x, p), lambda x: p * power(x, p, 1), convex, concave, lowest, domain
    )
