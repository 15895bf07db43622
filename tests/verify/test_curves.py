"""Networks with curves in all stages: no bound is above what attacks in float64 reach."""

import copy

import pytest
import torch
import torch.nn.functional as F
from layers import Function, network
from networks import QUICK
from torch import nn

from citrus_lirpa import BoundedNet, certify, certify_uap
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.margins import logit_margins
from citrus_lirpa.bounds.segments import INPUT
from citrus_lirpa.errors import ModelError
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.engines import LirpaEngine, find_engine

LAYERS = {
    "sigmoid": [nn.Sigmoid()],
    "tanh, twice": [nn.Tanh(), nn.Conv2d(3, 3, 3), nn.Tanh()],
    "softplus": [nn.Softplus(beta=3.0)],
    "elu": [nn.ELU(0.5)],
    "gelu": [nn.GELU()],
    "tanh gelu": [nn.GELU("tanh")],
    "silu": [nn.SiLU()],
    "a sigmoid and its silu": [Function(lambda x: torch.cat([x * x.sigmoid(), x.sigmoid()], 1))],
    "mish": [nn.Mish()],
    "hard swish": [nn.Hardswish()],
    "hard sigmoid": [nn.Hardsigmoid()],
    "selu": [nn.SELU()],
    "celu": [nn.CELU(0.7)],
    "steep elu": [nn.ELU(1.5)],
    "elu that falls": [nn.ELU(-0.5)],
    "softsign": [nn.Softsign()],
    "log sigmoid": [nn.LogSigmoid()],
    "softplus with a jump": [Function(lambda x: F.softplus(x, 2.0, 3.0))],
    "exp": [Function(torch.exp)],
    "log": [Function(lambda x: (x.relu() + 1).log())],
    "root": [Function(lambda x: (x.square() + 1).sqrt())],
    "inverse root": [Function(lambda x: (x.abs() + 1).rsqrt())],
    "power": [Function(lambda x: x**3 + x.relu() ** 1.5 - (x.relu() + 1) ** -2.0)],
    "product": [Function(lambda x: x[:, :2] * x[:, 1:])],
    "glu": [nn.GLU(2)],
    "gate": [Function(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid())],
    "quotient": [Function(lambda x: x / (x.relu() + 1) + 2 / (x.square() + 1) - x / 3)],
    "softmax by hand": [Function(lambda x: x.exp() / x.exp().sum(1, keepdim=True))],
    "pooled tanh": [nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2), nn.ReLU()],
}


def scaled(*layers):
    """A network whose curves get inputs of a wide range, with images and labels."""
    model, x, _ = network(*layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    return model, x, model(x).argmax(1)


def lowest(model, x, y, eps):
    """The lowest margins (n, K-1) that attacks reach in float64: random corners, then descent."""
    model, x = model.double(), x.double()
    u = eps * (2 * torch.rand(160, *x.shape, dtype=torch.float64) - 1).sign()
    u[::4] *= torch.rand(40, *x.shape, dtype=torch.float64)
    found = torch.stack([logit_margins(model(x + each), y) for each in u]).detach()
    best, rows = found.amin(0), []
    for row in range(best.shape[1]):
        point = u[found[:, :, row].argmin(0), torch.arange(len(x))].clone()
        for step in range(10):
            point.requires_grad_(True)
            margin = logit_margins(model(x + point), y)[:, row]
            (gradient,) = torch.autograd.grad(margin.sum(), point)
            best[:, row] = torch.minimum(best[:, row], margin.detach())
            point = (point - eps * 0.6**step * gradient.sign()).detach().clamp(-eps, eps)
        rows.append(best[:, row])
    model.float()
    return torch.stack(rows, 1)


@pytest.mark.parametrize(
    ("name", "eps"), [*((n, 0.05) for n in LAYERS), ("gelu", 0.3), ("exp", 0.3)]
)
def test_no_bound_is_above_what_attacks_reach(name, eps):
    model, x, y = scaled(*LAYERS[name])
    engine = find_engine(BoundedNet(model, x).eval(), Ball(eps))
    assert isinstance(engine, DualEngine)
    images, ibp, _ = engine.ibp(x, y)
    tight, rows = engine.tightened(images), torch.ones_like(ibp, dtype=torch.bool)
    steps = [(images, 0), (tight, 0), (tight, 8), (engine.refined(images), 8)]
    bounds = [ibp, *(engine.margins(i, rows, n)[0] for i, n in steps)]
    reached = lowest(model, x, y, eps)
    for bound in bounds:
        assert bool((bound.double() <= reached).all())
    gaps = [float((reached - bound).mean()) for bound in bounds]
    assert gaps[0] > gaps[-1] and gaps[1] >= gaps[2] >= gaps[3]
    lines = engine.lines(tight, rows, 8)
    assert bool((lines.c <= logit_margins(model(x), y)[lines.image, lines.row] + 1e-5).all())


@pytest.mark.parametrize(
    "layer", [nn.LeakyReLU(0.1), nn.PReLU(), nn.MaxPool2d(2), nn.GELU()], ids=repr
)
def test_optimised_bounds_of_inputs_hold_and_are_closer(layer):
    """Where ReLUs are pieces of other layers, too; bounds in float64 go on from them."""
    model, x, y = scaled(layer, nn.Conv2d(3, 3, 2), nn.ReLU())
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(0.2))
    images, _, _ = engine.ibp(x, y)
    crown = engine.tightened(images)
    optimised = engine.tightened(crown, steps=engine.input_steps)
    refined = engine.refined(optimised)
    u = 0.2 * (2 * torch.rand(400, 1, *x.shape[1:], dtype=torch.float64) - 1).sign()
    values, closer = {INPUT: (x.double() + u).flatten(0, 1)}, 0.0
    for k, segment in enumerate(engine.exact_segments[:-1]):
        z = segment(*(values[source] for source in segment.sources))
        values[k] = z.relu() if segment.curve is None else segment.curve.function(z)
        each = z.unflatten(0, (400, -1))
        for lower, upper in (optimised.bounds[k], refined.bounds[k]):
            assert bool((lower <= each.amin(0)).all() and (each.amax(0) <= upper).all())
        widths = [(i.bounds[k][1] - i.bounds[k][0]) for i in (crown, optimised, refined)]
        assert bool((widths[0] >= widths[1]).all() and (widths[1] >= widths[2]).all())
        closer += float((widths[0] - widths[1]).sum())
    assert closer > 0.01


