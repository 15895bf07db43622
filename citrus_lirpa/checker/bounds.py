"""Bounds that follow from a proof: intervals, lines, and what one perturbation makes of them.

Every rounding error is charged. Let S bound the sizes that a layer adds up, S = |W||x| + |b| for
all x that can occur. Coefficients a on the result of a layer of n terms become coefficients on its
input, W'a, with errors that change the bound by at most n 2^-53 / (1 - n 2^-53) |a|·S, in any
order of summation. With fractions nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .affine import Affine, Array, Refused, require
from .network import Network

_AT_ONCE = 128


class Claims(NamedTuple):
    """Bounds that a proof claims of ReLU inputs, by neuron number, all ReLUs in one row."""

    neuron: Array
    lower: Array
    upper: Array


class Lines(NamedTuple):
    """R lines, of which each bounds a value from below: a·x + b."""

    a: Array
    b: Array


class Box:
    """All x + u with |u_p| <= eps of one image, cut to ``clip`` where there is one.

    eps is one number, or an array with one for each pixel.
    """

    def __init__(
        self, network: Network, image: Array, eps: float | Array, clip: Sequence[float] | None
    ):
        of = network.numbers.of
        self.network, self.image, self.eps = network, of(image)[None], of(eps)[()]
        self.clip = None if clip is None else tuple(of(end)[()] for end in clip)
        lower, upper = network.numbers.out(self.image - self.eps, self.image + self.eps)
        self.lower, self.upper = self.cut(lower), self.cut(upper)

    def cut(self, x: Array) -> Array:
        """Return x in the range that perturbed images are cut to."""
        return x if self.clip is None else np.minimum(np.maximum(x, self.clip[0]), self.clip[1])


class Ranges:
    """Bounds of every value in a network on one box, once the claims about it are checked."""

    def __init__(self, box: Box, claims: Claims, name: str):
        self.box, self.network = box, box.network
        self.lower, self.upper = {self.network.input: box.lower}, {self.network.input: box.upper}
        self.size: dict[str, Array] = {}
        self.claimed: dict[str, tuple[Array, Array]] = {}  # for lines through each ReLU
        self.start: dict[str, int] = {}
        at = 0
        for number, (result, sources, affine) in enumerate(self.network.nodes):
            if affine is not None:
                self._through(affine, result, sources)
                continue
            self.start[result] = at
            value = sources[0]
            claimed = self.claimed[result] = self._claim(number, claims, at, name)
            self.lower[value] = np.maximum(self.lower[value], claimed[0])
            self.upper[value] = np.minimum(self.upper[value], claimed[1])
            self.size[result] = np.maximum(abs(claimed[0]), abs(claimed[1]))
            self.lower[result] = np.maximum(self.lower[value], 0)
            self.upper[result] = np.maximum(self.upper[value], 0)
            at += claimed[0].size
        self.neurons = at
        inside = claims.neuron.size == 0 or (claims.neuron.min() >= 0 and claims.neuron.max() < at)
        require(inside, f"{name}: a claim is of a neuron that the network does not have")
        require((np.diff(claims.neuron) > 0).all(), f"{name}: claims are not in order")
        self.free = claims.neuron[(claims.lower < 0) & (claims.upper > 0)]

    def _through(self, affine: Affine, result: str, sources: list[str]) -> None:
        numbers = self.network.numbers
        ends = [(self.lower[s], self.upper[s]) for s in sources]
        centres = [(lower + upper) / 2 for lower, upper in ends]
        radii = [
            numbers.out(c, np.maximum(u - c, c - low))[1]
            for c, (low, u) in zip(centres, ends, strict=True)
        ]
        sizes = [np.maximum(abs(lower), abs(upper)) for lower, upper in ends]
        spread = affine.forward(
            abs(affine.weight), *(np.concatenate(pair) for pair in zip(radii, sizes, strict=True))
        )
        centre = affine.apply(*centres)
        self.size[result] = spread[1:] + affine.sizes
        radius = spread[:1] + 2 * numbers.unit * affine.terms * self.size[result] + numbers.tiny
        lower, upper = numbers.out(centre - radius, centre + radius)
        if result in self.network.hulls:
            operands, hull = self.network.hulls[result]
            low, up = hull(*((self.lower[name], self.upper[name]) for name in operands))
            lower, upper = np.maximum(lower, low), np.minimum(upper, up)
        self.lower[result], self.upper[result] = lower, upper

    def _claim(self, number: int, claims: Claims, at: int, name: str) -> tuple[Array, Array]:
        """Return claimed bounds of one ReLU's input, once they are known to follow."""
        value = self.network.nodes[number][1][0]
        lower, upper = self.lower[value].copy(), self.upper[value].copy()
        here = (claims.neuron >= at) & (claims.neuron < at + lower.size)
        neuron, low, up = claims.neuron[here] - at, claims.lower[here], claims.upper[here]
        for sign, claimed, known in (
            (1, low, lower.ravel()[neuron]),
            (-1, -up, -upper.ravel()[neuron]),
        ):
            doubtful = np.flatnonzero(claimed > known)
            for start in range(0, len(doubtful), _AT_ONCE):
                part = doubtful[start : start + _AT_ONCE]
                a = self.network.numbers.of(np.zeros((len(part), lower.size)))
                a[np.arange(len(part)), neuron[part]] = sign
                lines = self.lines(value, a.reshape(-1, *lower.shape[1:]))
                found = least([self.box], [lines], np.ones((len(part), 1)))
                wrong = ~(found >= claimed[part])
                for k in np.flatnonzero(wrong):
                    raise Refused(
                        f"{name}: neuron {neuron[part][k] + at} is claimed to be bounded by "
                        f"{float(sign * claimed[part][k]):.9g}, but only "
                        f"{float(sign * found[k]):.9g} follows"
                    )
        lower.ravel()[neuron], upper.ravel()[neuron] = low, up
        require((lower <= upper).all(), f"{name}: a lower bound is above its upper bound")
        return lower, upper

    def lines(
        self,
        value: str,
        a: Array,
        *,
        slopes: Array | None = None,
        splits: Array | None = None,
        multipliers: Array | None = None,
        interval: bool = False,
    ) -> Lines:
        """Return lines below a·value on the box, and on the halves that splits leave of it.

        Args:
            value: Name of a value in the network.
            a: (R, ...) coefficients on it.
            slopes: (R, free neurons) of the lines below ReLUs; CROWN's if None.
            splits: (R, neurons) 1 where a neuron's input is >= 0, -1 where it is <= 0.
            multipliers: (R, neurons) β >= 0 of the splits.
            interval: Whether the last ReLUs, and values with hulls, are bounded by intervals
                instead of lines.
        """
        numbers, rows = self.network.numbers, len(a)
        pending, b = {value: a}, numbers.of(np.zeros(rows))
        for result, sources, affine in reversed(self.network.nodes):
            if result not in pending:
                continue
            a = pending.pop(result)
            if affine is not None and not (interval and result in self.network.hulls):
                total = 0 if affine.constant is None else _sum(a * affine.constant)
                b = b + total - self._charge(a, result, affine.terms + a[0].size)
                parts = affine.back(a)
            elif interval:
                ends = np.minimum(a * self.lower[result], a * self.upper[result])
                b = b + _sum(ends) - self._charge(a, result, a[0].size)
                continue
            else:
                at = self.start[result]
                pieces = (
                    None if p is None else p[:, at : at + a[0].size] for p in (splits, multipliers)
                )
                part, below, size = self._relu(a, result, at, slopes, *pieces)
                b = b + below - self._charge(size, result, a[0].size)
                parts = (part,)
            for source, part in zip(sources, parts, strict=True):
                pending[source] = pending[source] + part if source in pending else part
        nothing = numbers.of(np.zeros((rows, *self.network.shapes[self.network.input])))
        return Lines(pending.get(self.network.input, nothing), b)

    def _charge(self, a: Array, result: str, terms: int) -> Array:
        numbers = self.network.numbers
        factor = numbers.unit * (terms + 2 * len(self.network.nodes))
        return factor * _sum(abs(a) * self.size[result]) + numbers.tiny

    def _relu(
        self, a: Array, result: str, at: int, slopes: Array | None, splits: Any, multipliers: Any
    ) -> tuple[Array, Array, Array]:
        """Replace ReLUs by lines; return coefficients on the inputs, constants, and what rounds."""
        flat = a.reshape(len(a), -1)
        lower, upper = (end.reshape(1, -1) for end in self.claimed[result])
        on, free = lower >= 0, (lower < 0) & (upper > 0)
        above = np.where(free, upper / np.where(free, upper - lower, 1), on * 1)
        gap = np.where(free, np.maximum(-above * lower, (1 - above) * upper), 0)
        gap = gap * (1 + 4 * self.network.numbers.unit)
        below = np.where(free, (upper > -lower) * 1, on * 1)
        below, above, gap = (np.repeat(v, len(a), 0) for v in (below, above, gap))
        if slopes is not None:
            mine = (self.free >= at) & (self.free < at + flat.shape[1])
            below = below.astype(slopes.dtype)
            below[:, self.free[mine] - at] = slopes[:, mine]
        shift: Any = 0
        if splits is not None:
            half = (splits > 0) * 1
            below, above = (np.where(splits != 0, half, v) for v in (below, above))
            gap, shift = np.where(splits != 0, 0, gap), splits * multipliers
        part = flat * np.where(flat > 0, below, above) - shift
        constant = (np.minimum(flat, 0) * gap).sum(1)
        return part.reshape(a.shape), constant, (abs(flat) + abs(shift)).reshape(a.shape)


