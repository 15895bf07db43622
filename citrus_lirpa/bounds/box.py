"""Boxes in pixel space: by their ends, and by centre and radius. Pure tensor code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, require
from .checks import Range, Scalar, check_fits, check_radius, check_range, check_tensor, fits
from .norms import check_norm, unit_vectors, within_ball
from .radius import as_type

#: The valid range of pixels.
PIXELS: Range = (0.0, 1.0)


class Box(NamedTuple):
    """Axis-aligned boxes of inputs: all x with lower <= x <= upper, elementwise.

    Attributes:
        lower: Lower ends (N, ...).
        upper: Upper ends (N, ...).
    """

    lower: Tensor
    upper: Tensor

    @staticmethod
    def around(
        centre: Tensor, radius: Scalar, clip: Range | None = PIXELS, norm: float = math.inf
    ) -> Box:
        """Make the box of ``radius`` around each centre, cut to the valid range.

        Both ends are clamped from both sides, so lower <= upper always holds: a centre further
        than ``radius`` outside the range gives the single nearest point of the range, never an
        inverted box.

        Args:
            centre: Centres (N, ...).
            radius: Radius in pixels, a number or a tensor that broadcasts to the centres.
            clip: Valid range; None for no limits.
            norm: 2 for ℓ2 balls of that radius: a :class:`RoundBox`.

        Raises:
            InputError: A value cannot be used.
        """
        check_tensor(centre, "a box's centre")
        radius = check_radius(radius)
        check_fits(radius, centre, "radius")
        if not isinstance(clip, Box):  # the ends of a box are in order already
            check_range(clip)
        check_fits(clip, centre, "clip")
        return Ball(radius, clip, check_norm(norm, radius)).box(centre)

    @property
    def centre(self) -> Tensor:
        """The middle of each box."""
        return (self.lower + self.upper) / 2

    @property
    def middle(self) -> Tensor:
        """The point that each box is drawn around."""
        return self.centre

    @property
    def radius(self) -> Tensor:
        """Half the width, elementwise."""
        return (self.upper - self.lower) / 2

    def __len__(self) -> int:
        return len(self.lower)

    def __repr__(self) -> str:
        shapes = {tuple(end.shape) for end in self}
        if len(shapes) > 1 or not self.lower.numel():
            return f"Box(lower {tuple(self.lower.shape)}, upper {tuple(self.upper.shape)})"
        radius = self.radius.detach()
        low, high = f"{float(radius.min()):.4g}", f"{float(radius.max()):.4g}"
        return f"Box({shapes.pop()}, radius {high if low == high else f'{low} to {high}'})"

    def rows(self, index: Tensor | slice) -> Box:
        """Return the boxes at ``index`` of the batch dimension."""
        return Box(self.lower[index], self.upper[index])


class RoundBox(Box):
    """The boxes around parts of ellipsoids, all z in them with ‖(z - middle) / axes‖₂ <= 1.

    What takes it for a Box bounds the whole box, which is sound and wider.

    Attributes:
        round: ``middle`` (N, ...) as its centre, and ``axes`` (1, ...) as its radius.
    """

    round: Interval

    def __new__(cls, lower: Tensor, upper: Tensor, round: Interval) -> RoundBox:
        """Make the boxes."""
        made = super().__new__(cls, lower, upper)
        made.round = round
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return *self, self.round

    @property
    def middle(self) -> Tensor:
        """The middle of each ellipsoid."""
        return self.round.centre

    def rows(self, index: Tensor | slice) -> RoundBox:
        """Return the boxes at ``index`` of the batch dimension."""
        round = Interval(self.round.centre[index], self.round.radius)
        return RoundBox(self.lower[index], self.upper[index], round)


class Interval(NamedTuple):
    """The same kind of boxes by their middle: all z with |z - centre| <= radius, elementwise.

    Attributes:
        centre: Middles (N, ...).
        radius: Half the widths (N, ...).
    """

    centre: Tensor
    radius: Tensor

    @staticmethod
    def of(box: Box) -> Interval:
        """Return the centre and radius of a box."""
        centre = torch.lerp(box.lower, box.upper, 0.5)
        return Interval(centre, box.radius)

    def box(self) -> Box:
        """Return the ends."""
        return Box(self.centre - self.radius, self.centre + self.radius)


@dataclass(frozen=True)
class Bounds:
    """What one pass through a network found over N boxes.

    Attributes:
        box: The boxes, in pixels.
        margins: (N, K-1) lower bounds of logit_y - logit_c, c != y ascending; None where no
            labels were given.
        inputs: The boxes behind the normalisation.
        relu_inputs: Bounds of the input of every ReLU, in network order, in the form in which
            they were found.
        measure: Computes ``magnitudes``.
    """

    box: Box
    margins: Any  # typed so: callers know whether they gave labels
    inputs: Interval
    relu_inputs: Sequence[Box | Interval] = field(repr=False)
    measure: Callable[[], list[Tensor]] = field(repr=False)

    @cached_property
    def preactivations(self) -> list[Interval]:
        """Bounds of the input of every ReLU, in network order, as centre and radius."""
        return [Interval.of(b) if isinstance(b, Box) else b for b in self.relu_inputs]

    @cached_property
    def preactivation_boxes(self) -> list[Box]:
        """The same bounds by their ends."""
        return [b if isinstance(b, Box) else b.box() for b in self.relu_inputs]

    @cached_property
    def magnitudes(self) -> list[Tensor]:
        """Tensors (N, ...) of sizes within the network that rounding is in proportion to."""
        return self.measure()


@dataclass(frozen=True)
class Ball:
    """The threat model: an input x may become x + u with ‖u‖ <= ε, cut to ``clip``.

    Its methods check nothing; :meth:`Box.around` does.

    Args:
        eps: ε in pixels, a number or a tensor that broadcasts to the inputs.
        clip: Valid range that x + u is cut to; None for no cut.
        norm: That u is measured in, inf or 2; for 2 ε is one number.
    """

    eps: Scalar
    clip: Range | None = None
    norm: float = math.inf

    def radius(self, x: Tensor) -> Scalar:
        """Return ε in the type and on the device of inputs."""
        return as_type(self.eps, x)

    def box(self, x: Tensor) -> Box:
        """Return the boxes of all perturbed inputs, one for each of ``x`` (N, ...)."""
        eps = self.radius(x)
        ends = clamp(x - eps, self.clip), clamp(x + eps, self.clip)
        if self.norm == math.inf:
            return Box(*ends)
        # cutting moves no two points apart: cut(x + u) is within ε of cut(x)
        return RoundBox(*ends, Interval(self.cut(x), torch.full_like(x[:1], 1.0) * eps))

    def project(self, u: Tensor) -> Tensor:
        """Return ``u`` (N, ...) cut to ‖u‖ <= ε."""
        if self.norm == 2:
            return within_ball(u, self.eps)
        return clamp(u, (-self.eps, self.eps))

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the steepest steps (N, ...) of length 1 in this norm."""
        return unit_vectors(gradient) if self.norm == 2 else gradient.sign()

    def cut(self, x: Tensor) -> Tensor:
        """Return perturbed inputs ``x`` cut to the valid range."""
        return clamp(x, self.clip)


