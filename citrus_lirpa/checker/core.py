"""The rules by which a proof is judged: bounds that follow from other ones.

A network is a list of nodes: affine maps, ReLUs and bends (curves and products). A line below a
margin is walked backward through them. Where it meets a ReLU or a bend, a line on the right side of
that takes its place, which holds between bounds of its input that were shown before.

Every rounding error is charged. Let S bound the sizes that a layer adds up, S = |W||x| + |b| for
all x that can occur. Coefficients a on the result of a layer of n terms become coefficients on its
input, W'a, with errors that change the bound by at most n 2^-53 / (1 - n 2^-53) |a|·S, in any
order of summation, so that matrix products do the sums. With fractions nothing is rounded. Where a
proof is about a device, what that may be off by (:mod:`.device`) is taken off likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .device import Device
from .network import Affine, Array, Network, Node, Refused, dot, require

#: A claim may be closer than what follows by this share of its width, as other rounding may make
#: it, and by so many underflows, where it has no width; the checker goes on with what follows.
_CLOSE, _UNDERFLOWS = 2.0**-18, 1000
#: How many bounds of neurons are computed together.
_AT_ONCE = 64


class Line(NamedTuple):
    """R lines, of which each bounds a value from below: a·x + b, a (pixels, R) and b (R,)."""

    a: Array
    b: Array


class Claims(NamedTuple):
    """Bounds of the inputs of ReLUs and bends that a proof claims, by ascending neuron.

    ``bent`` (C, 4) has the lines of each value of a bend, as the bend has them.
    """

    neuron: Array
    lower: Array
    upper: Array
    bent: Array


class Choice(NamedTuple):
    """How R rows are bounded: by intervals behind the last neurons, or by lines.

    ``slopes`` (neurons, R) from 0 to 1 are of lines below ReLUs, by CROWN's rule if None; ``bent``
    (C, 4, R) as in claims, which hold if None. ``signs`` (neurons, R): 1 where a neuron's input is
    >= 0, -1 where it is <= 0; ``multipliers`` >= 0 of these.
    """

    interval: bool = False
    slopes: Any = None
    bent: Any = None
    signs: Any = None
    multipliers: Any = None


class Box:
    """All x + u with |u_p| <= eps (one number or a column) of one image, cut to ``clip``.

    The network is one of real numbers, or, ``on_device``, one that is computed in float32.
    """

    def __init__(
        self, network: Network, image: Array, eps: Any, clip: Any, on_device: bool = False
    ):
        of, self.device = network.numbers.of, Device(network.numbers, on_device)
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

    def __init__(self, network: Network, box: Box, claims: Claims):
        self.network, self.box, self.claims = network, box, claims
        lower, upper = box.device.widened(box.lower, box.upper)
        self.lower, self.upper = {network.input: lower}, {network.input: upper}
        self.size: dict[str, Array] = {}  # of affine nodes, S
        self.places: dict[str, int] = {}  # of affine nodes, where kernels lie
        #: Bounds of the inputs of a ReLU or bend, and which neurons and lines of claims are its.
        self.inputs: dict[str, tuple[Array, Array, slice, slice]] = {}
        self.neurons = self.bent = 0
        self.free = (claims.lower < 0) & (claims.upper > 0)  # claims about ReLUs of both signs
        require((np.diff(claims.neuron) > 0).all(), "claims are not in order")
        for node in network.nodes:
            self._through(node, node.affine) if node.affine else self._behind(node)
        inside = ((claims.neuron >= 0) & (claims.neuron < self.neurons)).all()
        require(inside, "a claim is of a neuron that the network does not have")
        require(len(claims.bent) == self.bent, "lines of curves are missing")

    def _through(self, node: Node, affine: Affine) -> None:
        """Bound the result of an affine map."""
        numbers, device = self.network.numbers, self.box.device
        low, up = (np.concatenate([e[s] for s in node.sources]) for e in (self.lower, self.upper))
        centre, weight, scale = (low + up) / 2, abs(affine.weight), abs(affine.scale)
        radius = numbers.out(centre, np.maximum(up - centre, centre - low))[1]
        sizes = device.sizes(np.maximum(abs(low), abs(up)))
        self.places[node.result] = affine.index.shape[1]
        spread = affine.forward(np.concatenate([radius, sizes], 1), weight, scale)
        size = self.size[node.result] = device.sizes(spread[:, 1:] + affine.size)
        share = 2 * numbers.unit * affine.terms + device.share(affine)
        reach = spread[:, :1] + share * size + numbers.tiny
        middle = affine.apply(centre)
        low, up = numbers.out(middle - reach, middle + reach)
        if node.hull is not None:
            operands = [(self.lower[name], self.upper[name]) for name in node.operands]
            places = [(one, np.clip(0 * one, one, two), two) for one, two in operands]
            values = [node.hull(*at) for at in zip(*places, strict=True)]
            ends = numbers.out(np.minimum.reduce(values), np.maximum.reduce(values))
            ends = device.widened(*ends)  # LeakyReLU rounds once
            low, up = np.maximum(low, ends[0]), np.minimum(up, ends[1])
        self.lower[node.result], self.upper[node.result] = low, up

    def _behind(self, node: Node) -> None:
        """Bound the result of a ReLU or bend, whose inputs' bounds may be claimed."""
        (value,), first, line = node.sources, self.neurons, self.bent
        self.neurons += len(self.lower[value])
        mine = slice(*np.searchsorted(self.claims.neuron, (first, self.neurons)))
        lower, upper = self._claimed(value, first, mine)
        low, up = np.maximum(self.lower[value], lower), np.minimum(self.upper[value], upper)
        ends = np.maximum(low, 0), np.maximum(up, 0)
        if node.bend is not None:
            require(not self.box.device.on, "how a device rounds a curve or product is not known")
            self.free[mine] = False
            self.bent += self.network.counts[node.result]
            ends = node.bend.hull(self.network.numbers, low, up)
        self.lower[node.result], self.upper[node.result] = ends
        self.inputs[node.result] = lower, upper, slice(first, self.neurons), slice(line, self.bent)

    def _claimed(self, value: str, first: int, mine: slice) -> tuple[Array, Array]:
        """Return bounds of neurons' inputs: those claimed, once they follow, or intervals."""
        lower, upper = self.lower[value].copy(), self.upper[value].copy()
        place, low, up = self.claims.neuron[mine] - first, *(e[mine] for e in self.claims[1:3])
        require((low <= up).all(), "a lower bound is above its upper bound")
        ends, (sure,) = np.concatenate([low, -up]), np.concatenate([lower[place], -upper[place]]).T
        doubtful = np.flatnonzero(ends > sure)
        seen = place[doubtful % len(low)] % self.places.get(value, 1)  # alike: of the same pixels
        doubtful = doubtful[np.argsort(seen, kind="stable")]
        for start in range(0, len(doubtful), _AT_ONCE):
            part = doubtful[start : start + _AT_ONCE]
            at, sign = part % len(low), np.where(part < len(low), 1, -1)
            a, one = self.network.numbers.of(np.zeros((len(lower), len(at)))), np.ones((1, len(at)))
            a[place[at], np.arange(len(part))] = sign
            found = np.maximum(sure[part], least([self.box], [self.lines(value, a, Choice())], one))
            close = _CLOSE * (up - low)[at] + _UNDERFLOWS * self.network.numbers.tiny
            for k in np.flatnonzero(~(found >= ends[part] - close)):
                raise Refused(
                    f"neuron {place[at[k]] + first} is claimed to be bounded by "
                    f"{float(sign[k] * ends[part[k]]):.9g}, but only "
                    f"{float(sign[k] * found[k]):.9g} follows"
                )
            ends[part] = np.minimum(ends[part], found)
        lower[place, 0], upper[place, 0] = ends[: len(low)], -ends[len(low) :]
        return lower, upper

    def lines(self, value: str, a: Array, choice: Choice) -> Line:
        """Return lines below a·value (n, R), as a choice has them."""
        numbers, nodes, pending = self.network.numbers, self.network.nodes, {value: a}
        b = numbers.of(np.zeros(a.shape[1]))
        for node in reversed(nodes):
            if node.result not in pending:
                continue
            a, terms, noise, affine = pending.pop(node.result), 0, 0, node.affine
            if choice.interval and (affine is None or node.hull is not None):
                low, up = self.lower[node.result], self.upper[node.result]
                part, constant = a[:0], np.minimum(a * low, a * up).sum(0)
                size = dot(np.maximum(abs(low), abs(up)), abs(a))
            elif affine is None:
                part, constant, size = self._bent(node, a, choice)
            else:
                part, constant, terms = affine.back(a), dot(affine.shift, a), affine.terms
                size = dot(self.size[node.result], abs(a))
                noise = self.box.device.share(affine)
            share = numbers.unit * (terms + 4 * len(a) + 2 * len(nodes)) + noise
            b = b + constant - (share * size + numbers.tiny)
            for source in node.sources if len(part) else ():
                mine, part = np.split(part, [self.network.counts[source]])
                pending[source] = pending[source] + mine if source in pending else mine
        nothing = numbers.of(np.zeros((len(self.box.image), len(b))))
        return Line(pending.get(self.network.input, nothing), b)

    def _bent(self, node: Node, a: Array, choice: Choice) -> tuple[Array, Array, Array]:
        """Replace values by lines: coefficients on the inputs, constants, and sizes of both."""
        lower, upper, mine, bent = self.inputs[node.result]
        split = choice.signs is not None and choice.signs[mine].any(1, keepdims=True)
        if node.bend is not None:
            require(not np.any(split), "a neuron of a curve is split")
            stated = self.claims.bent[:, :, None] if choice.bent is None else choice.bent
            stated = stated[bent].transpose(1, 0, 2)
            lines = node.bend.lines(self.network.numbers, stated, lower, upper)
            return _replaced(a, lines, lower, upper)
        # a ReLU whose input has one sign is 0 or this, without rounding; else there are chords
        on, free = lower >= 0, np.flatnonzero((lower < 0) & (upper > 0) | split)
        given = choice.slopes, choice.signs, choice.multipliers
        slopes, signs, multipliers = (e if e is None else e[mine][free] for e in given)
        part, size, above = a * on, dot(on * upper, abs(a)), on[free]
        a, lower, upper = a[free], lower[free], upper[free]
        both = (lower < 0) & (upper > 0)
        below = np.where(both, upper > -lower if slopes is None else slopes, above)
        above = np.where(both, upper / np.where(both, upper - lower, 1), above)
        high = np.where(both, np.maximum(-lower * above, (1 - above) * upper), 0)
        lines = below, 0, above, high * (1 + 4 * self.network.numbers.unit)
        part[free], constant, more = _replaced(a, lines, lower, upper, signs, multipliers)
        return part, constant, size + more


