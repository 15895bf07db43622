"""The rules by which bounds follow from a proof.

A line below a margin is walked backward through the nodes of a network, affine maps, ReLUs and
curves. Where it meets a ReLU or a curve, a line on the right side of that takes its place.

Every rounding error is charged. Let S bound the sizes that a layer adds up, S = |W||x| + |b| for
all x that can occur. Coefficients a on the result of a layer of n terms become coefficients on its
input, W'a, with errors that change the bound by at most n 2^-53 / (1 - n 2^-53) |a|·S, in any
order of summation. With fractions nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .network import Affine, Array, Network, Node, Refused, require

#: A claim may be closer than what follows by this share of its width, as other rounding may make
#: it; the checker goes on with what follows.
_CLOSE = 2.0**-18
#: How many bounds of neurons are computed together.
_AT_ONCE = 128


class Line(NamedTuple):
    """R lines, of which each bounds a value from below: a·x + b, a (pixels, R) and b (R,)."""

    a: Array
    b: Array


class Claims(NamedTuple):
    """Bounds that a proof claims of neurons' inputs, and lines through curves.

    ``curved`` (C, 4): slope and place of touch of a line below, then above, each curve's neuron.
    """

    neuron: Array
    lower: Array
    upper: Array
    curved: Array


class Choice(NamedTuple):
    """How R rows are bounded: by intervals behind the last neurons, or by lines.

    ``slopes`` (free neurons, R) are of lines below ReLUs, by CROWN's rule if None; ``curved``
    (C, 4, R) as in claims, which hold if None. ``signs`` (neurons, R): 1 where a neuron's input is
    >= 0, -1 where it is <= 0; ``multipliers`` >= 0 of these.
    """

    interval: bool = False
    slopes: Any = None
    curved: Any = None
    signs: Any = None
    multipliers: Any = None


class Box:
    """All x + u with |u_p| <= eps (one number or a column) of one image, cut to ``clip``."""

    def __init__(self, network: Network, image: Array, eps: Any, clip: Sequence[float] | None):
        of = network.numbers.of
        self.numbers, self.image = network.numbers, of(image).reshape(-1, 1)
        self.eps = of(eps).reshape(-1, 1) + 0 * self.image
        self.clip = None if clip is None else tuple(of(end)[()] for end in clip)
        ends = network.numbers.out(self.image - self.eps, self.image + self.eps)
        self.lower, self.upper = map(self.cut, ends)

    def cut(self, x: Array) -> Array:
        """Return x in the range that perturbed images are cut to."""
        return x if self.clip is None else np.minimum(np.maximum(x, self.clip[0]), self.clip[1])


class Ranges:
    """Bounds of every value in a network on one box, once the claims about it are checked."""

    def __init__(self, network: Network, box: Box, claims: Claims, name: str):
        self.network, self.box, self.claims, self.name = network, box, claims, name
        self.lower, self.upper = {network.input: box.lower}, {network.input: box.upper}
        self.size: dict[str, Array] = {}  # of affine nodes, S
        self.claimed: dict[str, tuple[Array, Array]] = {}  # for lines through neurons
        self.start: dict[str, tuple[int, int]] = {}  # of a node's neurons, and of those of curves
        require((np.diff(claims.neuron) > 0).all(), f"{name}: claims are not in order")
        self.free = (claims.lower < 0) & (claims.upper > 0)
        self.neurons = curved = 0
        for node in network.nodes:
            if node.affine is not None:
                self._through(node, node.affine)
                continue
            self.start[node.result] = self.neurons, curved
            value, claimed = node.sources[0], self._claim(node, self.neurons)
            self.claimed[node.result] = claimed
            low = self.lower[value] = np.maximum(self.lower[value], claimed[0])
            up = self.upper[value] = np.minimum(self.upper[value], claimed[1])
            ends = np.maximum(low, 0), np.maximum(up, 0)
            if node.curve is not None:
                hull = node.curve.hull(*box.numbers.floats(low, up))
                ends = box.numbers.of(hull[0]), box.numbers.of(hull[1])
                mine = (claims.neuron >= self.neurons) & (claims.neuron < self.neurons + len(low))
                self.free &= ~mine
                curved += len(low)
            self.lower[node.result], self.upper[node.result] = ends
            self.neurons += len(low)
        inside = ((claims.neuron >= 0) & (claims.neuron < self.neurons)).all()
        require(inside, f"{name}: a claim is of a neuron that the network does not have")
        require(len(claims.curved) == curved, f"{name}: lines of curves are missing")

    def _through(self, node: Node, affine: Affine) -> None:
        numbers = self.network.numbers
        low, up = (np.concatenate([e[s] for s in node.sources]) for e in (self.lower, self.upper))
        centre, weight, scale = (low + up) / 2, abs(affine.weight), abs(affine.scale)
        radius = numbers.out(centre, np.maximum(up - centre, centre - low))[1]
        sizes = np.maximum(abs(low), abs(up))
        spread = affine.forward(np.concatenate([radius, sizes], 1), weight, scale)
        size = self.size[node.result] = spread[:, 1:] + affine.size
        reach = spread[:, :1] + 2 * numbers.unit * affine.terms * size + numbers.tiny
        middle = affine.apply(centre)
        low, up = numbers.out(middle - reach, middle + reach)
        if node.hull is not None:
            operands = [(self.lower[name], self.upper[name]) for name in node.operands]
            places = [(one, np.clip(0 * one, one, two), two) for one, two in operands]
            values = [node.hull(*at) for at in zip(*places, strict=True)]
            ends = numbers.out(np.minimum.reduce(values), np.maximum.reduce(values))
            low, up = np.maximum(low, ends[0]), np.minimum(up, ends[1])
        self.lower[node.result], self.upper[node.result] = low, up

    def _claim(self, node: Node, at: int) -> tuple[Array, Array]:
        """Return the bounds of a neuron's input that are claimed, or follow nearly so."""
        lower, upper = self.lower[node.sources[0]].copy(), self.upper[node.sources[0]].copy()
        here = (self.claims.neuron >= at) & (self.claims.neuron < at + len(lower))
        neuron, low, up = self.claims.neuron[here] - at, *(e[here] for e in self.claims[1:3])
        require((low <= up).all(), f"{self.name}: a lower bound is above its upper bound")
        for sign, claimed, known in ((1, low, lower), (-1, -up, -upper)):
            doubtful = np.flatnonzero(claimed > known[neuron, 0])
            for start in range(0, len(doubtful), _AT_ONCE):
                part = doubtful[start : start + _AT_ONCE]
                a = self.network.numbers.of(np.zeros((len(lower), len(part))))
                a[neuron[part], np.arange(len(part))] = sign
                line = self.lines(node.sources[0], a, Choice())
                follows = least([self.box], [line], np.ones((1, len(part))))
                for k in np.flatnonzero(~(follows >= claimed[part] - _CLOSE * (up - low)[part])):
                    raise Refused(
                        f"{self.name}: neuron {neuron[part][k] + at} is claimed to be bounded by "
                        f"{float(sign * claimed[part][k]):.9g}, but only "
                        f"{float(sign * follows[k]):.9g} follows"
                    )
                claimed[part] = np.minimum(claimed[part], follows)
            (lower if sign > 0 else upper)[neuron, 0] = sign * claimed
        return lower, upper

    def lines(self, value: str, a: Array, choice: Choice) -> Line:
        """Return lines below a·value (n, R), as a choice has them."""
        numbers, pending = self.network.numbers, {value: a}
        b = numbers.of(np.zeros(a.shape[1]))
        for node in reversed(self.network.nodes):
            if node.result not in pending:
                continue
            a, terms = pending.pop(node.result), 0
            if choice.interval and (node.affine is None or node.hull is not None):
                ends = self.lower[node.result], self.upper[node.result]
                constants = np.minimum(a * ends[0], a * ends[1])
                part, sizes = a[:0], abs(a) * np.maximum(abs(ends[0]), abs(ends[1]))
            elif node.affine is None:
                part, constants, sizes = self._bent(node, a, choice)
            else:
                part, constants, terms = (
                    node.affine.back(a),
                    a * node.affine.shift,
                    node.affine.terms,
                )
                sizes = abs(a) * self.size[node.result]
            factor = numbers.unit * (terms + len(a) + 2 * len(self.network.nodes))
            b = b + constants.sum(0) - (factor * sizes.sum(0) + numbers.tiny)
            for source in node.sources if len(part) else ():
                mine, part = np.split(part, [self.network.counts[source]])
                pending[source] = pending[source] + mine if source in pending else mine
        nothing = numbers.of(np.zeros((len(self.box.image), len(b))))
        return Line(pending.get(self.network.input, nothing), b)

    def _bent(self, node: Node, a: Array, choice: Choice) -> tuple[Array, Array, Array]:
        """Replace neurons by lines: coefficients on the inputs, constants, and sizes of both."""
        numbers, (at, first) = self.network.numbers, self.start[node.result]
        lower, upper = self.claimed[node.result]
        low_offset: Any = 0
        shift: Any = 0
        if node.curve is None:
            free, on = (lower < 0) & (upper > 0), (lower >= 0) * 1
            above = np.where(free, upper / np.where(free, upper - lower, 1), on)
            gap = np.where(free, np.maximum(-above * lower, (1 - above) * upper), 0)
            gap = gap * (1 + 4 * numbers.unit)
            below = np.where(free, (upper > -lower) * 1, on)
            if choice.slopes is not None:
                neuron = self.claims.neuron[self.free] - at
                mine = (neuron >= 0) & (neuron < len(a))
                below = np.repeat(below, a.shape[1], 1).astype(a.dtype)
                below[neuron[mine]] = choice.slopes[mine]
        else:
            chosen = self.claims.curved[:, :, None] if choice.curved is None else choice.curved
            slopes = chosen[first : first + len(a)].transpose(1, 0, 2)
            offsets = node.curve.offsets(slopes, *numbers.floats(lower, upper))
            below, above, low_offset, gap = map(numbers.of, (*slopes[::2], *offsets))
        if choice.signs is not None:
            signs = choice.signs[at : at + len(a)]
            half, split = (signs > 0) * 1, signs != 0
            require(node.curve is None or not split.any(), "a neuron of a curve is split")
            below, above = np.where(split, half, below), np.where(split, half, above)
            gap, shift = np.where(split, 0, gap), signs * choice.multipliers[at : at + len(a)]
        slope = np.where(a > 0, below, above)
        offset = np.where(a > 0, low_offset, gap)
        largest = np.maximum(abs(lower), abs(upper))
        sizes = abs(a) * (np.maximum(1, abs(slope)) * largest + abs(offset)) + abs(shift) * largest
        return a * slope - shift, a * offset, sizes


