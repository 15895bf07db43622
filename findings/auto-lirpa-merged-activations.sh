#!/usr/bin/env bash
# auto_LiRPA 0.7.1 takes two different activations of one value for the same one.
#
# BoundedModule merges activations that have the same input and the same type, and does not look at their
# parameters. So two LeakyReLUs of one value both get the first one's slope, and two max poolings of one
# value, as in spatial pyramid pooling, both get the first one's kernel. Nothing is said. The wrapped network
# computes another function, and its bounds do not hold the outputs of the network that was wrapped. 0.3 does
# not merge.
#
# Seen with auto_LiRPA 0.7.1 (commit a050a3d, May 2026), torch 2.11.0 on Linux x86-64, Python 3.11 (how far the
# wrapped network's output is off, and how far the network's own output lies outside IBP's bounds):
#   two equal LeakyReLUs: off by 0.00, outside by 0.00
#   LeakyReLUs with slopes 0.1 and 0.9: off by 0.17, outside by 0.17
#   equal max poolings: off by 0.00, outside by 0.00
#   max poolings of 3 x 3 and of 5 x 5: off by 0.09, outside by 0.08
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet \
  torch==2.11.0 numpy appdirs tqdm packaging pyyaml graphviz sortedcontainers ninja setuptools
git clone --quiet https://github.com/Verified-Intelligence/auto_LiRPA "$work/source"
git -C "$work/source" checkout --quiet a050a3d61f4cb68b108fa7f07dcb3e4d7ef304df
PYTHONPATH="$work/source" "$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from torch import nn

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm


class Two(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.first, self.second = first, second

    def forward(self, x):
        x = self.body(x)
        return self.head(torch.cat([self.first(x), self.second(x)], 1)).flatten(1)


def pool(size):
    return nn.MaxPool2d(size, stride=1, padding=size // 2)


pairs = {
    "two equal LeakyReLUs": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.1)),
    "LeakyReLUs with slopes 0.1 and 0.9": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.9)),
    "equal max poolings": (pool(3), pool(3)),
    "max poolings of 3 x 3 and of 5 x 5": (pool(3), pool(5)),
}
wrong = []
for name, pair in pairs.items():
    torch.manual_seed(0)
    model, x = Two(*pair).eval(), torch.rand(1, 1, 4, 4)
    with torch.no_grad():
        output = model(x)
        net = BoundedModule(model, torch.zeros_like(x), device="cpu")
        off = float((net(x) - output).abs().max())
        box = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=0.01))
        lower, upper = net.compute_bounds(x=(box,), method="IBP")
    outside = float(torch.maximum(lower - output, output - upper).max().clamp(min=0))
    print(f"{name}: off by {off:.2f}, outside by {outside:.2f}")
    wrong.append(off > 0.01 and outside > 0.01)
sys.exit(wrong != [False, True, False, True])
PY
