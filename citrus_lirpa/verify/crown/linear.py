"""Certificates over fixed linear bounds: no perturbation makes all lines of a tuple negative.

A line is g·v + c <= margin, where v is what the shared perturbation u adds to its image: u
itself, or clamp(x + u) - x under clipping. A tuple of lines is refuted by weights w >= 0 of
sum one with min over u of Σ w (g·v(u) + c) > 0. That is evaluated in float64; where the
weights come from does not matter for soundness, so the linear program that finds them (a
cutting-plane master over a handful of weights) need not be trusted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...bounds.box import Ball
from ..budget import Budget
from .rounding import largest_input, unit
from .worst import shortfall, worst_shared

#: Multiplicative steps on the weights of lines before linear programs, their rate, and programs.
_CHEAP_STEPS, _CHEAP_RATE, _MOST_CUTS = 40, 3.0, 60
#: Steps of the search for one u that makes lines of all images negative.
_WITNESS_STEPS = 20


@dataclass(frozen=True)
class Lines:
    """Linear bounds of open margins, in float64.

    Args:
        image: (L,) the image whose margin a line bounds.
        row: (L,) the margin; several lines may bound one.
        g: (L, ...) gradients.
        c: (L,) values without perturbation.
        x: (n, ...) images by number.
        ball: The perturbations.
        threshold: (n,) what rounding can make of an image's lines.
        slopes: (L, M) α of the lines, as of :class:`~.dual.DualBound`; NaN where a line has none.
    """

    image: Tensor
    row: Tensor
    g: Tensor
    c: Tensor
    x: Tensor
    ball: Ball
    threshold: Tensor
    slopes: Tensor

    @staticmethod
    def build(
        image: Tensor, row: Tensor, g: Tensor, c: Tensor, x: Tensor, ball: Ball, slopes: Tensor
    ) -> Lines:
        """Return lines with the thresholds that sums of float64 need: so many terms, so large."""
        largest = largest_input(x[image], ball)
        size = (g.abs() * largest).flatten(1).sum(1) + c.abs()
        error = 8 * unit(g.dtype) * (g[0].numel() + 16 if len(g) else 0) * size
        threshold = x.new_zeros(len(x)).scatter_reduce(0, image, error, "amax")
        return Lines(image, row, g, c, x, ball, threshold, slopes)

    def part(self, which: Tensor) -> Lines:
        """Return some lines (k,), each with an image of its own."""
        image = self.image[which]
        return Lines(
            torch.arange(len(image)),
            *(self.row[which], self.g[which], self.c[which], self.x[image], self.ball),
            *(self.threshold[image], self.slopes[which]),
        )

    def worst(self, weight: Tensor) -> Tensor:
        """Return the u (...) that minimises the sum of all lines of a part, weighted (L,)."""
        return worst_shared(self.g[None], weight[None], self.x[None], self.ball)[0]

    def least(self, weight: Tensor, u: Tensor, line: Tensor) -> float:
        """Return a lower bound of that sum, from u as of ``worst`` and the lines' values there."""
        value = float(weight @ line)
        if self.ball.norm == 2:
            every = self.g[None], weight[None], self.x[None]
            value -= float(shortfall(*every, self.ball, u[None]))
        return value

    def at(self, u: Tensor) -> Tensor:
        """Return the values (L,) of all lines of a part at u (...)."""
        if self.ball.clip is None:
            return self.c + self.g.flatten(1) @ u.flatten()
        return self.c + (self.g * (self.ball.cut(self.x + u) - self.x)).flatten(1).sum(1)

    def of(self, image: int, row: int) -> list[int]:
        """Return the numbers of the lines that bound one margin."""
        return ((self.image == image) & (self.row == row)).nonzero().flatten().tolist()


class Attempt(NamedTuple):
    """What an attempt to refute lines has found.

    Attributes:
        weights: (s,) that refute them; None where there are none, up to float64.
        u: (...) what makes all of them negative; None where it was not met.
    """

    weights: Tensor | None
    u: Tensor | None


@torch.no_grad()
def refuting(lines: Lines, chosen: Sequence[int]) -> Attempt:
    """Look for weights that show that no |u| <= ε makes all ``chosen`` lines negative.

    Weights grow where lines are positive, in multiplicative steps, which cost little; then comes
    Kelley's method on the concave dual: the master's value bounds what weights can reach, so it
    ends with a certificate or with the proof that these lines hold none, up to float64.

    Args:
        lines: Linear bounds.
        chosen: Numbers of some of them.
    """
    lines = lines.part(torch.tensor(chosen))
    threshold = float(lines.threshold.max())
    weight = torch.full((len(chosen),), 1 / len(chosen), dtype=torch.float64)
    total = torch.zeros_like(weight)
    cuts: list[np.ndarray] = []
    for step in range(_CHEAP_STEPS + _MOST_CUTS):
        u = lines.worst(weight)
        line = lines.at(u)
        if lines.least(weight, u, line) > threshold:
            return Attempt(weight, None)
        if bool((line <= 0).all()):
            return Attempt(None, u)
        cuts.append(line.numpy())
        if step < _CHEAP_STEPS:
            total += line
            rate = _CHEAP_RATE / (float(line.abs().max()) * math.sqrt(1 + step))
            weight = (rate * total).softmax(0)
            continue
        answer = _master(np.stack(cuts))
        if answer is None or answer[1] <= threshold:
            break
        weight = torch.from_numpy(answer[0])
    return Attempt(None, None)