def least(boxes: Sequence[Box], lines: Sequence[Line], weights: Array) -> Array:
    """Return lower bounds (R,) of weighted sums of lines under one shared perturbation.

    Args:
        boxes: Of each of s images.
        lines: R lines of each.
        weights: (s, R), at least 0.
    """
    numbers, clip, eps = boxes[0].numbers, boxes[0].clip, boxes[0].eps
    a = [w * line.a for w, line in zip(weights, lines, strict=True)]
    x = [box.image for box in boxes]
    reach = eps + (0 if clip is None else max(map(abs, clip)))
    b = sum(w * line.b for w, line in zip(weights, lines, strict=True))
    size = sum(w * abs(line.b) for w, line in zip(weights, lines, strict=True))
    size = size + sum((abs(c) * (abs(image) + reach)).sum(0) for c, image in zip(a, x, strict=True))
    if clip is None:
        value = sum((c * image).sum(0) for c, image in zip(a, x, strict=True))
        value = value - (eps * abs(sum(a))).sum(0)
    else:
        kinks = [np.clip(end - image, -eps, eps) for end in clip for image in x]
        found = [
            sum(c * box.cut(box.image + u) for c, box in zip(a, boxes, strict=True))
            for u in (-eps, eps, *kinks)
        ]
        value = np.minimum.reduce(found).sum(0)
    terms = 8 * len(eps) + 64 * len(boxes)
    return np.asarray(value + b - (numbers.unit * terms * size + numbers.tiny))
