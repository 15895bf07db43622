"""The dual engine: dual bounds of one network for one ball, in float32 and near zero float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...bounds.box import Ball, Box
from ...bounds.deadline import time_is_over
from ...bounds.margins import specification
from ...bounds.net import BoundedNet
from ...bounds.precision import rounding_threshold
from ...bounds.segments import Segment
from ...checker import CROWN, SLOPES
from ...errors import ModelError
from .ascent import Ascent, ascend_dual
from .dual import DualBound
from .intermediate import rounded, tighten
from .joint_attack import JointAttack
from .linear import Lines
from .portions import few_rows, portions, rows_at_once
from .proofs import Proofs
from .relaxation import Bounds, Images, Relaxation
from .rounding import Sizes, downward, interval_margins, intervals

#: Steps of α-CROWN for margins, and the first one's size.
ALPHA_STEPS, ALPHA_RATE = 20, 0.25
#: The same where there are curves, whose lines turn slowly.
CURVE_ALPHA_STEPS, CURVE_ALPHA_RATE = 40, 0.1
#: Steps for each bound of an input: where there are curves, and where ReLUs are pieces of other
#: layers.
CURVE_STEPS, PIECE_STEPS = 20, 5


class DualEngine:
    """Dual bounds of a network for the perturbations of a ball.

    The network must be in eval mode while the engine is used. ``rows_at_once`` is how many
    margins are bounded together, at least.

    Args:
        net: The network.
        ball: The perturbations.
        proofs: Receives what is proved; None to keep no proofs.
        arithmetic: That the network is computed in: real, or float32 for a device.

    Raises:
        ModelError: The network is not made of piecewise linear layers and curves, or has curves
            where its arithmetic is float32.

    Attributes:
        curves: What follows each segment; None for ReLU.
        attack: Attacks on the network by the same perturbations.
    """

    #: How many thresholds a bound must exceed to prove, beside the rounding that it is charged.
    least = 0.0

    def __init__(
        self, net: BoundedNet, ball: Ball, proofs: Proofs | None = None, arithmetic: str = "real"
    ):
        self.net, self.ball, self.proofs = net, ball, proofs
        self.segments = net.affine_segments()
        self.curves = [segment.curve for segment in self.segments]
        if arithmetic == "float32":
            _check_piecewise_linear(self.segments)
            self.segments = [segment.on_device() for segment in self.segments]
        if len(self.segments) == 1:
            raise ModelError("branch and bound takes networks with ReLU; this one is affine")
        self._neurons = sum(math.prod(segment.shape) for segment in self.segments)
        self.rows_at_once = rows_at_once(net.parameters()[0].device, self._neurons)
        self.attack = JointAttack(net, ball)

    @property
    def splits(self) -> bool:
        """Whether branch and bound splits neurons: those of networks without curves."""
        return not any(self.curves)

    @property
    def alpha_steps(self) -> int:
        """Steps of α-CROWN for margins."""
        return ALPHA_STEPS if self.splits else CURVE_ALPHA_STEPS

    @property
    def alpha_rate(self) -> float:
        """Size of the first of these steps."""
        return ALPHA_RATE if self.splits else CURVE_ALPHA_RATE

    @property
    def input_steps(self) -> int:
        """Steps of α-CROWN for inputs of curves, and of ReLUs that LeakyReLU or a maximum becomes.

        None for networks of plain ReLU, and none where proofs are kept: they have one line below
        and one above each neuron for all bounds of inputs behind it.
        """
        if self.proofs is not None:
            return 0
        if not self.splits:
            return CURVE_STEPS
        return PIECE_STEPS if any(segment.knots for segment in self.segments) else 0

    # -- images -------------------------------------------------------------------

    @torch.no_grad()
    def ibp(self, x: Tensor, y: Tensor) -> tuple[Images, Tensor, Tensor]:
        """Bound images by IBP.

        Args:
            x: (n, ...) pixels.
            y: (n,) labels.

        Returns:
            The images with IBP's bounds of ReLU inputs, lower bounds of their margins (n, K-1),
            and which of these are proved positive.
        """
        images, boxes = self._by_intervals(x, y, specification(y, self.net.classes, x.dtype))
        margins = interval_margins(self.exact_segments[-1], boxes, y)
        sure = (margins > 0) & images.usable.unsqueeze(1)
        if self.proofs is not None:
            self.proofs.begin(images, sure)
        return images, downward(margins, x.dtype), sure

    @torch.no_grad()
    def images(self, x: Tensor, y: Tensor, c: Tensor) -> Images:
        """Return images with IBP's bounds of ReLU inputs.

        Args:
            x: (n, ...) pixels.
            y: (n,) labels.
            c: (n, R, K) coefficients of the margins.
        """
        return self._by_intervals(x, y, c)[0]

    def _by_intervals(self, x: Tensor, y: Tensor, c: Tensor) -> tuple[Images, dict[int, Box]]:
        exact, boxes = intervals(self.exact_segments, x.double(), self.ball)
        bounds = rounded(exact, x.dtype)
        sizes = Sizes.all(self.segments, x, self.ball, bounds)
        relaxation = Relaxation.of(bounds, sizes, self.curves)
        return Images(x, y, c, self._threshold(x, sizes), bounds, relaxation, False), boxes

    @torch.no_grad()
    def tightened(self, images: Images, steps: int = 0) -> Images:
        """Return the same images with CROWN's bounds of ReLU inputs, or α-CROWN's after steps.

        The slopes of α-CROWN are found in the type of the inputs, its bounds computed in float64.
        """
        exact = self.exact_segments if steps else None
        return self._tightened(images, images.bounds, steps, exact)

    @torch.no_grad()
    def refined(self, images: Images) -> Images:
        """Return the same images with CROWN's bounds of ReLU inputs in float64.

        They are closer than those of :meth:`tightened`, which rounding in float32 moves outward.
        Where there are curves, which are not split, they are α-CROWN's.
        """
        begin = intervals(self.exact_segments, images.x.double(), self.ball)[0]
        if not self.splits or self.input_steps:
            begin = [
                (torch.maximum(low, by_low), torch.minimum(up, by_up))
                for (low, up), (by_low, by_up) in zip(begin, images.bounds, strict=True)
            ]
        steps = 0 if self.splits else self.input_steps
        return replace(self._tightened(images, begin, steps, self.exact_segments), exact=True)

    def _tightened(
        self, images: Images, begin: Bounds, steps: int, exact: list[Segment] | None = None
    ) -> Images:
        """Return the same images with better bounds than ``begin``; see :func:`tighten`."""
        bounds, relaxation = tighten(
            self.segments,
            images.x,
            self.ball,
            begin,
            rows=self._at_once(images, steps),
            exact=exact,
            steps=steps,
            both=self.proofs is not None,
        )
        threshold = self._threshold(images.x, relaxation.sizes)
        bounds = rounded(bounds, images.x.dtype)
        return replace(images, bounds=bounds, relaxation=relaxation, threshold=threshold)

    def _at_once(self, images: Images, iterations: int) -> int:
        """Return how many rows are bounded together: ``rows_at_once``, of a small network more."""
        few = few_rows(self._neurons + images.x[0].numel(), ascended=iterations > 0)
        return max(self.rows_at_once, few)

    def _threshold(self, x: Tensor, sizes: list[Tensor]) -> Tensor:
        """Return the thresholds (n,) of images whose segments add up to ``sizes``."""
        return rounding_threshold(self.net(x), sizes)

    # -- bounds -------------------------------------------------------------------

    def dual(
        self, images: Images, members: Tensor, rows: Tensor, *, signs: Tensor | None = None
    ) -> DualBound:
        """Return the dual function of D tuples of s images.

        Args:
            images: The images.
            members: (D, s) numbers of images.
            rows: (D, s) a margin of each.
            signs: (D·s, M) of the split neurons; None for no splits.
        """
        which = members.flatten()
        return DualBound(
            self.segments,
            images.relaxation.rows(which),
            images.x[which],
            images.c[which, rows.flatten()],
            self.ball,
            members=members.shape[1],
            signs=signs,
        )

    @torch.no_grad()
    def margins(self, images: Images, open_rows: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """Bound margins by CROWN, or by α-CROWN.

        Args:
            images: The images.
            open_rows: (n, K-1) which margins to bound.
            iterations: Steps of α-CROWN, 0 for CROWN.

        Returns:
            Lower bounds of the margins (n, K-1), -inf where they are not open or not reached in
            time, and which of them are proved positive.
        """
        lower = images.x.new_full(open_rows.shape, -torch.inf)
        proved = torch.zeros_like(open_rows)
        image, row = open_rows.nonzero(as_tuple=True)
        for part in portions(image, self._at_once(images, iterations)):
            i, r = image[part].unsqueeze(1), row[part].unsqueeze(1)
            dual = self.dual(images, i, r)
            found = ascend_dual(dual, iterations, rate=self.alpha_rate)
            lower[image[part], row[part]] = found.value
            sure = self.proved(dual, found, images, i)
            proved[image[part], row[part]] = sure
            if self.proofs is not None:
                kind, slopes = (SLOPES, found.parameter[sure]) if iterations else (CROWN, None)
                self.proofs.add(images, i[sure], r[sure], kind=kind, parameter=slopes)
            if time_is_over():
                break
        return lower, proved

    @torch.no_grad()
    def proved(self, dual: DualBound, found: Ascent, images: Images, members: Tensor) -> Tensor:
        """Return which bounds (D,) are positive.

        They are rounded down. Those that are near zero, and not positive in float32, are computed
        again in float64.
        """
        threshold = images.threshold[members].amax(1)
        sure = found.value > self.least * threshold
        near = (found.value + found.rounding > -threshold) & ~sure
        if dual.x.dtype != torch.float64 and bool(near.any()):
            which = near.nonzero().flatten()
            s = dual.members
            flat = (which.unsqueeze(1) * s + torch.arange(s, device=which.device)).flatten()
            again = dual.rows(flat, self.exact_segments, torch.float64)
            weights = found.logits[which].double().softmax(1)
            value = again(found.parameter[flat].double(), weights).value
            sure[which] = value > self.least * threshold[which]
        return sure

    @torch.no_grad()
    def lines(self, images: Images, open_rows: Tensor, iterations: int) -> Lines:
        """Return linear bounds of margins: CROWN's, and α-CROWN's beside them.

        Margins that are not reached in time (:mod:`...bounds.deadline`) have none.

        Args:
            images: The images.
            open_rows: (n, K-1) which margins to bound.
            iterations: Steps of α-CROWN; 0 for CROWN's alone.
        """
        image, row = open_rows.nonzero(as_tuple=True)
        g, c, which, slopes = [], [], [], []
        for part in portions(image, self._at_once(images, iterations)):
            dual = self.dual(images, image[part].unsqueeze(1), row[part].unsqueeze(1))
            judge = dual.in_float64(self.exact_segments) if images.exact else dual
            parameters = [dual.start()]
            if iterations:
                parameters.append(ascend_dual(dual, iterations, rate=self.alpha_rate).parameter)
            for parameter in parameters:
                slope, bias = judge.planes(parameter.to(judge.x.dtype))
                g.append(slope.double())
                c.append(bias + (slope.double() * judge.x.double()).flatten(1).sum(1))
                which.append(part)
                slopes.append(parameter)
            if time_is_over():
                break
        x = images.x.double().cpu()
        order = torch.cat([image[:0], *which])
        return Lines.build(
            image[order].cpu(),
            row[order].cpu(),
            torch.cat([x[:0], *(part.cpu() for part in g)]),
            torch.cat([x.new_zeros(0), *(part.cpu() for part in c)]),
            x,
            self.ball,
            torch.cat([images.relaxation.lower[:0], *slopes]),
        )

    def as_dual(self) -> DualEngine:
        """Return the engine itself, which branch and bound and the group stages work with."""
        return self

    @functools.cached_property
    def exact_segments(self) -> list[Segment]:
        """The segments in float64, made when first needed."""
        return [segment.double() for segment in self.segments]


def _check_piecewise_linear(segments: Sequence[Segment]) -> None:
    """Raise ModelError where the roundings of a network on a device are not known."""
    curved = next((segment for segment in segments if segment.curve is not None), None)
    if curved is not None:
        raise ModelError(
            f"devices round {curved.origin} in ways that no standard states; arithmetic float32 "
            "is for piecewise linear layers"
        )
