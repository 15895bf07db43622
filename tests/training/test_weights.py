"""Weights that other programs wrote."""

from pathlib import Path

import pytest
import torch
from torch import nn

from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training.weights import fit_weights


def test_tensors_of_a_wrapper_beside_the_weights_are_named_and_left_out():
    layer, wanted = nn.Linear(2, 1), nn.Linear(2, 1).state_dict()
    file = {f"model.{name}": value for name, value in wanted.items()}
    with pytest.warns(
        UserWarning, match=r"net.ckpt .*not the network's \(loss.scale\); .*left out"
    ):
        fit_weights(layer, file | {"loss.scale": torch.ones(1)}, Path("net.ckpt"))
    torch.testing.assert_close(layer.state_dict(), wanted)


def test_a_whole_module_is_told_how_to_be_saved(tmp_path):
    torch.save(nn.Linear(2, 1), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"state_dict.*--model FILE.py:NAME"):
        checkpoint.load(tmp_path / "net.pth")
