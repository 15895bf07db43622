"""The dual engine: dual bounds of one network for one ball, in float32 and near zero float64."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch
from torch import Tensor

from ...attacks import ascend
from ...bounds.box import Ball, Box
from ...bounds.box import Bounds as NetBounds
from ...bounds.deadline import time_is_over
from ...bounds.frozen import gradient_of
from ...bounds.margins import logit_margins, specification
from ...bounds.net import BoundedNet
from ...bounds.precision import rounding_threshold
from ...bounds.segments import Segment
from ...errors import ModelError
from .ascent import Ascent, ascend_dual
from .dual import DualBound
from .intermediate import rounded, tighten, widened
from .linear import Lines
from .relaxation import Bounds, Images, Relaxation

#: Steps of α-CROWN, and the first one's size.
ALPHA_STEPS, ALPHA_RATE = 20, 0.25
#: Bytes that one batch of rows may need at a time.
_BUDGET = {"cpu": 1 << 28, "cuda": 1 << 32}
_MOST_ROWS = {"cpu": 128, "cuda": 4096}
#: Bounds this many thresholds above zero need no second look; those as far below have no hope.
NEAR = 10.0
#: An attack pushes no input further beyond its decision boundary than this, in logits.
_OVERSHOOT = 0.01
#: What float64 rounding can make of a bound, in thresholds of float32.
IN_FLOAT64 = 1e-5


class DualEngine:
    """Dual bounds of a network for the perturbations of a ball.

    The network must be in eval mode while the engine is used. ``rows_at_once`` is how many
    margins are bounded together.

    Args:
        net: The network.
        ball: The perturbations.

    Raises:
        ModelError: The network is not made of affine layers and ReLU.
    """

    #: Beyond how many thresholds a bound in float64 proves.
    in_float64 = IN_FLOAT64

    def __init__(self, net: BoundedNet, ball: Ball):
        self.net, self.ball = net, ball
        self.segments = net.affine_segments()
        if len(self.segments) == 1:
            raise ModelError("branch and bound takes networks with ReLU; this one is affine")
        device = net.parameters()[0].device.type
        neurons = sum(math.prod(segment.shape) for segment in self.segments)
        fitting = _BUDGET.get(device, _BUDGET["cpu"]) // (64 * neurons)
        self.rows_at_once = max(4, min(_MOST_ROWS.get(device, 128), fitting))

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
        box = self.ball.box(x)
        found = self.net.bound_unchecked(box, y)
        images = self.images(x, y, specification(y, self.net.classes, x.dtype), found)
        # what is not far above zero gets a second look by the later stages
        sure = found.margins > NEAR * images.threshold.unsqueeze(1)
        return images, found.margins, sure & images.usable.unsqueeze(1)

    def images(self, x: Tensor, y: Tensor, c: Tensor, found: NetBounds) -> Images:
        """Return images with IBP's bounds of ReLU inputs.

        Args:
            x: (n, ...) pixels.
            y: (n,) labels.
            c: (n, R, K) coefficients of the margins.
            found: The bounds of the network on their boxes.
        """
        bounds = [widened(*b) for b in found.preactivation_boxes]
        threshold = self._threshold(x, bounds)
        if threshold is None:
            threshold = rounding_threshold(self.net(x), found.magnitudes)
        return Images(x, y, c, threshold, bounds, Relaxation.of(bounds), False)

    @torch.no_grad()
    def tightened(self, images: Images) -> Images:
        """Return the same images with CROWN's bounds of ReLU inputs."""
        bounds = tighten(self.segments, images.x, self.ball, images.bounds, rows=self.rows_at_once)
        return self._with_bounds(images, bounds)

    @torch.no_grad()
    def refined(self, images: Images) -> Images:
        """Return the same images with CROWN's bounds of ReLU inputs in float64, if it can be had.

        A bound near zero that float64 proves positive rests on bounds of ReLU inputs that hold
        in float64 themselves; those of :meth:`tightened` hold up to the rounding of float32.
        """
        if self.twin is None:
            return self.tightened(images)
        box = self.ball.box(images.x.double())
        bounds = tighten(
            self.segments,
            images.x,
            self.ball,
            [widened(*b) for b in self.twin.bound_unchecked(box).preactivation_boxes],
            rows=self.rows_at_once,
            exact=self.exact_segments,
        )
        return replace(self._with_bounds(images, rounded(bounds, images.x.dtype)), exact=True)

    def _with_bounds(self, images: Images, bounds: Bounds) -> Images:
        """Return the same images with other bounds, and the threshold that these give."""
        threshold = self._threshold(images.x, bounds)
        threshold = images.threshold if threshold is None else threshold
        relaxation = Relaxation.of(bounds)
        return replace(images, bounds=bounds, relaxation=relaxation, threshold=threshold)

    def _threshold(self, x: Tensor, bounds: Bounds) -> Tensor | None:
        """Return the thresholds (n,) of images with inputs of ReLUs within ``bounds``.

        None where auto_LiRPA bounds the network: then the terms of its layers are not known.
        """
        terms = self.net.largest_terms(self.ball.box(x), [Box(*ends) for ends in bounds])
        return None if terms is None else rounding_threshold(self.net(x), [terms])

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
        for part in _parts(image, self.rows_at_once):
            i, r = image[part].unsqueeze(1), row[part].unsqueeze(1)
            dual = self.dual(images, i, r)
            found = ascend_dual(dual, iterations, rate=ALPHA_RATE)
            lower[image[part], row[part]] = found.value
            proved[image[part], row[part]] = self.proved(dual, found, images, i)
            if time_is_over():
                break
        return lower, proved

    @torch.no_grad()
    def proved(self, dual: DualBound, found: Ascent, images: Images, members: Tensor) -> Tensor:
        """Return which bounds (D,) are positive beyond rounding.

        Bounds far from zero are taken as float32 has them. Those near zero are computed again
        in float64, where the bounds of ReLU inputs hold in float64, and elsewhere prove nothing.
        """
        threshold = images.threshold[members].amax(1)
        sure = found.value > NEAR * threshold
        near = (found.value > -threshold) & ~sure
        if images.exact and bool(near.any()):
            which = near.nonzero().flatten()
            s = dual.members
            flat = (which.unsqueeze(1) * s + torch.arange(s, device=which.device)).flatten()
            again = dual.rows(flat, self.exact_segments, torch.float64)
            value = again(
                found.parameter[flat].double(), found.logits[which].double().softmax(1)
            ).value
            sure[which] = value > self.in_float64 * threshold[which]
        return sure

    def attacked(self, images: Images, members: Tensor, u: Tensor, steps: int) -> Tensor:
        """Return u (D, ...) after some steps of joint ascent from it, |u| <= ε.

        Args:
            images: The images.
            members: (D, s) the images to break together.
            u: (D, ...) where each ascent begins.
            steps: How many.
        """
        x, y = images.x[members], images.y[members].flatten()

        def objective(u: Tensor) -> Tensor:
            logits = self.net(self.ball.cut(x + u.unsqueeze(1)).flatten(0, 1))
            margins = logit_margins(logits, y).min(dim=1).values
            return -margins.clamp(min=-_OVERSHOOT).sum()

        return ascend(gradient_of(objective), self.ball.project, u, self.ball.eps / 4, steps)

    @torch.no_grad()
    def broken(self, images: Images, members: Tensor, u: Tensor) -> Tensor:
        """Return whether each of ``members`` (D, s) is misclassified under its u (D, ...)."""
        moved = self.ball.cut(images.x[members] + u.unsqueeze(1))
        logits = self.net(moved.flatten(0, 1))
        return (logits.argmax(1) != images.y[members].flatten()).view(members.shape)

    @torch.no_grad()
    def lines(self, images: Images, open_rows: Tensor, iterations: int = ALPHA_STEPS) -> Lines:
        """Return linear bounds of margins: CROWN's, and α-CROWN's beside them.

        Margins that are not reached in time (:mod:`...bounds.deadline`) have none.

        Args:
            images: The images.
            open_rows: (n, K-1) which margins to bound.
            iterations: Steps of α-CROWN; 0 for CROWN's alone.
        """
        image, row = open_rows.nonzero(as_tuple=True)
        g, c, which = [], [], []
        for part in _parts(image, self.rows_at_once):
            dual = self.dual(images, image[part].unsqueeze(1), row[part].unsqueeze(1))
            judge = dual
            if images.exact:
                every = torch.arange(len(part), device=part.device)
                judge = dual.rows(every, self.exact_segments, torch.float64)
            parameters = [dual.start()]
            if iterations:
                parameters.append(ascend_dual(dual, iterations, rate=ALPHA_RATE).parameter)
            for parameter in parameters:
                slope, bias = judge.planes(parameter.to(judge.x.dtype))
                g.append(slope.double())
                c.append((bias + (slope * judge.x).flatten(1).sum(1)).double())
                which.append(part)
            if time_is_over():
                break
        x = images.x.double().cpu()
        order = torch.cat([image[:0], *which])
        return Lines(
            image[order].cpu(),
            row[order].cpu(),
            torch.cat([x[:0], *(part.cpu() for part in g)]),
            torch.cat([x.new_zeros(0), *(part.cpu() for part in c)]),
            x,
            self.ball,
            (IN_FLOAT64 if images.exact else NEAR) * images.threshold.double().cpu(),
        )

    def as_dual(self) -> DualEngine:
        """Return the engine itself, which branch and bound and the group stages work with."""
        return self

    @functools.cached_property
    def twin(self) -> BoundedNet | None:
        """The network in float64, made when first needed; None where it cannot be had."""
        return in_float64(self.net)

    @functools.cached_property
    def exact_segments(self) -> list[Segment]:
        """The segments of ``twin``."""
        if self.twin is None:
            raise ModelError("this network cannot be had in float64")
        return self.twin.affine_segments()


def in_float64(net: BoundedNet) -> BoundedNet | None:
    """Return the network in double precision and eval mode; None where it cannot be had."""
    try:
        twin = net.in_float64()
    except ModelError:  # a forward pass may make float32 of its own
        return None
    return None if twin is None else twin.eval()


def _parts(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Return numbers of ``rows``, at most ``size`` together; none for no rows."""
    return torch.arange(len(rows), device=rows.device).split(size) if len(rows) else ()
