#!/usr/bin/env bash
# deel-torchlip's networks have larger Lipschitz constants than they are built for.
#
# k_coef_lip is "the Lipschitz coefficient to ensure". Sequential spreads its own over the layers, of n layers each the n-th
# root. Linear layers and convolutions took theirs when they were made, before that, and stay at 1; the activations and pools
# alone follow. LPReLU clamps its slope to k, but lets positive values through as they are; HouseHolder has no use for k.
# Pools in ceil mode have windows across the edge with fewer pixels, which are scaled as if they were full. A radius
# that is certified as margin / (sqrt(2) k) is too large by as much.
#
# Seen with deel-torchlip 1.0.5, torch 2.13.0 and NumPy 2 on Linux x86-64, Python 3.11 (largest norm of the Jacobian at ten
# points, which is no more than the constant):
#   linear, GroupSort2, linear; k = 1: 1
#   linear, GroupSort2, linear; k = 0.1: 0.464
#   linear, HouseHolder, linear; k = 0.1: 1
#   SpectralLinear; k = 0.1: 0.1
#   LPReLU; k = 0.1: 1
#   ScaledAvgPool2d over 5 x 5 pixels, ceil mode False; k = 1: 1
#   ScaledAvgPool2d over 5 x 5 pixels, ceil mode True; k = 1: 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$work/venv/bin/pip" install --quiet --no-deps deel-torchlip==1.0.5
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from deel import torchlip


def slope(layer, *shape):
    """The largest norm of the Jacobian at ten random points: the Lipschitz constant is no less."""
    layer = layer.double().eval()
    points = torch.randn(10, 1, *shape, dtype=torch.float64)
    jacobians = (torch.autograd.functional.jacobian(lambda x: layer(x).flatten(), x).flatten(1) for x in points)
    return max(float(torch.linalg.matrix_norm(jacobian, 2)) for jacobian in jacobians)


def network(activation, k):
    """Two spectral linear layers; steps in training mode let the norms converge."""
    layers = torchlip.Sequential(torchlip.SpectralLinear(6, 6), activation, torchlip.SpectralLinear(6, 4), k_coef_lip=k)
    for _ in range(20):
        layers(torch.randn(8, 6))
    return layers


torch.manual_seed(0)
cases = [
    ("linear, GroupSort2, linear; k = 1", network(torchlip.GroupSort2(), 1.0), (6,), 1.0),
    ("linear, GroupSort2, linear; k = 0.1", network(torchlip.GroupSort2(), 0.1), (6,), 0.1),
    ("linear, HouseHolder, linear; k = 0.1", network(torchlip.HouseHolder(6), 0.1), (6,), 0.1),
    ("SpectralLinear; k = 0.1", torchlip.SpectralLinear(6, 6, k_coef_lip=0.1), (6,), 0.1),
    ("LPReLU; k = 0.1", torchlip.LPReLU(k_coef_lip=0.1), (6,), 0.1),
]
for ceil_mode in (False, True):
    pool = torchlip.ScaledAvgPool2d(2, ceil_mode=ceil_mode)
    cases.append((f"ScaledAvgPool2d over 5 x 5 pixels, ceil mode {ceil_mode}; k = 1", pool, (1, 5, 5), 1.0))

held = []
for name, layer, shape, k in cases:
    value = slope(layer, *shape)
    print(f"{name}: {value:.3g}")
    held.append(value < 1.001 * k)
sys.exit(held != [True, False, False, True, False, True, False])
PY
