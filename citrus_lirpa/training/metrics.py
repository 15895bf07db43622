"""What a training reports: values of each step, and a record of each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import distributed
from ..attacks import breaks
from ..bounds.box import Ball
from ..bounds.checks import Scalar
from ..bounds.net import BoundedNet
from ..imports import to_frame
from ..losses import LossTerms

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


#: What of a step is averaged over an epoch, in this order.
_AVERAGED = ("loss", "regulariser", "accuracy", "certified")


class EpochMeans:
    """Means over the steps of an epoch, so far; they stay on the device until they are read.

    Args:
        device: Where steps are measured.
        sums: The sum of each value, and under "NAME count" how many steps had it.
        seconds: Duration of the steps.
    """

    def __init__(
        self, device: torch.device, sums: Mapping[str, float] | None = None, seconds: float = 0.0
    ):
        before = sums or {}
        rows = [[before.get(f"{key}{end}", 0.0) for key in _AVERAGED] for end in ("", " count")]
        self._totals = torch.tensor(rows, dtype=torch.float64, device=device)
        self.seconds = seconds

    def add(self, measured: Tensor) -> None:
        """Add what ``measure`` gave of a step; NaN stands for what the loss does not have."""
        values = measured[: len(_AVERAGED)]
        usable = values.isfinite()
        self._totals += torch.stack([values.where(usable, 0.0), usable.double()])

    def sums(self) -> dict[str, float]:
        """Return the sums and counts, of values that any step had."""
        found = zip(_AVERAGED, *self._totals.tolist(), strict=True)
        return {
            name: value
            for key, total, count in found
            if count
            for name, value in ((key, total), (f"{key} count", count))
        }

    def means(self) -> dict[str, float | None]:
        """Return the mean of each value; None where no step had it."""
        sums = self.sums()
        return {key: sums[key] / sums[f"{key} count"] if key in sums else None for key in _AVERAGED}

    def __str__(self) -> str:
        means = self.means()
        clean, certified = (
            "-" if means[key] is None else f"{means[key]:.1%}" for key in ("accuracy", "certified")
        )
        return f"loss {means['loss']:.3f} clean {clean} robust {certified}"


def measure(
    terms: LossTerms, penalty: Tensor, norm: Tensor, y: Tensor, *, bounded: bool = True
) -> Tensor:
    """Measure what a step reports, without waiting for the device.

    Args:
        terms: The loss.
        penalty: The regularisers, a scalar.
        norm: Norm of the gradient, a scalar.
        y: Labels (B,).
        bounded: Whether anything was bounded: else no share of boxes is reported.

    Returns:
        float64 (5,): loss, regulariser, accuracy, share of certified boxes, gradient norm, as
        means over the processes that share the batch; NaN for what is missing.
    """
    values = [
        terms.total,
        penalty,
        _accuracy(terms.logits, y),
        terms.certified() if bounded else norm.new_full((), torch.nan),
        norm,
    ]
    found = torch.stack([value.detach().to(y.device, torch.float64) for value in values])
    distributed.average([found])
    return found


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    if not logits.shape[1]:
        return logits.new_full((), torch.nan)  # of a denoiser
    return (logits.argmax(1) == y).float().mean()


class FirstBadStep:
    """Remembers the first step whose loss or gradient is no number, on the device of the steps.

    Args:
        device: Where steps are measured.

    Attributes:
        found: 1 from this step on, else 0: Adam changes nothing then, if it is its ``found_inf``.
    """

    def __init__(self, device: torch.device):
        self.found = torch.zeros((), device=device)
        self._first = torch.zeros(3, dtype=torch.float64, device=device)

    def look(self, step: Scalar, measured: Tensor) -> None:
        """Look at what ``measure`` gave of a step."""
        loss, regulariser, *_, norm = measured
        now = torch.stack([torch.zeros_like(loss) + step, loss + regulariser, norm])
        wrong = ~now.isfinite().all()
        self._first.copy_(torch.where(wrong & (self.found == 0), now, self._first))
        torch.maximum(self.found, wrong.float(), out=self.found)

    def read(self) -> tuple[int, str, float] | None:
        """Return the step, what became no number in it, and which value it had; None for none."""
        if not bool(self.found):
            return None
        step, loss, norm = self._first.tolist()
        wrong = ("gradient", norm) if math.isfinite(loss) else ("loss", loss)
        return int(step), *wrong


def broken_by_batch(net: BoundedNet, tried: Tensor, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
    """Tell which of the perturbations tried on a batch breaks which of its inputs.

    Args:
        net: The network.
        tried: The perturbations (P, ...), of which the first ones count.
        x: Inputs (B, ...).
        y: Labels (B,).
        ball: What perturbations are cut to, as attacks may reach further, and perturbed inputs.

    Returns:
        bool (P, B), as :func:`attacks.kappa` counts them.
    """
    return breaks(net, x, y, ball.project(tried[:_KAPPA_PERTURBATIONS]), ball.clip)
