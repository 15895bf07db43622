"""Coefficients on windows: what a neuron sees, passed back as autograd does."""

import pytest
import torch
from torch import nn

from citrus_lirpa import BoundedNet
from citrus_lirpa.bounds.segments import INPUT
from citrus_lirpa.bounds.windows import Place, Window, layout
from citrus_lirpa.verify.crown.sweep import sweep_of


def passed_back(model, x, window):
    """The windows of the network's input that neurons before the first ReLU see."""
    segments = BoundedNet(model, x).eval().affine_segments()
    shapes = {INPUT: tuple(x.shape[1:]), **{k: s.shape for k, s in enumerate(segments)}}
    assert segments[0].sources == (INPUT,)
    return sweep_of(segments, shapes, x).passed_back(0, window, lambda k, window: window)


class Plus(nn.Module):
    """The sum, or the difference, of two modules of x."""

    def __init__(self, first, second, sign=1):
        super().__init__()
        self.first, self.second, self.sign = first, second, sign

    def forward(self, x):
        return self.first(x) + self.second(x) if self.sign > 0 else self.first(x) - self.second(x)


class View(nn.Module):
    """The same numbers in another shape."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.reshape(x.shape[0], *self.shape)


def bent(layer):
    nn.init.uniform_(layer.weight, -1.5, 1.5)
    layer.running_var.uniform_(0.5, 2)
    return layer


#: Affine maps of 3x11x9 images.
MAPS = {
    "convolution": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "stride": lambda: nn.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 0)),
    "strides": lambda: nn.Sequential(nn.Conv2d(3, 4, 4, (1, 2), 2), nn.Conv2d(4, 2, 2)),
    "dilation": lambda: nn.Conv2d(3, 4, 3, dilation=2, padding=2),
    "groups": lambda: nn.Conv2d(3, 6, 3, groups=3, padding=1),
    "two": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)),
    "batchnorm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), bent(nn.BatchNorm2d(4))),
    "residual": lambda: Plus(nn.Conv2d(3, 3, 3, padding=1), nn.Identity(), -1),
    "shortcut": lambda: Plus(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 1, 2)),
    "average": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d((2, 3), (1, 2))),
    "padded average": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2, padding=1)),
    "global average": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)),
    "many numbers": lambda: nn.Sequential(
        nn.Conv2d(3, 48, 3, 2, 1, groups=3), nn.Conv2d(48, 4, 4)
    ),
    "many numbers of a map": lambda: nn.Sequential(
        nn.Conv2d(3, 48, (3, 2), 2, 1), nn.Flatten(), nn.Linear(48 * 6 * 5, 5)
    ),
    "linear": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(80, 5)),
    "map of a vector": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(297, 24), View(4, 2, 3), nn.Conv2d(4, 3, 2)
    ),
    "map of another map": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), View(4, 2, 10), nn.Conv2d(4, 3, 2)
    ),
    "other channels": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), View(5, 4, 4), nn.Conv2d(5, 3, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_windows_hold_the_gradients_of_neurons(name):
    torch.manual_seed(0)
    affine, x = MAPS[name]().eval(), torch.rand(2, 3, 11, 9)
    size = affine(x).flatten(1).shape[1]
    model = nn.Sequential(affine, nn.ReLU(), nn.Flatten(), nn.Linear(size, 2)).eval()
    height, width, channels = layout(affine(x).shape[1:])
    at = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(-1, 2)
    values = torch.eye(channels).repeat(len(at), 1, 1).view(len(at), channels, 1, 1, channels)
    step = 0 if height * width == 1 else 1
    window = Window(values, at, Place((step, step), (0, 0), (1, 1)), True)
    found = passed_back(model, x, window)
    on_maps = found.whole(x.shape[1:]).values.permute(0, 1, 4, 2, 3)  # (places, C, image)
    jacobian = torch.autograd.functional.jacobian(lambda one: affine(one[None])[0], x[0])
    wanted = jacobian.reshape(channels, len(at), 3, 11, 9).transpose(0, 1)
    torch.testing.assert_close(on_maps, wanted, atol=1e-6, rtol=1e-4)


def test_windows_of_a_convolution_are_no_larger_than_what_it_sees():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, stride=2, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(128, 2),
    ).eval()  # fmt: skip
    place = Place((1, 1), (0, 0), (1, 1))
    start = Window(torch.ones(1, 1, 1, 1, 2), torch.tensor([[7, 0]]), place, True)
    found = passed_back(model, torch.rand(1, 1, 16, 16), start)
    assert found.place == Place((2, 2), (-2, -2), (5, 5))
    rows, columns = (line[0].tolist() for line in found.lines())
    assert rows == [12, 13, 14, 15, 16] and columns == [-2, -1, 0, 1, 2]
    inside = found.cleaned((1, 16, 16)).values[0, 0, :, :, 0] != 0
    assert not inside[4].any() and not inside[:, :2].any() and inside[:4, 2:].all()
