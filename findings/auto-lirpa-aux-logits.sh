#!/usr/bin/env bash
# auto_LiRPA 0.3 cannot wrap a network with a part called AuxLogits.
#
# While it reads a network, it leaves out the weights whose names contain "AuxLogits", as those of the
# auxiliary classifier that torchvision's Inception has for training. Where the part with this name is
# used, and so in Inception itself, the graph has weights that no parameter belongs to, and BoundedModule
# ends in an AssertionError without a text. The same network with the part under another name is wrapped.
#
# Seen with auto-LiRPA 0.3, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11:
#   called head: wrapped
#   called AuxLogits: AssertionError, no text
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
from auto_LiRPA import BoundedModule

members = BoundedModule._named_members
BoundedModule._named_members = lambda self, get, prefix="", recurse=True, **_: members(
    self, get, prefix, recurse
)



class Net(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name, self.body = name, nn.Linear(2, 3)
        self.add_module(name, nn.Linear(3, 2))

    def forward(self, x):
        return getattr(self, self.name)(self.body(x).relu())


found = []
for name in ("head", "AuxLogits"):
    try:
        BoundedModule(Net(name).eval(), torch.zeros(1, 2))
        found.append("wrapped")
    except AssertionError as error:
        found.append(f"AssertionError, {str(error) or 'no text'}")
    print(f"called {name}: {found[-1]}")
sys.exit(found != ["wrapped", "AssertionError, no text"])
PY
