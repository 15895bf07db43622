#!/usr/bin/env bash
# torch's TorchScript exporter sums differences, not their absolute values, for a distance with p = 1.
#
# torch documents pairwise_distance and cdist by the p-norm, which takes absolute values. export(dynamo=False) writes
# Sub, Pow, ReduceSum, Pow without an Abs, in silence. Even p are right; for p = 1 terms of both signs cancel, so that two
# different points have distance 0, and a negative sum is NaN in cdist. For p = 3 the same happens. A classifier by the
# distance from prototypes becomes another network, and so do the bounds of tools that trace by this exporter. Norms
# (vector_norm, Tensor.norm) are right, and so is dynamo=True, which refuses cdist. A search of torch's issues found no report;
# OpenVINO's own reader of torch networks has the same fault (38239 there).
#
# Seen with torch 2.11.0, onnx 1.23.2, onnxruntime 1.32.0 and onnxscript 0.7.2 on Linux x86-64, Python 3.11 (of 0 0 0 and
# 3 -4 0 from the point 1 -2 0.5):
#   vector_norm, p 1: torch 3.5 4.5; dynamo=False 3.5 4.5; dynamo=True 3.5 4.5
#   pairwise_distance, p 2: torch 2.29 2.87; dynamo=False 2.29 2.87; dynamo=True 2.29 2.87
#   pairwise_distance, p 1: torch 3.5 4.5; dynamo=False 0.5 -0.5; dynamo=True 3.5 4.5
#   cdist, p 1: torch 3.5 4.5; dynamo=False 0.5 nan
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
from torch.nn import functional as F

logging.disable(logging.CRITICAL)
PROTOTYPE = torch.tensor([[1.0, -2.0, 0.5]])
X = torch.tensor([[0.0, 0.0, 0.0], [3.0, -4.0, 0.0]])


class Distance(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(module, dynamo):
    """What onnxruntime makes of the file that torch writes."""
    path = f"{sys.argv[1]}/distance.onnx"
    torch.onnx.export(module, (X,), path, dynamo=dynamo, verbose=False, input_names=["x"])
    return onnxruntime.InferenceSession(path).run(None, {"x": X.numpy()})[0].reshape(-1)


found = []
for name, distance, exporters in (
    ("vector_norm, p 1", lambda x: torch.linalg.vector_norm(x - PROTOTYPE, 1, 1), (False, True)),
    ("pairwise_distance, p 2", lambda x: F.pairwise_distance(x, PROTOTYPE, 2, 0), (False, True)),
    ("pairwise_distance, p 1", lambda x: F.pairwise_distance(x, PROTOTYPE, 1, 0), (False, True)),
    ("cdist, p 1", lambda x: torch.cdist(x, PROTOTYPE, 1), (False,)),
):
    p = int(name[-1])
    definition = ((X - PROTOTYPE).abs() ** p).sum(1).numpy() ** (1 / p)
    module = Distance(distance)
    values = {"torch": module(X).numpy().reshape(-1)}
    values.update({f"dynamo={dynamo}": exported(module, dynamo) for dynamo in exporters})
    print(f"{name}: " + "; ".join(f"{of} " + " ".join(f"{v:.3g}" for v in y) for of, y in values.items()))
    found.append([np.allclose(y, definition, atol=1e-4) for y in values.values()])
sys.exit(found != [[True, True, True], [True, True, True], [True, False, True], [True, False]])
PY
