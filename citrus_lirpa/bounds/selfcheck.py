"""The check of every freshly wrapped model against itself."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .box import Box
from .margins import specification
from .precision import full_precision
from .tracing import explained


class Net(Protocol):
    """What is checked of a network; BoundedNet is one."""

    module: nn.Module
    bounded: Any
    classes: int

    def evaluating(self) -> AbstractContextManager[None]: ...
    def input_box(self, box: Box) -> Box: ...
    def margins(self, box: Box, y: Tensor, method: str = "ibp") -> Tensor: ...


def self_check(net: Net, example: Tensor) -> None:
    """Raise ModelError where the traced graph or its bounds contradict the module.

    Compares logits at two batch sizes and, with IBP and CROWN-IBP, checks that
    sampled points of a tiny and of a wide box stay within the bounds: this catches
    what auto_LiRPA gets wrong silently (padded AvgPool, powers, hard-coded batches).
    """
    generator = torch.Generator().manual_seed(0)
    shape = tuple(example.shape[1:])
    with torch.no_grad(), full_precision(example.device), net.evaluating():
        for batch in (1, 3):
            x = torch.rand((batch, *shape), generator=generator).to(example)
            plain = check_same_function(net, x)
            if not bool(torch.isfinite(plain).all()):
                raise ModelError(
                    "the model's outputs are NaN or infinite on random images; its weights are "
                    "damaged or far too large"
                )
        for radius in (1e-6, 0.2):
            _check_containment(net, Box.around(x[:1], radius), generator)


@torch.no_grad()
def check_same_function(net: Net, x: Tensor) -> Tensor:
    """The module's logits of ``x`` (N, ...), in eval mode; ModelError where the traced graph has
    others, of the inputs whose logits are finite."""
    with explained(f"a batch of {len(x)}"):
        traced, plain = net.bounded(net.input_box(Box(x, x)).lower), net.module(x)
    same = traced.shape == plain.shape and plain.shape[:1] == (len(x),)
    if same and bool((finite := plain.flatten(1).isfinite().all(1)).any()):
        close = 1e-4 * (1 + float(plain[finite].abs().max()))
        same = torch.allclose(traced[finite], plain[finite], rtol=1e-3, atol=close)
    if not same:
        raise ModelError(
            "the graph traced by auto_LiRPA does not compute the model's function; a layer is "
            "unsupported, depends on the batch size, or has changed since it was wrapped"
        )
    return plain


def _check_containment(net: Net, box: Box, generator: torch.Generator) -> None:
    share = torch.rand((16, *box.lower.shape[1:]), generator=generator).to(box.lower)
    logits = net.module(torch.lerp(box.lower, box.upper, share))
    y = logits[:1].argmax(1)
    sampled = (specification(y, net.classes, logits.dtype)[0] @ logits.T).min(dim=1).values
    slack = 1e-4 * (1 + float(logits.abs().max()))
    for method in ("ibp", "crown-ibp"):
        try:
            bound = net.margins(box, y, method)[0]
        except ModelError:
            if method == "ibp":
                raise
            continue  # not every graph supports it; asking for it later says why
        if not bool((bound <= sampled + slack).all()):
            raise ModelError(
                f"auto_LiRPA's {method} bounds do not contain this model's outputs (off by "
                f"{float((bound - sampled).max()):.2g}); known culprits are AvgPool with padding "
                "or stride != kernel and powers: replace the layer"
            )