def _master(cuts: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return weights that maximise the least of the cuts (k, s), and that value.

    None where the solver fails.
    """
    from scipy.optimize import linprog  # its import alters the warning filters

    k, s = cuts.shape
    cost = np.r_[np.zeros(s), -1.0]
    bound = linprog(
        cost,
        A_ub=np.c_[-cuts, np.ones(k)],
        b_ub=np.zeros(k),
        A_eq=np.r_[np.ones(s), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * s + [(None, None)],
    )
    if bound.status != 0:
        return None
    weight = bound.x[:s].clip(min=0)
    return weight / weight.sum(), float(bound.x[s])


#: Images, and a margin of each.
Chosen = tuple[tuple[int, int], ...]


def images_of(chosen: Chosen) -> tuple[int, ...]:
    """Return the images alone."""
    return tuple(image for image, _ in chosen)


class Group:
    """The open images of a group, and which sets of them one perturbation may still break.

    ``blocked`` are the sets proved not to break together. The lines refute further ones, with at
    most ``most_on_lines`` images.

    Args:
        rows: The margins of each open image that are not proved.
        lines: Linear bounds of these margins.
        budget: Time for refuting sets by the lines; after it, sets count as breakable.
        note: Receives the numbers of lines that refute a set, and their weights.
    """

    def __init__(
        self,
        rows: dict[int, list[int]],
        lines: Lines,
        budget: Budget,
        note: Callable[[list[int], Tensor], object] = lambda numbers, weights: None,
    ):
        self.rows, self.lines, self.budget, self.note = rows, lines, budget, note
        self.blocked: set[frozenset[int]] = set()
        self.most_on_lines = len(rows)
        self._known: dict[Chosen, bool] = {}
        self._numbers = {(i, row): lines.of(i, row) for i in rows for row in rows[i]}
        numbers = [n for some in self._numbers.values() for n in some]
        self._all, self._mine = numbers, lines.part(torch.tensor(numbers, dtype=torch.long))
        self._negative: list[int] = []  # of each u met, the lines that it makes negative, as bits

    def largest(self, at_least: int) -> int:
        """Return the size of the largest set that may break together; ``at_least`` do."""
        for size in range(len(self.rows), at_least, -1):
            if next(self.survivors(size), None) is not None:
                return size
        return at_least

    @functools.cached_property
    def may_all_break(self) -> bool:
        """Whether one u leaves every image a margin all of whose lines are negative.

        The lines refute no set of these images then. A search of a few steps, which lays more
        weight on the images that u does not break; False where it finds no such u.
        """
        margins = [(i, row) for i in self.rows for row in self.rows[i]]
        numbers = [self._numbers[margin] for margin in margins]
        if not numbers or not all(numbers):
            return False
        margin = torch.repeat_interleave(torch.tensor([len(n) for n in numbers]))
        place = {i: k for k, i in enumerate(self.rows)}
        image = torch.tensor([place[i] for i, _ in margins])
        weight = torch.ones(len(self._all), dtype=torch.float64)
        for _ in range(_WITNESS_STEPS):
            lines = self._mine.at(self._mine.worst(weight))
            value = lines.new_full((len(margins),), -torch.inf)
            value = value.scatter_reduce(0, margin, lines, "amax")
            left = value.new_full((len(place),), torch.inf).scatter_reduce(0, image, value, "amin")
            if bool((left <= 0).all()):
                return True
            weight = torch.where((left > 0)[image[margin]], 2 * weight, weight)
        return False

    def survivors(self, size: int) -> Iterator[Chosen]:
        """Yield tuples of ``size`` (image, row) that neither lines nor ``blocked`` refute.

        Those of the same images come one after the other.
        """
        for members in combinations(self.rows, size):
            if not self._is_blocked(members):
                yield from self._extended((), members)

    def may_break(self, members: set[int]) -> bool:
        """Return whether nothing known contradicts a perturbation that breaks all ``members``."""
        ordered = tuple(i for i in self.rows if i in members)
        return not self._is_blocked(ordered) and next(self._extended((), ordered), None) is not None

    def refute(self, chosen: Chosen) -> None:
        """Take (image, row) pairs, in the order of ``rows``, as proved not to break together."""
        self._known[chosen] = True

    def _is_blocked(self, members: tuple[int, ...]) -> bool:
        return any(block.issubset(members) for block in self.blocked)

    def _extended(self, chosen: Chosen, rest: tuple[int, ...]) -> Iterator[Chosen]:
        """Yield ``chosen`` with a row for each image of ``rest``, no part of it refuted."""
        if not rest:
            yield chosen
            return
        for row in self.rows[rest[0]]:
            new = (rest[0], row)
            parts = (p for n in range(1, len(chosen) + 1) for p in combinations(chosen, n))
            if not any(self._refuted((*part, new)) for part in parts):
                yield from self._extended((*chosen, new), rest[1:])

    def _refuted(self, chosen: Chosen) -> bool:
        if chosen not in self._known:
            if self.budget.over or len(chosen) > self.most_on_lines:
                return False
            numbers = [n for margin in chosen for n in self._numbers[margin]]
            bits = sum(1 << n for n in numbers)
            met = not numbers or any(bits & each == bits for each in self._negative)
            found = Attempt(None, None) if met else refuting(self.lines, numbers)
            self._known[chosen] = found.weights is not None
            if found.weights is not None:
                self.note(numbers, found.weights)
            if found.u is not None:
                negative = (self._mine.at(found.u) <= 0).tolist()
                self._negative.append(
                    sum(1 << n for n, its in zip(self._all, negative, strict=True) if its)
                )
        return self._known[chosen]
