"""What losses and their batches may be; a refusal is one line."""

from __future__ import annotations

from torch import Tensor

from ..bounds.checks import (
    Range,
    Scalar,
    check_fits,
    check_name,
    check_positive,
    check_radius,
    check_within,
    is_number,
)
from ..bounds.inputs import check_labelled
from ..bounds.net import BoundedNet
from ..bounds.radius import as_type
from ..errors import expect, require

#: The bounds that are differentiable in the weights.
TRAINABLE = ("ibp", "crown-ibp", "crown")


def check_method(method: str, norm: float) -> None:
    """Raise InputError for bounds that are unknown, cannot be trained on, or are not of a norm."""
    check_name(method, "method", TRAINABLE)
    require(norm != 2 or method == "ibp", f"norm 2 is for method ibp, not for {method}")


def check_share(value: float, name: str, meaning: str) -> None:
    """Raise InputError unless ``value`` is in (0, 1]."""
    expect(is_number(value) and 0 < value <= 1, name, value, f"a number in (0, 1]: {meaning}")


def check_max_eps(max_eps: float) -> None:
    """Raise InputError unless ``max_eps`` is a number > 0."""
    check_positive(
        max_eps,
        "max_eps",
        "the ε > 0 that the ramp ends with (of a run: train.eps times train.eps_factor)",
    )


def check_batch(net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar, clip: Range | None) -> Scalar:
    """Return ε; raise InputError for a batch that a training loss cannot use."""
    eps = check_radius(eps, "ε")
    check_labelled(net, x, y, finite=clip is None)
    check_fits(eps, x, "ε")
    if clip is not None:
        check_fits(clip, x, "clip")
        check_within(x, clip)
    return as_type(eps, x)
