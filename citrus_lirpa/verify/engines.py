"""What bounds margins: the dual engine where a network allows it, auto_LiRPA elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from ..bounds.box import Ball
from ..bounds.net import BoundedNet
from ..bounds.precision import IN_FLOAT64, rounding_threshold
from ..errors import ModelError
from .crown.engine import DualEngine
from .crown.proofs import Proofs


class Engine(Protocol):
    """Lower bounds of the margins of images, for the perturbations of one ball.

    ``ibp`` returns what the engine knows of images: an immutable value with ``rows``, ``cat``
    and ``usable``, which the other methods take. With bounds comes a mask of those that are
    proved positive, rounding taken into account.
    At most ``rows_at_once`` margins are bounded together, however many are asked for.
    """

    rows_at_once: int

    @property
    def alpha_steps(self) -> int:
        """Steps of α-CROWN."""

    def ibp(self, x: Tensor, y: Tensor) -> tuple[Any, Tensor, Tensor]:
        """Return what is known of images (n, ...), their IBP bounds, and which are proved."""

    def tightened(self, images: Any) -> Any:
        """Return the images with CROWN's bounds of ReLU inputs in place of IBP's."""

    def margins(self, images: Any, open_rows: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """Return bounds (n, K-1), α-CROWN's if ``iterations`` > 0, else CROWN's; and the proved."""

    def as_dual(self) -> DualEngine:
        """Return the dual engine; ModelError where the network has none."""


@dataclass(frozen=True)
class _Images:
    """n images, their logits, their rounding thresholds (n,), and which bounds they have."""

    x: Tensor
    y: Tensor
    logits: Tensor
    threshold: Tensor
    method: str

    @property
    def usable(self) -> Tensor:
        """Whether the stages after IBP can do something with an image; (n,)."""
        return torch.ones_like(self.y, dtype=torch.bool)

    def rows(self, which: Tensor) -> _Images:
        """Return some of the images."""
        x, y, logits, threshold = (part[which] for part in self._tensors)
        return _Images(x, y, logits, threshold, self.method)

    @staticmethod
    def cat(parts: Sequence[_Images]) -> _Images:
        """Return the images of all parts, in order."""
        x, y, logits, threshold = (
            torch.cat(part) for part in zip(*(p._tensors for p in parts), strict=True)
        )
        return _Images(x, y, logits, threshold, parts[0].method)

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.x, self.y, self.logits, self.threshold


class LirpaEngine:
    """The bounds of auto_LiRPA, for graphs of any layers that it knows.

    Args:
        net: The network.
        ball: The perturbations.
        why: Why the network has no dual engine.
    """

    rows_at_once = 1  # it bounds all that it is asked for
    alpha_steps = 20  # by the options of its graphs

    def __init__(self, net: BoundedNet, ball: Ball, why: str):
        self.net, self.ball, self.why = net, ball, why

    @torch.no_grad()
    def ibp(self, x: Tensor, y: Tensor) -> tuple[_Images, Tensor, Tensor]:
        """Return the images, their IBP bounds, and which are proved positive."""
        logits = self.net(x)
        images = _Images(x, y, logits, rounding_threshold(logits), "ibp")
        lower, proved, threshold = self._bound(images, "ibp")
        return replace(images, threshold=threshold, method="crown-ibp"), lower, proved

    def tightened(self, images: _Images) -> _Images:
        """Return the images, to be bounded by CROWN from now on."""
        return replace(images, method="crown")

    @torch.no_grad()
    def margins(self, images: _Images, open_rows: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """Return bounds of all margins by CROWN or α-CROWN, and which are proved positive."""
        with self.net.in_time():
            lower, proved, _ = self._bound(images, "alpha-crown" if iterations else images.method)
        return lower, proved

    def as_dual(self) -> NoReturn:
        """Raise ModelError: the network has no dual engine."""
        raise ModelError(self.why)

    def _bound(self, images: _Images, method: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return bounds (n, K-1), which of them are proved, and the thresholds (n,) for that.

        Bounds that are positive, but not beyond the rounding of float32, are computed again in
        float64.

        Raises:
            ModelError: The method's bounds of a layer are not known to be sound.
        """
        self.net.check_sound(method)
        found = self.net.bound_unchecked(self.ball.box(images.x), images.y, method)
        lower, hidden = found.margins, rounding_threshold(images.logits, found.magnitudes)
        threshold = torch.maximum(images.threshold, hidden)
        proved = lower > threshold.unsqueeze(1)
        near = ((lower > 0) & ~proved).any(1)
        if bool(near.any()) and self.twin is not None:
            box = self.ball.box(images.x[near].double())
            exact = self.twin.bound_unchecked(box, images.y[near], method).margins
            proved[near] |= exact > IN_FLOAT64 * threshold[near].unsqueeze(1)
        return lower, proved, threshold

    @functools.cached_property
    def twin(self) -> BoundedNet | None:
        """The network in float64, made when first needed; None where it cannot be had."""
        return in_float64(self.net)


def find_engine(
    net: BoundedNet, ball: Ball, proofs: Proofs | None = None, arithmetic: str = "real"
) -> Engine:
    """Return the dual engine where a network in eval mode has one, else auto_LiRPA's bounds.

    ``proofs`` receives what the dual engine proves, of a network in some ``arithmetic``.

    Raises:
        ModelError: The network has no dual engine, and the ball is of norm 2 or the arithmetic
            float32.
    """
    _load_autograd()
    try:
        return DualEngine(net, ball, proofs, arithmetic)
    except ModelError as error:
        if arithmetic != "real":
            raise ModelError(f"{error}; use arithmetic real") from error
        if ball.norm == 2:
            raise ModelError(f"norm 2 is not for the bounds of auto_LiRPA: {error}") from error
        return LirpaEngine(net, ball, str(error))


def in_float64(net: BoundedNet) -> BoundedNet | None:
    """Return the network in double precision and eval mode; None where it cannot be had."""
    try:
        twin = net.in_float64()
    except ModelError:  # a forward pass may make float32 of its own
        return None
    return None if twin is None else twin.eval()


@functools.cache
def _load_autograd() -> None:
    """Let torch load what its first weighted gradient needs: seconds that no stage is to lose."""
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros(1, requires_grad=True)
        torch.autograd.grad(x + 0, x, torch.zeros(1))
