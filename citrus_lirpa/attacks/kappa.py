"""How many inputs of a batch one perturbation breaks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bounds.box import clamp
from ..bounds.checks import Range
from ..bounds.net import as_bounded_net


@torch.no_grad()
def kappa(net: object, x: Tensor, y: Tensor, v: Tensor, clip: Range | None) -> int:
    """The largest number of inputs x (B, ...) that one of the perturbations v (P, ...) breaks.

    A lower bound of κ (Xu & Singh, Definition 2): perturbations that break k inputs are
    k-common, and where κ >= 2 the worst universal perturbation is among the 2-common ones,
    which cross-input boxes are drawn for. Inputs that are misclassified without any do not
    count. The network runs in eval mode and its mode is restored.
    """
    net = as_bounded_net(net)
    with net.evaluating():
        correct = net(x).argmax(1) == y
        broken = [(correct & (net(clamp(x + one, clip)).argmax(1) != y)).sum() for one in v]
    return int(torch.stack(broken).max())
