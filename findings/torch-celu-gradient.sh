#!/usr/bin/env bash
# torch rounds 1 / alpha to float32 in the gradient of CELU, for tensors of float64 too.
#
# celu(x) = alpha * (exp(x / alpha) - 1) for x < 0, with slope exp(x / alpha). In float64 its values are right
# to the last place or two, and its slopes only to seven digits, unless 1 / alpha happens to be a number of
# float32 (as for alpha = 0.5). The slopes of elu, which has no quotient, are right. Tangents, Lipschitz
# constants or Newton steps that take their slopes from autograd in float64 inherit the error.
#
# Seen with torch 2.11.0 on Linux x86-64, Python 3.11 (largest relative error for x in [-3, 0)):
#   celu, alpha 0.5: values right, slopes right
#   celu, alpha 0.4: values right, slopes off by 9.7e-08
#   celu, alpha 0.3: values right, slopes off by 3.6e-07
#   elu, alpha 0.4: values right, slopes right
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from torch.nn import functional

EXACT = 1e-14


def errors(function, value, slope):
    """The largest relative errors of values and slopes."""
    x = torch.linspace(-3, -0.01, 300, dtype=torch.float64, requires_grad=True)
    y = function(x)
    (found,) = torch.autograd.grad(y.sum(), x)
    return [float((a / b - 1).detach().abs().max()) for a, b in ((y, value(x)), (found, slope(x)))]


def told(error):
    return "right" if error < EXACT else f"off by {error:.1e}"


found = []
for alpha in (0.5, 0.4, 0.3):
    value, slope = errors(
        lambda x: functional.celu(x, alpha),
        lambda x: alpha * torch.expm1(x / alpha),
        lambda x: torch.exp(x / alpha),
    )
    found.append((value < EXACT, slope < EXACT))
    print(f"celu, alpha {alpha}: values {told(value)}, slopes {told(slope)}")
value, slope = errors(
    lambda x: functional.elu(x, 0.4),
    lambda x: 0.4 * torch.expm1(x),
    lambda x: 0.4 * torch.exp(x),
)
found.append((value < EXACT, slope < EXACT))
print(f"elu, alpha 0.4: values {told(value)}, slopes {told(slope)}")
sys.exit(found != [(True, True), (True, False), (True, False), (True, True)])
PY
