#!/usr/bin/env bash
# The certifying classifiers of the Adversarial Robustness Toolbox 1.20.1 leave out what is no module.
#
# PytorchDeepZ and PyTorchIBPClassifier rebuild a network from those of its children that run in a forward
# pass. What a forward computes by functions is not seen: a network that calls torch.relu becomes a linear
# one, without an error or a warning about it. predict then gives other logits than the network, and
# certificates speak of the linear network: below, an input is certified whose class changes within the
# certified radius. With nn.ReLU as a child both are as they should be.
#
# Seen with adversarial-robustness-toolbox 1.20.1, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11:
#   nn.ReLU: the network's logits, not certified at 0.3; its class changes within 0.3
#   torch.relu: other logits, certified at 0.3; its class changes within 0.3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy packaging adversarial-robustness-toolbox==1.20.1
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import torch
from art.estimators.certification.deep_z.pytorch import PytorchDeepZ
from torch import nn


class Net(nn.Module):
    """Two classes of x in [0, 1]: the first one where |x - 0.5| is below 0.25."""

    def __init__(self, as_module):
        super().__init__()
        self.first, self.last = nn.Linear(1, 2), nn.Linear(2, 2)
        if as_module:
            self.relu = nn.ReLU()
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.first.bias.copy_(torch.tensor([-0.5, 0.5]))
            self.last.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
            self.last.bias.copy_(torch.tensor([0.25, 0.0]))

    def forward(self, x):
        x = self.first(x)
        return self.last(self.relu(x) if hasattr(self, "relu") else torch.relu(x))


x, found = np.array([[0.4]], dtype=np.float32), []
for name, as_module in (("nn.ReLU", True), ("torch.relu", False)):
    net = Net(as_module).eval()
    judge = PytorchDeepZ(
        model=net, loss=nn.CrossEntropyLoss(), input_shape=(1,), nb_classes=2,
        clip_values=(0, 1), device_type="cpu",
    )
    judge.model.set_forward_mode("concrete")
    own = net(torch.tensor(x)).detach().numpy()
    same = np.allclose(judge.predict(x), own)
    judge.model.set_forward_mode("abstract")
    centre, radius = judge.pre_process(cent=x[0].copy(), eps=0.3 * np.eye(1))
    centre = np.expand_dims(centre, axis=0)
    certified = bool(judge.certify(cent=centre, eps=radius, prediction=int(own.argmax())))
    near = torch.linspace(0.1, 0.7, 61).unsqueeze(1)
    changes = bool((net(near).argmax(1) != int(own.argmax())).any())
    logits = "the network's logits" if same else "other logits"
    print(
        f"{name}: {logits}, {'certified' if certified else 'not certified'} at 0.3; "
        f"its class {'changes' if changes else 'stays'} within 0.3"
    )
    found.append((same, certified, changes))
sys.exit(found != [(True, False, True), (False, True, True)])
PY
