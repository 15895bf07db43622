"""The weights that Shi's initialisation draws, and what it must leave alone."""

import copy
import math

import torch
from torch import nn

from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.models import Normalise
from citrus_lirpa.training.initialisation import shi_initialise

SHAPE = (2, 8, 8)


class Residual(nn.Module):
    """conv, then conv + shortcut, ReLU, then a convolution fed by the sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.after = nn.Conv2d(4, 6, 3, stride=2)
        self.hidden = nn.Linear(6 * 3 * 3, 7)
        self.last = nn.Linear(7, 3)

    def forward(self, x):
        stem = self.stem(x).relu()
        total = (self.branch(stem) + stem).relu()
        features = self.after(total).relu().flatten(1)
        return self.last(self.hidden(features).relu())


class LastLayerDeclaredFirst(nn.Module):
    """Modules may be registered in any order; the last layer is the one that runs last."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.body = nn.Linear(128, 5)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).relu())


def plain():
    return nn.Sequential(
        Normalise((0.5, 0.4), (0.2, 0.3)),
        nn.Conv2d(2, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 24, 5, stride=3), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def initialised(model, seed=1):
    """A copy of the state before, and after initialising in place."""
    net = BoundedNet(model.eval(), torch.rand(2, *SHAPE))
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(seed)
    shi_initialise(net)
    return before, model.state_dict()


def expected_draws(shapes, seed=1):
    """N(0, √(2π)/fan_in) in network order, drawn by hand from the same seed."""
    torch.manual_seed(seed)
    return [
        torch.empty(shape).normal_(0.0, math.sqrt(2 * math.pi) / math.prod(shape[1:]))
        for shape in shapes
    ]


def test_interval_bounds_keep_their_width():
    """The point of it: PyTorch's own initialisation widens the bounds from layer to layer."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(128, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(),
        nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3),
    )  # fmt: skip
    net = BoundedNet(model, torch.rand(1, *SHAPE))

    def growth():
        bounds = net.preactivation_bounds(Box.around(torch.rand(4, *SHAPE), 0.05))
        return (bounds[-1].radius.mean() / bounds[0].radius.mean()).item()

    before = growth()
    shi_initialise(net)
    assert before > 8 and 0.5 < growth() < 2


def test_a_residual_addition_halves_the_weights_it_feeds():
    model = Residual()
    before, after = initialised(model)
    names = ["stem.weight", "branch.weight", "after.weight", "hidden.weight"]
    draws = dict(zip(names, expected_draws([before[n].shape for n in names]), strict=True))
    draws["after.weight"] /= 2
    for name in names:
        torch.testing.assert_close(after[name], draws[name], msg=name)
    for name in ("last.weight", *(n for n in before if n.endswith("bias"))):
        assert torch.equal(before[name], after[name]), name


def test_only_the_weight_matrices_before_the_last_change():
    before, after = initialised(plain())
    names = ["1.weight", "4.weight", "7.weight"]
    draws = dict(zip(names, expected_draws([before[n].shape for n in names]), strict=True))
    for name in before:
        torch.testing.assert_close(after[name], draws.get(name, before[name]), msg=name)


def test_the_last_layer_is_the_one_that_runs_last():
    before, after = initialised(LastLayerDeclaredFirst())
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["body.weight"], after["body.weight"])


def test_gradient_flags_survive():
    model = plain()
    model[4].weight.requires_grad_(False)
    initialised(model)
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(p.grad is None and p.is_leaf for p in model.parameters())
