"""Bounds of inputs of ReLUs and curves, for dual bounds, and the images that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor

from ...bounds.curves import Bend, Product
from .planes import Multiplied
from .tangents import Curved

#: (lower, upper), each (n, ...), of the input of every ReLU and curve.
Bounds = list[tuple[Tensor, Tensor]]
#: Bounds beyond it are not used: their products could overflow float32.
_LARGEST = 1e15

#: Neurons behind which something else than ReLU follows.
Bent = Curved | Multiplied


def bent(curve: Bend | Bent, lower: Tensor, upper: Tensor) -> Bent:
    """Return the neurons that a curve or product takes, from bounds (n, M), if not made yet."""
    if isinstance(curve, Curved | Multiplied):
        return curve
    lower, upper = lower.double(), upper.double()
    if isinstance(curve, Product):
        return Multiplied(lower, upper)
    return Curved.of(curve, lower, upper)


@dataclass(frozen=True)
class Relaxation:
    """Bounds of ReLU inputs of n images (or rows), kept for the unstable neurons only.

    Args:
        active: For each ReLU, (n, neurons): 1 where it passes its input on, 0 where it is off
            or unstable.
        index: For each ReLU, (n, M_k): places of its unstable neurons, padded with 0.
        lower: (n, M), M = ΣM_k: lower bounds of these neurons in order, 0 in the padding.
        upper: (n, M): their upper bounds, likewise.
        sizes: Of every segment, (n, channels): the most that it adds up in absolute values for
            neurons of a channel within the bounds, by which rounding errors are charged; see
            :mod:`.rounding`.
        curved: For each layer that a curve follows, its neurons, all of which count as unstable;
            None for those that ReLU follows.
    """

    active: list[Tensor]
    index: list[Tensor]
    lower: Tensor
    upper: Tensor
    sizes: list[Tensor]
    curved: list[Bent | None]

    @staticmethod
    def of(
        bounds: Sequence[tuple[Tensor, Tensor]],
        sizes: Sequence[Tensor],
        curves: Sequence[Bend | Bent | None] = (),
    ) -> Relaxation:
        """Return the relaxation that bounds of ReLU inputs give.

        Args:
            bounds: (lower, upper), each (n, ...), of every ReLU's input in network order.
            sizes: Of every segment, (n, channels), what it adds up in absolute values.
            curves: What follows each segment, or its neurons within these bounds, None being
                ReLU; ReLUs everywhere if empty.
        """
        none = sizes[0].new_zeros(len(sizes[0]), 0)  # a network may have no ReLU before its output
        active, index, lowers, uppers = [], [], [none], [none]
        curved: list[Bent | None] = []
        for (lower, upper), curve in zip_longest(bounds, curves[: len(bounds)]):
            lower, upper = lower.flatten(1), upper.flatten(1)
            if curve is None:
                curved.append(None)
            else:
                curved.append(bent(curve, lower, upper))
                active.append(torch.zeros_like(lower))
                index.append(torch.arange(lower.shape[1], device=lower.device).expand_as(lower))
                lowers.append(lower)
                uppers.append(upper)
                continue
            unstable = (lower < 0) & (upper > 0)
            count = int(unstable.sum(1).max()) if len(lower) else 0
            real, places = unstable.to(torch.int8).topk(count, dim=1)
            active.append(((lower >= 0) & (upper > 0)).to(lower.dtype))
            index.append(places * real)
            lowers.append(lower.gather(1, places) * real)
            uppers.append(upper.gather(1, places) * real)
        ends = torch.cat(lowers, 1), torch.cat(uppers, 1)
        return Relaxation(active, index, *ends, list(sizes), curved)

    def rows(self, which: Tensor) -> Relaxation:
        """Return the relaxation of some images."""
        return Relaxation(
            [a[which] for a in self.active],
            [i[which] for i in self.index],
            self.lower[which],
            self.upper[which],
            [size[which] for size in self.sizes],
            [None if curved is None else curved.rows(which) for curved in self.curved],
        )

    def split(self, signs: Tensor) -> Relaxation:
        """Return it with the neurons of sign +1 restricted to z >= 0, of sign -1 to z <= 0.

        Args:
            signs: (n, M) of 1, -1 and 0 (not restricted).
        """
        return replace(
            self,
            lower=torch.where(signs > 0, 0.0, self.lower),
            upper=torch.where(signs < 0, 0.0, self.upper),
        )

    def first(self, layers: int) -> Relaxation:
        """Return the first layers of it, whose unstable neurons pass nothing on."""
        zero = torch.zeros_like(self.lower[:, : sum(self.widths[:layers])])
        sizes = self.sizes[: layers + 1]
        curved = self.curved[:layers]
        return Relaxation(self.active[:layers], self.index[:layers], zero, zero, sizes, curved)

    def alone(self, image: int) -> tuple[Relaxation, Tensor]:
        """Return the relaxation of one image without padding, and the columns that are left."""
        one = self.rows(torch.tensor([image], device=self.lower.device))
        real = (one.lower[0] < 0) & (one.upper[0] > 0)
        parts = zip(one.index, real.split(self.widths), strict=True)
        index = [places[:, its] for places, its in parts]
        alone = replace(one, index=index, lower=one.lower[:, real], upper=one.upper[:, real])
        return alone, real.nonzero().squeeze(1)

    def to(self, dtype: torch.dtype) -> Relaxation:
        """Return it in another precision, float64 as a rule."""
        return Relaxation(
            [a.to(dtype) for a in self.active],
            self.index,
            self.lower.to(dtype),
            self.upper.to(dtype),
            [size.to(dtype) for size in self.sizes],
            self.curved,
        )

    @property
    def widths(self) -> list[int]:
        """The width M_k of every ReLU."""
        return [i.shape[1] for i in self.index]

    @property
    def curves(self) -> list[Bend | None]:
        """What follows each segment; None for ReLU."""
        return [None if curved is None else curved.curve for curved in self.curved]

    @property
    def free(self) -> Tensor:
        """(n, M) whether a column is an unstable neuron, not padding."""
        unstable = (self.lower < 0) & (self.upper > 0)
        if any(self.curved):
            parts = zip(unstable.split(self.widths, 1), self.curved, strict=True)
            unstable = torch.cat([part | (curved is not None) for part, curved in parts], 1)
        return unstable


@dataclass(frozen=True)
class Images:
    """n images to prove, with bounds of ReLU inputs for each.

    Args:
        x: (n, ...) pixels.
        y: (n,) labels.
        c: (n, K-1, K) coefficients of the margins.
        threshold: (n,) how far below zero a bound of a margin may be that float64 may prove.
        bounds: (lower, upper), each (n, ...), of every ReLU's input.
        relaxation: What these bounds give.
        exact: Whether the bounds were computed in float64.
    """

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
        """Return some of the images, by numbers or as a mask."""
        which = torch.arange(len(self), device=self.x.device)[which]
        bounds = [(lower[which], upper[which]) for lower, upper in self.bounds]
        return Images(
            self.x[which],
            self.y[which],
            self.c[which],
            self.threshold[which],
            bounds,
            Relaxation.of(
                bounds,
                [size[which] for size in self.relaxation.sizes],
                [curved and curved.rows(which) for curved in self.relaxation.curved],
            ),
            self.exact,
        )

    @property
    def usable(self) -> Tensor:
        """Whether all bounds are finite, and small enough for float32 arithmetic; (n,)."""
        sizes = [
            torch.maximum(-lower, upper).flatten(1).amax(1) < _LARGEST
            for lower, upper in self.bounds
        ]
        return torch.stack(sizes).all(0)

    @staticmethod
    def cat(parts: Sequence[Images]) -> Images:
        """Return the images of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        bounds = [
            (torch.cat([b[0] for b in layer]), torch.cat([b[1] for b in layer]))
            for layer in zip(*(part.bounds for part in parts), strict=True)
        ]
        x, y, c, threshold = (
            torch.cat([getattr(p, name) for p in parts]) for name in ("x", "y", "c", "threshold")
        )
        exact = all(p.exact for p in parts)
        every = zip(*(part.relaxation.sizes for part in parts), strict=True)
        sizes = [torch.cat(layer) for layer in every]
        relaxation = Relaxation.of(bounds, sizes, parts[0].relaxation.curves)
        return Images(x, y, c, threshold, bounds, relaxation, exact)
