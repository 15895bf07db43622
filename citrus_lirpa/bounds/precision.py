"""Rounding: what training may round, and when a float32 bound is beyond it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError

#: How much training may round. Attacks only find points that bounds are then computed around,
#: so they may use bfloat16; TF32 rounds the bounds themselves. Verification never does either.
PRECISIONS = {
    "float32": "everything in float32",
    "bfloat16": "attacks in bfloat16, all else in float32",
    "tf32": "attacks in bfloat16, products of bounds in TF32 (needs a GPU)",
}

#: What float64 rounding can make of a bound that is not charged its own, in thresholds.
IN_FLOAT64 = 1e-5


def check_device(precision: str, device: torch.device) -> None:
    """Raise ConfigError for TF32 on a device that does not have it."""
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError(
            f"train.precision is tf32, which a GPU has and {device} does not; use bfloat16"
        )


def rounding_threshold(logits: Tensor, hidden: Iterable[Tensor] = ()) -> Tensor:
    """Return margins (N,) above which float32 rounding cannot be what makes a bound positive.

    1e-4 at the usual logits (N, K) around ten, and in proportion for larger ones, or where
    something within the network is more than a hundred: it may cancel on its way to the logits.
    ``hidden`` has such values (N, ...), bounds of them, or what adds up to them
    (``Bounds.magnitudes``). Float32 and float64 CROWN bounds of ConvSmall differ by at most 3.2e-5
    (measured).
    """
    size = logits.abs().max(dim=1).values.clamp(min=10.0)
    for values in hidden:
        size = torch.maximum(size, 0.1 * values.abs().reshape(len(values), -1).amax(1))
    return 1e-5 * size


@contextlib.contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Let products of float32 be computed in full precision inside the block, or in TF32 on a GPU.

    The rounding of TF32, and of the bfloat16 that ``set_float32_matmul_precision`` may allow on a
    CPU, is far above ``rounding_threshold``.
    """
    backends: Any = torch.backends
    high = "tf32" if tf32 else "ieee"
    gpu: tuple[Any, ...] = ()
    cpu: tuple[Any, ...] = ()
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # torch >= 2.9 has two names for each
        gpu = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
        cpu = backends.mkldnn.matmul, backends.mkldnn.conv
    new = [(part, value) for parts, value in ((gpu, high), (cpu, "ieee")) for part in parts]
    before = [part.fp32_precision for part, _ in new]
    products = _by_its_old_name(torch.get_float32_matmul_precision)
    convolutions = _by_its_old_name(lambda: backends.cudnn.allow_tf32)
    try:
        _set_by_old_names(products and ("high" if tf32 else "highest"), convolutions, tf32)
        for part, value in new:
            part.fp32_precision = value
        yield
    finally:
        _set_by_old_names(products, convolutions, convolutions)
        for (part, _), value in zip(new, before, strict=True):
            part.fp32_precision = value


def _by_its_old_name(read: Callable[[], Any]) -> Any:
    """Return a setting, or None where it was set by its newer name alone: torch raises then."""
    try:
        return read()
    except RuntimeError:
        return None


def _set_by_old_names(products: str | None, known: bool | None, convolutions: Any) -> None:
    """Set what could be read by the old names: torch raises where both names disagree."""
    if products is not None:
        torch.set_float32_matmul_precision(products)
    if known is not None:
        torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def full_precision(device: torch.device, *, transforms: bool = False) -> Iterator[None]:
    """Compute all products inside the block, on a device, in the type of their operands.

    That is without TF32 and without autocast, whose bfloat16 rounds as far beyond
    ``rounding_threshold``, and on a GPU without cuDNN: it may convolve by Winograd's or Fourier's
    transform, which rounds more than the sums of products that certificates are charged for. With
    ``transforms`` it may, for what proves nothing by bounds.
    """
    cudnn: Any = torch.backends.cudnn
    before, sums = cudnn.enabled, device.type == "cuda" and not transforms
    with float32_products(), torch.autocast(device.type, enabled=False):
        cudnn.enabled = before and not sums
        try:
            yield
        finally:
            cudnn.enabled = before
