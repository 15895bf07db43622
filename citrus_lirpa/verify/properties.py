"""One robustness property of one image, as VNN-LIB text."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import torch
from torch import Tensor

from ..bounds.box import Box
from ..bounds.checks import Range

_PLACES = Decimal("1e-12")  # far below the spacing of float32 pixels


def property_text(box: Box, label: int, classes: int) -> str:
    """The VNN-LIB property that holds a counterexample: "sat" means ``label`` is not certain.

    box: lower and upper (C, H, W) of one image, X_0, X_1, ... in that order, written rounded
    outwards. Y_j: the logits; the property is that any other one is at least the label's.
    """
    lower, upper = (side.flatten().tolist() for side in box)
    others = (c for c in range(classes) if c != label)
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(classes)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines.append(f"(assert (>= X_{i} {_decimal(low, ROUND_FLOOR)}))")
        lines.append(f"(assert (<= X_{i} {_decimal(high, ROUND_CEILING)}))")
    lines += ["(assert (or", *(f"    (and (>= Y_{c} Y_{label}))" for c in others), "))"]
    return "\n".join(lines) + "\n"


def enclosing_box(x: Tensor, eps: float, clip: Range | None) -> Box:
    """Float64 boxes that contain both the exact one around ``x`` and ``Box.around`` in float32."""
    rounded, exact = Box.around(x, eps, clip), Box.around(x.double(), eps, clip)
    return Box(
        torch.minimum(rounded.lower.double(), exact.lower),
        torch.maximum(rounded.upper.double(), exact.upper),
    )


def _decimal(value: float, rounding: str) -> str:
    """``value`` with twelve decimal places and no exponent, which some parsers do not read."""
    return format(Decimal(value).quantize(_PLACES, rounding=rounding), "f")
