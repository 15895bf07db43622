#!/usr/bin/env bash
# auto_LiRPA 0.3: one box of a batch makes the CROWN bounds of the others wrong (Bound.get_bias).
#
# Where the bias of any box is NaN, get_bias returns 0 for all boxes: "NaN can be caused by 0 * inf ...
# Force the whole bias to be 0". Bounds that pass abs (or sqrt, a product, max pooling) then lack a term.
# Here exp(|x|) is bounded for x in ±0.5, alone and beside ±100, where exp overflows float32. The same
# lines are in 0.7.1, where alphas that are NaN for a box without width (as behind Softmax) suffice.
#
# Seen with auto-LiRPA 0.3, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11 (values reach 1.6487):
#   alone: upper bound 1.6487
#   beside a box that overflows: upper bound 1.0000
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


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 1)
        nn.init.ones_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x):
        return self.last(x.abs().exp())


def upper(*radii):
    """The upper bound for the first of some boxes around 0."""
    x = torch.zeros(len(radii), 1)
    radius = torch.tensor(radii).view(-1, 1)
    net = BoundedModule(Net(), x)
    box = PerturbationLpNorm(norm=float("inf"), x_L=x - radius, x_U=x + radius)
    return float(net.compute_bounds(x=(BoundedTensor(x, box),), method="CROWN")[1][0])


alone, beside = upper(0.5), upper(0.5, 100.0)
print(f"alone: upper bound {alone:.4f}")
print(f"beside a box that overflows: upper bound {beside:.4f}")
reached = float(Net()(torch.tensor([0.5])))
sys.exit(not (alone >= reached - 1e-6 and beside < reached - 0.1))
PY
