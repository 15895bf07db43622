"""Planes above and below products of two values, after McCormick.

For any slopes p and q, the plane p x + q y + m is below x y on a box where m is at most the least
of x y - p x - q y there. That is (x - q) (y - p) - p q, which is linear in x and in y, so that it
is least at a corner. McCormick's planes pass through three corners each: two are below the product,
with p and q the lower bounds of y and x or the upper ones, and two above. What lies between two of
them is a plane on the same side, by the same reason.

Source: McCormick 1976, Computability of global solutions to factorable nonconvex programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...bounds.curves import ERROR, PRODUCT, TINY, Product


class Plane(NamedTuple):
    """Planes of products.

    Attributes:
        slope: (R, 2M) in the type of the bounds, on the first and then on the second values.
        offset: (R, M) their values at zero, in float64.
        moves: (R, 2M) what the slopes grow by where the parameter does.
        rises: (R, M) what the offsets grow by.
    """

    slope: Tensor
    offset: Tensor
    moves: Tensor
    rises: Tensor

    def back(self, a: Tensor) -> Tensor:
        """Return coefficients (R, 2M) on the inputs, from those on the outputs (R, M)."""
        return a.repeat(1, 2) * self.slope

    def value(self, z: Tensor) -> Tensor:
        """Return the planes' values (R, M) at inputs (R, 2M)."""
        return sum((z * self.slope).chunk(2, 1), start=self.offset.to(z.dtype))

    def turn(self, a: Tensor, z: Tensor) -> Tensor:
        """Return what the bound grows by (R, 2M) where planes turn; the second half is 0.

        ``a`` (R, M) are coefficients on the outputs, ``z`` (R, 2M) inputs.
        """
        grows = a * sum((z * self.moves).chunk(2, 1), start=self.rises)
        return torch.cat([grows, torch.zeros_like(grows)], 1)


@dataclass(frozen=True, eq=False)
class Multiplied:
    """Products of neurons within bounds.

    Args:
        lower: (n, 2M) lower bounds of the first and then of the second factors, in float64.
        upper: (n, 2M) likewise.
    """

    lower: Tensor
    upper: Tensor

    @property
    def curve(self) -> Product:
        """What it is of."""
        return PRODUCT

    def rows(self, which: Tensor) -> Multiplied:
        """Return the products of some images."""
        return Multiplied(self.lower[which], self.upper[which])

    def line(self, parameter: Tensor, below: Tensor, dtype: torch.dtype) -> Plane:
        """Return planes, which are sound whatever the parameter.

        Args:
            parameter: (n, 2M), of which the first half counts, in [0, 1]: 0 and 1 for McCormick's
                planes.
            below: (n, M) whether the plane is to be below the product.
            dtype: The type of the slopes.
        """
        (low_x, low_y), (high_x, high_y) = (e.chunk(2, 1) for e in (self.lower, self.upper))
        share = parameter.double().chunk(2, 1)[0]
        first, last = torch.where(below, low_y, high_y), torch.where(below, high_y, low_y)
        p = torch.lerp(first, last, share).to(dtype)
        q = torch.lerp(low_x, high_x, share).to(dtype)
        sign = torch.where(below, 1.0, -1.0).double()
        corners = [(x, y) for x in (low_x, high_x) for y in (low_y, high_y)]
        by_p, by_q = p.double(), q.double()
        least = torch.stack([sign * (x * y - by_p * x - by_q * y) for x, y in corners]).amin(0)
        far_x, far_y = (
            torch.maximum(a.abs(), b.abs()) for a, b in ((low_x, high_x), (low_y, high_y))
        )
        error = ERROR * (far_x * far_y + by_p.abs() * far_x + by_q.abs() * far_y) + TINY
        moves = torch.cat([last - first, high_x - low_x], 1).to(dtype)
        rises = (low_x * first - high_x * last).to(dtype)
        return Plane(torch.cat([p, q], 1), sign * (least - error), moves, rises)

    def stated(self, parameter: Tensor) -> Tensor:
        """Return (n, M, 4) both slopes of the plane below, then above, as proofs have them."""
        below = torch.ones_like(parameter.chunk(2, 1)[0], dtype=torch.bool)
        planes = [self.line(parameter, side, torch.float64) for side in (below, ~below)]
        return torch.stack([end for plane in planes for end in plane.slope.chunk(2, 1)], -1)
