"""The check of every freshly wrapped model against itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .box import Bounds, Box
from .culprit import Net as Bounded
from .culprit import culprit
from .margins import specification
from .precision import full_precision, rounding_threshold
from .tracing import explained

#: The warning for networks whose bounds are not finite, and prove nothing.
OVERFLOW = (
    "interval bounds of this network overflow: they are NaN or infinite, so that it can be neither "
    "certified nor trained by them; begin with "
    "citrus_lirpa.training.initialisation.shi_initialise(net), which helps less where BatchNorm is "
    "in train mode, or use fewer layers"
)
#: Rows of an example that are computed alone as well.
_ALONE = 4
#: Rows of a batch that the traced graph computes together, at most: it keeps all values.
_AT_ONCE = 64


class Net(Bounded, Protocol):
    """What is checked of a network; BoundedNet is one."""

    module: nn.Module
    bounded: Any

    def evaluating(self) -> AbstractContextManager[None]:
        """Set eval mode inside the block."""

    def doubt_of(self, method: str) -> str | None:
        """Return why bounds by a method prove nothing; None where they do."""

    def warn_once(self, message: str) -> None:
        """Warn the user of this network, if it is the first time."""

    def bound_unchecked(
        self, box: Box, labels: Tensor | None = None, method: str = "ibp"
    ) -> Bounds:
        """Return bounds, and the sizes of what rounds."""


def self_check(net: Net, example: Tensor) -> None:
    """Check the traced graph and its bounds against the module, on an example and random images.

    Compares logits of batches and of their rows alone, and checks that sampled points of a tiny and
    of a wide box stay within the bounds of IBP and CROWN-IBP: this catches what auto_LiRPA gets
    wrong silently (padded AvgPool, powers, hard-coded batches).

    Raises:
        ModelError: They contradict each other.
    """
    generator = torch.Generator().manual_seed(0)
    shape = tuple(example.shape[1:])
    with torch.no_grad(), full_precision(example.device), net.evaluating():
        for batch in (1, 3):
            x = torch.rand((batch, *shape), generator=generator).to(example)
            plain = check_same_function(net, x)
            if not bool(torch.isfinite(plain).all()):
                raise ModelError(
                    "the model's outputs are NaN or infinite on random images; its weights are "
                    "damaged or far too large"
                )
        check_rows_alone(net, x, plain)
        check_rows_alone(net, example[:_ALONE])
        for radius in (1e-6, 0.2):
            _check_containment(net, Box.around(x[:1], radius), generator)


@torch.no_grad()
def check_same_function(net: Net, x: Tensor, plain: Tensor | None = None) -> Tensor:
    """Return the module's logits (N, K), once the traced graph has the same for parts of the batch.

    They may differ by what :func:`~.precision.rounding_threshold` allows for. Inputs with logits
    that are not finite are not compared. Call it in eval mode.

    Raises:
        ModelError: The logits differ.
    """
    parts = x.split(min(_AT_ONCE, (len(x) + 1) // 2))
    with explained(f"a batch of {len(x)}"):
        plain = net.module(x) if plain is None else plain
        traced = torch.cat([net.bounded(net.input_box(Box(p, p)).lower) for p in parts])
    wrong = _differing(net, x, plain, traced)
    if wrong is not None:
        if wrong:
            check_rows_alone(net, x, plain, wrong[:1])
        raise ModelError(
            "the graph traced by auto_LiRPA does not compute the model's function; a layer is "
            "unsupported, depends on the batch size, or has changed since it was wrapped"
        )
    return plain


@torch.no_grad()
def check_rows_alone(
    net: Net, x: Tensor, plain: Tensor | None = None, rows: Sequence[int] | None = None
) -> None:
    """Compare the module's logits of a batch with those of its rows alone, in eval mode.

    ``plain`` has the logits (N, K), if they are known; ``rows`` the rows to compare, None for all.

    Raises:
        ModelError: The logits differ by more than rounding.
    """
    rows = range(len(x)) if rows is None else rows
    with explained(f"a batch of {len(x)}"):
        plain = net.module(x) if plain is None else plain
        alone = torch.cat([net.module(x[i : i + 1]) for i in rows])
    rows = list(rows)
    if _differing(net, x[rows], plain[rows], alone) is not None:
        raise ModelError(_why_apart(net, x))


def _why_apart(net: Net, x: Tensor) -> str:
    """Say why logits of a batch are not those of its rows alone."""
    given = x.clone()
    first = net.module(given)
    if not torch.equal(given, x):
        return (
            "the model changes its input in place (such as by x.mul_(2)): let forward compute a "
            "new tensor"
        )
    if _differing(net, x, first, net.module(x)) is not None:
        return (
            "the model's logits of the same images change from call to call, even in eval mode: "
            "let forward draw no random numbers (F.dropout wants training=self.training) and keep "
            "no state"
        )
    return (
        "the model's logits of an image depend on the other images of its batch, even in eval "
        "mode; certificates are of single images: let forward use no statistics of the batch "
        "(such as x.mean(0))"
    )


def _differing(net: Net, x: Tensor, plain: Tensor, other: Tensor) -> list[int] | None:
    """The rows of x with finite logits that differ by more than rounding; None for no row.

    What cancels within the network rounds too, and is looked up where logits alone do not
    explain a difference.
    """
    if other.shape != plain.shape or plain.shape[:1] != (len(x),):
        return []
    finite = plain.flatten(1).isfinite().all(1)
    coarse = max(1.0, torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps)
    off = (other - plain).abs().flatten(1).amax(1) / coarse
    rows = (finite & ~(off <= rounding_threshold(plain))).nonzero().squeeze(1)
    if len(rows) and bool(off[rows].isfinite().all()):
        hidden = net.bound_unchecked(Box(x[rows], x[rows])).magnitudes
        rows = rows[~(off[rows] <= rounding_threshold(plain[rows], hidden))]
    return rows.tolist() or None


def _check_containment(net: Net, box: Box, generator: torch.Generator) -> None:
    """Compare sampled margins with the bounds of the methods that may prove something here."""
    share = torch.rand((16, *box.lower.shape[1:]), generator=generator).to(box.lower)
    points = torch.lerp(box.lower, box.upper, share)
    logits = net.module(points)
    y = logits[:1].argmax(1)
    sampled = (specification(y, net.classes, logits.dtype)[0] @ logits.T).T
    slack = 1e-4 * (1 + float(logits.abs().max()))
    for method in ("ibp", "crown-ibp"):
        if net.doubt_of(method) is not None:
            continue
        try:
            bound = net.bound_unchecked(box, y, method).margins
        except ModelError:
            if method == "ibp":
                raise
            continue  # not every graph supports it; asking for it later says why
        if not bool(bound.isfinite().all()):
            net.warn_once(OVERFLOW)
        above = (bound - sampled).nan_to_num(-torch.inf)  # what is no number proves nothing
        if bool((above > slack).any()):
            point = points[int(above.amax(1).argmax())].unsqueeze(0)
            raise ModelError(
                f"{method} bounds do not contain this model's outputs (off by "
                f"{float(above.max()):.2g}), because of {culprit(net, box, point, y, method)}: "
                "replace the layer"
            )
