"""Products of linear layers on the CPU, by the faster of the two libraries that torch has.

For float32, torch's ``F.linear`` asks MKL, which takes half of an AMD core; oneDNN, which torch
has for convolutions, takes all of it. Products by it are of the same accuracy.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Products of fewer multiplications are not worth the call.
_LEAST = 2**21
#: Rows from which on oneDNN is faster when the weight, if it has more, is what it does not reorder.
_ROWS = 16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x`` (N, I) times ``weight`` (O, I) transposed, plus ``bias`` (O,), with graph."""
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    return (_Linear.apply if torch.is_grad_enabled() else _by_onednn)(x, weight, bias)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a`` (N, I) times ``b`` (I, O), without graph."""
    return _by_onednn(a, b.t(), None) if _suits(a, b) else a @ b


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes the product, and faster."""
    return (
        not torch.compiler.is_compiling()  # which chooses products itself
        and x.ndim == 2
        and len(x) * weight.numel() >= _LEAST
        and x.dtype == weight.dtype == torch.float32  # F.linear gives bfloat16 to oneDNN itself
        and x.device.type == "cpu"
        and _is_dense(x)
        and _is_dense(weight)
        and _available()
        and not torch.is_autocast_enabled("cpu")
    )


def _is_dense(x: Tensor) -> bool:
    """Whether a matrix or its transpose is contiguous: oneDNN is slow and less exact for others."""
    return x.is_contiguous() or x.t().is_contiguous()


@functools.cache
def _available() -> bool:
    backend: Any = torch.backends.mkldnn
    return backend.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    compute: Any = torch.ops.mkldnn._linear_pointwise
    if _ROWS <= len(x) < len(weight) and weight.is_contiguous() and x.is_contiguous():
        transposed = compute(weight, x, None, "none", [], "").t()
        return transposed if bias is None else transposed + bias
    return compute(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            product(g, weight) if to_x else None,
            product(g.t(), x) if to_weight else None,
            g.sum(0) if to_bias else None,
        )
