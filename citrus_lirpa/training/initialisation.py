"""Weight initialisation under which interval bounds keep their width (Shi et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..bounds.net import BoundedNet, as_bounded_net


@torch.no_grad()
def shi_initialise(net: BoundedNet) -> None:
    """Draw every weight matrix but the last from N(0, √(2π)/fan_in), in place.

    Biases and one-dimensional parameters (BatchNorm) keep what they have. Weights of
    layers fed by a residual addition are halved, as their input is twice as wide.
    Uses torch's global generator.
    """
    net = as_bounded_net(net)
    for weight in net.parameters():
        if weight.ndim < 2 or weight is net.output_weight():
            continue
        fan_in = weight[0].numel()
        nn.init.normal_(weight, 0.0, math.sqrt(2 * math.pi) / fan_in)
    for weight in net.weights_after_addition():
        weight.div_(2)
