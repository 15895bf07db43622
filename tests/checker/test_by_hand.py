"""The proof of the documentation's page, written by hand."""

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from citrus_lirpa import checker
from citrus_lirpa.formats.onnx import save_onnx

pytest.importorskip("onnx")

PIXELS = np.array([[[[0.5, 0.25]]]], np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The network of three neurons as an ONNX file."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 1], [1, -1], [-1, 1]]))
        net[1].bias.zero_()
        net[3].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 1]]))
        net[3].bias.copy_(torch.tensor([0.25, 0]))
    path = tmp_path_factory.mktemp("by-hand") / "model.onnx"
    save_onnx(net, (1, 1, 2), path)
    return path


def by_hand(model, **changes):
    """The arrays of the page."""
    statement = {
        "format": checker.FORMAT, "network": hashlib.sha256(model.read_bytes()).hexdigest(),
        "eps": 0.25, "clip": None, "first": 0, "labels": [0], "certified": [0], "groups": [],
        "images": [hashlib.sha256(PIXELS.tobytes()).hexdigest()],
    }  # fmt: skip
    arrays = {
        "pixels": PIXELS, "context_image": [0], "line_context": np.zeros((1, 0, 4)),
        "claim_end": [2], "claim_neuron": [1, 2], "claim_lower": [-0.25, -0.75],
        "claim_upper": [0.75, 0.25], "entry_leaf": [0, 1], "entry_context": [0, 0],
        "entry_class": [1, 1], "entry_kind": [2, 2], "entry_weight": [1, 1],
        "slope": [0, 0, 0.24, 0], "slope_end": [2, 4], "line_entry": np.zeros((2, 0, 4)),
        "split_entry": [0, 1], "split_neuron": [1, 1], "split_sign": [1, -1],
        "split_multiplier": [0, 0.24],
    }  # fmt: skip
    arrays |= {"statement": json.dumps(statement), **changes}
    return {name: np.asarray(values) for name, values in arrays.items()}


def refused(folder, arrays, model):
    np.savez(folder / "00000.npz", **arrays)
    return checker.check_folder(folder, checker.read_network(model, exact=True)).refused


def test_it_holds(tmp_path, model):
    assert refused(tmp_path, by_hand(model), model) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"claim_lower": [-0.24, -0.75]}, "but only -0.25 follows"),
        ({"split_multiplier": [0, -0.24]}, "a multiplier of a split is -0.24"),
        ({"split_sign": [1, 1]}, "the leaves do not cover all cases"),
        # without splits the bound is 0
        ({f"split_{k}": [] for k in ("entry", "neuron", "sign", "multiplier")}, "bounded by"),
    ],
)
def test_it_does_not_hold_with_a_change(tmp_path, model, changes, why):
    assert why in refused(tmp_path, by_hand(model, **changes), model)[0]
