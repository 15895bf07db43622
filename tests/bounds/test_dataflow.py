"""A forward that makes Python values of its data is refused: its trace is one branch of it."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from citrus_lirpa import BoundedNet, certify
from citrus_lirpa.errors import ModelError


class Looking(nn.Module):
    """A classifier of 1x4x4 images that does something to its input first."""

    def __init__(self, look):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        self.register_buffer("scale", torch.tensor(1.0))
        self.look = look

    def forward(self, x):
        return self.layers(self.look(self, x))


def bytes_or_shares(model, x):
    if x.max() > 1:  # this line is named
        x = x / 255
    return x


def halved(model, x):
    while bool((x > 1).any()):
        x = x / 2
    return x


def through_a_tensor(model, x):
    brightest = torch.zeros(1)
    brightest[0] = x.max()
    return x / 255 if brightest > 1 else x


class Branch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone() if x.max() < 1 else x / 2


DATA = {
    "bool": bytes_or_shares,
    "bool of any": halved,
    "bool of what was written": through_a_tensor,
    "bool in a function": lambda model, x: Branch.apply(x),
    "bool by equal": lambda model, x: x if torch.equal(x, x.clamp(0, 1)) else x / 2,
    "bool by max": lambda model, x: x * max(x.mean(), x.std()),
    "bool by in": lambda model, x: x if 3.0 in x else x / 2,
    "number": lambda model, x: x * x.mean().item(),
    "int": lambda model, x: x * int(x.sum()),
    "float": lambda model, x: x * float(x.detach().mean()),
    "list": lambda model, x: x * sum(x.flatten().tolist()),
    "array": lambda model, x: x * float(x.detach().numpy().mean()),
    "constant": lambda model, x: x * torch.tensor([x.mean()]),
}


@pytest.mark.parametrize("kind", DATA)
def test_python_values_of_data_are_refused(kind):
    with pytest.raises(ModelError, match=f"makes a Python {kind.split()[0]} of its data"):
        BoundedNet(Looking(DATA[kind]).eval(), torch.rand(2, 1, 4, 4))


def test_the_refusal_names_the_line_and_what_to_write():
    where = re.escape("test_dataflow.py:") + r"\d+ \(if x.max\(\) > 1:  # this line is named\)"
    with pytest.raises(ModelError, match=f"{where}.*torch.where or torch.clamp"):
        BoundedNet(Looking(bytes_or_shares), torch.rand(2, 1, 4, 4))


SIZES = {
    "shape": lambda model, x: x if x.shape[1] == 1 else x / 2,
    "sizes": lambda model, x: x.view(-1, x.size(1) * x.size(2) * int(x.size(3))),
    "len": lambda model, x: x if len(x) < 99 and x.dim() == 4 else x / 2,
    "type": lambda model, x: x.to(model.scale.dtype) if x.is_floating_point() else x.float(),
    "weights": lambda model, x: x * model.scale.item() if model.scale > 0 else x,
    "beside data": lambda model, x: x if (model.scale + x).shape and model.scale > 0 else -x,
    "loop": lambda model, x: torch.stack(list(x.unbind(1)), 1),
}


@pytest.mark.parametrize("kind", SIZES)
def test_python_values_of_sizes_and_weights_are_not(kind):
    model, x = Looking(SIZES[kind]).eval(), torch.rand(4, 1, 4, 4)
    assert certify(BoundedNet(model, x), x, model(x).argmax(1), 1e-6).certified.all()


class Volumes(nn.Module):
    """Images as volumes, which torch can pool."""

    def __init__(self, pool):
        super().__init__()
        self.pool, self.layer = pool, nn.Linear(8, 3)

    def forward(self, x):
        return self.layer(self.pool(x.unsqueeze(1), 2).flatten(1))


@pytest.mark.parametrize("pool", [F.avg_pool3d, F.max_pool3d])
def test_pooling_of_other_than_images_is_refused_by_name(pool):
    with pytest.raises(ModelError) as caught:
        BoundedNet(Volumes(pool).eval(), torch.rand(2, 4, 4, 4))
    message = str(caught.value)
    kind = "MaxPool" if pool is F.max_pool3d else "AveragePool"
    assert f"cannot bound '{kind}' (test_dataflow.py:" in message
    assert message.endswith("use convolutions and pooling of images (N, C, H, W)")
    assert "Error" not in message and "\n" not in message
