"""One perturbation for a whole data set, or for each of its classes, by SGD-UAP."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from .. import distributed
from ..bounds.box import Ball
from ..bounds.checks import Range, Scalar, check_count, check_positive, check_range
from ..bounds.frozen import gradient_of
from ..bounds.inputs import outside_inference, taking_data
from ..bounds.net import BoundedNet
from ..bounds.norms import check_norm
from ..bounds.radius import as_type
from .effects import UapResult, predictions, try_uap
from .pgd import ascend, check_attack, uniform_start


@dataclass(frozen=True)
class SgdUap:
    """Universal perturbation of a data set by stochastic gradient ascent.

    Every step adds ``step_size`` · ε times the sign of the gradient of a batch's mean
    cross-entropy, or for ℓ2 its direction. The cross-entropy of each image is clamped from above,
    so that images that are broken already do not dominate. Each restart begins at a random corner
    of the ball. The attack keeps the u with the highest fooling rate on all the images after an
    epoch. With a target, steps lower the mean cross-entropy of this class on images of all others,
    and the u that has most of them taken for the target is kept.

    Source: Mummadi et al. 2019, Defending Against Universal Perturbations With Shared
    Adversarial Training; Shafahi et al. 2020, Universal Adversarial Training.

    Args:
        epochs: Passes over the images.
        step_size: First step as a share of ε; it shrinks as in :class:`PGD`.
        beta: Largest cross-entropy of an image that counts.
        batch_size: Images of a step.
        restarts: Random starts.
        clip: Range that perturbed images are cut to; None for no cut.
        per_class: Make one u for each class, from the images of this class alone.
        target: The class that images of all others are to be taken for; None for any wrong one.
        norm: The norm of the perturbation, inf or 2.
    """

    epochs: int = 10
    step_size: float = 1.0
    beta: float = 2.0
    batch_size: int = 128
    restarts: int = 3
    clip: Range | None = None
    per_class: bool = False
    target: int | None = None
    norm: float = math.inf

    def __post_init__(self) -> None:
        check_norm(self.norm)
        for name in ("epochs", "batch_size", "restarts"):
            check_count(getattr(self, name), f"SgdUap.{name}")
        for name in ("step_size", "beta"):
            check_positive(getattr(self, name), f"SgdUap.{name}")
        check_range(self.clip)

    @outside_inference
    @taking_data
    def __call__(
        self, net: object, x: Tensor, y: Tensor, eps: Scalar, *, progress: bool = False
    ) -> UapResult:
        """Find the perturbation, or one for each class.

        Only images that are classified correctly without u are used. Torch's seed decides the
        result. Processes that came together (:mod:`.distributed`) share the restarts, and all
        of them get what one process finds.

        Args:
            net: BoundedNet, or an auto_LiRPA BoundedModule.
            x: Images (N, ...) in [0, 1], on any device.
            y: Labels (N,).
            eps: Radius ε in pixels, a number or a tensor that broadcasts to ``x``.
            progress: Show a progress bar.

        Raises:
            InputError: A value cannot be used.
        """
        given = Ball(eps, self.clip, self.norm)
        net, eps = check_attack(net, x, y, given, anywhere=True)
        if self.target is not None:
            check_count(self.target, "SgdUap.target", 0, net.classes - 1)
        rows = self._images(net, x, y)
        steps = [self._steps(len(r)) for r in rows for _ in range(self.restarts)]
        device = net.parameters()[0].device
        progress_bar = tqdm(total=sum(steps), desc="sgd-uap", unit="step", disable=not progress)
        seeds = distributed.agreed(torch.randint(2**62, (len(steps),)).tolist())
        generators = [device] if device.type == "cuda" else []
        with net.evaluating(), progress_bar as bar, torch.random.fork_rng(generators):

            def restart(number: int) -> tuple[Tensor, int]:
                torch.manual_seed(seeds[number])
                ball = Ball(as_type(eps, net.parameters()[0]), self.clip, self.norm)
                return self._craft(net, x, y, rows[number // self.restarts], ball, bar.update)

            def on_remote_progress(finished: int) -> None:
                bar.update(min(finished * max(steps), sum(steps) - bar.n))

            found = distributed.share(restart, len(steps), device, on_remote_progress)
        best = [
            max(found[i : i + self.restarts], key=lambda one: one[1])[0]  # the first of equals
            for i in range(0, len(found), self.restarts)
        ]
        result = try_uap(net, x, y, torch.stack(best), clip=self.clip)
        return replace(result, target=self.target)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return what the attack raises, of logits (N, K) and labels (N,).

        The mean of min(cross-entropy, β); with a target, minus the mean cross-entropy of that.
        """
        if self.target is not None:
            return -F.cross_entropy(logits, torch.full_like(y, self.target))
        return F.cross_entropy(logits, y, reduction="none").clamp(max=self.beta).mean()

    def _images(self, net: BoundedNet, x: Tensor, y: Tensor) -> list[Tensor]:
        """List the correctly classified images that each perturbation is made from."""
        correct = (predictions(net, x) == y).cpu()
        if self.target is not None:
            correct &= y.cpu() != self.target
        groups = torch.arange(net.classes).unsqueeze(1) == y.cpu()
        groups = groups if self.per_class else torch.ones_like(groups[:1])
        return [(group & correct).nonzero().squeeze(1).to(x.device) for group in groups]

    def _steps(self, images: int) -> int:
        return self.epochs * -(-images // self.batch_size)

    def _craft(
        self,
        net: BoundedNet,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        ball: Ball,
        on_step: Callable[[], object],
    ) -> tuple[Tensor, int]:
        """Return the best u (...) of one restart for the images ``rows``, and how many it hits."""
        device = net.parameters()[0].device
        best, most = torch.zeros(x.shape[1:], dtype=x.dtype, device=device), 0
        queue: list[Tensor] = []
        logits = net.frozen()

        def measure(u: Tensor) -> None:
            nonlocal best, most
            moved = predictions(net, x, u.unsqueeze(0), y, clip=self.clip, rows=rows)
            hit = moved != y[rows] if self.target is None else moved == self.target
            if int(hit.sum()) > most:
                best, most = u.detach(), int(hit.sum())

        def objective(u: Tensor) -> Tensor:
            if not queue:  # between two epochs, and before the first
                measure(u)
                order = torch.randperm(len(rows)).to(rows.device)
                queue.extend(rows[order].split(self.batch_size))
            batch = queue.pop()
            on_step()
            moved = ball.cut(x[batch].to(device) + u)
            return self.loss(logits(moved), y[batch].to(device))

        if len(rows):
            corner = uniform_start(best.shape, best).sign() * ball.eps
            last = ascend(
                *(gradient_of(objective), _alone(ball.project), corner, self.step_size * ball.eps),
                steps=self._steps(len(rows)),
                towards=_alone(ball.direction),
            )
            measure(last)
        return best, most


def _alone(rows: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Turn a function of rows (N, ...) into one of a single row (...)."""
    return lambda u: rows(u.unsqueeze(0)).squeeze(0)
