"""What universal perturbations do to images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..bounds.box import clamp
from ..bounds.checks import Range, check_fits, check_range, check_tensor
from ..bounds.inputs import check_inputs, check_labelled
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.precision import full_precision
from ..errors import require
from ..imports import to_frame

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
