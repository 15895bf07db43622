#!/usr/bin/env bash
# onnxscript's optimizer merges Clip and Relu behind a Clip of another range into a Clip that gives other values.
#
# Clip(Clip(x, a, b), c, d) becomes Clip(x, max(a, c), min(b, d)), and Relu counts as a Clip from 0. Where the two
# ranges have no point in common, the new lower end lies above the upper one, and ONNX's Clip then gives the upper
# one: the last operator no longer decides. Relu(Clip(x, -0.5, -0.4)) is 0 everywhere, and -0.4 once optimised.
# torch.onnx.export runs this optimizer on every model by default (dynamo=True), so it writes such files too.
#
# Seen with onnxscript 0.7.2, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (at x = -1, 0, 1):
#   Clip to [-0.5, -0.4], then Relu: 0 0 0, optimised -0.4 -0.4 -0.4
#   Clip to [-0.5, -0.4], then to [0, 1]: 0 0 0, optimised -0.4 -0.4 -0.4
#   Clip to [-0.5, 0.5], then Relu: 0 0 0.5, optimised 0 0 0.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnxscript import optimizer

X = np.array([-1, 0, 1], np.float32)


def model(upper, then):
    """A Clip to [-0.5, upper], and an operator behind it."""
    ends = ", float c = {0.0}, float d = {1.0}" if "d" in then else ""
    text = f"""
        <ir_version: 9, opset_import: ["": 18]>
        clips (float[3] x) => (float[3] y)
        <float a = {{-0.5}}, float b = {{{upper}}}{ends}>
        {{
            z = Clip(x, a, b)
            y = {then}
        }}
    """
    parsed = onnx.parser.parse_model(text)
    onnx.checker.check_model(parsed, full_check=True)
    return parsed


def outputs(parsed):
    return onnxruntime.InferenceSession(parsed.SerializeToString()).run(None, {"x": X})[0]


def shown(numbers):
    return " ".join(f"{number:g}" for number in numbers)


found = []
for upper, then, words in (
    (-0.4, "Relu(z)", "Clip to [-0.5, -0.4], then Relu"),
    (-0.4, "Clip(z, c, d)", "Clip to [-0.5, -0.4], then to [0, 1]"),
    (0.5, "Relu(z)", "Clip to [-0.5, 0.5], then Relu"),
):
    before = outputs(model(upper, then))
    after = outputs(optimizer.optimize(model(upper, then)))
    print(f"{words}: {shown(before)}, optimised {shown(after)}")
    found.append([np.allclose(before, np.clip(X, 0, max(upper, 0))), np.allclose(after, before)])
sys.exit(found != [[True, False], [True, False], [True, True]])
PY
