#!/usr/bin/env bash
# ART's certifying classifiers take the radius for one of normalised images where they normalise the images themselves.
#
# PyTorchIBPClassifier and PytorchDeepZ have preprocessing=(mean, deviation), as all classifiers of ART. predict_intervals and
# predict_zonotopes apply it first, and then add the "perturbation range" to the normalised values: with a deviation of 0.25 an
# image is certified for a quarter of the radius that was asked for. predict_zonotopes then adjusts to pixels from 0 to 1 what
# has left that range by the normalisation, so that its bounds leave out the value of the image itself. predict is right, and
# so are both where the normalisation is a layer of the network.
#
# Seen with adversarial-robustness-toolbox 1.20.1, torch 2.13.0 and NumPy 2.3.5 on Linux x86-64, Python 3.11 (logits
# (x - 0.5) / 0.25 and 0 of one pixel; radius 0.1):
#   normalisation as a layer: certified at x = 0.56: False, a class within 0.1 differs: True
#   normalisation as a layer: zonotope at x = 0.2: from -1.6 to -0.8, the logit is -1.2
#   preprocessing=(0.5, 0.25): certified at x = 0.56: True, a class within 0.1 differs: True
#   preprocessing=(0.5, 0.25): zonotope at x = 0.2: from -1.1 to 0, the logit is -1.2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 packaging adversarial-robustness-toolbox==1.20.1
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import torch
from art.estimators.certification.deep_z.pytorch import PytorchDeepZ
from art.estimators.certification.interval.pytorch import PyTorchIBPClassifier
from torch import nn

MEAN, DEVIATION, EPS = 0.5, 0.25, 0.1


def judges(as_layer):
    """Both certifiers of one network, which is normalised by a layer of its own or by them."""
    layer = nn.Linear(1, 2)
    scale = DEVIATION if as_layer else 1.0
    layer.weight.data = torch.tensor([[1 / scale], [0.0]])
    layer.bias.data = torch.tensor([-MEAN / scale if as_layer else 0.0, 0.0])
    options = {} if as_layer else {"preprocessing": (MEAN, DEVIATION)}
    for kind in (PyTorchIBPClassifier, PytorchDeepZ):
        yield kind(
            model=nn.Sequential(layer), loss=nn.CrossEntropyLoss(), input_shape=(1,), nb_classes=2,
            clip_values=(0, 1), device_type="cpu", **options,
        )


def logits(judge, *pixels):
    judge.model.set_forward_mode("concrete")
    values = judge.predict(np.array(pixels, dtype=np.float32)[:, None])
    judge.model.set_forward_mode("abstract")
    return values


found = []
for name, as_layer in (("normalisation as a layer", True), ("preprocessing=(0.5, 0.25)", False)):
    intervals, zonotopes = judges(as_layer)
    x = 0.56
    own = logits(intervals, x).argmax(1)
    bounds = intervals.predict_intervals(np.array([[x]], dtype=np.float32), bounds=EPS)
    certified = bool(intervals.certify(bounds, own)[0])
    differs = bool((logits(intervals, *np.linspace(x - EPS, x + EPS, 101)).argmax(1) != own).any())
    print(f"{name}: certified at x = {x:g}: {certified}, a class within {EPS:g} differs: {differs}")

    x = 0.2
    (centre,), (terms,) = zonotopes.predict_zonotopes(np.array([[x]], dtype=np.float32), bound=EPS, training_mode=False)
    radius, value = abs(terms[:, 0]).sum(), logits(zonotopes, x)[0, 0]
    low, high = centre[0, 0] - radius, centre[0, 0] + radius
    print(f"{name}: zonotope at x = {x:g}: from {low:.3g} to {high:.3g}, the logit is {value:.3g}")
    found.append((certified, differs, bool(low <= value <= high)))
sys.exit(found != [(False, True, True), (True, True, False)])
PY
