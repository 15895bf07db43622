"""What a checker of proofs allows a device that computes a network in float32.

An affine map of t terms that is computed in float32, in any order of summation, is off by at most
t u / (1 - t u) of the absolute values that it adds up, u = 2^-24. What is added to these covers
numbers that are flushed to zero. Maxima, absolute values and ReLU round nothing.
"""

from __future__ import annotations

from typing import Any

from .network import Affine, Array, Numbers, require

#: More than the roundings of a factor, of a shift, and, in BatchNorm, of these themselves.
_MORE = 16
#: Of a pixel: the perturbation's rounding, and that of the sum, which may cancel.
_PIXEL = 4


class Device:
    """A device with float32, or, where it is not ``on``, one without any rounding."""

    def __init__(self, numbers: Numbers, on: bool):
        self.on = on
        self.unit, self.tiny = numbers.of([2.0**-24, 2.0**-50] if on else [0, 0])
        #: By what share of its size a pixel may be off.
        self.pixel = _PIXEL * self.unit

    def sizes(self, sizes: Array) -> Array:
        """Return sizes with what covers underflow, once float32 holds them."""
        require(not self.on or (sizes < 2.0**40).all(), "a value is too large for float32")
        return sizes + self.tiny

    def share(self, affine: Affine) -> Any:
        """Return by what share of its sizes an affine map may be off; 0 where it moves numbers."""
        if not self.on or affine.moves:
            return 0 * self.unit
        off = (affine.weight.shape[1] + _MORE) * self.unit
        require(off < 0.5, "a sum has too many terms for float32")
        return off / (1 - off)

    def widened(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return bounds moved outward by what a value may be off by a rounding or few."""
        low, up = (self.pixel * self.sizes(abs(end)) for end in (lower, upper))
        return lower - low, upper + up
