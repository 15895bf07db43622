#!/usr/bin/env bash
# CTRAIN's box for SABR leaves the region of the perturbations where the region is given by its ends.
#
# SABR propagates a small box inside the region, of `subselection_ratio` times its radius. get_propagation_region takes
# either the radius eps or the ends x_L and x_U; of these it takes the whole width for the radius, so that the box is
# twice as wide as asked for, and for ratios above 0.5 reaches beyond the region, which for 1 it should be itself. The
# documentation of bound_sabr says that the box is still clamped to the region described by eps or x_L and x_U.
# A network is then trained on bounds for inputs that no perturbation gives.
#
# Seen with ctrain 0.6.1, auto-LiRPA 0.3, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11 (a region of radius 0.1;
# radius of the box, and how far it reaches from the region's middle):
#   ratio 0.4: by eps 0.04, reaches 0.1; by its ends 0.08, reaches 0.1
#   ratio 0.8: by eps 0.08, reaches 0.1; by its ends 0.16, reaches 0.22
#   ratio 1: by eps 0.1, reaches 0.1; by its ends 0.2, reaches 0.3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy onnx==1.23.2 appdirs tqdm packaging pyyaml setuptools
"$work/venv/bin/pip" install --quiet --no-deps auto-LiRPA==0.3 ctrain==0.6.1
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
from CTRAIN.bound import get_propagation_region

RADIUS = 0.1

torch.manual_seed(0)
network = nn.Linear(4, 3)
x = torch.full((2, 4), 0.5)
labels = network(x).argmax(1)


def box(ratio, **region):
    """The radius of SABR's box, and how far it reaches from x."""
    middle, radius, _ = get_propagation_region(
        network, x, labels, subselection_ratio=ratio, step_size=0.5, n_steps=8, restarts=1, **region
    )
    return float(radius), float((middle - x).abs().max() + radius)


regions = {
    "by eps": {"eps": RADIUS, "data_min": torch.tensor(0.0), "data_max": torch.tensor(1.0)},
    "by its ends": {"x_L": x - RADIUS, "x_U": x + RADIUS},
}
within = []
for ratio in (0.4, 0.8, 1.0):
    found = {name: box(ratio, **region) for name, region in regions.items()}
    shown = "; ".join(f"{name} {radius:.2g}, reaches {reach:.2g}" for name, (radius, reach) in found.items())
    print(f"ratio {ratio:g}: {shown}")
    within.append([reach < RADIUS + 1e-6 for _, reach in found.values()])
sys.exit(within != [[True, True], [True, False], [True, False]])
PY
