"""Zonotopes behind ReLUs: what they contain, how wide they are, and what estimates of that are."""

import pytest
import torch
from reference import MODELS, batch, model_names, wrapped
from torch import nn

from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.bounds.zonotope import Relaxation, relax
from citrus_lirpa.errors import ModelError


def boxes(radius=0.15):
    x, _ = batch()
    return Box.around(x, radius)


def activations(model, x):
    """What the module itself makes of inputs, behind each ReLU."""
    found = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found.append(x)
    return found


@model_names
def test_every_sampled_activation_is_in_the_zonotope_of_its_layer(name, double):
    """Error terms of at most 1 give the activation itself: it is a point of the zonotope."""
    model = MODELS[name]()
    net, box = wrapped(model).eval(), boxes()
    segments = net.chain(net.relus)
    layers, zonotope = relax(segments, box, 0)
    crossing = [relu.offset > 0 for relu in layers.relus]
    assert all(mask.any() for mask in crossing) and not all(mask.all() for mask in crossing)
    for sample in range(40):
        share = torch.rand_like(box.lower)
        share = share.round() if sample % 2 else share
        x = torch.lerp(box.lower, box.upper, share)
        errors, z = [(2 * share - 1).flatten(1)], x
        for segment, relu in zip(segments, layers.relus, strict=True):
            z = segment(z)
            rest = z.relu() - relu.slope * z - relu.offset
            assert (rest.abs() <= relu.offset + 1e-12).all()
            errors.append((rest / relu.offset.clamp(min=1e-300)).clamp(-1, 1).flatten(1))
            z = z.relu()
        assert layers.errors == sum(e.shape[1] for e in errors)
        torch.testing.assert_close(z, activations(model, x)[-1])
        torch.testing.assert_close(layers(torch.cat(errors, 1)), z)
        lower, upper = zonotope.box()
        assert (lower - 1e-12 <= z).all() and (z <= upper + 1e-12).all()


@model_names
def test_widths_are_the_largest_that_error_terms_reach(name, double):
    """The sum of absolute derivatives by each error term, and centres at errors of 0."""
    net, box = wrapped(MODELS[name]()).eval(), boxes()
    layers, zonotope = relax(net.chain(2), box, 0)
    zero = torch.zeros(1, layers.errors)
    one = relax(net.chain(2), box.rows(slice(1)), 0)[0]
    slopes = torch.autograd.functional.jacobian(lambda e: one(e).flatten(), zero)
    torch.testing.assert_close(slopes.abs().sum((1, 2)), zonotope.radius[0].flatten())
    torch.testing.assert_close(one(zero), zonotope.centre[:1])


@model_names
def test_random_projections_estimate_the_widths(name):
    net, box = wrapped(MODELS[name]()).eval(), boxes()
    exact, estimate = (relax(net.chain(1), box, k)[1] for k in (0, 4001))
    assert estimate.terms[0].shape[0] == 4001 and len(exact.terms) == 2
    passed = exact.radius > 0.01 * exact.radius.max()
    ratio = (estimate.radius / exact.radius)[passed]
    assert (ratio - 1).abs().mean() < 0.06 and (ratio.mean() - 1).abs() < 0.03


def test_projections_follow_the_seed_and_their_number():
    net, box = wrapped(MODELS["mlp"]()).eval(), boxes()
    widths = []
    for seed, count in ((1, 50), (1, 50), (2, 50), (1, 20)):
        torch.manual_seed(seed)
        widths.append(relax(net.chain(2), box, count)[1].radius)
    assert torch.equal(widths[0], widths[1])
    assert not torch.equal(widths[0], widths[2]) and not torch.equal(widths[0], widths[3])


def test_a_relaxation_touches_relu_at_both_ends_and_at_0(double):
    lower, upper = torch.tensor([-2.0, -1.0, 0.5, -3.0, 0.0]), torch.tensor([1.0, 3, 2, -1, 0])
    relu = Relaxation.between(lower, upper)
    torch.testing.assert_close(relu.slope, torch.tensor([1 / 3, 3 / 4, 1, 0, 1]))
    torch.testing.assert_close(relu.offset, torch.tensor([1 / 3, 3 / 8, 0, 0, 0]))
    torch.testing.assert_close(relu(upper, torch.ones(5)), upper.relu())
    torch.testing.assert_close(relu(lower, torch.ones(5)), lower.relu())
    torch.testing.assert_close(relu(torch.zeros(5), -torch.ones(5)), torch.zeros(5))


class Around(nn.Module):
    """A connection around a ReLU."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.one(x).relu()
        return self.three((self.two(x) + x).relu() + x)


def test_a_network_is_a_chain_as_far_as_its_connections_allow():
    net = BoundedNet(Around(), torch.rand(2, 4))
    assert [segment.sources for segment in net.chain(2)] == [(-1,), (0,)]
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
                           nn.Linear(18, 3))  # fmt: skip
    with pytest.raises(ModelError, match="a split in layers takes networks of affine.*MaxPool"):
        BoundedNet(pooled, torch.rand(2, 1, 8, 8)).chain(1)


class Twice(nn.Module):
    """A second ReLU that takes the input too."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.three((self.two(self.one(x).relu()) + x).relu())


def test_other_ways_to_a_relu_are_refused():
    with pytest.raises(ModelError, match="cannot be split in layers: ReLU 1 depends on more"):
        BoundedNet(Twice(), torch.rand(2, 4)).chain(2)
