"""The arithmetic that certificates hold in: that of real numbers, or of a device in float32.

An affine layer that is computed in float32, in any order of summation and with or without fused
operations, gives W x + b + e with |e| <= γ (|W||x| + |b|), γ = t u / (1 - t u), where t is at least
how many roundings one term goes through, and u = 2^-24 (Higham 2002, section 3.1). So the network
on a device is the real one with such an e in every segment. A bound for all such e holds for the
device. The documentation (Soundness) has the argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import InputError, expect_known

#: The arithmetics, the usual one first.
ARITHMETICS = ("real", "float32")
#: The unit roundoff of float32.
UNIT = 2.0**-24
#: What is added to sizes: γ times it covers results and weights that are flushed to zero.
SMALLEST = 2.0**-50
#: What a constant adds to sizes where it is multiplied by one that may be flushed to zero.
FLUSHED = 2.0**-100
#: Where sizes are larger, float32 may overflow: nothing is proved there.
LARGEST = 2.0**40
#: Roundings that are allowed an input and its normalisation.
_INPUT = 64
#: Roundings that are allowed an operation beside its sums: BatchNorm has some, folded or not.
_OPERATION = 16
#: What this code rounds itself, in float64.
_OWN = 1e-9


def check_arithmetic(name: str) -> None:
    """Raise InputError for an unknown arithmetic."""
    expect_known("arithmetic", name, ARITHMETICS, InputError)


def arithmetic_entries(name: str) -> dict[str, str]:
    """Return an arithmetic as entries of a record: none for real, which records need not name."""
    return {} if name == "real" else {"arithmetic": name}


def arithmetic_words(name: str | None) -> str:
    """Return what follows an ε in words: nothing for real numbers."""
    return "" if name in (None, "real") else f", {name} arithmetic"


def gamma(terms: Iterable[int], *, at_input: bool) -> float:
    """Return γ of operations one after the other, which add up so many products each."""
    off = UNIT * (_INPUT * at_input + sum(_OPERATION + each for each in terms))
    return (1 + _OWN) * off / (1 - off) if off < 0.5 else math.inf


def covering(size: Tensor) -> Tensor:
    """Return sizes with what covers underflow, and infinite ones where float32 may overflow."""
    return torch.where(size < LARGEST, size + SMALLEST, math.inf)


def few_roundings(value: Tensor) -> Tensor:
    """Return by how much a device may move a value that it rounds up to three times."""
    return 4 * UNIT * covering(value.abs())