def least(boxes: Sequence[Box], lines: Sequence[Lines], weights: Array) -> Array:
    """Return lower bounds (R,) of weighted sums of lines under one shared perturbation.

    Args:
        boxes: Of each of s images.
        lines: R lines of each.
        weights: (R, s), at least 0.
    """
    numbers, clip = boxes[0].network.numbers, boxes[0].clip
    eps = np.reshape(boxes[0].eps, (1, -1))
    a = [w[:, None] * line.a.reshape(len(w), -1) for w, line in zip(weights.T, lines, strict=True)]
    x = [box.image.reshape(1, -1) for box in boxes]
    largest = [abs(image) + eps + (0 if clip is None else max(map(abs, clip))) for image in x]
    b = sum(w * line.b for w, line in zip(weights.T, lines, strict=True))
    size = sum(w * abs(line.b) for w, line in zip(weights.T, lines, strict=True))
    size = size + sum((abs(c) * s).sum(1) for c, s in zip(a, largest, strict=True))
    if clip is None:
        value = sum((c * image).sum(1) for c, image in zip(a, x, strict=True))
        value = value - (eps * abs(sum(a))).sum(1)
    else:
        kinks = [np.clip(end - image, -eps, eps) for end in clip for image in x]
        ends = (0 * x[0] - eps, 0 * x[0] + eps)
        found = [
            sum(c * box.cut(image + u) for c, box, image in zip(a, boxes, x, strict=True))
            for u in (*ends, *kinks)
        ]
        value = np.minimum.reduce(found).sum(1)
    terms = 8 * x[0].size + 64 * len(boxes)
    return np.asarray(value + b - (numbers.unit * terms * size + numbers.tiny))


def _sum(values: Array) -> Array:
    return values.reshape(len(values), -1).sum(1)
