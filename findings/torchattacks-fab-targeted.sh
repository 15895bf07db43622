#!/usr/bin/env bash
# torchattacks' FAB in targeted mode gives the images back as they were.
#
# FAB lists "targeted" among its supported modes. In that mode a call hands over the target labels, and FAB takes them for the
# true ones: an image that is not of its target class yet counts as fooled, so that there is nothing left to do. The images
# come back unchanged, without a word, and no target is reached; who counts reached targets finds any network robust. An image
# that is of its target class already is led away from it. PGD and BIM reach the same targets, and FAB without a target
# fools the network.
#
# Seen with torchattacks 3.5.1, torch 2.13.0 and NumPy 2 on Linux x86-64, Python 3.11 (a linear network of three classes, 50
# images, eps 0.3):
#   BIM targeted: 37 of 50 targets reached, largest change 0.3
#   PGD targeted: 37 of 50 targets reached, largest change 0.3
#   FAB targeted: 0 of 50 targets reached, largest change 0
#   FAB untargeted: 41 of 50 fooled, largest change 0.28
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy scipy tqdm requests
"$work/venv/bin/pip" install --quiet --no-deps torchattacks==3.5.1
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
import torchattacks
from torch import nn

EPS, COUNT, CLASSES = 0.3, 50, 3
torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)).eval()
images = torch.rand(COUNT, 1, 4, 4)
labels = network(images).argmax(1)
targets = (labels + 1) % CLASSES

found = []
for name, attack in (
    ("BIM", torchattacks.BIM(network, eps=EPS, alpha=0.05, steps=20)),
    ("PGD", torchattacks.PGD(network, eps=EPS, alpha=0.05, steps=20)),
    ("FAB", torchattacks.FAB(network, eps=EPS, steps=20, n_classes=CLASSES)),
):
    attack.set_mode_targeted_by_label(quiet=True)
    changed = attack(images, targets)
    reached = int((network(changed).argmax(1) == targets).sum())
    most = float((changed - images).abs().max())
    print(f"{name} targeted: {reached} of {COUNT} targets reached, largest change {most:.2g}")
    found.append((reached > COUNT / 2, most > 0))

changed = torchattacks.FAB(network, eps=EPS, steps=20, n_classes=CLASSES)(images, labels)
fooled = int((network(changed).argmax(1) != labels).sum())
most = float((changed - images).abs().max())
print(f"FAB untargeted: {fooled} of {COUNT} fooled, largest change {most:.2g}")
found.append((fooled > COUNT / 2, most > 0))
sys.exit(found != [(True, True), (True, True), (False, False), (True, True)])
PY
