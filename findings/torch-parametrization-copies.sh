#!/usr/bin/env bash
# Taking a torch parametrization off a deep copy of a layer breaks the original.
#
# A parametrized layer (weight_norm or spectral_norm of torch.nn.utils.parametrizations) gets a class of
# its own, with a property for the weight. copy.deepcopy copies the layer, but not this class.
# parametrize.remove_parametrizations deletes the property from the class, so that the original, which
# still has its parametrization, has no weight any more: its next forward pass raises AttributeError.
# Whoever folds norms into weights for export works on a copy for just this reason.
#
# Seen with torch 2.11.0 on Linux x86-64, Python 3.11:
#   before: the original computes; the copy has the same class: True
#   after remove_parametrizations(copy): the copy computes; the original: AttributeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy
"$work/venv/bin/python" -W ignore - <<'PY'
import copy
import sys

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize


def outcome(layer):
    try:
        layer(torch.zeros(1, 2))
    except AttributeError:
        return "AttributeError"
    return "computes"


original = parametrizations.weight_norm(nn.Linear(2, 2))
other = copy.deepcopy(original)
before, shared = outcome(original), type(original) is type(other)
print(f"before: the original {before}; the copy has the same class: {shared}")
parametrize.remove_parametrizations(other, "weight")
after = outcome(other), outcome(original)
print(f"after remove_parametrizations(copy): the copy {after[0]}; the original: {after[1]}")
sys.exit((before, shared, after) != ("computes", True, ("computes", "AttributeError")))
PY
