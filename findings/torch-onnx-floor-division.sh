#!/usr/bin/env bash
# torch's TorchScript exporter rounds x // c towards zero.
#
# torch documents floor_divide, and x // c calls it, as rounding down; it truncated before version 1.13. export(dynamo=False)
# still writes a division and a cast to whole numbers and back: quotients below zero that are no whole numbers are one too
# large, in silence. Networks that cut their inputs to steps, as a defence or for few bits, get a step of twice the width
# around zero. torch.div(rounding_mode="floor"), which is the same function, x % c and the exporter with dynamo=True are
# right. The bounds of tools that trace by this exporter are those of the other function. torch's issue 78442, of 2022, has
# it and is closed.
#
# Seen with torch 2.11.0, onnx 1.23.2, onnxruntime 1.32.0 and onnxscript 0.7.2 on Linux x86-64, Python 3.11 (of -1.5 -0.5
# 0.5 1.5):
#   x // 1: torch -2 -1 0 1; dynamo=False -1 0 0 1; dynamo=True -2 -1 0 1
#   floor_divide(x, -1): torch 1 0 -1 -2; dynamo=False 1 0 0 -1; dynamo=True 1 0 -1 -2
#   div(x, 1, rounding_mode="floor"): torch -2 -1 0 1; dynamo=False -2 -1 0 1; dynamo=True -2 -1 0 1
#   x - x % 1: torch -2 -1 0 1; dynamo=False -2 -1 0 1; dynamo=True -2 -1 0 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2 numpy
"$work/venv/bin/python" -W ignore - "$work" <<'PY'
import logging
import sys

import numpy as np
import onnxruntime
import torch
from torch import nn

logging.disable(logging.CRITICAL)
X = torch.tensor([[-1.5, -0.5, 0.5, 1.5]])


class Divided(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(module, dynamo):
    """What onnxruntime makes of the file that torch writes."""
    path = f"{sys.argv[1]}/divided.onnx"
    torch.onnx.export(module, (X,), path, dynamo=dynamo, verbose=False, input_names=["x"])
    return onnxruntime.InferenceSession(path).run(None, {"x": X.numpy()})[0]


found = []
for text, function, c in (
    ("x // 1", lambda x: x // 1.0, 1),
    ("floor_divide(x, -1)", lambda x: torch.floor_divide(x, -1.0), -1),
    ('div(x, 1, rounding_mode="floor")', lambda x: torch.div(x, 1.0, rounding_mode="floor"), 1),
    ("x - x % 1", lambda x: x - x % 1.0, 1),
):
    module = Divided(function)
    values = {"torch": module(X).numpy()}
    values.update({f"dynamo={dynamo}": exported(module, dynamo) for dynamo in (False, True)})
    parts = (f"{of} " + " ".join(f"{v + 0:g}" for v in y[0]) for of, y in values.items())
    print(f"{text}: " + "; ".join(parts))
    down, cut = np.floor(X.numpy() / c), np.trunc(X.numpy() / c)
    found.append([(np.array_equal(y, down), np.array_equal(y, cut)) for y in values.values()])
right, truncated = (True, False), (False, True)
sys.exit(found != [[right, truncated, right]] * 2 + [[right] * 3] * 2)
PY
