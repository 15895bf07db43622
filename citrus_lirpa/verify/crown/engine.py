"""What the dual bounds need of one network and one ε, in float32 and, near zero, float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...attacks import ascend
from ...bounds.box import Box, clamp
from ...bounds.checks import Range
from ...bounds.margins import logit_margins, specification
from ...bounds.net import BoundedNet
from ...bounds.precision import rounding_threshold
from ...bounds.segments import Piece
from ...errors import ModelError
from .ascent import Ascent, ascend_dual
from .dual import DualBound, Relaxation
from .intermediate import Bounds, in_float32, tighten, widened
from .linear import Lines

#: Steps of α-CROWN, and the first one's size.
ALPHA_STEPS, ALPHA_RATE = 20, 0.25
#: Bytes that one batch of rows may need at a time.
_BUDGET = {"cpu": 1 << 28, "cuda": 1 << 32}
_MOST_ROWS = {"cpu": 128, "cuda": 4096}
#: Bounds this many thresholds above zero need no second look; those as far below have no hope.
_NEAR = 10.0
#: Bounds beyond it are not used: their products could overflow float32.
_LARGEST = 1e15
#: An attack pushes no input further beyond its decision boundary than this, in logits.
_OVERSHOOT = 0.01
#: What float64 rounding can make of a bound, in thresholds of float32.
IN_FLOAT64 = 1e-5


@dataclass(frozen=True)
class Images:
    """n images to prove: x (n, ...), labels y (n,), margins' coefficients c (n, K-1, K),
    rounding threshold (n,), bounds of ReLU inputs and the relaxation they give; exact: whether
    these bounds hold in float64, so that a proof in float64 can rest on them."""

    x: Tensor
    y: Tensor
    c: Tensor
    threshold: Tensor
    bounds: Bounds
    relaxation: Relaxation
    exact: bool

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, which: Tensor) -> Images:
        bounds = [(lower[which], upper[which]) for lower, upper in self.bounds]
        return Images(
            self.x[which],
            self.y[which],
            self.c[which],
            self.threshold[which],
            bounds,
            Relaxation.of(bounds),
            self.exact,
        )

    @property
    def usable(self) -> Tensor:
        """(n,) whether all bounds are finite, and small enough for float32 arithmetic."""
        sizes = [
            torch.maximum(-lower, upper).flatten(1).amax(1) < _LARGEST
            for lower, upper in self.bounds
        ]
        return torch.stack(sizes).all(0)

    @staticmethod
    def cat(parts: Sequence[Images]) -> Images:
        bounds = [
            (torch.cat([b[0] for b in layer]), torch.cat([b[1] for b in layer]))
            for layer in zip(*(part.bounds for part in parts), strict=True)
        ]
        x, y, c, threshold = (
            torch.cat([getattr(p, name) for p in parts]) for name in ("x", "y", "c", "threshold")
        )
        exact = all(p.exact for p in parts)
        return Images(x, y, c, threshold, bounds, Relaxation.of(bounds), exact)


class Engine:
    """Dual bounds of ``net`` for perturbations |u| <= ε; raises ModelError where the network
    is not made of affine layers and ReLU. The network must be in eval mode while it is used."""

    def __init__(self, net: BoundedNet, eps: float, clip: Range | None):
        self.net, self.eps, self.clip = net, eps, clip
        self.pieces = net.affine_pieces()
        if len(self.pieces) == 1:
            raise ModelError("branch and bound takes networks with ReLU; this one is affine")
        device = net.parameters()[0].device.type
        neurons = sum(math.prod(piece.shape) for piece in self.pieces)
        fitting = _BUDGET.get(device, _BUDGET["cpu"]) // (64 * neurons)
        self.rows_at_once = max(4, min(_MOST_ROWS.get(device, 128), fitting))

    # -- images -------------------------------------------------------------------

    @torch.no_grad()
    def ibp(self, x: Tensor, y: Tensor) -> tuple[Images, Tensor]:
        """The images with IBP's bounds of ReLU inputs, and IBP's margins (n, K-1)."""
        box = Box.around(x, self.eps, self.clip)
        margins = self.net.margins(box, y, "ibp")
        bounds = [widened(*b) for b in self.net.preactivation_bounds(box)]
        c = specification(y, self.net.classes, x.dtype)
        threshold = self._threshold(x, bounds)
        if threshold is None:
            threshold = rounding_threshold(self.net(x), self.net.hidden_bounds())
        return Images(x, y, c, threshold, bounds, Relaxation.of(bounds), False), margins

    @torch.no_grad()
    def tightened(self, images: Images) -> Images:
        """The same images with CROWN's bounds of ReLU inputs."""
        bounds = tighten(
            self.pieces,
            images.x,
            self.eps,
            images.bounds,
            clip=self.clip,
            rows=self.rows_at_once,
        )
        return self._with_bounds(images, bounds)

    @torch.no_grad()
    def refined(self, images: Images) -> Images:
        """The same images with CROWN's bounds of ReLU inputs, in float64 where that can be had:
        proofs near zero need them."""
        if self.twin is None:
            return self.tightened(images)
        box = Box.around(images.x.double(), self.eps, self.clip)
        self.twin.margins(box, images.y, "ibp")
        bounds = in_float32(
            tighten(
                self.pieces,
                images.x,
                self.eps,
                [widened(*b) for b in self.twin.preactivation_bounds(box)],
                clip=self.clip,
                rows=self.rows_at_once,
                exact=self.exact_pieces,
            )
        )
        return replace(self._with_bounds(images, bounds), exact=True)

    def _with_bounds(self, images: Images, bounds: Bounds) -> Images:
        """The same images with other bounds of ReLU inputs, and the threshold that they give."""
        threshold = self._threshold(images.x, bounds)
        threshold = images.threshold if threshold is None else threshold
        relaxation = Relaxation.of(bounds)
        return replace(images, bounds=bounds, relaxation=relaxation, threshold=threshold)

    def _threshold(self, x: Tensor, bounds: Bounds) -> Tensor | None:
        """(n,) for inputs of ReLUs within ``bounds``; None where that cannot be told of them."""
        box = Box.around(x, self.eps, self.clip)
        terms = self.net.largest_terms(box, [Box(*ends) for ends in bounds])
        return None if terms is None else rounding_threshold(self.net(x), [terms])

    # -- bounds -------------------------------------------------------------------

    def dual(
        self, images: Images, members: Tensor, rows: Tensor, *, signs: Tensor | None = None
    ) -> DualBound:
        """The dual function of tuples ``members`` (D, s) with margins ``rows`` (D, s)."""
        which = members.flatten()
        return DualBound(
            self.pieces,
            images.relaxation.rows(which),
            images.x[which],
            images.c[which, rows.flatten()],
            self.eps,
            members=members.shape[1],
            signs=signs,
            clip=self.clip,
        )

    @torch.no_grad()
    def margins(self, images: Images, open_rows: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """(n, K-1) lower bounds of the margins in ``open_rows`` (n, K-1), -inf elsewhere, and
        which of them are proved positive."""
        lower = images.x.new_full(open_rows.shape, -torch.inf)
        proved = torch.zeros_like(open_rows)
        image, row = open_rows.nonzero(as_tuple=True)
        for part in _parts(image, self.rows_at_once):
            i, r = image[part].unsqueeze(1), row[part].unsqueeze(1)
            dual = self.dual(images, i, r)
            found = ascend_dual(dual, iterations, rate=ALPHA_RATE)
            lower[image[part], row[part]] = found.value
            proved[image[part], row[part]] = self.proved(dual, found, images, i)
        return lower, proved

    @torch.no_grad()
    def proved(self, dual: DualBound, found: Ascent, images: Images, members: Tensor) -> Tensor:
        """(D,) whether a bound is positive beyond rounding; in float64 where float32 is near 0
        and the bounds of ReLU inputs hold in float64."""
        threshold = images.threshold[members].amax(1)
        sure = found.value > _NEAR * threshold
        near = (found.value > -threshold) & ~sure
        if images.exact and bool(near.any()):
            which = near.nonzero().flatten()
            s = dual.members
            flat = (which.unsqueeze(1) * s + torch.arange(s, device=which.device)).flatten()
            again = dual.rows(flat, self.exact_pieces, torch.float64)
            value = again(
                found.parameter[flat].double(), found.logits[which].double().softmax(1)
            ).value
            sure[which] = value > IN_FLOAT64 * threshold[which]
        return sure

    def surely_positive(self, lower: Tensor, images: Images) -> Tensor:
        """(n, K-1) float32 margin bounds that need no second look in float64."""
        return lower > _NEAR * images.threshold.unsqueeze(1)

    def attacked(self, images: Images, members: Tensor, u: Tensor, steps: int) -> Tensor:
        """(D, ...): u after ``steps`` of joint ascent from it, |u| <= ε, against ``members``."""
        x, y = images.x[members], images.y[members].flatten()

        def objective(u: Tensor) -> Tensor:
            logits = self.net(clamp(x + u.unsqueeze(1), self.clip).flatten(0, 1))
            margins = logit_margins(logits, y).min(dim=1).values
            return -margins.clamp(min=-_OVERSHOOT).sum()

        return ascend(
            objective, lambda u: u.clamp(-self.eps, self.eps), u, self.eps / 4, steps
        ).detach()

    @torch.no_grad()
    def broken(self, images: Images, members: Tensor, u: Tensor) -> Tensor:
        """(D, s) whether each of ``members`` (D, s) is misclassified under its u (D, ...)."""
        moved = clamp(images.x[members] + u.unsqueeze(1), self.clip)
        logits = self.net(moved.flatten(0, 1))
        return (logits.argmax(1) != images.y[members].flatten()).view(members.shape)

    @torch.no_grad()
    def lines(self, images: Images, open_rows: Tensor) -> Lines:
        """Linear bounds of the margins in ``open_rows`` (n, K-1): CROWN's and α-CROWN's."""
        image, row = open_rows.nonzero(as_tuple=True)
        g, c = [], []
        for part in _parts(image, self.rows_at_once):
            dual = self.dual(images, image[part].unsqueeze(1), row[part].unsqueeze(1))
            every = torch.arange(len(part), device=part.device)
            judge = dual
            if images.exact:
                judge = dual.rows(every, self.exact_pieces, torch.float64)
            optimised = ascend_dual(dual, ALPHA_STEPS, rate=ALPHA_RATE).parameter
            for parameter in (dual.start(), optimised):
                slope, bias = judge.planes(parameter.to(judge.x.dtype))
                g.append(slope.double())
                c.append((bias + (slope * judge.x).flatten(1).sum(1)).double())
        like = images.x.new_zeros(0, *images.x.shape[1:], dtype=torch.float64)
        order = [part for part in torch.arange(len(image)).split(self.rows_at_once) for _ in "ab"]
        which = torch.cat(order) if order else torch.arange(0)
        return Lines(
            image.cpu()[which],
            row.cpu()[which],
            torch.cat(g).cpu() if g else like.cpu(),
            torch.cat(c).cpu() if c else like.new_zeros(0).cpu(),
            images.x.double().cpu(),
            self.eps,
            self.clip,
            (IN_FLOAT64 if images.exact else _NEAR) * images.threshold.double().cpu(),
        )

    @functools.cached_property
    def twin(self) -> BoundedNet | None:
        """The network in float64, made when first needed; None where it cannot be had."""
        twin = self.net.in_float64()
        return None if twin is None else twin.eval()

    @functools.cached_property
    def exact_pieces(self) -> list[Piece]:
        """The pieces of ``twin``."""
        if self.twin is None:
            raise ModelError("this network cannot be had in float64")
        return self.twin.affine_pieces()


def _parts(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Numbers of ``rows``, at most ``size`` together; ``split`` gives an empty part for none."""
    return torch.arange(len(rows), device=rows.device).split(size) if len(rows) else ()
