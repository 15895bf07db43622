"""One perturbation for a whole data set, or for each of its classes, by SGD-UAP."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from .. import distributed
from ..bounds.box import Ball, clamp
from ..bounds.checks import (
    Range,
    Scalar,
    check_count,
    check_fits,
    check_range,
    check_tensor,
    is_count,
    is_number,
)
from ..bounds.frozen import gradient_of
from ..bounds.inputs import check_inputs, check_labelled, outside_inference, taking_data
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.norms import check_norm
from ..bounds.precision import full_precision
from ..bounds.radius import as_type
from ..errors import expect, require
from ..imports import to_frame
from .pgd import ascend, check_attack, uniform_start

if TYPE_CHECKING:
    from pandas import DataFrame

#: Images predicted together.
_AT_ONCE = 512


@dataclass(frozen=True)
class UapResult:
    """The effect of universal perturbations on N images.

    Args:
        u: Perturbations, (1, ...) for all images or (K, ...) with one for each class.
        y: (N,) labels.
        clean: (N,) predicted classes without the perturbation.
        moved: (N,) predicted classes with it.
        target: The class that images are to be taken for; None for any wrong one.
    """

    u: Tensor
    y: Tensor
    clean: Tensor
    moved: Tensor
    target: int | None = None

    @property
    def correct(self) -> Tensor:
        """Whether each image (N,) is classified correctly without a perturbation."""
        return self.clean == self.y

    @property
    def broken(self) -> Tensor:
        """Whether each image (N,) is classified correctly, but not with the perturbation."""
        return self.correct & (self.moved != self.y)

    @property
    def fooling_rate(self) -> float:
        """The share of the correctly classified images that are broken; 0 if there are none."""
        return int(self.broken.sum()) / max(1, int(self.correct.sum()))

    @property
    def target_rate(self) -> float:
        """The share of the correct images of other classes that are taken for the target, or 0."""
        if self.target is None:
            return 0.0
        others = self.correct & (self.y != self.target)
        return int((others & (self.moved == self.target)).sum()) / max(1, int(others.sum()))

    def __repr__(self) -> str:
        kind = "one perturbation" if len(self.u) == 1 else f"{len(self.u)} perturbations"
        return (
            f"UapResult({kind} of {tuple(self.u.shape[1:])}, {len(self.y)} images: "
            f"{int(self.correct.sum())} correct, {int(self.broken.sum())} of them broken, "
            f"fooling rate {100 * self.fooling_rate:.2f} %)"
        )

    def to_frame(self) -> DataFrame:
        """Make a pandas frame with a row for each image.

        Its columns are label, clean and moved (the classes without and with the perturbation),
        and broken.
        """
        columns = {"label": self.y, "clean": self.clean, "moved": self.moved}
        return to_frame({**columns, "broken": self.broken})

    def of_class(self, label: int) -> UapResult:
        """Select the images of one class."""
        mine = self.y == label
        u = self.u if len(self.u) == 1 else self.u[label : label + 1]
        return UapResult(u, self.y[mine], self.clean[mine], self.moved[mine], self.target)


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
        norm: Of the perturbation, inf or 2.
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
        for name in ("epochs", "step_size", "beta", "batch_size", "restarts"):
            value = getattr(self, name)
            usable = is_number(value) and value > 0
            usable = usable if name in ("step_size", "beta") else is_count(value)
            expect(usable, f"SgdUap.{name}", value, "a positive number")
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


@torch.no_grad()
def predictions(
    net: BoundedNet,
    x: Tensor,
    u: Tensor | None = None,
    y: Tensor | None = None,
    *,
    clip: Range | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Predict the classes of images (N, ...), or of some ``rows`` of them, on their device.

    ``u`` is added to the images, which are then cut to ``clip``: one perturbation (1, ...), or
    (K, ...) with one for each class, which labels ``y`` (N,) choose.
    """
    device = net.parameters()[0].device
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    found = [rows[:0]]
    with net.evaluating(), full_precision(device):
        for part in rows.split(_AT_ONCE):
            images = x[part].to(device)
            if u is not None:
                shift = u if len(u) == 1 or y is None else u[y[part].to(u.device)]
                images = clamp(images + shift.to(device), clip)
            found.append(net(images).argmax(dim=1).to(x.device))
    return torch.cat(found)


def try_uap(
    net: object, x: Tensor, y: Tensor, u: Tensor, *, clip: Range | None = None
) -> UapResult:
    """Measure what universal perturbations do to images.

    Args:
        net: BoundedNet, or an auto_LiRPA BoundedModule.
        x: Images (N, ...), on any device.
        y: Labels (N,).
        u: One perturbation (1, ...), or one for each class (K, ...).
        clip: Range that perturbed images are cut to; None for no cut.

    Raises:
        InputError: A value cannot be used.
    """
    net = as_bounded_net(net)
    check_labelled(net, x, y, anywhere=True)
    check_range(clip)
    check_fits(clip, x, "clip")
    check_tensor(u, "u")
    fits = u.ndim == x.ndim and len(u) in (1, net.classes) and u.shape[1:] == x.shape[1:]
    wanted = f"one perturbation or {net.classes}, each of shape {tuple(x.shape[1:])}"
    require(fits, f"u has shape {tuple(u.shape)}; expected {wanted}")
    check_inputs(net, u, "u", anywhere=True)
    return UapResult(u, y, predictions(net, x), predictions(net, x, u, y, clip=clip))
