"""One perturbation for a whole data set, or for each of its classes, by SGD-UAP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from .. import distributed
from ..bounds.box import clamp
from ..bounds.checks import (
    Range,
    Scalar,
    check_fits,
    check_radius,
    check_range,
    check_tensor,
    is_count,
    is_number,
    shown,
)
from ..bounds.inputs import check_inputs, check_labelled
from ..bounds.net import BoundedNet, as_bounded_net
from ..errors import InputError
from ..optional import to_frame
from .pgd import ascend, uniform_start

if TYPE_CHECKING:
    from pandas import DataFrame

#: Images predicted together.
_AT_ONCE = 512


@dataclass(frozen=True)
class UapResult:
    """What universal perturbations do to N images.

    u: (1, ...) for all images or (K, ...) one a class; y: (N,) labels; clean, moved: (N,)
    predicted classes without and with the perturbation.
    """

    u: Tensor
    y: Tensor
    clean: Tensor
    moved: Tensor

    @property
    def correct(self) -> Tensor:
        """(N,): whether the image is classified correctly without a perturbation."""
        return self.clean == self.y

    @property
    def broken(self) -> Tensor:
        """(N,): whether it is, and no longer with the perturbation."""
        return self.correct & (self.moved != self.y)

    @property
    def fooling_rate(self) -> float:
        """Share of the correctly classified images that are broken; 0 where there are none."""
        return int(self.broken.sum()) / max(1, int(self.correct.sum()))

    def __repr__(self) -> str:
        kind = "one perturbation" if len(self.u) == 1 else f"{len(self.u)} perturbations"
        return (
            f"UapResult({kind} of {tuple(self.u.shape[1:])}, {len(self.y)} images: "
            f"{int(self.correct.sum())} correct, {int(self.broken.sum())} of them broken, "
            f"fooling rate {100 * self.fooling_rate:.2f} %)"
        )

    def to_frame(self) -> DataFrame:
        """A pandas frame with a row for each image: label, clean and moved (the classes without
        and with the perturbation), broken. Raises DependencyError without pandas."""
        columns = {"label": self.y, "clean": self.clean, "moved": self.moved}
        return to_frame({**columns, "broken": self.broken})

    def of_class(self, label: int) -> UapResult:
        """The same for the images of one class."""
        mine = self.y == label
        u = self.u if len(self.u) == 1 else self.u[label : label + 1]
        return UapResult(u, self.y[mine], self.clean[mine], self.moved[mine])


@dataclass(frozen=True)
class SgdUap:
    """Universal L∞ perturbation of a data set by stochastic gradient ascent.

    Every step adds ``step_size`` · ε times the sign of the gradient of a batch's mean
    cross-entropy, each image's clamped from above at ``beta``, so that images already
    broken do not dominate; the step shrinks as PGD's. Each restart begins at a random
    corner of the ball. Kept is the u with the highest fooling rate after an epoch, on all
    the images. ``per_class`` makes one u for each class, from its images alone.

    Source: Mummadi et al., Defending Against Universal Perturbations With Shared Adversarial
    Training (2019); Shafahi et al., Universal Adversarial Training (2020).
    """

    epochs: int = 10
    step_size: float = 1.0
    beta: float = 2.0
    batch_size: int = 128
    restarts: int = 3
    clip: Range | None = None
    per_class: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "step_size", "beta", "batch_size", "restarts"):
            value = getattr(self, name)
            usable = is_number(value) and value > 0
            if not (usable if name in ("step_size", "beta") else is_count(value)):
                raise InputError(f"{name} of SgdUap is {shown(value)}; expected a positive number")
        check_range(self.clip)

    def __call__(
        self, net: object, x: Tensor, y: Tensor, eps: Scalar, *, progress: bool = False
    ) -> UapResult:
        """x: (N, ...) images in [0, 1], on any device; y: (N,). Torch's seed decides all.

        Only images classified correctly without u are used. Processes that came together
        (:mod:`.distributed`) share the restarts, and all get what one process finds. Raises
        InputError on bad values.
        """
        eps = check_radius(eps, "ε")
        net = as_bounded_net(net)
        check_labelled(net, x, y, anywhere=True)
        check_fits(eps, x, "ε")
        check_fits(self.clip, x, "clip")
        clean = predictions(net, x)
        groups = torch.arange(net.classes).unsqueeze(1) == y.cpu()
        groups = groups if self.per_class else torch.ones_like(groups[:1])
        rows = [(group & (clean == y).cpu()).nonzero().squeeze(1).to(x.device) for group in groups]
        steps = [self._steps(len(r)) for r in rows for _ in range(self.restarts)]
        device = net.parameters()[0].device
        shown_bar = tqdm(total=sum(steps), desc="sgd-uap", unit="step", disable=not progress)
        seeds = distributed.agreed(torch.randint(2**62, (len(steps),)).tolist())
        generators = [device] if device.type == "cuda" else []
        with net.evaluating(), shown_bar as bar, torch.random.fork_rng(generators):

            def begun_anew(number: int) -> tuple[Tensor, int]:
                torch.manual_seed(seeds[number])
                return self._craft(net, x, y, rows[number // self.restarts], eps, bar)

            def elsewhere(more: int) -> None:
                bar.update(min(more * max(steps), sum(steps) - bar.n))

            found = distributed.share(begun_anew, len(steps), device, elsewhere)
        best = [
            max(found[i : i + self.restarts], key=lambda one: one[1])[0]  # the first of equals
            for i in range(0, len(found), self.restarts)
        ]
        return try_uap(net, x, y, torch.stack(best), clip=self.clip)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean over the batch of min(cross-entropy, β): logits (N, K), labels (N,)."""
        return F.cross_entropy(logits, y, reduction="none").clamp(max=self.beta).mean()

    def _steps(self, images: int) -> int:
        return self.epochs * -(-images // self.batch_size)

    def _craft(
        self, net: BoundedNet, x: Tensor, y: Tensor, rows: Tensor, eps: Scalar, bar: tqdm
    ) -> tuple[Tensor, int]:
        """The best u (...) of one restart for the images ``rows``, and how many it breaks; zero
        where none."""
        device = net.parameters()[0].device
        best, most = torch.zeros(x.shape[1:], dtype=x.dtype, device=device), 0
        queue: list[Tensor] = []
        logits = net.frozen()

        def measure(u: Tensor) -> None:
            nonlocal best, most
            wrong = predictions(net, x, u.unsqueeze(0), y, clip=self.clip, rows=rows) != y[rows]
            if int(wrong.sum()) > most:
                best, most = u.detach(), int(wrong.sum())

        def objective(u: Tensor) -> Tensor:
            if not queue:  # an epoch is over, or the first begins
                measure(u)
                order = torch.randperm(len(rows)).to(rows.device)
                queue.extend(rows[order].split(self.batch_size))
            batch = queue.pop()
            bar.update()
            moved = clamp(x[batch].to(device) + u, self.clip)
            return self.loss(logits(moved), y[batch].to(device))

        if len(rows):
            last = ascend(
                objective,
                lambda u: clamp(u, (-eps, eps)),
                uniform_start(best.shape, 1.0, best).sign() * eps,
                self.step_size * eps,
                self._steps(len(rows)),
            )
            measure(last)
        return best, most


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
    """(N,) predicted classes of images x (of ``rows`` alone if given), on x's device.

    With u of one perturbation (1, ...) or one a class (K, ...), of x + u; ``y`` says which.
    """
    device = net.parameters()[0].device
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    found = [rows[:0]]
    with net.evaluating():
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
    """What perturbations u, (1, ...) or one a class (K, ...), do to images x (N, ...)."""
    net = as_bounded_net(net)
    check_labelled(net, x, y, anywhere=True)
    check_range(clip)
    check_fits(clip, x, "clip")
    check_tensor(u, "u")
    if u.ndim != x.ndim or len(u) not in (1, net.classes) or u.shape[1:] != x.shape[1:]:
        raise InputError(
            f"u has shape {tuple(u.shape)}; expected one perturbation or {net.classes}, each of "
            f"shape {tuple(x.shape[1:])}"
        )
    check_inputs(net, u, "u", anywhere=True)
    return UapResult(u, y, predictions(net, x), predictions(net, x, u, y, clip=clip))
