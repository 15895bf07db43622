"""Cores of combinations: the few images whose margins the bound of a combination rests on.

Most weights of an optimised bound are nearly zero. What is proved of the others alone, the core,
holds for every combination that contains them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from ...bounds.deadline import check_time
from ...errors import OutOfTime
from .ascent import ascend_dual
from .linear import Chosen, images_of
from .reduced_dual import ReducedBound, columns
from .reduced_images import ReducedImages

#: Steps of ascent before weights are read, and what those of a core exceed.
_STEPS, _LEAST_WEIGHT = 10, 0.02


class Root(NamedTuple):
    """A combination, whose bound is as float32 has it: it proves nothing.

    Attributes:
        value: Its bound, unsplit.
        parts: Its core, then parts with one more image each, by weight; the last is the whole.
        logits: Of the weights of all images; none where there is no bound.
    """

    value: float
    parts: list[Chosen]
    logits: dict[tuple[int, int], float]

    @property
    def chosen(self) -> Chosen:
        """The images, and a margin of each."""
        return self.parts[-1]

    def logits_of(self, part: Chosen) -> list[float]:
        """Return the logits of a part's images; zeros where there is no bound."""
        return [self.logits.get(member, 0.0) for member in part]


@torch.no_grad()
def bound_roots(images: ReducedImages, combinations: Sequence[Chosen]) -> list[Root]:
    """Return combinations with their cores, the least bound first.

    Once time is over, each further combination is its own core, without a bound.

    Args:
        images: The images.
        combinations: At least one; those of the same images follow each other.
    """
    found = []
    for members, some in groupby(combinations, images_of):
        every = list(some)
        size = max(1, images.engine.rows_at_once // len(members))
        for begin in range(0, len(every), size):
            found += _bounded(images, members, every[begin : begin + size])
    return sorted(found, key=lambda root: root.value)


def _bounded(images: ReducedImages, members: Sequence[int], some: Sequence[Chosen]) -> list[Root]:
    """Return combinations of the same images with their cores."""
    try:
        check_time()
        network = images.joined(members)[1]
    except OutOfTime:
        return [Root(math.inf, [chosen], {}) for chosen in some]
    rows = torch.tensor([[row for _, row in one] for one in some], device=images.images.x.device)
    unsplit = rows.new_zeros(len(rows), len(network), dtype=torch.int8)
    dual = ReducedBound(network, images.engine.ball, rows, unsplit)
    start, rate = columns(dual.start()), images.engine.alpha_rate
    ascent = ascend_dual(dual, _STEPS, parameter=start, rate=rate)
    weights, logits = ascent.logits.softmax(1).tolist(), ascent.logits.tolist()
    return [
        Root(value, _parts(chosen, its), dict(zip(chosen, mine, strict=True)))
        for value, chosen, its, mine in zip(
            *(ascent.value.tolist(), some, weights, logits), strict=True
        )
    ]


def _parts(chosen: Chosen, weights: Sequence[float]) -> list[Chosen]:
    """Return the parts of a combination with the largest weights, the core first."""
    core = sum(weight > _LEAST_WEIGHT for weight in weights)
    if not core:  # no numbers
        return [chosen]
    least = dict.fromkeys(sorted(weights, reverse=True)[core - 1 :])
    pairs = list(zip(chosen, weights, strict=True))
    return [tuple(member for member, its in pairs if its >= weight) for weight in least]
