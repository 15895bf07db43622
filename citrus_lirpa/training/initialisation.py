"""Weight initialisation under which interval bounds keep their width."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..bounds.net import BoundedNet, as_bounded_net


@torch.no_grad()
def shi_initialise(net: BoundedNet) -> None:
    """Draw every weight matrix but the last from N(0, √(2π)/fan_in), in place.

    Biases and one-dimensional parameters (BatchNorm) keep their values. Weights of layers that a
    residual addition feeds are halved, as their input is twice as wide. The draws are from
    torch's global generator of the CPU, so that training begins alike on every device.

    BatchNorm in train mode divides by the deviation of its batch, whatever the scale of weights
    is: intervals of ResNet-50 then grow by 10^62 along its layers, beyond float32; those of
    ResNet-18 by 10^27. In eval mode with new statistics they do not grow.

    Source: Shi et al. 2021, Fast Certified Robust Training with Short Warmup, section 4.1.

    Args:
        net: BoundedNet, or an auto_LiRPA BoundedModule.
    """
    net = as_bounded_net(net)
    for weight in net.parameters():
        if weight.ndim < 2 or weight is net.output_weight():
            continue
        fan_in = weight[0].numel()
        drawn = torch.empty(weight.shape, dtype=weight.dtype)
        weight.copy_(nn.init.normal_(drawn, 0.0, math.sqrt(2 * math.pi) / fan_in))
    for weight in net.weights_after_addition():
        weight.div_(2)
