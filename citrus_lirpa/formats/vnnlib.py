"""The robustness of one image as a property in VNN-LIB, which other verifiers read."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import torch
from torch import Tensor

from ..bounds.box import Box
from ..bounds.checks import Range, Scalar

_PLACES = Decimal("1e-12")  # far below the spacing of float32 pixels


def property_text(box: Box, label: int, classes: int) -> str:
    """Write the robustness property of one image as the text of a VNN-LIB file.

    A counterexample ("sat") is an input X_0, X_1, ... in the box (C, H, W) for which another of the
    logits Y_0, Y_1, ... is at least the label's. Bounds are rounded outwards.
    """
    lower, upper = (side.flatten().tolist() for side in box)
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(classes)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines.append(f"(assert (>= X_{i} {decimal(low, ROUND_FLOOR)}))")
        lines.append(f"(assert (<= X_{i} {decimal(high, ROUND_CEILING)}))")
    others = (c for c in range(classes) if c != label)
    lines += ["(assert (or", *(f"    (and (>= Y_{c} Y_{label}))" for c in others), "))"]
    return "\n".join(lines) + "\n"


def enclosing_box(x: Tensor, eps: Scalar, clip: Range | None) -> Box:
    """Return float64 boxes that contain the exact ones around ``x`` and those of ``Box.around``."""
    rounded, exact = Box.around(x, eps, clip), Box.around(x.double(), eps, clip)
    return Box(
        torch.minimum(rounded.lower.double(), exact.lower),
        torch.maximum(rounded.upper.double(), exact.upper),
    )


def decimal(value: float, rounding: str) -> str:
    """Write ``value`` with twelve decimal places; some parsers cannot read exponents."""
    return plain(Decimal(value).quantize(_PLACES, rounding=rounding))


def plain(value: Decimal) -> str:
    """Write a number without an exponent and with a point, as VNN-LIB 2.0 wants real numbers."""
    text = format(value, "f")
    return text if "." in text else f"{text}.0"
