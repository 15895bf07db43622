#!/usr/bin/env bash
# torch 2.11.0 exports average pooling without its divisor_override.
#
# ONNX's AveragePool has no divisor of its own, so the exporter would have to scale the result or to refuse.
# Both exporters, the one with dynamo (the default) and the older one, write a plain AveragePool: the file
# computes another network, and no error or warning says so.
#
# Seen with torch 2.11.0, onnxscript 0.7.2, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11:
#   AvgPool2d(2) of ones: torch 1, dynamo's file 1, the older exporter's 1
#   AvgPool2d(2, divisor_override=2) of ones: torch 2, dynamo's file 1, the older exporter's 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0
"$work/venv/bin/python" -W ignore - <<'PY'
import contextlib
import io
import sys

import onnxruntime
import torch
from torch import nn


def of_file(model, x, dynamo):
    """The first number that the exported file computes."""
    file = io.BytesIO()
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, (x,), file, dynamo=dynamo)
    session = onnxruntime.InferenceSession(file.getvalue())
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].item()


x, found = torch.ones(1, 1, 2, 2), []
for text, pool in (
    ("AvgPool2d(2)", nn.AvgPool2d(2)),
    ("AvgPool2d(2, divisor_override=2)", nn.AvgPool2d(2, divisor_override=2)),
):
    values = [pool(x).item(), *(of_file(pool.eval(), x, dynamo) for dynamo in (True, False))]
    found.append(values)
    print("{} of ones: torch {:g}, dynamo's file {:g}, the older exporter's {:g}".format(text, *values))
sys.exit(found != [[1, 1, 1], [2, 1, 1]])
PY
