"""Proofs that tests of the checker corrupt."""

import numpy as np
import pytest
import torch
from networks import deep_net, images
from proved import prove


@pytest.fixture(scope="session")
def proofs(tmp_path_factory):
    """Arrays of proofs with splits and blocked sets, and the folder that they are in."""
    folder = tmp_path_factory.mktemp("proofs")
    for seed in range(10):
        torch.manual_seed(seed)
        net = deep_net()
        x, y = images(net, 20, wrong=[3])
        found, uap, figures = prove(folder, net, x, y, 0.08, size=5)
        if "tuple bab" in uap.stage and "bab" in found.verdicts():
            break
    assert figures.images == int(found.certified.sum()) > 0 and figures.groups == 4
    with np.load(folder / "00000.npz") as arrays:
        made = dict(arrays)
    assert len(made["split_entry"])
    return folder, made
