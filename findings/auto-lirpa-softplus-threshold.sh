#!/usr/bin/env bash
# auto_LiRPA 0.3 bounds nn.Softplus(threshold=...) as the curve without its threshold: unsound.
#
# torch takes x itself for log(1 + exp(x)) where x is above the threshold, 20 by default. With a lower
# one the function jumps there, down by log(1 + exp(-threshold)). torch.onnx, which auto_LiRPA traces by,
# has no threshold in Softplus and drops it without a word, so that interval bounds around the jump lie
# above values that the layer takes. With the threshold of 20 the jump is 2e-9.
#
# Seen with auto-LiRPA 0.3, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11 (IBP of x in 3 ± 0.001,
# and the values that the layer takes there):
#   threshold 20: bounds 3.0476 to 3.0495, values 3.0476 to 3.0495
#   threshold 3: bounds 3.0476 to 3.0495, values 3.0000 to 3.0486
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy appdirs tqdm packaging pyyaml setuptools
"$work/venv/bin/pip" install --quiet --no-deps auto-LiRPA==0.3
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib
import sys
import types

import numpy
import torch
from torch import nn

# what auto_LiRPA 0.3 needs of today's torch and NumPy
stand_in = types.ModuleType("numpy.lib.arraysetops")
stand_in.isin = numpy.isin
sys.modules.setdefault("numpy.lib.arraysetops", stand_in)
opset = importlib.import_module("torch.onnx._internal.torchscript_exporter._globals").GLOBALS
helper = importlib.import_module("torch.onnx.symbolic_helper")
helper._set_opset_version = lambda v: setattr(opset, "export_onnx_opset_version", v)
torch._C.Node.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

members = BoundedModule._named_members
BoundedModule._named_members = lambda self, get, prefix="", recurse=True, **_: members(
    self, get, prefix, recurse
)



def bounds(threshold):
    """Bounds of the layer in a small box, and the least and greatest value at a hundred points."""
    model = nn.Sequential(nn.Softplus(threshold=threshold), nn.Linear(1, 1)).eval()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.zero_()
    x = torch.full((1, 1), 3.0)
    box = PerturbationLpNorm(norm=float("inf"), eps=0.001)
    found = BoundedModule(model, x).compute_bounds(x=(BoundedTensor(x, box),), method="IBP")
    with torch.no_grad():
        values = model(torch.linspace(2.999, 3.001, 101).unsqueeze(1))
    return [float(end) for end in (*found, values.min(), values.max())]


found = {}
for threshold in (20.0, 3.0):
    found[threshold] = low, high, least, most = bounds(threshold)
    print(f"threshold {threshold:g}: bounds {low:.4f} to {high:.4f}, values {least:.4f} to {most:.4f}")
sound = {threshold: low <= least + 1e-5 for threshold, (low, _, least, _) in found.items()}
sys.exit(sound != {20.0: True, 3.0: False})
PY
