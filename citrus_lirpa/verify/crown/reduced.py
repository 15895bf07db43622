"""The network of one image, reduced to its unstable ReLUs.

Most ReLUs of an image are stable: on, or off, for every perturbation. Folded away, they leave

    z = X v + T h + b,   h = relu(z),   margins = G v + H h + g,

where v is what the perturbation adds to the image, z are the inputs of the unstable ReLUs, and h
their outputs; those of a layer see only those of earlier layers. Bounds of it are bounds of the
network, in a fraction of the time: the matrices are small, and mostly zeros in the first layers.

Folding rounds: z is as above up to the errors of its neurons, and so are the margins. A bound
that multiplies z by w is off by at most errors·|w|, and by what its sums are charged
(:mod:`.rounding`).

Shapes: M unstable ReLUs; P pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...bounds.box import Ball
from ...bounds.deadline import check_time
from ...bounds.segments import Segment
from .dual import DualBound
from .relaxation import Images, Relaxation
from .rounding import SUMS

#: The rows that are folded at once are a multiple of this.
_STEP = 32


@dataclass(frozen=True)
class ReducedNetwork:
    """What is left of a network for one image, in float64.

    Args:
        x: (...) the image.
        reach: (P,) sizes of what can be added to it, and rounded.
        lower: (M,) bounds of the inputs of the unstable ReLUs.
        upper: (M,) likewise.
        layers: The places of each layer's neurons.
        inputs: X, (M, P), a sparse array of SciPy.
        inner: T, (M, M), likewise.
        bias: (M,) b.
        margin_inputs: G, (K-1, P).
        margin_outputs: H, (K-1, M).
        margin_bias: g, (K-1,).
        errors: (M,) how far folding can have moved z at most.
        margin_errors: (K-1,) how far the margins.
        columns: (M,) the places of its neurons in the relaxation of all images.
    """

    x: Tensor
    reach: Tensor
    lower: Tensor
    upper: Tensor
    layers: list[slice]
    inputs: Any
    inner: Any
    bias: Tensor
    margin_inputs: Tensor
    margin_outputs: Tensor
    margin_bias: Tensor
    errors: Tensor
    margin_errors: Tensor
    columns: Tensor

    def __len__(self) -> int:
        return len(self.bias)

    @cached_property
    def sizes(self) -> tuple[Tensor, Tensor]:
        """What the terms of a dual bound add up to at most: (K-1,), and (M,) for each |w|."""
        margins = self.margin_outputs.abs() @ self.upper + self.margin_inputs.abs() @ self.reach
        reach, upper = self.reach.cpu().numpy(), self.upper.cpu().numpy()
        neurons = torch.from_numpy(abs(self.inputs) @ reach + abs(self.inner) @ upper)
        largest = torch.maximum(-self.lower, self.upper)
        return margins + self.margin_bias.abs(), neurons.to(largest) + self.bias.abs() + largest


def reduce_network(
    segments: Sequence[Segment], images: Images, number: int, ball: Ball, *, at_once: int
) -> ReducedNetwork:
    """Return the reduced network of one image, in float64.

    Args:
        segments: The network's affine maps between ReLUs, in float64.
        images: Images with bounds of their ReLU inputs.
        number: Which of them.
        ball: The perturbations.
        at_once: Neurons folded at once.

    Raises:
        OutOfTime: The deadline (:mod:`...bounds.deadline`) comes first.
    """
    from scipy import sparse

    relaxation, columns = images.relaxation.alone(number)
    relaxation = relaxation.to(torch.float64)
    x, c = images.x[number].double(), images.c[number].double()
    level = [k for k, width in enumerate([*relaxation.widths, len(c)]) for _ in range(width)]
    # parts of one size, which other images are likely to have too: what is made for it is reused
    size = min(at_once, _STEP * math.ceil(len(level) / _STEP))
    rows = torch.arange(size * math.ceil(len(level) / size)).clamp(max=len(level) - 1)
    parts = [_fold(segments, relaxation, level, part, x, c, ball) for part in rows.split(size)]
    h, a, b, off = (torch.cat(part)[: len(level)] for part in zip(*parts, strict=True))
    layers = [slice(*ends) for ends in pairwise([0, *accumulate(relaxation.widths)])]
    for here in layers:
        h[here, here.start :] = 0.0  # a neuron's own output, and those of later layers
    unstable, rest = slice(len(columns)), slice(len(columns), None)
    lower, upper = (end[0] for end in ball.box(x[None]))
    reach = torch.maximum(upper - x, x - lower)
    return ReducedNetwork(
        x=x,
        reach=(reach if ball.clip is None else reach + x.abs()).flatten(),
        lower=relaxation.lower[0],
        upper=relaxation.upper[0],
        layers=layers,
        inputs=sparse.csr_array(a[unstable].cpu().numpy()),
        inner=sparse.csr_array(h[unstable].cpu().numpy()),
        bias=b[unstable],
        margin_inputs=a[rest],
        margin_outputs=h[rest],
        margin_bias=b[rest],
        errors=off[unstable],
        margin_errors=off[rest],
        columns=columns,
    )


def _fold(
    segments: Sequence[Segment],
    relaxation: Relaxation,
    level: Sequence[int],
    rows: Tensor,
    x: Tensor,
    c: Tensor,
    ball: Ball,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write inputs of unstable ReLUs, and margins after them, in terms of h and v.

    Going backwards, a row of a lower layer begins where that layer is reached.

    Args:
        segments: The network's affine maps between ReLUs.
        relaxation: Of the image alone.
        level: The layer of every row.
        rows: (r,) which ones, in order.
        x: (...) the image.
        c: (K-1, K) coefficients of the margins.
        ball: The perturbations.

    Returns:
        The matrices on h (r, M) and v (r, P), the constants (r,) and how far rounding can have
        moved the sum (r,).
    """
    check_time()
    top = level[int(rows[-1])]
    before, unstable = relaxation.first(top), relaxation.lower.shape[1]
    begin = before.lower.shape[1]
    units = torch.zeros(len(rows), unstable + len(c), dtype=c.dtype, device=c.device)
    units[torch.arange(len(rows)), rows] = 1.0
    if top == len(relaxation.widths):
        ends = units[:, unstable:] @ c
    else:
        places = relaxation.index[top][0]
        ends = c.new_zeros(len(rows), relaxation.active[top].shape[1])
        ends[:, places] = units[:, begin : begin + len(places)]
    same = torch.zeros(len(rows), dtype=torch.long, device=c.device)
    dual = DualBound(segments[: top + 1], before.rows(same), x[None][same], ends, ball)
    h, a, b, off = dual.folded(units[:, :begin])
    h, a, pixels = pad(h, (0, unstable - begin)), a.flatten(1), x.flatten()
    return h, a, b + a @ pixels, off + (len(pixels) + 8) * SUMS * (a.abs() @ pixels.abs() + b.abs())
