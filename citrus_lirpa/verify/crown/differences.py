"""What the outputs of two images differ by, where one perturbation is added to both (RaVeN)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...bounds.precision import IN_FLOAT64
from ...bounds.segments import INPUT, Segment
from ..budget import Budget
from .engine import DualEngine
from .linear import Lines
from .relaxation import Images

#: Numbers that the differences of two images may take in a layer; larger ones are not bounded.
_MOST_NUMBERS = 1 << 26


@torch.no_grad()
def with_differences(
    lines: Lines,
    engine: DualEngine,
    images: Images,
    open_rows: Tensor,
    groups: Sequence[Sequence[int]],
    steps: int,
    budget: Budget,
) -> Lines:
    """Add to the lines of each image those that the other images of its group give it.

    A margin c·f(x + u) is at least a line of c·f(x' + u) plus the least that c·f(x + u) and
    c·f(x' + u) differ by over all u. Under clipping the differences of the inputs depend on u,
    and nothing is added; nor is it where bounds do not hold in float64.

    Source: after Banerjee, Xu & Singh 2024, Input-Relational Verification of Deep Neural
    Networks, which bounds differences by DiffPoly; here a zonotope bounds them.

    Args:
        lines: Linear bounds of open margins.
        engine: The engine that they are from.
        images: The images.
        open_rows: (n, K-1) the margins.
        groups: Numbers of the images of each group.
        steps: Steps that optimise the slopes of a line.
        budget: Time; pairs that it leaves no time for are left out.
    """
    if engine.ball.clip is not None or not images.exact:
        return lines
    first, second, least = [], [], []
    threshold = lines.threshold + IN_FLOAT64 * images.threshold.double().cpu()
    for members in groups:
        threshold[list(members)] = threshold[list(members)].max()
        for i, j in ((i, j) for i in members for j in members if i != j):
            low = None if budget.over else _least(engine.exact_segments, images, i, j)
            if low is not None:
                first.append(i)
                second.append(j)
                least.append(low.cpu())
    if not least:
        return lines
    own, other = (torch.tensor(numbers, device=images.x.device) for numbers in (first, second))
    swapped = replace(images.rows(other), c=images.c[own])
    more = engine.lines(swapped, open_rows[own], steps)
    size = len(more.g), lines.slopes.shape[1]
    return Lines(
        torch.cat([lines.image, own.cpu()[more.image]]),
        torch.cat([lines.row, more.row]),
        torch.cat([lines.g, more.g]),
        torch.cat([lines.c, more.c + torch.stack(least)[more.image, more.row]]),
        lines.x,
        lines.ball,
        threshold,
        torch.cat([lines.slopes, lines.slopes.new_full(size, torch.nan)]),
    )


def _least(segments: Sequence[Segment], images: Images, i: int, j: int) -> Tensor | None:
    """Return lower bounds (K-1,) of the margins of image i's classes on f(x_i + u) - f(x_j + u).

    In each ReLU the difference δ of two inputs becomes sδ with a share s in [0, 1]: 1 where both
    are active, 0 where both are off. In a curve s is one of its slopes. So a zonotope encloses it:
    rows are a centre, then generators, and an error term for each s that is not known. None if
    there are too many, or slopes are not bounded.
    """
    values = {INPUT: (images.x[i] - images.x[j].double()).unsqueeze(0)}
    for number, segment in enumerate(segments[:-1]):
        z = _linear(segment, values)
        (low_i, low_j), (high_i, high_j) = (
            (end[i].double(), end[j].double()) for end in images.bounds[number]
        )
        if segment.curve is None:
            least = ((low_i >= 0) & (low_j >= 0)).double()
            most = 1 - ((high_i <= 0) & (high_j <= 0)).double()
        elif any(map(math.isinf, segment.curve.steepest)):
            return None
        else:
            least, most = (torch.full_like(low_i, end) for end in segment.curve.steepest)
        error = (most - least).clamp(min=0) / 2 * z.abs().sum(0)
        unknown = error.flatten().nonzero().flatten()
        if (len(z) + len(unknown)) * error.numel() > _MOST_NUMBERS:
            return None
        new = z.new_zeros(len(unknown), error.numel())
        new[torch.arange(len(unknown)), unknown] = error.flatten()[unknown]
        values[number] = torch.cat([(least + most) / 2 * z, new.view(-1, *error.shape)])
    margins = _linear(segments[-1], values) @ images.c[i].double().T
    return margins[0] - margins[1:].abs().sum(0)


def _linear(segment: Segment, values: dict[int, Tensor]) -> Tensor:
    """Return the rows behind a segment; the error terms that a source has none of are 0 there."""
    rows = max(len(values[source]) for source in segment.sources)
    sources = [values[source] for source in segment.sources]
    filled = [torch.cat([v, v.new_zeros(rows - len(v), *v.shape[1:])]) for v in sources]
    return segment(*filled) - segment(*(torch.zeros_like(v[:1]) for v in sources))
