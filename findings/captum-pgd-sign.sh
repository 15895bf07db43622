#!/usr/bin/env bash
# captum's FGSM and PGD walk the wrong way where the output for the label is negative.
#
# Their default loss, "negative log" in the documentation, is -log of the output itself. For a negative one it is NaN, but
# torch's gradient of it is a number, of the opposite sign. The attack then makes the label more likely instead of less,
# without an error or a warning: a network that gives log-probabilities, which are all negative, looks robust at any
# radius, and of logits, those inputs do whose label has a negative one. With cross-entropy as loss_func all is right.
#
# Seen with captum 0.9.0, torch 2.11.0 and NumPy 2 on Linux x86-64, Python 3.11 (PGD with radius 0.5 on 200 inputs of a
# linear network):
#   before: mean probability of the class 0.784
#   probabilities: 126 keep their class, mean probability 0.611
#   logits: 200 keep their class, mean probability 0.899
#   log-probabilities: 200 keep their class, mean probability 0.900
#   logits, cross-entropy: 126 keep their class, mean probability 0.611
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 captum==0.9.0 numpy
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from captum.robust import PGD
from torch import nn

torch.manual_seed(0)
linear = nn.Linear(2, 2).requires_grad_(False)
linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
linear.bias.fill_(-2.0)
networks = {
    "probabilities": nn.Sequential(linear, nn.Softmax(1)),
    "logits": linear,
    "log-probabilities": nn.Sequential(linear, nn.LogSoftmax(1)),
}
x = torch.randn(200, 2)
labels = linear(x).argmax(1)


def attacked(network, loss=None):
    """How many inputs keep their class under PGD, and the mean probability of the class."""
    found = PGD(network, loss).perturb(x, radius=0.5, step_size=0.1, step_num=10, target=labels)
    chances = linear(found).softmax(1)[torch.arange(len(x)), labels]
    return int((linear(found).argmax(1) == labels).sum()), float(chances.mean())


before = float(linear(x).softmax(1).amax(1).mean())
print(f"before: mean probability of the class {before:.3f}")
found = [(name, *attacked(network)) for name, network in networks.items()]
found.append(("logits, cross-entropy", *attacked(linear, nn.CrossEntropyLoss(reduction="none"))))
for name, kept, chance in found:
    print(f"{name}: {kept} keep their class, mean probability {chance:.3f}")
sys.exit([chance < before for _, _, chance in found] != [True, False, False, True])
PY
