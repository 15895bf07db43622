#!/usr/bin/env bash
# auto_LiRPA 0.3: CROWN through a grouped Conv2d behind Tanh is unsound with conv_mode="patches".
#
# The lower bounds of a small network with a Conv2d(groups=3) between two Tanh lie above outputs that it
# takes within the box, by up to 0.07 where the box is 0.01 wide to each side. conv_mode="matrix" gives
# sound bounds of the same networks, and patches give sound ones with groups=1. Patches are the default.
#
# Seen with auto-LiRPA 0.3, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11 (the largest excess of
# lower bounds over outputs in six networks; below 0 where bounds are sound):
#   groups=1, matrix: -0.005      groups=1, patches: -0.005
#   groups=3, matrix: -0.005      groups=3, patches: +0.070
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


def excess(groups, mode, seed):
    """By how much a lower bound is above an output that the network takes in the box."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 6, 3, stride=2, groups=groups),
        nn.Tanh(), nn.Flatten(), nn.Linear(24, 3),
    ).eval()
    x = torch.rand(1, 2, 6, 6)
    net = BoundedModule(model, x, bound_opts={"conv_mode": mode})
    box = PerturbationLpNorm(norm=float("inf"), eps=0.01)
    lower, _ = net.compute_bounds(x=(BoundedTensor(x, box),), method="CROWN")
    points = x + 0.01 * (2 * torch.rand(2000, 2, 6, 6) - 1)
    with torch.no_grad():
        return float((lower - model(points).amin(0)).max())


found = {}
for groups in (1, 3):
    for mode in ("matrix", "patches"):
        found[groups, mode] = max(excess(groups, mode, seed) for seed in range(6))
        print(f"groups={groups}, {mode}: {found[groups, mode]:+.3f}")
unsound = [key for key, value in found.items() if value > 1e-3]
sys.exit(unsound != [(3, "patches")])
PY
