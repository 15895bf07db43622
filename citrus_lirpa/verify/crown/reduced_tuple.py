"""The reduced networks of a tuple of images, as one network.

Its neurons are those of all members, layer by layer, so that one product does what would be many
small ones. Without clipping all images are moved by the same v; with it, each by one of its own.

Shapes: s members; M unstable ReLUs of all, M_k of them in layer k; V numbers that are added to
images, P without clipping and s·P with it; D domains, one in each column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from ...bounds.box import Ball
from .matrix import Matrix
from .reduced import ReducedNetwork
from .rounding import unit

#: What a layer makes of values (M_k, D), given its places among all M neurons.
Layer = Callable[[slice, Tensor], Tensor]


#: Fields that hold no real numbers.
_NO_REALS = {"layers", "order", "member", "columns"}


@dataclass(frozen=True)
class ReducedTuple:
    """What is left of a network for a tuple of images; fields as of :class:`ReducedNetwork`.

    Args:
        x: (s, ...) the images.
        layers: The places of each layer's neurons.
        order: (M,) the places of the neurons where those of a member follow each other.
        member: (M,) whose they are.
        columns: (M,) their places in the relaxations of the members, one after the other.
        lower: (M,).
        upper: (M,).
        inputs: X_k, (M_k, V), for each layer.
        inner: T_k, (M_k, M_0 + ... + M_{k-1}), for each layer.
        bias: (M,).
        sizes: (M,).
        errors: (M,).
        margin_inputs: (s (K-1), V).
        margin_outputs: (M, K-1).
        margin_bias: (s, K-1).
        margin_sizes: (s, K-1).
        margin_errors: (s, K-1).
        sums: (s, M), 1 for the neurons of each member.
    """

    x: Tensor
    layers: list[slice]
    order: Tensor
    member: Tensor
    columns: Tensor
    lower: Tensor
    upper: Tensor
    inputs: list[Matrix]
    inner: list[Matrix]
    bias: Tensor
    sizes: Tensor
    errors: Tensor
    margin_inputs: Matrix
    margin_outputs: Tensor
    margin_bias: Tensor
    margin_sizes: Tensor
    margin_errors: Tensor
    sums: Matrix

    @staticmethod
    def of(networks: Sequence[ReducedNetwork], *, clipped: bool, width: int) -> ReducedTuple:
        """Return the tuple of some networks, in float64.

        Args:
            networks: The members.
            clipped: Whether perturbed images are clipped.
            width: How many neurons the relaxation of an image has.
        """
        from scipy import sparse

        device, own = networks[0].bias.device, clipped and len(networks) > 1
        counts = torch.tensor([[here.stop - here.start for here in n.layers] for n in networks])
        level = torch.arange(counts.shape[1]).repeat(len(networks))
        order = level.repeat_interleave(counts.flatten()).argsort(stable=True)
        member = torch.arange(len(networks)).repeat_interleave(counts.sum(1))[order]
        layers = [slice(*ends) for ends in pairwise([0, *accumulate(counts.sum(0).tolist())])]
        stack = sparse.block_diag if own else sparse.vstack
        rows = order.numpy()
        inputs = stack([n.inputs for n in networks], format="csr")[rows]
        inner = sparse.block_diag([n.inner for n in networks], format="csr")[rows][:, rows]
        margins = [sparse.csr_array(n.margin_inputs.cpu().numpy()) for n in networks]
        sums = sparse.csr_array(torch.eye(len(networks), dtype=torch.float64)[:, member].numpy())
        order, member = order.to(device), member.to(device)

        def arranged(parts: Iterable[Tensor]) -> Tensor:
            return torch.cat([*parts])[order]

        sizes = [n.sizes for n in networks]
        return ReducedTuple(
            x=torch.stack([n.x for n in networks]),
            layers=layers,
            order=order,
            member=member,
            columns=arranged(n.columns + k * width for k, n in enumerate(networks)),
            lower=arranged(n.lower for n in networks),
            upper=arranged(n.upper for n in networks),
            inputs=[Matrix.of(inputs[here], device) for here in layers],
            inner=[Matrix.of(inner[here, : here.start], device) for here in layers],
            bias=arranged(n.bias for n in networks),
            sizes=arranged(neurons for _, neurons in sizes),
            errors=arranged(n.errors for n in networks),
            margin_inputs=Matrix.of(stack(margins, format="csr"), device),
            margin_outputs=arranged(n.margin_outputs.t() for n in networks),
            margin_bias=torch.stack([n.margin_bias for n in networks]),
            margin_sizes=torch.stack([margin for margin, _ in sizes]),
            margin_errors=torch.stack([n.margin_errors for n in networks]),
            sums=Matrix.of(sums, device),
        )

    def to(self, dtype: torch.dtype) -> ReducedTuple:
        """Return it in another precision."""
        changed: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name not in _NO_REALS):
            value = getattr(self, name)
            many = isinstance(value, list)
            changed[name] = [each.to(dtype) for each in value] if many else value.to(dtype)
        return replace(self, **changed)

    def __len__(self) -> int:
        return len(self.bias)

    @property
    def members(self) -> int:
        """How many images there are, s."""
        return len(self.x)

    def moved(self, ball: Ball, u: Tensor) -> Tensor:
        """Return what u (D, ...) adds to the images; (V, D)."""
        if ball.clip is None:
            return u.flatten(1).t()
        return (ball.cut(self.x + u.unsqueeze(1)) - self.x).flatten(1).t()

    def outputs(self, rows: Tensor) -> Tensor:
        """Return the coefficients (M, D) of h in the margins ``rows`` (D, s) of the members."""
        return self.margin_outputs.gather(1, rows.t()[self.member])

    def weights(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return weights (s, D) of the margins ``rows`` (D, s) as weights (s (K-1), D) of all."""
        picked = weight.new_zeros(*self.margin_bias.shape, weight.shape[1])
        return picked.scatter_(1, rows.t().unsqueeze(1), weight.unsqueeze(1)).flatten(0, 1)

    def reached(self, v: Tensor) -> Tensor:
        """Return X v + b; (M, D)."""
        z = self.bias.unsqueeze(1).repeat(1, v.shape[1])
        for here, x in zip(self.layers, self.inputs, strict=True):
            x.add_to(z[here], v)
        return z

    def forward(self, z: Tensor, outputs: Layer) -> tuple[Tensor, Tensor]:
        """Return z and h (M, D).

        Args:
            z: (M, D), X v + b; it is used up.
            outputs: Makes h of z.
        """
        h = torch.empty_like(z)
        for here, t in zip(self.layers, self.inner, strict=True):
            t.add_to(z[here], h[: here.start])
            h[here] = outputs(here, z[here])
        return z, h

    def backward(self, c: Tensor, multipliers: Layer) -> tuple[Tensor, Tensor]:
        """Write margins as c·h + Σ w (T h - z) + what does not depend on h, for any w.

        Args:
            c: (M, D) the coefficients of h in them; it is used up.
            multipliers: Makes w of c.

        Returns:
            c and w, (M, D).
        """
        w = torch.empty_like(c)
        for here, t in reversed([*zip(self.layers, self.inner, strict=True)]):
            w[here] = multipliers(here, c[here])
            t.add_transposed_to(c[: here.start], w[here])
        return c, w

    def slopes(self, w: Tensor, weights: Tensor) -> Tensor:
        """Return the coefficients (V, D) of v in Σ w (X v) and weighted margins.

        Args:
            w: (M, D) multipliers of z.
            weights: (s (K-1), D) of all margins.
        """
        a = w.new_zeros(self.margin_inputs.plain.shape[1], w.shape[1])
        self.margin_inputs.add_transposed_to(a, weights)
        for here, x in zip(self.layers, self.inputs, strict=True):
            x.add_transposed_to(a, w[here])
        return a

    def margins(self, rows: Tensor, v: Tensor, terms: Tensor) -> Tensor:
        """Return G v + g + Σ terms of the margins ``rows`` (D, s) of the members.

        Args:
            rows: (D, s).
            v: (V, D) what is added to the images.
            terms: (M, D) what the neurons add to the margin of their member.

        Returns:
            (s, D).
        """
        found = self.margin_bias.flatten().unsqueeze(1).repeat(1, v.shape[1])
        self.margin_inputs.add_to(found, v)
        found = found.view(*self.margin_bias.shape, -1).gather(1, rows.t().unsqueeze(1)).squeeze(1)
        self.sums.add_to(found, terms)
        return found

    def rounding(self, rows: Tensor, w: Tensor) -> Tensor:
        """Return how far computed bounds (s, D) of members can be above those in real arithmetic.

        A bound holds for any multipliers, so for w as it is after rounding. For these it is a sum
        of products, each of which takes part in at most so many operations on its way, and once
        more on the way to the u that is worst.

        Args:
            rows: (D, s) the margins.
            w: (M, D) the multipliers of z.
        """
        pixels = self.x[0].numel()
        share = (pixels + 2 * len(self) + 8 * self.members + 16) * 4 * unit(w.dtype)
        found = (share * self.margin_sizes + self.margin_errors).gather(1, rows.t())
        self.sums.add_to(found, (share * self.sizes + self.errors).unsqueeze(1) * w.abs())
        return found
