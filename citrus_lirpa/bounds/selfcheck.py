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

    def evaluating(self) -> AbstractContextManager[None]:
        """Set eval mode inside the block."""

    def input_box(self, box: Box) -> Box:
        """Return the box behind the normalisation."""

    def margins(self, box: Box, y: Tensor, method: str = "ibp") -> Tensor:
        """Return lower bounds of the margins."""


def self_check(net: Net, example: Tensor) -> None:
    """Check the traced graph and its bounds against the module.

    Compares logits at two batch sizes and checks that sampled points of a tiny and of a wide box
    stay within the bounds of IBP and CROWN-IBP: this catches what auto_LiRPA gets wrong silently
    (padded AvgPool, powers, hard-coded batches).

    Args:
        net: The network.
        example: Inputs of the right shape, type and device.

    Raises:
        ModelError: They contradict each other.
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
    """Compare the module's logits with those of the traced graph, in eval mode.

    Args:
        net: The network.
        x: Inputs (N, ...); those with logits that are not finite are not compared.

    Returns:
        The module's logits (N, K).

    Raises:
        ModelError: The logits differ.
    """
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
