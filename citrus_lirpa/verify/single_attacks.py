"""Attacks on single images that cheap bounds left open, before bounds that cost more than they."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attacks import PGD, ascend
from ..bounds.box import Ball
from ..bounds.frozen import gradient_of
from ..bounds.margins import logit_margins
from ..bounds.net import BoundedNet
from ..errors import SoundnessError
from .certificates import Proof
from .memory import in_batches

#: So many margins of an image are attacked, by so many steps each.
_MARGINS, _STEPS = 2, 8


def aim(net: BoundedNet, ball: Ball, x: Tensor, y: Tensor, proof: Proof, batch_size: int) -> None:
    """Attack the margins of open images whose bounds are lowest, each on its own.

    The loss of all classes together, which other attacks ascend, leads past some counterexamples.

    Args:
        net: The network, in eval mode.
        ball: The perturbations.
        x: (n, ...) inputs.
        y: (n,) labels.
        proof: What is known of them; it receives the perturbations that break one.
        batch_size: At most so many rows at once.
    """

    def attacked(now: Tensor) -> list[tuple[int, Tensor]]:
        lower = torch.where(proof.rows[now], torch.inf, proof.lower[now])
        lowest = lower.topk(min(_MARGINS, lower.shape[1]), largest=False)
        image, place = (lowest.values < torch.inf).nonzero(as_tuple=True)
        which, row = now[image], lowest.indices[image, place]
        u = _lowered(net, ball, x[which], y[which], row)
        with torch.no_grad():
            broken = net(ball.cut(x[which] + u)).argmax(1) != y[which]
        return list(zip(which[broken].tolist(), u[broken], strict=True))

    rows = (proof.open & ~proof.attempted).nonzero().squeeze(1)
    for _, found in in_batches(attacked, rows, max(1, batch_size // _MARGINS)):
        for image, u in found or ():  # an image that does not fit stays as it is
            proof.v[image], proof.attacked[image] = u, True


def _lowered(net: BoundedNet, ball: Ball, x: Tensor, y: Tensor, row: Tensor) -> Tensor:
    """Return perturbations (D, ...) that lower one margin (D,) of each input."""

    def below(u: Tensor) -> Tensor:
        margins = logit_margins(net(ball.cut(x + u)), y)
        return -margins.gather(1, row.unsqueeze(1)).sum()

    step, begin = ball.radius(x) / 2, torch.zeros_like(x)
    gradient = gradient_of(below)
    return ascend(gradient, ball.project, begin, step, _STEPS, towards=ball.direction)


def attempt(
    attack: PGD,
    elsewhere: Tensor,
    net: BoundedNet,
    ball: Ball,
    x: Tensor,
    y: Tensor,
    proof: Proof,
    batch_size: int,
) -> None:
    """Attack open images, and those that are proved elsewhere.

    Args:
        attack: The attack.
        elsewhere: (n,) which inputs are proved elsewhere.
        net: The network, in eval mode.
        ball: The perturbations.
        x: (n, ...) inputs.
        y: (n,) labels.
        proof: What is known of them; it receives the perturbations that break one.
        batch_size: At most so many at once.

    Raises:
        SoundnessError: One that is proved elsewhere is broken.
    """

    def attacked(rows: Tensor) -> tuple[Tensor, Tensor]:
        v = attack(net, x[rows], y[rows], ball.eps)
        with torch.no_grad():
            logits = net(ball.cut(x[rows] + v))
        return v, logits.argmax(1) != y[rows]

    rows = ((proof.open | elsewhere) & ~proof.attempted).nonzero().squeeze(1)
    for now, found in in_batches(attacked, rows, batch_size):
        if found is not None:  # an input that does not fit stays unattacked
            proof.v[now], proof.attacked[now] = found
        proof.attempted[now] = True
    wrong = (proof.attacked & elsewhere).nonzero().flatten().tolist()
    if wrong:
        raise SoundnessError(
            f"an attack breaks {len(wrong)} inputs that the imported verdicts call "
            f"certified (first: number {wrong[0]} of this batch)"
        )
