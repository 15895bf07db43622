"""Layers that the dual engine takes, and small networks around them."""

import copy

import torch
from exact import Absolute, Larger, Limited
from torch import nn
from torch.nn import functional as F


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def two_pools(x):
    """Maxima of a value over windows of two sizes."""
    pools = F.max_pool2d(x, (1, 2), (1, 2)), F.max_pool2d(x, (2, 1), (2, 1))
    return torch.cat([pool.flatten(1) for pool in pools], 1)


def with_its_pool(x):
    """A value and its maxima."""
    return torch.cat([x.flatten(1), F.max_pool2d(x, 6).flatten(1)], 1)


def prelu(*slopes):
    layer = nn.PReLU(len(slopes))
    layer.weight.data.copy_(torch.tensor(slopes))
    return layer


CORNER = torch.linspace(-0.3, 0.5, 108).view(3, 6, 6)
#: Layers on values (3, 6, 6), and how many ReLUs they are made of.
LAYERS = {
    "leaky": (nn.LeakyReLU(0.1), 1),
    "leaky, below 0": (nn.LeakyReLU(-0.4), 1),
    "leaky, above 1": (nn.LeakyReLU(1.7), 1),
    "prelu": (prelu(-0.5, 0.2, 1.3), 1),
    "one prelu": (prelu(0.3), 1),
    "two slopes": (Function(lambda x: torch.cat([F.leaky_relu(x, s) for s in (0.1, 0.9)], 1)), 2),
    "rrelu": (nn.RReLU(), 1),
    "relu6": (nn.ReLU6(), 2),
    "hardtanh": (nn.Hardtanh(-0.2, 0.1), 2),
    "clamp": (Limited(-0.1, 0.3), 2),
    "clamp below": (Limited(low=0.1), 1),
    "clamp above": (Limited(high=0.1), 1),
    "abs": (Absolute(), 1),
    "max": (Larger(nn.Identity(), nn.Conv2d(3, 3, 1)), 1),
    "min": (Larger(nn.Identity(), nn.Conv2d(3, 3, 1), torch.minimum), 1),
    "max of two halves": (Function(lambda x: torch.maximum(*x.chunk(2, 2))), 1),
    "max with a constant": (Function(lambda x: torch.maximum(CORNER, x)), 1),
    "min with a constant": (Function(lambda x: torch.minimum(x, CORNER)), 1),
    "pool 2": (nn.MaxPool2d(2), 2),
    "pool 3, stride 2, padding": (nn.MaxPool2d(3, 2, 1), 4),
    "pool 3, stride 1": (nn.MaxPool2d(3, 1), 4),
    "dilated pool": (nn.MaxPool2d(2, 1, dilation=2), 2),
    "dilated and padded pool": (nn.MaxPool2d(3, 2, 1, dilation=2), 4),
    "pool in ceil mode": (nn.MaxPool2d(4, 4, ceil_mode=True), 4),
    "oblong pool": (nn.MaxPool2d((1, 5), (2, 1), (0, 2)), 3),
    "one window": (nn.MaxPool2d(6), 6),
    "pool of ReLU": (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), 3),
    "pool of ReLU behind dropout": (nn.Sequential(nn.ReLU(), nn.Dropout(), nn.MaxPool2d(2)), 3),
    "overlapping pool of ReLU": (nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), 5),
    "pools of one ReLU": (Function(lambda x: two_pools(x.relu())), 4),
    "ReLU and its pool": (Function(lambda x: with_its_pool(x.relu())), 8),
}
#: Affine layers on the same values.
AFFINE = {
    "overlapping average": nn.AvgPool2d(3, 2, 1),
    "average without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average in ceil mode": nn.AvgPool2d(4, 4, ceil_mode=True),
    "padded average in ceil mode": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "ceil mode without padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "convolution of each channel": nn.Conv2d(3, 6, 3, groups=3),
    "dilated convolution": nn.Conv2d(3, 2, 2, 2, 1, dilation=2),
    "constant padding": nn.ConstantPad2d((1, 0, 0, 2), -0.7),
    "concatenation": Function(lambda x: torch.cat([x, 2 * x], 1)),
    "slice": Function(lambda x: x[:, 1:, 1:5, :3]),
    "slice in steps": Function(lambda x: x[:, :, ::2, 1::3]),
    "channel": Function(lambda x: x[:, 1]),
    "channels": Function(lambda x: x[:, [2, 0]]),
    "split": Function(lambda x: torch.split(x, [1, 2], 1)[1]),
    "uneven chunks": Function(lambda x: torch.cat(x[:, :, :, :5].chunk(2, 3)[::-1], 3)),
    "sum": Function(lambda x: x.sum(3)),
}


def network(*layers, seed=0):
    """A small network around layers, in eval mode, images (1, 6, 6) of it and their classes."""
    torch.manual_seed(seed)
    layers = copy.deepcopy(layers)
    first = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), *layers, nn.Flatten()).eval()
    for layer in first.modules():  # some were made by an import, before anything was seeded
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    x = torch.rand(4, 1, 6, 6)
    model = nn.Sequential(*first, nn.Linear(first(x).shape[1], 3)).eval()
    return model, x, model(x).argmax(1)
