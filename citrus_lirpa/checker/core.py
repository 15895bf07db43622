"""The rules by which a proof is judged: bounds that follow, leaves that cover, images that survive.

A network is a list of nodes: affine maps, ReLUs and bends (curves and products). A line below a
margin is walked backward through them. Where it meets a ReLU or a bend, a line on the right side of
that takes its place, which holds between bounds of its input that were shown before.

Every rounding error is charged. Let S bound the sizes that a layer adds up, S = |W||x| + |b| for
all x that can occur. Coefficients a on the result of a layer of n terms become coefficients on its
input, W'a, with errors that change the bound by at most n 2^-53 / (1 - n 2^-53) |a|·S, in any
order of summation. With fractions nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .network import Affine, Array, Network, Node, Refused, require

#: A claim may be closer than what follows by this share of its width, as other rounding may make
#: it; the checker goes on with what follows.
_CLOSE = 2.0**-18
#: How many bounds of neurons are computed together.
_AT_ONCE = 128
#: How many ways to break the images of a group are tried.
_MOST_TRIES = 1_000_000


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


class _Inputs(NamedTuple):
    """Bounds of the inputs of a ReLU or bend, and which neurons and lines of claims are its."""

    lower: Array
    upper: Array
    neurons: slice
    bent: slice


class Ranges:
    """Bounds of every value in a network on one box, once the claims about it are checked."""

    def __init__(self, network: Network, box: Box, claims: Claims):
        self.network, self.box, self.claims = network, box, claims
        self.lower, self.upper = {network.input: box.lower}, {network.input: box.upper}
        self.size: dict[str, Array] = {}  # of affine nodes, S
        self.inputs: dict[str, _Inputs] = {}
        self.neurons = self.bent = 0
        self.free = (claims.lower < 0) & (claims.upper > 0)  # claims about ReLUs of both signs
        require((np.diff(claims.neuron) > 0).all(), "claims are not in order")
        for node in network.nodes:
            if node.affine is None:
                self._behind(node)
            else:
                self._through(node, node.affine)
        inside = ((claims.neuron >= 0) & (claims.neuron < self.neurons)).all()
        require(inside, "a claim is of a neuron that the network does not have")
        require(len(claims.bent) == self.bent, "lines of curves are missing")

    def _through(self, node: Node, affine: Affine) -> None:
        """Bound the result of an affine map."""
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

    def _behind(self, node: Node) -> None:
        """Bound the result of a ReLU or bend, whose inputs' bounds may be claimed."""
        (value,), first, line = node.sources, self.neurons, self.bent
        self.neurons += len(self.lower[value])
        mine = slice(*np.searchsorted(self.claims.neuron, (first, self.neurons)))
        lower, upper = self._claimed(value, first, mine)
        low, up = np.maximum(self.lower[value], lower), np.minimum(self.upper[value], upper)
        ends = np.maximum(low, 0), np.maximum(up, 0)
        if node.bend is not None:
            self.free[mine] = False
            self.bent += self.network.counts[node.result]
            ends = node.bend.hull(self.network.numbers, low, up)
        self.lower[node.result], self.upper[node.result] = ends
        slices = slice(first, self.neurons), slice(line, self.bent)
        self.inputs[node.result] = _Inputs(lower, upper, *slices)

    def _claimed(self, value: str, first: int, mine: slice) -> tuple[Array, Array]:
        """Return bounds of neurons' inputs: those claimed, once they follow, or intervals."""
        lower, upper = self.lower[value].copy(), self.upper[value].copy()
        place, low, up = self.claims.neuron[mine] - first, *(e[mine] for e in self.claims[1:3])
        require((low <= up).all(), "a lower bound is above its upper bound")
        for sign, claimed, known in ((1, low.copy(), lower), (-1, -up, -upper)):
            doubtful = np.flatnonzero(claimed > known[place, 0])
            for start in range(0, len(doubtful), _AT_ONCE):
                part = doubtful[start : start + _AT_ONCE]
                a = self.network.numbers.of(np.zeros((len(lower), len(part))))
                a[place[part], np.arange(len(part))] = sign
                line = self.lines(value, a, Choice())
                follows = least([self.box], [line], np.ones((1, len(part))))
                for k in np.flatnonzero(~(follows >= claimed[part] - _CLOSE * (up - low)[part])):
                    raise Refused(
                        f"neuron {place[part][k] + first} is claimed to be bounded by "
                        f"{float(sign * claimed[part][k]):.9g}, but only "
                        f"{float(sign * follows[k]):.9g} follows"
                    )
                claimed[part] = np.minimum(claimed[part], follows)
            (lower if sign > 0 else upper)[place, 0] = sign * claimed
        return lower, upper

    def lines(self, value: str, a: Array, choice: Choice) -> Line:
        """Return lines below a·value (n, R), as a choice has them."""
        numbers, nodes, pending = self.network.numbers, self.network.nodes, {value: a}
        b = numbers.of(np.zeros(a.shape[1]))
        for node in reversed(nodes):
            if node.result not in pending:
                continue
            a, terms, affine = pending.pop(node.result), 0, node.affine
            if choice.interval and (affine is None or node.hull is not None):
                low, up = self.lower[node.result], self.upper[node.result]
                part, constants = a[:0], np.minimum(a * low, a * up)
                sizes = abs(a) * np.maximum(abs(low), abs(up))
            elif affine is None:
                part, constants, sizes = self._bent(node, a, choice)
            else:
                part, constants, terms = affine.back(a), a * affine.shift, affine.terms
                sizes = abs(a) * self.size[node.result]
            factor = numbers.unit * (terms + len(sizes) + 2 * len(nodes))
            b = b + constants.sum(0) - (factor * sizes.sum(0) + numbers.tiny)
            for source in node.sources if len(part) else ():
                mine, part = np.split(part, [self.network.counts[source]])
                pending[source] = pending[source] + mine if source in pending else mine
        nothing = numbers.of(np.zeros((len(self.box.image), len(b))))
        return Line(pending.get(self.network.input, nothing), b)

    def _bent(self, node: Node, a: Array, choice: Choice) -> tuple[Array, Array, Array]:
        """Replace values by lines: coefficients on the inputs, constants, and sizes of both."""
        lower, upper, mine, bent = self.inputs[node.result]
        if node.bend is None:
            slopes = None if choice.slopes is None else choice.slopes[mine]
            below, low, above, high = _relu(lower, upper, slopes, self.network.numbers.unit)
        else:
            stated = self.claims.bent[:, :, None] if choice.bent is None else choice.bent
            stated = stated[bent].transpose(1, 0, 2)
            below, low, above, high = node.bend.lines(self.network.numbers, stated, lower, upper)
        wide = np.concatenate([a] * (len(lower) // len(a)))  # a product has two inputs
        slope, offset, shift = (
            np.where(wide > 0, below, above),
            np.where(a > 0, low, high),
            0 * wide,
        )
        if choice.signs is not None and choice.signs[mine].any():
            require(node.bend is None, "a neuron of a curve is split")
            signs = choice.signs[mine]
            slope, offset = np.where(signs, signs > 0, slope), np.where(signs, 0, offset)
            shift = signs * choice.multipliers[mine]
        sizes = abs(wide) * np.maximum(1, abs(slope)) + abs(shift)
        sizes = sizes * np.maximum(abs(lower), abs(upper))
        return wide * slope - shift, a * offset, np.concatenate([sizes, abs(a * offset)])


def _relu(lower: Array, upper: Array, slopes: Any, unit: float) -> tuple[Any, Any, Any, Any]:
    """Return slopes and offsets of lines below ReLUs, then above: the chords."""
    free, on = (lower < 0) & (upper > 0), (lower >= 0) * 1
    above = np.where(free, upper / np.where(free, upper - lower, 1), on)
    high = np.where(free, np.maximum(-above * lower, (1 - above) * upper), 0) * (1 + 4 * unit)
    below = np.where(free, (upper > -lower) * 1 if slopes is None else slopes, on)
    return below, 0, above, high


def least(boxes: Sequence[Box], lines: Sequence[Line], weights: Array) -> Array:
    """Return lower bounds (R,) of sums of s images' lines, weights (s, R), under one shared u."""
    numbers, clip, eps = boxes[0].numbers, boxes[0].clip, boxes[0].eps
    a = [w * line.a for w, line in zip(weights, lines, strict=True)]
    ends = [-eps, eps]  # each u_p alone: linear, or with kinks where an image meets the range
    ends += [np.clip(end - box.image, -eps, eps) for end in clip or () for box in boxes]
    found = [sum(c * box.cut(box.image + u) for c, box in zip(a, boxes, strict=True)) for u in ends]
    value = np.minimum.reduce(found).sum(0)
    reach, size = eps + max(map(abs, clip or (0,))), numbers.of(np.zeros(len(value)))
    for w, line, c, box in zip(weights, lines, a, boxes, strict=True):
        value = value + w * line.b
        size = size + w * abs(line.b) + (abs(c) * (abs(box.image) + reach)).sum(0)
    terms = 8 * len(eps) + 64 * len(boxes)
    return np.asarray(value - (numbers.unit * terms * size + numbers.tiny))


# -- what follows from bounds that are positive --------------------------------------------------


def covers(leaves: Sequence[Mapping[Any, int]]) -> bool:
    """Return whether leaves (signs by neuron) make a tree, so that one of them always holds."""
    if not all(leaves):
        return True  # a leaf without splits always holds
    common = set(leaves[0]).intersection(*leaves[1:]) if leaves else set()
    if not common:
        return False  # no leaves, or none that divides all of them
    neuron = min(common)
    sides: dict[int, list[Mapping[Any, int]]] = {1: [], -1: []}
    for leaf in leaves:
        sides[leaf[neuron]].append({key: leaf[key] for key in leaf if key != neuron})
    return all(map(covers, sides.values()))


#: Images and classes that one perturbation does not break together.
Refuted = frozenset[tuple[int, int]]


def open_classes(
    members: Iterable[int], labels: Sequence[int], classes: int, refuted: Collection[Refuted]
) -> dict[int, list[int]]:
    """Return the wrong classes of each image that are not refuted alone."""
    return {
        i: [c for c in range(classes) if c != labels[i] and frozenset([(i, c)]) not in refuted]
        for i in members
    }


def most_broken(
    members: Sequence[int], labels: Sequence[int], classes: int, refuted: Collection[Refuted]
) -> int:
    """Return how many images of a group one perturbation may break, by what is refuted."""
    options = open_classes(members, labels, classes, refuted)
    several = [pairs for pairs in refuted if len(pairs) > 1]
    named = {pair for pairs in several for pair in pairs}
    able = [i for i in members if options[i]]
    tied = [i for i in able if all((i, c) in named for c in options[i])]
    mine = [pairs for pairs in several if {i for i, _ in pairs} <= set(tied)]
    best, tries = 0, 0

    def extend(at: int, chosen: frozenset[tuple[int, int]]) -> None:
        nonlocal best, tries
        tries += 1
        require(tries <= _MOST_TRIES, "a group has more combinations than are tried")
        best = max(best, len(chosen))
        if len(chosen) + len(tied) - at <= best:
            return
        for c in options[tied[at]]:
            more = chosen | {(tied[at], c)}
            if not any(pairs <= more for pairs in mine):
                extend(at + 1, more)
        extend(at + 1, chosen)

    extend(0, frozenset())
    return best + len(able) - len(tied)
