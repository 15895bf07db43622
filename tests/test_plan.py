"""The fast way through a network against auto_LiRPA's: values, bounds and gradients."""

import pytest
import torch
from reference import MODELS as SMALL
from reference import SHAPE, batch, model_names, wrapped
from torch import nn

from citrus_lirpa import BoundedNet, Box, _compat
from citrus_lirpa.plan import Interval, laid_out, make_plan

EPS = 0.05


class Residual(nn.Module):
    """Two convolutions around a shortcut, BatchNorm before and behind the sum."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.last = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))

    def forward(self, x):
        z = self.first(x).relu()
        return self.last(self.norm(z) + self.second(z))


class Shared(nn.Module):
    """A convolution whose result is taken twice: its BatchNorm cannot be folded into it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3, dilation=2), nn.BatchNorm2d(3)
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        z = self.conv(x)
        return self.last((self.norm(z) + z).relu().view(-1, 3))


MODELS = {**SMALL, "residual": Residual, "shared": Shared}
every_model = pytest.mark.parametrize("name", MODELS)


def both_ways(name: str) -> list[BoundedNet]:
    """The same network in eval mode, bounded by its plan and by auto_LiRPA alone."""
    fast = wrapped(MODELS[name]()).eval()
    slow = BoundedNet(fast.module, torch.rand(2, *SHAPE))
    slow._plan = None
    assert fast._plan is not None
    return [fast, slow]


@pytest.mark.parametrize("training", [True, False])
@every_model
def test_bounds_are_auto_lirpas(name, training, double):
    (x, y), seen = batch(), []
    for net in both_ways(name):
        net.module.zero_grad()
        net.train(training)
        net(x)
        box = Box.around(x.repeat_interleave(2, 0), EPS)
        margins = net.margins(box, y.repeat_interleave(2))
        before = [end for bounds in net.preactivation_bounds(box) for end in bounds]
        (margins.exp().sum() + sum(end.pow(2).mean() for end in before)).backward()
        seen.append([margins, before, [p.grad for p in net.parameters()]])
    torch.testing.assert_close(*seen, atol=1e-9, rtol=1e-7)


@every_model
def test_gradients_reach_the_ends_of_a_box(name, double):
    """As TAPS and user code need them."""
    (x, y), seen = batch(), []
    for net in both_ways(name):
        lower, upper = (x - EPS).requires_grad_(), (x + EPS).requires_grad_()
        margins = net.margins(Box(lower, upper), y)
        seen.append(torch.autograd.grad(margins.sum(), (lower, upper)))
    torch.testing.assert_close(*seen, atol=1e-9, rtol=1e-7)


@every_model
def test_the_frozen_network_is_the_network_and_no_weight_gets_a_gradient(name, double):
    net, (x, _) = wrapped(MODELS[name]()).eval(), batch()
    x.requires_grad_()
    logits, expected = net.frozen()(x), net.module(x)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(v.square().sum(), x)[0] for v in (logits, expected))
    )
    assert not net.frozen()(x.detach()).requires_grad


def test_points_of_a_box_lie_within_its_bounds_in_float32():
    """Boxes around zero among them, and some that are points: the result loses no corner."""
    net = wrapped(Residual()).eval()
    x = torch.rand(200, *SHAPE)
    for radius in (0.0, 1e-3, 0.3):
        box = Box.around(x, radius)
        share = torch.rand(8, *x.shape).round()  # corners
        points = torch.lerp(box.lower, box.upper, share)
        y = torch.randint(3, (200,))
        bounds = net.margins(box, y).min(dim=1).values
        with torch.no_grad():
            logits = net(points.flatten(0, 1)).view(8, 200, 3)
        own = logits.gather(2, y.expand(8, -1).unsqueeze(2))
        others = logits.scatter(2, y.expand(8, -1).unsqueeze(2), -torch.inf)
        margins = (own - others).min(dim=2).values
        assert bool((bounds <= margins + 1e-5).all())


UNSUITABLE = {
    "a sigmoid": [nn.Flatten, lambda: nn.Linear(50, 4), nn.Sigmoid, lambda: nn.Linear(4, 3)],
    "pooling": [lambda: nn.AvgPool2d(5), nn.Flatten, nn.ReLU, lambda: nn.Linear(2, 3)],
    "no linear layer at the end": [nn.Flatten, lambda: nn.Linear(50, 3), nn.ReLU],
}


@pytest.mark.parametrize("what", UNSUITABLE)
def test_other_layers_are_left_to_auto_lirpa(what):
    model, (x, y) = nn.Sequential(*(layer() for layer in UNSUITABLE[what])), batch()
    net = BoundedNet(model, torch.rand(2, *SHAPE)).eval()
    assert net._plan is None
    box = Box.around(x, EPS)
    assert net.margins(box, y).shape == (len(x), 2)
    torch.testing.assert_close(net.frozen()(x), net.module(x))


def test_batchnorm_with_options_of_its_own_is_left_to_auto_lirpa():
    example = torch.rand(2, *SHAPE)
    with _compat.parsing():
        bounded = _compat.load().BoundedModule(
            SMALL["conv"](normalise=False).eval(), example, bound_opts={"bn": {"var": False}}
        )
    assert make_plan(bounded) is None


def test_a_width_that_rounds_to_nothing_is_kept():
    """Between a centre of 1e4 and its neighbours there is no float32."""
    lower, upper = torch.tensor([9999.9990]), torch.tensor([10000.0010])
    box = Interval.of(Box(lower, upper))
    assert float(box.radius) > 0 and float(box.centre + box.radius) >= float(upper)


def test_images_are_laid_out_channels_last_and_nothing_else_is():
    assert laid_out(torch.rand(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)
    flat = torch.rand(2, 3)
    assert laid_out(flat) is flat


@model_names
def test_steps_of_a_sequential_network_free_what_is_done_with(name):
    plan = wrapped(SMALL[name]())._plan
    assert plan.last_uses == tuple((number,) for number in range(len(plan.steps)))