def clamp(x: Tensor, limits: Range | None) -> Tensor:
    """Return ``x`` cut to ``limits``, numbers or tensors that broadcast; unchanged for None."""
    if limits is None:
        return x
    low, high = limits
    if not (isinstance(low, Tensor) or isinstance(high, Tensor)):
        return x.clamp(low, high)
    lower, upper = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in limits)
    return torch.minimum(torch.maximum(x, lower), upper)


def same_range(a: Range | None, b: Range | None) -> bool:
    """Return whether both are None, or of equal ends as they broadcast to each other."""
    if a is None or b is None:
        return a is b
    ends = [[torch.as_tensor(v, dtype=torch.float64).cpu() for v in pair] for pair in (a, b)]
    return all(
        (fits(p, q) or fits(q, p)) and bool((p == q).all()) for p, q in zip(*ends, strict=True)
    )


def check_box(box: Box, shape: tuple[int, ...], like: Tensor | None) -> None:
    """Raise InputError unless ``box`` holds boxes of a network's inputs.

    Inputs have this ``shape``, and the type and device of ``like``, if there is one.
    """
    kind = type(box).__name__
    require(isinstance(box, Box), f"the box is a {kind}; expected a Box, as Box.around's")
    for end in box:
        check_tensor(end, "a box's end")
    if box.lower.shape != box.upper.shape or tuple(box.lower.shape[1:]) != shape:
        raise InputError(
            f"a box has lower of shape {tuple(box.lower.shape)} and upper of shape "
            f"{tuple(box.upper.shape)}; expected (N, {', '.join(map(str, shape))}) for both"
        )
    for end in box:
        if like is not None and (end.dtype, end.device) != (like.dtype, like.device):
            raise InputError(
                f"a box is {end.dtype} on {end.device}, but the network is {like.dtype} on "
                f"{like.device}; bring both to one type and device"
            )
    ordered = bool((box.lower <= box.upper).all())
    require(ordered, "a box has lower > upper or NaN; build boxes with Box.around")
