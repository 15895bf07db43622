#!/usr/bin/env bash
# torch's exporters write LogSigmoid as the logarithm of a sigmoid, which is minus infinity for large negative logits.
#
# torch computes log(sigmoid(x)) as min(x, 0) - log(1 + exp(-|x|)), so that it is about x far below zero. Both exporters
# write the operators Sigmoid and Log instead. In float32 a sigmoid ends at 1e-45, that of onnxruntime at 2e-8: from a
# logit of -18 on, the log-probability is minus infinity, and the margin of two such classes NaN. dynamo=True also writes
# logaddexp as log(exp(x) + exp(y)), which overflows above 88. Nothing is said. LogSigmoid(x) is -Softplus(-x), which
# both exporters write as it is.
#
# Seen with torch 2.11.0, onnx 1.23.2, onnxruntime 1.32.0 and onnxscript 0.7.2 on Linux x86-64, Python 3.11 (of -200 -20
# -16 -10 0):
#   LogSigmoid: torch -200 -20 -16 -10 -0.693; dynamo=False -inf -inf -16.6 -10 -0.693; dynamo=True -inf -inf -16.6 -10 -0.693
#   -Softplus(-x): torch -200 -20 -16 -10 -0.693; dynamo=False -200 -20 -16 -10 -0.693; dynamo=True -200 -20 -16 -10 -0.693
#   -logaddexp(-x, 0): torch -200 -20 -16 -10 -0.693; dynamo=True -inf -20 -16 -10 -0.693
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
X = torch.tensor([[-200.0, -20.0, -16.0, -10.0, 0.0]])


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(module, x, dynamo):
    """What onnxruntime makes of the file that torch writes."""
    path = f"{sys.argv[1]}/applied.onnx"
    torch.onnx.export(module, (x,), path, dynamo=dynamo, verbose=False, input_names=["x"])
    return onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0]


def log_sigmoid(x):
    return torch.clamp(x.double(), max=0) - torch.log1p(torch.exp(-x.double().abs()))


found = []
for text, function, x, exporters in (
    ("LogSigmoid", F.logsigmoid, X, (False, True)),
    ("-Softplus(-x)", lambda x: -F.softplus(-x), X, (False, True)),
    ("-logaddexp(-x, 0)", lambda x: -torch.logaddexp(-x, torch.zeros(1)), X, (True,)),
):
    module, definition = Applied(function), log_sigmoid(x).numpy()
    values = {"torch": module(x).numpy()}
    values.update({f"dynamo={dynamo}": exported(module, x, dynamo) for dynamo in exporters})
    print(f"{text}: " + "; ".join(f"{of} " + " ".join(f"{v:.3g}" for v in y[0]) for of, y in values.items()))
    found.append([(np.allclose(y, definition, rtol=1e-3), int(np.isneginf(y).sum())) for y in values.values()])
right, lost = (True, 0), (False, 2)
seen = [[right, lost, lost], [right] * 3, [right, (False, 1)]]
sys.exit(found != seen)
PY
