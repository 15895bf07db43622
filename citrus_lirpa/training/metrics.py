"""What a training reports: values of each step, and a record of each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import distributed
from ..attacks import kappa
from ..bounds.box import Ball
from ..bounds.checks import Range, Scalar
from ..bounds.net import BoundedNet
from ..losses import LossTerms
from ..optional import to_frame

if TYPE_CHECKING:
    from pandas import DataFrame

#: Perturbations of an epoch's last batch that are tried on all its inputs.
_KAPPA_PERTURBATIONS = 64


@dataclass
class History:
    """One record per epoch, with means over the epoch of what the loss reports.

    Its keys are epoch, step, eps (in pixels, at the end), lr, loss, accuracy and certified
    (shares of the training batches; certified: of the boxes bounded), regulariser, kappa and
    seconds. kappa is :func:`attacks.kappa` of the last batch and the perturbations found for it,
    within ε; where processes share the batch, it is the highest of its parts. None stands for
    what the loss does not have.

    Args:
        records: The records, in the order of the epochs.
    """

    records: list[dict[str, Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        if not self.records:
            return "History(no epochs)"
        last = self.records[-1]
        shares = [
            f"{key} {100 * last[key]:.2f} %"
            for key in ("accuracy", "certified")
            if last[key] is not None
        ]
        numbers = [f"ε = {last['eps']:.4g}", f"loss {last['loss']:.4g}", *shares]
        epochs = f"{len(self.records)} epoch{'' if len(self.records) == 1 else 's'}"
        return f"History({epochs}; the last: {', '.join(numbers)})"

    def to_frame(self) -> DataFrame:
        """Make a pandas frame with a row for each epoch and a column for each key.

        What the loss does not have is missing.

        Raises:
            DependencyError: pandas is not installed.
        """
        keys = self.records[0] if self.records else {}
        return to_frame({key: [record.get(key) for record in self.records] for key in keys})


@dataclass
class EpochMeans:
    """Means over the steps of an epoch, so far.

    Args:
        sums: The sum of each value, and under "NAME count" how many steps had it.
        seconds: Duration of the steps.
    """

    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, values: Mapping[str, float]) -> None:
        """Add the values of a step; NaN stands for what the loss does not have."""
        for key, value in values.items():
            if math.isfinite(value):
                for name, more in ((key, value), (f"{key} count", 1.0)):
                    self.sums[name] = self.sums.get(name, 0.0) + more

    def means(self) -> dict[str, float | None]:
        """Return the mean of each value; None where no step had it."""
        keys = ("loss", "regulariser", "accuracy", "certified")
        return {
            key: self.sums[key] / self.sums[f"{key} count"] if key in self.sums else None
            for key in keys
        }

    def __str__(self) -> str:
        means = self.means()
        certified = "-" if means["certified"] is None else f"{means['certified']:.1%}"
        return f"loss {means['loss']:.3f} clean {means['accuracy']:.1%} robust {certified}"


def measure(terms: LossTerms, penalty: Tensor, norm: Tensor, y: Tensor) -> dict[str, float]:
    """Measure what a step reports, in one transfer from the device.

    Args:
        terms: The loss.
        penalty: The regularisers, a scalar.
        norm: Norm of the gradient, a scalar.
        y: Labels (B,).

    Returns:
        The values, as means over the processes that share the batch; NaN for what is missing.
    """
    values = {
        "loss": terms.total,
        "regulariser": penalty,
        "gradient": norm,
        "accuracy": (terms.logits.argmax(1) == y).float().mean(),
        "certified": terms.certified(),
    }
    stacked = torch.stack([value.detach().to(y.device, torch.float64) for value in values.values()])
    return distributed.means(dict(zip(values, stacked.tolist(), strict=True)))


def highest_kappa(
    net: BoundedNet, terms: LossTerms, x: Tensor, y: Tensor, eps: Scalar, clip: Range | None
) -> int | None:
    """Count the inputs of a batch that one of its own perturbations breaks.

    Args:
        net: The network.
        terms: The loss of the batch, with the perturbations that were tried.
        x: Inputs (B, ...).
        y: Labels (B,).
        eps: Radius ε, to which perturbations are cut: attacks may reach further.
        clip: Range that perturbed inputs are cut to; None for no cut.

    Returns:
        The highest count of the processes that share the batch; None without perturbations.
    """
    if terms.perturbations is None:
        return None
    v = Ball(eps).project(terms.perturbations[:_KAPPA_PERTURBATIONS])
    return int(distributed.highest(kappa(net, x, y, v, clip))[0])
