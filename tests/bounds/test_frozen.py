"""Logits and gradients of attacks, by hand, against autograd through the module."""

import copy

import operators
import pytest
import torch
import torch.nn.functional as F
from exact import Larger, Limited
from layers import AFFINE, LAYERS, Function, network
from reference import MEAN, MODELS, SHAPE, STD, batch, model_names, wrapped
from torch import nn

from citrus_lirpa import PGD, BoundedNet
from citrus_lirpa.bounds.frozen import gradient_of
from citrus_lirpa.errors import ModelError
from citrus_lirpa.models import Normalise, build_model

EPS = 0.05


def strided(kernel, stride, padding, sides=(8, 8)):
    """A network that begins with a convolution with a stride, on images of two channels."""
    first = nn.Conv2d(2, 4, kernel, stride, padding)
    features = first(torch.zeros(1, 2, *sides)).numel()
    return nn.Sequential(
        Normalise(MEAN, STD), first, nn.ReLU(), nn.Flatten(), nn.Linear(features, 3)
    )


def loss_of(module, y):
    return lambda x: F.cross_entropy(module(x), y, reduction="sum")


def check(net, x, y):
    """The gradient of the loss, in pixels and in coordinates, is that through the module."""
    expected = gradient_of(loss_of(net.module, y))(x)
    frozen = net.frozen()
    at = frozen.coordinates
    torch.testing.assert_close(frozen(x), net.module(x))
    torch.testing.assert_close(gradient_of(loss_of(frozen, y))(x), expected)
    torch.testing.assert_close(at.leave(at.enter(x)), x)
    scales = at.radius(1.0, x)  # of a pixel's change, by the chain rule
    there = frozen.gradient(at.enter(x), y) * scales
    zero = at.leave(torch.zeros_like(there))
    std = 1.0 if net.normalise is None else net.normalise.std
    torch.testing.assert_close((at.leave(there) - zero) / std, expected)


@model_names
def test_gradients_are_autograds(name, double):
    check(wrapped(MODELS[name]()).eval(), *batch())


@pytest.mark.parametrize("sides", [(9, 9), (12, 12), (9, 12)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(4, 2, 0), (3, 2, 1), (5, 3, 2), (2, 3, 0), ((3, 2), 2, (1, 0)), (3, (2, 1), 1), (1, 2, 0)],
)
def test_a_first_convolution_with_a_stride(kernel, stride, padding, sides, double):
    x, y = torch.rand(4, 2, *sides), torch.arange(4) % 3
    check(BoundedNet(strided(kernel, stride, padding, sides), x[:2]).eval(), x, y)


