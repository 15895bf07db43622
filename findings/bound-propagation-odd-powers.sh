#!/usr/bin/env bash
# bound-propagation 0.4.7: the linear bounds of odd powers cross the power.
#
# Where an interval has zero inside, the lower bound of x^3 is a line from its left end that should touch
# the curve right of zero. The place is found in ten halvings of an interval, and of the two ends that are
# left, the bounds take the one whose line is too steep, so that it runs above the curve; the upper bound
# is wrong in the same way. The error grows with the interval. Even powers hold, as do sigmoid and tanh,
# for which the other end is the safe one.
#
# Seen with bound-propagation 0.4.7, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11:
#   x^3 on [-1.0, 1.0]: the lower bound is above the power by 0.0044
#   x^3 on [-2.0, 1.5]: the lower bound is above the power by 0.0088
#   x^3 on [-8.4, 6.8]: the lower bound is above the power by 1.1168
#   x^5 on [-1.8, 1.7]: the lower bound is above the power by 0.0172
#   x^2 on [-2.0, 1.5]: the lower bound holds
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy
"$work/venv/bin/pip" install --quiet --no-deps bound-propagation==0.4.7
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from bound_propagation import BoundModelFactory, HyperRectangle, Pow

torch.set_default_dtype(torch.float64)


def excess(power, low, high):
    """How far the lower bound is above the power, at the worst of 1,001 points."""
    bounded = BoundModelFactory().build(torch.nn.Sequential(Pow([power])))
    with torch.no_grad():
        found = bounded.crown(HyperRectangle(torch.tensor([[low]]), torch.tensor([[high]])))
    (slope, start), x = (part.squeeze() for part in found.lower), torch.linspace(low, high, 1001)
    return float((slope * x + start - x**power).max())


odd = [(3, -1.0, 1.0), (3, -2.0, 1.5), (3, -8.4, 6.8), (5, -1.8, 1.7)]
found = [excess(*case) for case in odd]
even = excess(2, -2.0, 1.5)
for (power, low, high), value in zip(odd, found):
    print(f"x^{power} on [{low}, {high}]: the lower bound is above the power by {value:.4f}")
print(f"x^2 on [-2.0, 1.5]: the lower bound {'holds' if even < 1e-9 else 'is above the power'}")
sys.exit(not (all(value > 1e-3 for value in found) and even < 1e-9))
PY
