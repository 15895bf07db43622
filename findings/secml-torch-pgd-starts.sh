#!/usr/bin/env bash
# secml-torch's PGD starts at one corner instead of at random, and throws its last step away.
#
# A random start should be a random perturbation. RandomPerturb adds the input to it before it projects the sum onto the ball
# around zero: where the pixels are at least 2 eps, every start in L-infinity is +eps everywhere, and no restart differs from the
# first. In L2 and L1 the starts point along the image. The loop then judges a perturbation before each step and none after
# the last one, so that PGD with one step gives the images back as they were. Robust accuracies come out too high.
#
# Seen with secml-torch 1.5, torch 2.13.0 and NumPy 2 on Linux x86-64, Python 3.11 (eps 0.1 around four pixels of 0.5; then a
# network around 0.5 that is wrong below 0.445 and flat above 0.45):
#   1,000 random starts around 0.5 in linf: 1 different, mean of a pixel 0.100
#   1,000 random starts around 0.5 in l2: 1000 different, mean of a pixel 0.050
#   1,000 random starts around 0.5 in l1: 1000 different, mean of a pixel 0.025
#   1,000 random starts around 0 in linf: 1000 different, mean of a pixel 0.001
#   PGD from 100 random starts: wrong at 0; 100 uniform points: wrong at 27
#   a linear network, 1 step(s) of size 0.1: moved by 0
#   a linear network, 2 step(s) of size 0.1: moved by 0.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$work/venv/bin/pip" install --quiet --no-deps secml-torch==1.5
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from secmlt.adv.backends import Backends
from secmlt.adv.evasion.pgd import PGD
from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
from secmlt.optimization.random_perturb import RandomPerturb
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPS = 0.1
torch.manual_seed(0)


def step():
    """Logits 0 and 20 max(0.45 - x, 0) - 0.1: class 1 for x < 0.445 alone, and no gradient for x > 0.45."""
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    for parameter, values in zip(network.parameters(), ([[-20.0]], [9.0], [[0.0], [1.0]], [0.0, -0.1])):
        parameter.data = torch.tensor(values)
    return network


def attacked(network, x, steps, random_start):
    labels = torch.zeros(len(x), dtype=torch.long)
    attack = PGD(
        perturbation_model="linf",
        epsilon=EPS,
        num_steps=steps,
        step_size=EPS,
        random_start=random_start,
        backend=Backends.NATIVE,
    )
    model = BasePyTorchClassifier(network)
    return next(iter(attack(model, DataLoader(TensorDataset(x, labels), batch_size=len(x)))))[0]


found = []
for norm, middle in (("linf", 0.5), ("l2", 0.5), ("l1", 0.5), ("linf", 0.0)):
    starts = RandomPerturb(norm, EPS)(torch.full((1000, 4), middle))
    different, mean = len(starts.unique(dim=0)), float(starts.mean())
    print(f"1,000 random starts around {middle:g} in {norm}: {different} different, mean of a pixel {mean:.3f}")
    found.append((different > 900, abs(mean) < 0.005))

x = torch.full((100, 1), 0.5)
wrong = int(step()(attacked(step(), x, 10, random_start=True)).argmax(1).sum())
uniform = int(step()(x + EPS * (2 * torch.rand_like(x) - 1)).argmax(1).sum())
print(f"PGD from 100 random starts: wrong at {wrong}; 100 uniform points: wrong at {uniform}")
found.append((wrong > 0, uniform > 0))

linear, x = nn.Linear(4, 2), torch.full((1, 4), 0.5)
for steps in (1, 2):
    moved = float((attacked(linear, x, steps, random_start=False) - x).abs().max())
    print(f"a linear network, {steps} step(s) of size {EPS:g}: moved by {moved:.3g}")
    found.append(moved > EPS / 2)
sys.exit(found != [(False, False), (True, False), (True, False), (True, True), (False, True), False, True])
PY
