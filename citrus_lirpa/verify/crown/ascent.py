"""Ascent of dual bounds: projected Adam on α, β and the weights of a tuple's members."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...bounds.deadline import time_is_over
from .dual import DualBound, Point
from .reduced_dual import ReducedBound

_DECAY = 0.98
_MOMENTS = 0.9, 0.999
#: Of the step of α: that of the logits of the weights, and, times the row's mean
#: coefficient, whose unit it has, that of β.
_WEIGHT_RATE, _BETA_RATE = 3.0, 2.0


@dataclass(frozen=True)
class Ascent:
    """What an ascent has reached.

    Args:
        value: (D,) best bounds met.
        rounding: (D,) what was taken off them for rounding.
        parameter: (R, M) α and β of these bounds.
        logits: (D, s) of the weights of these bounds.
        last: Parameter and logits of the last step, from which another ascent continues.
        point: The evaluation at the last step.
    """

    value: Tensor
    rounding: Tensor
    parameter: Tensor
    logits: Tensor
    last: tuple[Tensor, Tensor]
    point: Point

    def best(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Return α and β (r·s, M), and the weights (r, s), of the best bounds of some tuples.

        Args:
            which: (D,) of which tuples.
        """
        members = len(self.parameter) // len(self.value)
        rows = which.repeat_interleave(members)
        return self.parameter[rows], self.logits[which].double().softmax(1)


def ascend_dual(
    dual: DualBound | ReducedBound,
    iterations: int,
    *,
    parameter: Tensor | None = None,
    logits: Tensor | None = None,
    rate: float = 0.1,
) -> Ascent:
    """Ascend dual bounds, and return the best of every tuple; every bound met is sound.

    At a deadline (:mod:`...bounds.deadline`) it ends with the steps made.

    Args:
        dual: The dual function of D tuples.
        iterations: Steps after the start, which is evaluated too.
        parameter: (R, M) to start from; CROWN's slopes if None.
        logits: (D, s) of the weights to start from; equal weights if None.
        rate: First step of α.
    """
    p = dual.start() if parameter is None else parameter
    split = dual.signs != 0
    q = p.new_zeros(dual.domains, dual.members) if logits is None else logits
    steps_p, steps_q = _Adam(p), _Adam(q)
    point = dual(p, q.softmax(1))
    best = Ascent(point.value, point.rounding, p, q, (p, q), point)
    mean = point.coefficients.abs().mean(1, keepdim=True)
    scale = torch.where(split, _BETA_RATE * mean, 1.0)
    most = torch.ones_like(p).masked_fill_(split, torch.inf)
    for i in range(iterations):
        if time_is_over():
            break
        step = rate * _DECAY**i
        p = steps_p.step(dual.gradient(point)).mul_(scale).mul_(step).add_(p).clamp_(min=0)
        p = torch.minimum(p, most, out=p)
        if dual.members > 1:
            gradient = q.softmax(1) * (point.line - point.value.unsqueeze(1))
            q = q + _WEIGHT_RATE * step * steps_q.step(gradient)
        point = dual(p, q.softmax(1))
        best = _better(best, point, p, q)
    return best


def _better(best: Ascent, point: Point, p: Tensor, q: Tensor) -> Ascent:
    """Return the better of two bounds for every tuple."""
    up = (point.value > best.value).unsqueeze(1)
    rows = up.repeat_interleave(len(p) // len(up), dim=0)
    return Ascent(
        torch.maximum(best.value, point.value),
        torch.where(up[:, 0], point.rounding, best.rounding),
        torch.where(rows, p, best.parameter),
        torch.where(up, q, best.logits),
        (p, q),
        point,
    )


class _Adam:
    """The steps of Adam (Kingma & Ba 2015), uphill."""

    def __init__(self, like: Tensor):
        self.mean, self.square, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def step(self, gradient: Tensor) -> Tensor:
        first, second = _MOMENTS
        self.count += 1
        self.mean.lerp_(gradient, 1 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = self.square.div(1 - second**self.count).sqrt_().add_(1e-8)
        return torch.div(self.mean, size, out=size).div_(1 - first**self.count)
