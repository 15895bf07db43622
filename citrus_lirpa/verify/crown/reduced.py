"""The network of one image, reduced to its unstable ReLUs.

Most ReLUs of an image are stable: on, or off, for every perturbation. Folded away, they leave

    z_k = X_k v + T_k h + b_k,   h = relu(z),   margins = G v + H h + g,

where v is what the perturbation adds to the image, z_k are the inputs of the unstable ReLUs of
layer k, and h the outputs of those of earlier layers. Bounds of it are bounds of the network, in
a fraction of the time: the matrices are small, and mostly zeros in the first layers.

Folding rounds: z_k is as above up to the errors of its neurons, and so are the margins. A bound
that multiplies z by w is off by at most errors·|w|, and by what its sums are charged
(:mod:`.rounding`).

Shapes: M unstable ReLUs, M_k of them in layer k; P pixels; D domains, one in each column.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...bounds.box import Ball
from ...bounds.deadline import check_time
from ...bounds.segments import Segment
from .dual import DualBound
from .relaxation import Images, Relaxation
from .rounding import SUMS, unit

#: Matrices with a smaller share of entries are kept sparse.
_SPARSE = 0.25
#: The rows that are folded at once are a multiple of this.
_STEP = 32

#: What a layer makes of values (M_k, D), given its places among all M neurons.
Layer = Callable[[slice, Tensor], Tensor]


class Matrix:
    """A matrix (m, n) and its transpose, sparse or dense, to be multiplied with columns.

    Args:
        plain: The matrix.
        transposed: Its transpose.
    """

    def __init__(self, plain: Tensor, transposed: Tensor):
        self.plain, self.transposed = plain, transposed

    @staticmethod
    def of(dense: Tensor) -> Matrix:
        """Return a matrix, sparse where most of it is zero."""
        if int(dense.count_nonzero()) >= _SPARSE * dense.numel():
            return Matrix(dense, dense.t())
        rows, columns = dense.nonzero(as_tuple=True)
        values, order = dense[rows, columns], columns.argsort(stable=True)
        return Matrix(
            _compressed(rows, columns, values, dense.shape),
            _compressed(columns[order], rows[order], values[order], dense.t().shape),
        )

    def to(self, dtype: torch.dtype) -> Matrix:
        """Return it in another precision."""
        plain = self.plain.to(dtype)
        dense = plain.layout == torch.strided
        return Matrix(plain, plain.t() if dense else self.transposed.to(dtype))


def _compressed(rows: Tensor, columns: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """Return a matrix in compressed rows, from its entries in the order of the rows."""
    ends = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")  # once a process
        return torch.sparse_csr_tensor(
            *(torch.cat([ends.new_zeros(1), ends]), columns, values, tuple(shape)),
            check_invariants=True,
        )


@dataclass(frozen=True)
class ReducedNetwork:
    """What is left of a network for one image.

    Args:
        x: (...) the image.
        reach: (P,) sizes of what can be added to it, and rounded.
        lower: (M,) bounds of the inputs of the unstable ReLUs.
        upper: (M,) likewise.
        inputs: X_k, (M_k, P), for each layer.
        inner: T_k, (M_k, M_0 + ... + M_{k-1}), for each layer.
        bias: (M,) all b_k.
        margin_inputs: G transposed, (P, K-1).
        margin_outputs: H transposed, (M, K-1).
        margin_bias: g, (K-1,).
        errors: (M,) how far folding can have moved z at most.
        margin_errors: (K-1,) how far the margins.
        columns: (M,) the places of its neurons in the relaxation of all images.
    """

    x: Tensor
    reach: Tensor
    lower: Tensor
    upper: Tensor
    inputs: list[Matrix]
    inner: list[Matrix]
    bias: Tensor
    margin_inputs: Tensor
    margin_outputs: Tensor
    margin_bias: Tensor
    errors: Tensor
    margin_errors: Tensor
    columns: Tensor

    def to(self, dtype: torch.dtype) -> ReducedNetwork:
        """Return it in another precision."""
        changed: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name != "columns"):
            value = getattr(self, name)
            many = isinstance(value, list)
            changed[name] = [each.to(dtype) for each in value] if many else value.to(dtype)
        return replace(self, **changed)

    def __len__(self) -> int:
        return len(self.bias)

    @cached_property
    def layers(self) -> list[slice]:
        """The places of each layer's neurons among all."""
        ends = [0, *accumulate(x.plain.shape[0] for x in self.inputs)]
        return [slice(low, high) for low, high in zip(ends[:-1], ends[1:], strict=True)]

    def forward(self, v: Tensor, outputs: Layer) -> tuple[Tensor, Tensor]:
        """Return z and h (M, D).

        Args:
            v: (P, D) what is added to the image.
            outputs: Makes h of z.
        """
        z = self.bias.unsqueeze(1).repeat(1, v.shape[1])
        h = torch.empty_like(z)
        for here, x, t in zip(self.layers, self.inputs, self.inner, strict=True):
            z[here].addmm_(x.plain, v)
            z[here].addmm_(t.plain, h[: here.start])
            h[here] = outputs(here, z[here])
        return z, h

    def backward(self, row: Tensor, multipliers: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """Write margins as a·v + c·h + Σ w (X v + T h + b - z) + constants, for any w.

        Args:
            row: (D,) a margin for each domain.
            multipliers: Makes w of c.

        Returns:
            c (M, D), w (M, D) and a (P, D).
        """
        c = self.margin_outputs.index_select(1, row)
        a = self.margin_inputs.index_select(1, row)
        w = torch.empty_like(c)
        layers = list(zip(self.layers, self.inputs, self.inner, strict=True))
        for here, x, t in reversed(layers):
            w[here] = multipliers(here, c[here])
            c[: here.start].addmm_(t.transposed, w[here])
            a.addmm_(x.transposed, w[here])
        return c, w, a

    def margins(self, v: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's margins (D,) at v (P, D), and their gradients (P, D)."""
        z, h = self.forward(v, lambda here, z: z.relu())
        on = (z > 0).to(z.dtype)
        _, _, a = self.backward(row, lambda here, c: c * on[here])
        g, outputs = self.margin_inputs[:, row], self.margin_outputs[:, row]
        return self.margin_bias[row] + (g * v).sum(0) + (outputs * h).sum(0), a

    @cached_property
    def sizes(self) -> tuple[Tensor, Tensor]:
        """What the terms of a dual bound add up to at most: (K-1,), and (M,) for each |w|."""
        reach, upper = self.reach, self.upper
        margins = self.margin_outputs.abs().t() @ upper + self.margin_inputs.abs().t() @ reach
        neurons = [
            x.plain.to_dense().abs() @ reach + t.plain.to_dense().abs() @ upper[: here.start]
            for here, x, t in zip(self.layers, self.inputs, self.inner, strict=True)
        ]
        largest = torch.maximum(-self.lower, upper)
        return margins + self.margin_bias.abs(), torch.cat(neurons) + self.bias.abs() + largest

    def rounding(self, row: Tensor, w: Tensor, members: int) -> Tensor:
        """Return how far a computed bound can be above the one in real arithmetic.

        A bound holds for any multipliers, so for w as it is after rounding. For these it is a sum
        of products, each of which takes part in at most so many operations on its way.

        Args:
            row: (D,) the margins.
            w: (M, D) the multipliers of z.
            members: How many networks share the perturbation that is sought.
        """
        margins, neurons = self.sizes
        share = (len(self.reach) + 2 * len(self) + 8 * members + 16) * 4 * unit(w.dtype)
        neurons = share * neurons + self.errors
        return (share * margins + self.margin_errors)[row] + neurons @ w.abs()


def moved(networks: Sequence[ReducedNetwork], ball: Ball, u: Tensor) -> list[Tensor]:
    """Return what u (D, ...) adds to the image of each network: (P, D) each."""
    if ball.clip is None:
        return [u.flatten(1).t()] * len(networks)
    return [(ball.cut(n.x + u) - n.x).flatten(1).t() for n in networks]


def reduce_network(
    segments: Sequence[Segment], images: Images, number: int, ball: Ball, *, at_once: int
) -> ReducedNetwork:
    """Return the reduced network of one image, in float64.

    Args:
        segments: The network's affine maps between ReLUs, in float64.
        images: Images with bounds of their ReLU inputs.
        number: Which of them.
        ball: The perturbations.
        at_once: Neurons folded at once.

    Raises:
        OutOfTime: The deadline (:mod:`...bounds.deadline`) comes first.
    """
    relaxation, columns = images.relaxation.alone(number)
    relaxation = relaxation.to(torch.float64)
    x, c = images.x[number].double(), images.c[number].double()
    level = [k for k, width in enumerate([*relaxation.widths, len(c)]) for _ in range(width)]
    # parts of one size, which other images are likely to have too: what is made for it is reused
    size = min(at_once, _STEP * math.ceil(len(level) / _STEP))
    rows = torch.arange(size * math.ceil(len(level) / size)).clamp(max=len(level) - 1)
    parts = [_fold(segments, relaxation, level, part, x, c, ball) for part in rows.split(size)]
    h, a, b, off = (torch.cat(part)[: len(level)] for part in zip(*parts, strict=True))
    begins = [0, *accumulate(relaxation.widths)]
    layers = [slice(*ends) for ends in pairwise(begins)]
    unstable, rest = slice(len(columns)), slice(len(columns), None)
    lower, upper = (end[0] for end in ball.box(x[None]))
    reach = torch.maximum(upper - x, x - lower)
    return ReducedNetwork(
        x=x,
        reach=(reach if ball.clip is None else reach + x.abs()).flatten(),
        lower=relaxation.lower[0],
        upper=relaxation.upper[0],
        inputs=[Matrix.of(a[here]) for here in layers],
        inner=[Matrix.of(h[here, : here.start]) for here in layers],
        bias=b[unstable],
        margin_inputs=a[rest].t().contiguous(),
        margin_outputs=h[rest].t().contiguous(),
        margin_bias=b[rest],
        errors=off[unstable],
        margin_errors=off[rest],
        columns=columns,
    )


def _fold(
    segments: Sequence[Segment],
    relaxation: Relaxation,
    level: Sequence[int],
    rows: Tensor,
    x: Tensor,
    c: Tensor,
    ball: Ball,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write inputs of unstable ReLUs, and margins after them, in terms of h and v.

    Going backwards, a row of a lower layer begins where that layer is reached.

    Args:
        segments: The network's affine maps between ReLUs.
        relaxation: Of the image alone.
        level: The layer of every row.
        rows: (r,) which ones, in order.
        x: (...) the image.
        c: (K-1, K) coefficients of the margins.
        ball: The perturbations.

    Returns:
        The matrices on h (r, M) and v (r, P), the constants (r,) and how far rounding can have
        moved the sum (r,).
    """
    check_time()
    top = level[int(rows[-1])]
    before, unstable = relaxation.first(top), relaxation.lower.shape[1]
    begin = before.lower.shape[1]
    units = torch.zeros(len(rows), unstable + len(c), dtype=c.dtype, device=c.device)
    units[torch.arange(len(rows)), rows] = 1.0
    if top == len(relaxation.widths):
        ends = units[:, unstable:] @ c
    else:
        places = relaxation.index[top][0]
        ends = c.new_zeros(len(rows), relaxation.active[top].shape[1])
        ends[:, places] = units[:, begin : begin + len(places)]
    same = torch.zeros(len(rows), dtype=torch.long, device=c.device)
    dual = DualBound(segments[: top + 1], before.rows(same), x[None][same], ends, ball)
    h, a, b, off = dual.folded(units[:, :begin])
    h, a, pixels = pad(h, (0, unstable - begin)), a.flatten(1), x.flatten()
    return h, a, b + a @ pixels, off + (len(pixels) + 8) * SUMS * (a.abs() @ pixels.abs() + b.abs())