def _replaced(
    a: Array, lines: Any, lower: Array, upper: Array, signs: Any = None, multipliers: Any = 0
) -> tuple[Array, Array, Array]:
    """Put lines in the place of values, with the signs and multipliers of those that are split."""
    below, low, above, high = lines
    wide = np.resize(a, (len(lower), a.shape[1]))  # twice, where a product has two inputs
    slope, offset, shift = np.where(wide > 0, below, above), np.where(a > 0, low, high), 0 * wide
    if signs is not None:
        slope, offset = np.where(signs, signs > 0, slope), np.where(signs, 0, offset)
        shift = signs * multipliers
    sizes = abs(wide) * np.maximum(1, abs(slope)) + abs(shift)
    size = dot(np.maximum(abs(lower), abs(upper)), sizes) + abs(a * offset).sum(0)
    return wide * slope - shift, (a * offset).sum(0), size


def least(boxes: Sequence[Box], lines: Sequence[Line], weights: Array) -> Array:
    """Return lower bounds (R,) of sums of s images' lines, weights (s, R), under one shared u."""
    numbers, clip, eps = boxes[0].numbers, boxes[0].clip, boxes[0].eps
    a = [w * line.a for w, line in zip(weights, lines, strict=True)]
    met = np.flatnonzero(np.logical_or.reduce([c.any(1) for c in a]))
    a, eps, images = [c[met] for c in a], eps[met], [box.image[met] for box in boxes]
    ends = [-eps, eps]  # each u_p alone: linear, or with kinks where an image meets the range
    ends += [np.clip(end - image, -eps, eps) for end in clip or () for image in images]
    moved = [[boxes[0].cut(image + u) for image in images] for u in ends]
    found = [sum(c * x for c, x in zip(a, at, strict=True)) for at in moved]
    value = np.minimum.reduce(found).sum(0)
    device, size = boxes[0].device, numbers.of(np.zeros(len(value)))
    reach = eps + max(map(abs, clip or (0,))) + device.tiny
    for w, line, c, image in zip(weights, lines, a, images, strict=True):
        value = value + w * line.b
        size = size + w * abs(line.b) + dot(abs(image) + reach, abs(c))
    share = numbers.unit * (8 * len(boxes[0].image) + 64 * len(boxes)) + device.pixel
    return np.asarray(value - (share * size + numbers.tiny))
