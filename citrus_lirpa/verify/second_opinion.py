"""Checks of proofs by attacks: a brief one on auto_LiRPA's, and any that seems to break one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..bounds.box import Ball, Box
from ..bounds.culprit import culprit
from ..bounds.deadline import without_deadline
from ..bounds.margins import logit_margins
from ..bounds.net import BoundedNet
from ..errors import SoundnessError, is_out_of_memory
from .certificates import Certificates
from .engines import Engine, LirpaEngine, in_float64
from .memory import in_batches
from .stages import STAGES

#: Lengths of the steps of the attack, in ε: from corner to corner, then between them.
_STEPS = (2.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05)
#: The memory that an input takes, in that of IBP.
_COST = 2


@without_deadline()
def check_by_attack(
    engine: Engine, certificates: Certificates, x: Tensor, y: Tensor, first: int, batch_size: int
) -> None:
    """Try to break what auto_LiRPA has proved, by gradient descent on the smallest margin.

    The attack draws no random numbers, and no deadline ends it: a proof that was not checked is
    none. A margin that float32 rounds to below zero counts only if float64 has it below zero too.

    Args:
        engine: What the proofs are from.
        certificates: The certificates of inputs.
        x: (n, ...) these inputs.
        y: (n,) their labels.
        first: The number of the first one, for the message.
        batch_size: Inputs that IBP bounds together; about half as many are attacked together.

    Raises:
        SoundnessError: An input that was proved is broken.
    """
    if not isinstance(engine, LirpaEngine):
        return
    methods = certificates.methods
    own = torch.tensor([name in STAGES for name in methods], device=x.device)
    proved = certificates.certified & own[certificates.decided_by]
    size = max(1, batch_size // _COST)

    def attacked(now: Tensor) -> tuple[Tensor, Tensor]:
        return _attack(engine, x[now], y[now])

    parts = in_batches(attacked, proved.nonzero().squeeze(1), size)
    broken = [(now[hit], worst[hit]) for now, found in parts if found for hit, worst in (found,)]
    wrong = [int(i) for now, _ in broken for i in now]
    if wrong:
        number, by = wrong[0], methods[int(certificates.decided_by[wrong[0]])]
        at = next(worst[:1] for now, worst in broken if len(now))
        box = engine.ball.box(x[number : number + 1])
        blamed = culprit(engine.net, box, at, y[number : number + 1], by)
        raise SoundnessError(
            f"an attack breaks {len(wrong)} inputs that auto_LiRPA's bounds proved (first: number "
            f"{first + number}, by {by}, because of {blamed}); the bounds of this model are not "
            "sound: please report it with the model"
        )


@torch.no_grad()
def confirmed(
    net: BoundedNet,
    ball: Ball,
    x: Tensor,
    y: Tensor,
    u: Tensor,
    broken: Tensor,
    proved: Tensor,
    arithmetic: str,
) -> Tensor:
    """Return which inputs (n, ...) a perturbation breaks; for proved ones float64 decides.

    A certificate of real arithmetic may hold by a hair, where float32 rounds a margin to below
    zero, which contradicts nothing. One of float32 is contradicted by what float32 computes.
    ``broken`` (n,) are the inputs that are misclassified with ``u``, ``proved`` (n,) those that no
    perturbation breaks in that ``arithmetic``.
    """
    doubtful = broken & proved
    if arithmetic != "real" or x.dtype == torch.float64 or not bool(doubtful.any()):
        return broken
    twin = in_float64(net)
    if twin is None:
        return broken
    moved = ball.cut(x.double() + ball.project(u.double().expand_as(x)))[doubtful]
    return broken.index_put((doubtful,), _below_zero(twin, moved, y[doubtful]))


@torch.inference_mode(False)
@torch.enable_grad()
def _attack(engine: LirpaEngine, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of n inputs the attack breaks, (n,), and the points (n, ...) that it reached."""
    x, y, logits = x.clone(), y.clone(), engine.net.frozen()
    box, eps = engine.ball.box(x), engine.ball.radius(x)
    point, worst = x, x.clone()
    lowest = torch.full_like(y, torch.inf, dtype=x.dtype)
    for step in (*_STEPS, 0.0):
        margin, gradient = _margin(logits, point, y)
        lower = margin < lowest
        lowest[lower], worst[lower] = margin[lower], point[lower]
        point = _into(box, point - step * eps * gradient.sign())
    broken = lowest < 0
    if bool(broken.any()) and x.dtype == torch.float32 and engine.twin is not None:
        exact = _into(engine.ball.box(x[broken].double()), worst[broken].double())
        broken[broken.clone()] = _below_zero(engine.twin, exact, y[broken])
    return broken, worst


@torch.no_grad()
def _below_zero(twin: BoundedNet, points: Tensor, y: Tensor) -> Tensor:
    """Return which points (n, ...) a network in float64 misclassifies; (n,)."""
    with twin.evaluating():
        return logit_margins(twin(points), y).amin(1) < 0


def _margin(logits: Callable[[Tensor], Tensor], point: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest margins (n,) at points, and their gradients; zero for none."""
    point = point.detach().requires_grad_(True)
    try:
        margin = logit_margins(logits(point), y).min(dim=1).values
        (gradient,) = torch.autograd.grad(margin.sum(), point)
    except RuntimeError as error:  # a step function, or a layer without backward
        if is_out_of_memory(error):
            raise
        with torch.no_grad():
            return logit_margins(logits(point), y).amin(1), torch.zeros_like(point)
    return margin.detach(), gradient


def _into(box: Box, point: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(point, box.lower), box.upper)
