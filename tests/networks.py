"""Small fitted networks, and images that they classify."""

import functools

import torch
from torch import nn

from citrus_lirpa import BoundedNet, GroupAttack
from citrus_lirpa.errors import ModelError

CLASSES = 3
#: Where what is proved matters, and not what breaks: the default takes a hundred times as long.
QUICK = GroupAttack(steps=5, restarts=1)


def attack_quickly(patch) -> None:
    """Let evaluations, which choose the attack on groups themselves, take five steps, not 500."""
    quick = functools.partial(GroupAttack, steps=5, restarts=1)
    patch.setattr("citrus_lirpa.verify.groups.GroupAttack", quick)


def fitted(*layers):
    """A net of 1x4x4 images, fitted to noise so that its margins are neither large nor tiny."""
    model = nn.Sequential(*layers)
    x, y = torch.rand(60, 1, 4, 4), torch.arange(60) % CLASSES
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return BoundedNet(model, x[:1]).eval()


def images(net, count, wrong=()):
    """Random images with the class the net gives them, except those of ``wrong``.

    Many of their pixels are black or white, so that clipping to [0, 1] matters.
    """
    x = (3 * torch.rand(count, 1, 4, 4) - 1).clamp(0, 1)
    y = net(x).argmax(1)
    y[list(wrong)] = (y[list(wrong)] + 1) % CLASSES
    return x, y


def small_net():
    """A net of one hidden layer."""
    return fitted(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, CLASSES))


def deep_net():
    """A net of two hidden layers, for which the stages differ."""
    return fitted(
        nn.Flatten(), nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, 10), nn.ReLU(),
        nn.Linear(10, CLASSES),
    )  # fmt: skip


def table_net(features):
    """A net of rows of numbers, not fitted, and nine rows with the classes it gives them."""
    model = nn.Sequential(nn.Linear(features, 12), nn.ReLU(), nn.Linear(12, CLASSES))
    x = torch.rand(9, features)
    return BoundedNet(model, x[:2]).eval(), x, model(x).argmax(1)


def without_dual_engine(net):
    """Leave the bounds of ``net`` to auto_LiRPA, as if its layers were not known."""

    def affine_segments():
        raise ModelError("no dual engine")

    net.affine_segments = affine_segments


def flushed(mean):
    """A network with a BatchNorm whose scale some devices take for zero."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        model[1].weight.fill_(0.1)
        model[2].running_mean.fill_(mean)
        model[2].running_var.fill_(16.0)
        model[2].weight.fill_(2e-38)
        model[2].bias.fill_(1.0)
        model[4].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        model[4].bias.copy_(torch.tensor([0.0, 0.75]))
    return model.eval()