CURVES = {
    **{"tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "softsign": nn.Softsign(), "mish": nn.Mish()},
    **{"GELU": nn.GELU(), "GELU by tanh": nn.GELU("tanh"), "SiLU": nn.SiLU(), "SELU": nn.SELU()},
    **{"ELU": nn.ELU(0.7), "CELU": nn.CELU(2.0), "softplus": nn.Softplus(3.0)},
    **{"hardswish": nn.Hardswish(), "log of sigmoid": nn.LogSigmoid()},
    "SiLU by hand": Function(lambda x: x * x.sigmoid()),
    "hardswish by hand": Function(lambda x: x * nn.functional.hardsigmoid(x)),
    "square": Function(lambda x: x * x),
    "cube": Function(lambda x: x**3),
    "exp, root, inverse, log": Function(lambda x: x.exp().sqrt().reciprocal().log()),
}


def curved(curve):
    """A small network of convolutions and one curve, for images of two channels."""
    first, second = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
    layers = first, curve, second, nn.BatchNorm2d(4), curve, nn.Flatten(), nn.Linear(64, 3)
    return nn.Sequential(Normalise(MEAN, STD), *layers)


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_steps(name, double):
    x, y = torch.rand(6, 2, 8, 8), torch.arange(6) % 3
    net = BoundedNet(curved(CURVES[name]), x[:2]).eval()
    assert net.fast is None and net.attacked is not None
    check(net, x, y)
    frozen, z = net.frozen(), x.clone().requires_grad_()
    loss = F.cross_entropy(frozen(z), y)
    first, second = (torch.autograd.grad(loss, z, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("curve", [nn.Tanh(), nn.GELU()], ids=["tanh", "GELU"])
def test_perturbations_of_curves_are_those_of_plain_pgd(curve):
    x, y = torch.rand(8, 2, 8, 8), torch.arange(8) % 3
    net = BoundedNet(curved(curve), x[:2]).eval()
    found = []
    for expected in (False, True):
        torch.manual_seed(1)
        found.append(by_autograd(net, x, y, EPS, 20) if expected else PGD()(net, x, y, EPS))
    assert float(((found[0] - found[1]).abs() <= 1e-5).double().mean()) >= 0.99


PRODUCTS = {
    "gated": Function(lambda x: x * x.tanh()),
    "product of two": Function(lambda x: x[:, :1] * (x + 0.5 * x.flip(1))),
    "quotient": Function(lambda x: x / (1 + x.abs())),
    "quotient of a constant": Function(lambda x: 1 / (x * x + 0.3)),
}
OTHERS = {**{name: layer for name, (layer, _) in LAYERS.items()}, **AFFINE, **PRODUCTS}


@pytest.mark.parametrize("name", OTHERS)
def test_layers_that_proofs_know_are_steps(name, double):
    model, x, y = network(copy.deepcopy(OTHERS[name]).double(), nn.ReLU())
    net = BoundedNet(model, x[:2]).eval()
    assert net.attacked is not None
    check(net, x, y)


#: Layers that bend, or choose, at -0.5, 0 or 0.5.
BENT = {
    "leaky": nn.LeakyReLU(0.1), "leaky, below 0": nn.LeakyReLU(-0.4), "prelu": nn.PReLU(2),
    "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.5, 0.5), "clamp": Limited(-0.5, 0.5),
    "clamp below": Limited(low=0.0), "clamp above": Limited(high=0.5), "abs": LAYERS["abs"][0],
    "max": Larger(nn.Identity(), nn.ReLU()), "min": Larger(nn.Hardtanh(), nn.ReLU(), torch.minimum),
    "pool": nn.MaxPool2d(2), "overlapping pool": nn.MaxPool2d(3, 2, 1),
    "hardsigmoid": Function(lambda x: nn.functional.hardsigmoid(6 * x)),
}  # fmt: skip


@pytest.mark.parametrize("name", BENT)
def test_at_bends_and_ties_the_slope_is_torchs(name, double):
    torch.manual_seed(0)
    first = nn.Conv2d(1, 2, 1)
    first.weight.data, first.bias.data = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1), torch.zeros(2)
    body = nn.Sequential(first, copy.deepcopy(BENT[name]).double(), nn.Flatten())
    x, y = torch.randint(-3, 4, (8, 1, 6, 6)) / 4, torch.arange(8) % 3
    model = nn.Sequential(*body, nn.Linear(body(x).shape[1], 3))
    net = BoundedNet(model, x[:2]).eval()
    assert net.attacked is not None
    check(net, x, y)


def examined(seed):
    """Check a random network of all operators; return whether it is attacked by steps."""
    model, shape = operators.network(seed)
    x, y = torch.randn(6, *shape), torch.arange(6) % operators.CLASSES
    try:
        net = BoundedNet(model, x[:2]).eval()
    except ModelError:
        return False
    with torch.no_grad():
        sound = net.module(x).isfinite().all()
    if sound:
        check(net, x, y)
    return sound and net.attacked is not None


def test_random_networks(double):
    assert sum(map(examined, range(8))) >= 4


@pytest.mark.nightly
def test_many_random_networks(double):
    assert sum(map(examined, range(24, 400))) >= 150


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", ["leaky", "one prelu", "clamp", "pool 2", "max", "gated"])
def test_perturbations_through_other_layers_are_those_of_plain_pgd(name, training, double):
    """Those of training, too, which takes BatchNorm's running statistics and new weights."""
    model, x, y = network(nn.BatchNorm2d(3), copy.deepcopy(OTHERS[name]).double(), nn.ReLU())
    net = BoundedNet(model, x[:2]).train(training)
    if training:
        net(x)
        with torch.no_grad():
            model[0].weight.mul_(1.5)
    torch.manual_seed(1)
    found = PGD()(net, x, y, EPS)
    assert net.training == training and net.attacked is not None
    torch.manual_seed(1)
    torch.testing.assert_close(found, by_autograd(net, x, y, EPS, 20), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "layer", [Function(torch.sin), nn.ZeroPad2d(1)], ids=["an operation without a step", "padding"]
)
def test_other_networks_are_left_to_autograd(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(layer(torch.ones(1, 2, 8, 8)).numel(), 3))
    x = torch.rand(6, 2, 8, 8)
    net = BoundedNet(model, x[:2]).eval()
    assert net.attacked is None
    torch.testing.assert_close(net.frozen()(x), net.module(x))


def by_autograd(net, x, y, eps, steps):
    """PGD of pixels, written out."""
    lower, upper = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    gradient = gradient_of(loss_of(net.module.eval(), y))
    z = (x + torch.empty_like(x).uniform_(-1, 1) * eps).clamp(lower, upper)
    for i in range(steps):
        step = 0.5 * eps * 0.1 ** sum(i >= share * steps for share in (0.5, 0.8, 0.9))
        z = (z + step * gradient(z).sign()).clamp(lower, upper)
    return z - x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "shape"), [("convsmall", (1, 28, 28)), ("convsmall", (3, 32, 32)), ("cnn7", (3, 8, 8))]
)
def test_perturbations_are_those_of_plain_pgd(name, shape, dtype):
    """All of them, but where float32 rounds a slope to the other side of zero."""
    model = build_model(name, shape=shape, classes=10, mean=[0.3] * shape[0], std=[0.2] * shape[0])
    x, y = torch.rand(8, *shape, dtype=dtype), torch.arange(8) % 10
    net = BoundedNet(model.to(dtype), x[:2]).eval()
    torch.manual_seed(1)
    found = PGD()(net, x, y, EPS)
    torch.manual_seed(1)
    same = (found - by_autograd(net, x, y, EPS, 20)).abs() <= 1e-5
    assert float(same.double().mean()) >= (0.99 if dtype == torch.float32 else 1.0)
    assert float(found.abs().max()) > 0.99 * EPS


def test_radii_differ_by_channel_in_blocks_too():
    x, y = torch.rand(4, 2, 8, 8), torch.arange(4) % 3
    net = BoundedNet(strided(4, 2, 0), x[:2]).eval()
    eps = torch.tensor([0.3, 0.05]).view(2, 1, 1)
    for radius in (eps, eps.expand(4, 2, 1, 1)):
        v = PGD(steps=5, clip=None)(net, x, y, radius)
        assert bool((v.abs() <= eps + 1e-6).all()) and bool((v.abs().amax((0, 2, 3)) > 0.04).all())


def test_autocast_rounds_no_attack():
    net, (x, y) = wrapped(MODELS["conv"]()).eval(), batch()
    frozen = net.frozen()
    z = frozen.coordinates.enter(x)
    exact = frozen(x), frozen.gradient(z, y)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = frozen(x), frozen.gradient(z, y)
    torch.testing.assert_close(rounded, exact, atol=0, rtol=0)


def test_an_input_may_carry_a_graph():
    net, (x, y) = wrapped(MODELS["conv"]()).eval(), batch()
    v = PGD(steps=2)(net, x.requires_grad_(), y, EPS)
    assert not v.requires_grad and v.shape == (len(x), *SHAPE)
