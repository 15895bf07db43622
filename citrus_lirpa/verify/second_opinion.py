"""Attacks on what was proved: a brief one on auto_LiRPA's proofs, and whether any breaks one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..bounds.box import Ball, Box
from ..bounds.culprit import culprit
from ..bounds.margins import logit_margins
from ..bounds.net import BoundedNet
from ..errors import SoundnessError, is_out_of_memory
from .certificates import Certificates
from .engines import LirpaEngine
from .memory import in_batches
from .stages import STAGES

#: Lengths of the steps of the attack, in ε: from corner to corner, then between them.
_STEPS = (2.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05)


def check_by_attack(
    engine: LirpaEngine, certificates: Certificates, x: Tensor, y: Tensor, first: int, size: int
) -> None:
    """Try to break what the engine has proved, by gradient descent on the smallest margin.

    The attack draws no random numbers. A margin that float32 rounds to below zero counts only
    if float64 has it below zero too.

    Args:
        engine: What the proofs are from.
        certificates: The certificates of inputs.
        x: (n, ...) these inputs.
        y: (n,) their labels.
        first: The number of the first one, for the message.
        size: Inputs attacked together.

    Raises:
        SoundnessError: An input that was proved is broken.
    """
    methods = certificates.methods
    own = torch.tensor([name in STAGES for name in methods], device=x.device)
    proved = certificates.certified & own[certificates.decided_by]
    parts = in_batches(
        lambda now: _attack(engine, x[now], y[now]), proved.nonzero().squeeze(1), size
    )
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
    net: BoundedNet, ball: Ball, x: Tensor, y: Tensor, u: Tensor, broken: Tensor, proved: Tensor
) -> Tensor:
    """Say which inputs a perturbation breaks, proved ones by float64.

    A certificate is about real numbers. Where it holds by a hair, float32 may round a margin to
    below zero, which contradicts nothing.

    Args:
        net: The network.
        ball: The perturbations.
        x: (n, ...) inputs.
        y: (n,) their labels.
        u: A perturbation that broadcasts to the inputs.
        broken: (n,) the inputs that are misclassified with it.
        proved: (n,) those that no perturbation breaks.

    Returns:
        (n,) ``broken`` without the proved inputs whose margins are not below zero in float64.
    """
    doubtful = broken & proved
    if x.dtype == torch.float64 or not bool(doubtful.any()):
        return broken
    exact = net.in_float64()
    if exact is None:
        return broken
    with exact.evaluating():
        moved = ball.cut(x.double() + ball.project(u.double()))[doubtful]
        below = logit_margins(exact(moved), y[doubtful]).amin(1) < 0
    return broken.index_put((doubtful,), below)


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
        with torch.no_grad():
            margins = logit_margins(engine.twin(exact), y[broken])
        broken[broken.clone()] = margins.amin(1) < 0
    return broken, worst


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
