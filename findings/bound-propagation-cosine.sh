#!/usr/bin/env bash
# bound-propagation 0.4.7: the linear bounds of sine and cosine leave the curve where it turns.
#
# On an interval that goes from one bend of the cosine just into the next one, the bounds are off by
# up to 0.47: on [0.1, 3.2], in which the cosine falls, reaches its lowest value at 3.14, and rises a
# little, the lower bound is above the cosine, and the upper one below it. On [0.1, 3.0] both hold.
#
# Seen with bound-propagation 0.4.7, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11:
#   cosine on [0.1, 3.0]: lower bound above by 0.000, upper bound below by 0.000
#   cosine on [0.1, 3.2]: lower bound above by 0.471, upper bound below by 0.156
#   sine on [1.9, 5.0]: lower bound above by 0.227, upper bound below by 0.047
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy
"$work/venv/bin/pip" install --quiet --no-deps bound-propagation==0.4.7
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from bound_propagation import BoundModelFactory, Cos, HyperRectangle, Sin

torch.set_default_dtype(torch.float64)


def errors(curve, low, high):
    """How far the lower bound is above the curve and the upper one below it, at 1,001 points."""
    bounded = BoundModelFactory().build(torch.nn.Sequential(curve))
    with torch.no_grad():
        found = bounded.crown(HyperRectangle(torch.tensor([[low]]), torch.tensor([[high]])))
    x = torch.linspace(low, high, 1001)
    lower, upper = (slope.squeeze() * x + start.squeeze() for slope, start in (found.lower, found.upper))
    return [max(0.0, float(part.max())) for part in (lower - curve(x), curve(x) - upper)]


cases = {
    "cosine on [0.1, 3.0]": (Cos(), 0.1, 3.0),
    "cosine on [0.1, 3.2]": (Cos(), 0.1, 3.2),
    "sine on [1.9, 5.0]": (Sin(), 1.9, 5.0),
}
found = {name: errors(*case) for name, case in cases.items()}
for name, (lower, upper) in found.items():
    print(f"{name}: lower bound above by {lower:.3f}, upper bound below by {upper:.3f}")
right, *wrong = found.values()
sys.exit(not (max(right) < 1e-9 and all(max(pair) > 0.1 for pair in wrong)))
PY
