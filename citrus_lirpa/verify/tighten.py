"""CROWN bounds of ReLU inputs by the dual engine, for the neurons that IBP leaves unstable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..boxes import Box, Range
from ..pieces import Piece
from .ascent import ascend_dual
from .dual import DualBound, Relaxation

#: Float32 rounding of such a bound, relative to its size; all bounds are widened by it.
_ROUNDING = 2e-6

Bounds = list[tuple[Tensor, Tensor]]


def tighten(
    pieces: Sequence[Piece],
    x: Tensor,
    eps: float,
    bounds: Sequence[Box],
    *,
    clip: Range | None = None,
    iterations: int = 0,
    rows: int = 256,
    advance: Callable[[int], object] = lambda count: None,
) -> Bounds:
    """Bounds of every ReLU's input on the ε-boxes around x (n, ...), cut with ``bounds``.

    bounds: sound bounds of every ReLU's input, (n, ...) each, such as IBP's. Only neurons
    unstable in them are bounded, in network order, each on the bounds already tightened, by
    CROWN and then ``iterations`` steps of α of its own. ``rows`` neurons at once.
    """
    result: Bounds = []
    for k, box in enumerate(bounds):
        lower, upper = box.lower.flatten(1).clone(), box.upper.flatten(1).clone()
        if k > 0 and bool(((lower < 0) & (upper > 0)).any()):
            images, neurons = ((lower < 0) & (upper > 0)).nonzero(as_tuple=True)
            relaxation = Relaxation.of(result)
            for part in torch.arange(len(images), device=x.device).split(rows):
                i, j = images[part], neurons[part]
                for sign, side in ((1.0, lower), (-1.0, upper)):
                    c = x.new_zeros(len(i), lower.shape[1])
                    c[torch.arange(len(i)), j] = sign
                    dual = DualBound(pieces[: k + 1], relaxation.rows(i), x[i], c, eps, clip=clip)
                    found = sign * ascend_dual(dual, iterations).value
                    tighter = torch.maximum if sign > 0 else torch.minimum
                    side[i, j] = tighter(side[i, j], found)
                advance(len(part))
        shape = box.lower.shape
        slack = _ROUNDING * (1 + torch.maximum(lower.abs(), upper.abs()))
        result.append(((lower - slack).view(shape), (upper + slack).view(shape)))
    return result