@pytest.mark.parametrize("layer", [nn.LeakyReLU(0.1), nn.Sigmoid()], ids=repr)
def test_optimised_bounds_of_inputs_lose_nothing_to_float32(layer):
    torch.manual_seed(0)
    dense = [nn.Linear(64, 50), layer, nn.Linear(50, 8), layer, nn.Linear(8, 3)]
    single = nn.Sequential(nn.Flatten(), *dense).eval()
    x, y, widths = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), []
    for model, images in ((copy.deepcopy(single), x), (single.double(), x.double())):
        engine = DualEngine(BoundedNet(model, images).eval(), Ball(0.1))
        crown = engine.tightened(engine.ibp(images, y)[0])
        optimised = engine.tightened(crown, steps=engine.input_steps)
        lower, upper = crown.bounds[1]
        optimises = (lower < 0) & (upper > 0) if engine.splits else lower < upper
        widths.append((optimised.bounds[1][1] - optimised.bounds[1][0])[optimises])
    assert len(widths[1]) > 5
    assert float((widths[0] - widths[1]).abs().max()) < 2e-6


def test_bounds_of_inputs_of_plain_relus_are_not_optimised():
    model, x, _ = scaled(nn.ReLU())
    assert DualEngine(BoundedNet(model, x).eval(), Ball(0.2)).input_steps == 0


def test_a_first_curve_behind_two_convolutions():
    """Intervals of its inputs are wide, so that CROWN bounds them, through no neurons."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    model, x = nn.Sequential(*layers).eval(), torch.rand(6, 1, 6, 6)
    y = model(x).argmax(1)
    found = certify(BoundedNet(model, x), x, y, 0.3, method="alpha-crown")
    assert bool((found.margin.double() <= lowest(model, x, y, 0.3).amin(1)).all())


@pytest.mark.parametrize("name", LAYERS)
def test_segments_compute_the_network(name):
    model, x, _ = scaled(*LAYERS[name])
    segments, known = BoundedNet(model, x).eval().affine_segments(), {INPUT: x}
    for k, segment in enumerate(segments):
        z = segment(*(known[source] for source in segment.sources))
        known[k] = z.relu() if segment.curve is None else segment.curve.function(z)
    torch.testing.assert_close(z, model(x), atol=1e-4, rtol=1e-4)


def test_groups_share_perturbations_through_curves():
    model, x, y = scaled(nn.Tanh())
    x = (x[:1] + 0.1 * torch.rand(8, 1, 6, 6)).clamp(0, 1)
    y, net = model(x).argmax(1), BoundedNet(model, x).eval()
    for relational in ("io", "cross", "raven"):
        found = certify_uap(
            net, x, y, 0.12, group_size=4, relational=relational, time_limit=5, attack=QUICK
        )
        single = certify(net, x, y, 0.12, time_limit=5)
        assert not single.unsupported
        safe = [int(single.certified[k : k + 4].sum()) for k in (0, 4)]
        assert all(int(low) >= one for low, one in zip(found.lower, safe, strict=True))


@pytest.mark.parametrize("layer", [nn.Softmax(1), Function(torch.sin)], ids=repr)
def test_other_curves_are_left_to_auto_lirpa(layer):
    model, x, _ = network(layer)
    engine = find_engine(BoundedNet(model, x).eval(), Ball(0.1))
    assert isinstance(engine, LirpaEngine) and "curves; this one has" in engine.why


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (torch.log, "^Log .* above 0: add a positive number"),
        (torch.sqrt, "Sqrt .* above 0"),
        (torch.reciprocal, "Reciprocal .* on one side of 0"),
        (lambda x: x**1.5, "Pow .* at least 0: write x.relu"),
        (lambda x: (x + 1) / x, "(Div|Reciprocal) .* on one side of 0"),
    ],
)
def test_a_curve_beyond_its_domain_is_refused_by_name(function, what):
    model, x, _ = network(nn.Sigmoid(), Function(lambda x: function(x - 0.1)))
    net, y = BoundedNet(model, x).eval(), model(x).argmax(1)
    with pytest.raises(ModelError, match=what) as refused:
        certify(net, x, y, 20.0, method="crown")
    assert "values from -0.1 to 0.9" in str(refused.value)
    inside = certify(net, x, y, 0.05, method="crown")
    assert not inside.unsupported and bool((inside.margin.isfinite()).all())


def test_images_outside_a_domain_stay_open_beside_others():
    model, x, _ = network(Function(lambda x: (1.5 - x.square().mean((2, 3), keepdim=True)).log()))
    x = torch.cat([x, 9 * x])
    y = model(x).argmax(1)
    found = certify(BoundedNet(model, x).eval(), x, y, 0.001, clip=(0.0, 9.0))
    assert found.certified.tolist() == [True] * 4 + [False] * 4


def test_a_celu_of_negative_alpha_is_refused():
    model, x, _ = network(nn.CELU(-1.0))
    with pytest.raises(ModelError, match="alpha"):
        BoundedNet(model, x)
