"""Functions that curves are made of, in float64, by series whose errors are known.

exp(x) is 2^k exp(r), |r| <= 0.35, by 15 terms of a series, and is off by less than 2^-49 of it.
The series of logarithms and of the normal distribution have no terms of another sign, so that
nothing cancels; what is left out of them is below 2^-56. A power takes at most 66 products and the
logarithm of numbers from 1e-40 to 1e40, and is off by less than 2^-44 of it.
"""

from __future__ import annotations

import math

import numpy as np

from .network import Array

#: log 2 in two parts, the first of which times a whole number below 2^21 is exact.
_LOG_2 = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")


def exp(x: Array) -> Array:
    """Return e^x, for |x| cut to 700."""
    x = np.clip(x, -700, 700)
    k = np.rint(x / math.log(2))
    r = (x - k * _LOG_2[0]) - k * _LOG_2[1]
    series = np.ones_like(r)
    for n in range(15, 0, -1):
        series = 1 + series * r / n
    return np.asarray(np.ldexp(series, k.astype(int)))


def _twice_artanh(z: Array) -> Array:
    """Return 2 artanh(z) for |z| up to 1/3: 2 (z + z^3/3 + z^5/5 + ...)."""
    return np.asarray(2 * sum(z ** (2 * n + 1) / (2 * n + 1) for n in range(18)))


def log(x: Array) -> Array:
    """Return the logarithm of positive numbers, m 2^k with m from √½ to √2."""
    m, k = np.frexp(x)
    small = m < math.sqrt(0.5)
    m, k = np.where(small, 2 * m, m), k - small
    return (_twice_artanh((m - 1) / (m + 1)) + k * _LOG_2[1]) + k * _LOG_2[0]


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^-x)."""
    return np.asarray(1 / (1 + exp(-x)))


def softplus(x: Array) -> Array:
    """Return log(1 + e^x): max(x, 0) + 2 artanh(w / (2 + w)), w = e^-|x|."""
    w = exp(-abs(x))
    return np.maximum(x, 0) + _twice_artanh(w / (2 + w))


def density(x: Array) -> Array:
    """Return the normal density."""
    return exp(-x * x / 2) / math.sqrt(2 * math.pi)


def normal(x: Array) -> Array:
    """Return the normal distribution function: 1/2 + density(x) (x + x^3/3 + x^5/(3·5) + ...)."""
    x = np.clip(x, -9, 9)
    term = total = x
    for n in range(1, 120):
        term = term * x * x / (2 * n + 1)
        total = total + term
    return 0.5 + density(x) * total


def power(x: Array, p: float, less: int = 0) -> Array:
    """Return x^(p - less): whole powers by products, a root, others as e^(q log x), q < 1."""
    whole = int(abs(p))
    rest, found = abs(p) - whole, np.ones_like(x)
    whole += less if p < 0 else -less  # p - less could be rounded
    for _ in range(whole):
        found = found * x
    if rest == 0.5:
        found = found * np.sqrt(x)
    elif rest:
        found = found * np.where(x > 0, exp(rest * log(np.maximum(x, 1e-300))), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = found if whole >= 0 else found / x
        return found if p >= 0 else 1 / found
