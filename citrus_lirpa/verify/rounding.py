"""Rounding: when a float32 bound is beyond it, and TF32 kept out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def rounding_threshold(logits: Tensor) -> Tensor:
    """(N,) margins above which float32 rounding cannot be what makes a bound positive.

    1e-4 at the usual logits around ten, and in proportion for larger ones; float32 and
    float64 CROWN bounds of ConvSmall differ by at most 3.2e-5 (measured).
    """
    return 1e-5 * logits.abs().max(dim=1).values.clamp(min=10.0)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """TF32 off inside the block: its rounding is far above the threshold."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn
    name, off = "allow_tf32", False
    if hasattr(matmul, "fp32_precision"):  # torch >= 2.9, where mixing both names raises
        conv, name, off = conv.conv, "fp32_precision", "ieee"
    before = getattr(matmul, name), getattr(conv, name)
    setattr(matmul, name, off)
    setattr(conv, name, off)
    try:
        yield
    finally:
        setattr(matmul, name, before[0])
        setattr(conv, name, before[1])
