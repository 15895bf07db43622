#!/usr/bin/env bash
# nevergrad loses points of the front that meet the reference where an earlier point does not.
#
# A loss vector beyond the reference of a MultiobjectiveReference dominates no volume. nevergrad keeps such points until one
# within is found, and hands them to its hypervolume with the others; HypervolumeIndicator then adds their area with a minus
# sign. A point within that does not make up for it "is not on the front" and is dropped, so that the front depends on the order
# and may have no point within at all. The other libraries count such a point as 0 or refuse it. RandomSearch and DE, which do
# without the volume, keep the points.
#
# Seen with nevergrad 1.0.12, moocore 0.3.2 and NumPy 2 on Linux x86-64, Python 3.11 (reference (5, 5)):
#   volume of (4, 4): moocore 1, nevergrad 1
#   volume of (6, 2): moocore 0, nevergrad -3
#   volume of (4, 4), (9, 0): moocore 1, nevergrad -15
#   OnePlusOne told (4, 4), (6, 2): front (4, 4)
#   OnePlusOne told (6, 2), (4, 4): front (6, 2)
#   OnePlusOne told (6, 0), (4, 3), (0, 4): front (0, 4), (6, 0)
#   RandomSearch told (6, 0), (4, 3), (0, 4): front (0, 4), (4, 3), (6, 0)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nevergrad==1.0.12 moocore==0.3.2 numpy
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import moocore
import nevergrad
import numpy as np
from nevergrad.optimization.multiobjective import HypervolumeIndicator

REFERENCE = (5.0, 5.0)


def shown(points):
    return ", ".join(f"({a:g}, {b:g})" for a, b in points)


def front(optimiser, losses):
    """What an optimiser keeps of the losses that it is told."""
    optimiser = nevergrad.optimizers.registry[optimiser](nevergrad.p.Scalar(), budget=10)
    optimiser.tell(nevergrad.p.MultiobjectiveReference(), list(REFERENCE))
    for loss in losses:
        optimiser.tell(optimiser.ask(), [float(value) for value in loss])
    return sorted(tuple(float(value) for value in point.losses) for point in optimiser.pareto_front())


equal = []
for points in ([(4, 4)], [(6, 2)], [(4, 4), (9, 0)]):
    true = moocore.hypervolume(np.array(points, dtype=float), ref=REFERENCE)
    theirs = HypervolumeIndicator(np.array(REFERENCE)).compute(np.array(points, dtype=float))
    print(f"volume of {shown(points)}: moocore {true:g}, nevergrad {theirs:g}")
    equal.append(true == theirs)

kept = []
for optimiser, losses, expected in (
    ("OnePlusOne", [(4, 4), (6, 2)], (4, 4)),
    ("OnePlusOne", [(6, 2), (4, 4)], (4, 4)),
    ("OnePlusOne", [(6, 0), (4, 3), (0, 4)], (4, 3)),
    ("RandomSearch", [(6, 0), (4, 3), (0, 4)], (4, 3)),
):
    points = front(optimiser, losses)
    print(f"{optimiser} told {shown(losses)}: front {shown(points)}")
    kept.append(expected in points)
sys.exit((equal, kept) != ([True, False, False], [True, False, False, True]))
PY
