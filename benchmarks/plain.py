"""What a step of CITRUS costs in plain PyTorch, and when it is written down literally.

``Plain`` is the same number of forward and backward passes by autograd and of hand-written interval
passes (centre and radius) on a bare ``nn.Sequential`` of convolutions, BatchNorm, ReLU, Flatten
and Linear: no wrapper, no checks. ``literal_step`` is Algorithm 1 with its loop over the pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from citrus_lirpa import BoundedNet, Box, robust_cross_entropy

Statistics = dict[nn.Module, tuple[Tensor, Tensor]]


class Plain:
    """Steps of a bare Sequential (normalisation, then the network)."""

    def __init__(self, model: nn.Sequential, *, attack_steps: int, partners: int, eps: float):
        self.model, self.attack_steps, self.partners, self.eps = model, attack_steps, partners, eps
        self.optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)

    def step(self, x: Tensor, y: Tensor, tau: float) -> None:
        """Attack, clean pass, boxes around the partners' perturbations, bounds, Adam."""
        v = self.attack(x, y)
        self.optimiser.zero_grad()
        shifts = [v.roll(-s - 1, 0) for s in range(self.partners)]
        centre = torch.stack([x + shift for shift in shifts], 1).flatten(0, 1)
        labels = y.repeat_interleave(self.partners)
        statistics = self.clean_pass(x)
        margins = self.margins(statistics, centre, torch.full_like(centre, tau), labels)
        margins.neg().logsumexp(1).mean().backward()
        self.optimiser.step()

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        self.model.eval().requires_grad_(False)
        low, high = (x - self.eps).clamp(min=0), (x + self.eps).clamp(max=1)
        z = x.clone()
        for _ in range(self.attack_steps):
            z.requires_grad_()
            loss = F.cross_entropy(self.model(z), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, z)
            with torch.no_grad():
                z = torch.clamp(z + 0.5 * self.eps * gradient.sign(), low, high)
        self.model.train().requires_grad_(True)
        return z - x

    def clean_pass(self, x: Tensor) -> Statistics:
        """The forward pass in train mode, and the statistics of each BatchNorm in it."""
        statistics = {}
        for layer in self.model:
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                over = [0, *range(2, x.ndim)]
                statistics[layer] = x.mean(over), x.var(over, unbiased=False)
            x = layer(x)
        return statistics

    def margins(self, statistics: Statistics, c: Tensor, r: Tensor, y: Tensor) -> Tensor:
        """(N, K) lower bounds by centre and radius, 0 for the class itself."""
        normalise, *layers, last = self.model
        c, r = normalise(c), r / normalise.std
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                options = layer.stride, layer.padding
                r = F.conv2d(r, layer.weight.abs(), None, *options)
                c = F.conv2d(c, layer.weight, layer.bias, *options)
            elif isinstance(layer, nn.Linear):
                c, r = layer(c), F.linear(r, layer.weight.abs())
            elif isinstance(layer, nn.ReLU):
                low, high = (c - r).relu(), (c + r).relu()
                c, r = (high + low) / 2, (high - low) / 2
            elif isinstance(layer, nn.Flatten):
                c, r = c.flatten(1), r.flatten(1)
            else:
                mean, variance = statistics[layer]
                scale = layer.weight / (variance + layer.eps).sqrt()
                view = (-1,) + (1,) * (c.ndim - 2)
                c = c * scale.view(view) + (layer.bias - mean * scale).view(view)
                r = r * scale.abs().view(view)
        weight = last.weight[y].unsqueeze(1) - last.weight
        bias = last.bias[y].unsqueeze(1) - last.bias
        centre, radius = weight @ c.unsqueeze(2), weight.abs() @ r.unsqueeze(2)
        return (centre - radius).squeeze(2) + bias


def literal_step(
    net: BoundedNet,
    optimiser: torch.optim.Optimizer,
    attack,
    x: Tensor,
    y: Tensor,
    sees: Tensor,
    *,
    eps: float,
    tau: float,
) -> None:
    """Algorithm 1 as printed: a bound for each input i and each partner j, one box at a time."""
    v = attack(net, x, y, eps - tau)
    optimiser.zero_grad()
    net(x)
    total = x.new_zeros(())
    for i in range(len(x)):
        for j in sees[i].tolist():
            box = Box.around(x[i : i + 1] + v[j : j + 1], tau)
            total = total + robust_cross_entropy(net.margins(box, y[i : i + 1])).sum()
    (total / len(x)).backward()
    optimiser.step()
