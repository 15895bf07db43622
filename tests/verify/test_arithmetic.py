"""Certificates of float32 arithmetic hold in any order of sums; those of real numbers need not."""

import copy
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from networks import QUICK, deep_net, flushed, images
from torch import nn

from citrus_lirpa import BoundedNet, certify, certify_uap
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.errors import InputError, ModelError
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.rounding import intervals
from citrus_lirpa.verify.protocol import Protocol
from citrus_lirpa.verify.second_opinion import confirmed
from citrus_lirpa.verify.unfinished import Unfinished

ORDERS = ("forwards", "backwards", "shuffled", "pairwise", "fused")
METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown", "bab")


def summed(terms, order):
    """Sums (n, out) in float32 of products, factors (n, out, k) and (out, k), in some order."""
    x, weight = terms
    number = np.arange(x.shape[-1])
    if order == "backwards":
        number = number[::-1]
    elif order == "shuffled":
        number = np.random.default_rng(0).permutation(number)
    x, weight = x[..., number], weight[..., number]
    if order == "fused":  # products of two float32 are exact in float64
        total = np.zeros(x.shape[:-1], np.float32)
        for k in range(x.shape[-1]):
            exact = x[..., k].astype(np.float64) * weight[..., k].astype(np.float64)
            total = (exact + total).astype(np.float32)
        return total
    parts = [x[..., k] * weight[..., k] for k in range(x.shape[-1])]
    while order == "pairwise" and len(parts) > 1:
        pairs = [sum(parts[k : k + 2][1:], parts[k]) for k in range(0, len(parts), 2)]
        parts = pairs
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def computed(model, x, order):
    """The inputs of all ReLUs, and the logits, as a device computes them in float32."""
    value, found = x.flatten(1).numpy(), []
    for layer in model:
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            total = summed((value[:, None, :], weight), order)
            value = (bias + total if order == "backwards" else total + bias).astype(np.float32)
        elif isinstance(layer, nn.BatchNorm1d):
            value = normed(layer, value, order)
        elif isinstance(layer, nn.ReLU):
            found.append(value)
            value = np.maximum(value, np.float32(0))
        elif isinstance(layer, nn.LeakyReLU):
            found.append(value)
            value = np.where(value > 0, value, value * np.float32(layer.negative_slope))
        assert value.dtype == np.float32
    return [*found, value]


def normed(layer, value, order):
    """BatchNorm in eval mode, in one of the two usual ways."""
    weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    mean, variance = layer.running_mean.numpy(), layer.running_var.numpy()
    inverse = np.float32(1) / np.sqrt(variance + np.float32(layer.eps))
    if order in ("forwards", "fused"):
        return (value - mean) * inverse * weight + bias
    scale = weight * inverse
    return value * scale + (bias - mean * scale)


def random_model(seed):
    """A network of 1x4x4 images, in four kinds, one of which cancels large terms."""
    torch.manual_seed(seed)
    bend = (nn.ReLU, nn.LeakyReLU)[seed % 4 == 1]
    norm = [nn.BatchNorm1d(12)] if seed % 4 == 2 else []
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), *norm, bend(), nn.Linear(12, 8), bend(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        for layer in norm:
            layer.running_mean.fill_(30.0)
            layer.running_var.mul_(0.01)
        if seed % 4 == 3:
            model[1].bias.add_(300.0)
            model[-3].bias.sub_(300.0 * model[-3].weight.sum(1))
    return model.eval()


def points(model, x, y, eps):
    """Perturbed images (n, 24, 1, 4, 4) in float32: corners, many of them by a gradient."""
    found = []
    for c in range(3):
        u = x.clone().requires_grad_(True)
        logits = model(u)
        (gradient,) = torch.autograd.grad(
            (logits[:, c] - logits.gather(1, y[:, None])[:, 0]).sum(), u
        )
        found.append(eps * gradient.sign())
    found += [eps * (2 * torch.randint(2, x.shape) - 1) for _ in range(21)]
    return (x + torch.stack(found)).transpose(0, 1)


def outwitting():
    """A network whose margin at the end of its box is 1e-4; in float32 it is negative there."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[1].bias.fill_(256.0)  # numbers around 256 are 3e-5 apart
        model[3].weight.copy_(torch.tensor([[64.0, -64.0]]))
        model[3].bias.zero_()
        model[5].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[5].bias.copy_(torch.tensor([1e-4 - 64e-5 - 16.0, 0.0]))
    return model.eval(), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), 0.25 - 1e-5


def test_a_certificate_that_float32_breaks_is_one_of_real_numbers_alone():
    model, x, y, eps = outwitting()
    net = BoundedNet(model, x).eval()
    for order in ORDERS:
        assert int(computed(model, x - eps, order)[-1].argmax()) == 1
    for method in METHODS:
        given = dict(method=method, time_limit=0.2)
        assert certify(net, x, y, eps, **given).certified.all()
        assert not certify(net, x, y, eps, arithmetic="float32", **given).certified.any()
    model[5].bias.data[0] += 0.5
    for method in METHODS:
        assert certify(net, x, y, eps, arithmetic="float32", method=method).certified.all()


def test_what_float32_computes_contradicts_certificates_of_float32():
    model, x, y, eps = outwitting()
    net = BoundedNet(model, x).eval()
    broken = proved = torch.tensor([True])
    given = net, Ball(eps), x, y, torch.full_like(x[0], -eps), broken, proved
    assert confirmed(*given, "float32").all() and not confirmed(*given, "real").any()


@pytest.mark.parametrize(("mean", "holds"), [(1.0, True), (1e38, False)])
def test_a_scale_that_is_flushed_is_charged_for_the_mean(mean, holds):
    """With a mean of 1e38 the margin is 0.25 the wrong way once the scale is flushed."""
    model, x = flushed(mean), torch.full((1, 1, 2, 2), 0.5)
    y = model(x).argmax(1)
    net = BoundedNet(model, x).eval()
    for method in METHODS:
        given = dict(method=method, time_limit=0.2)
        assert certify(net, x, y, 0.01, **given).certified.all()
        assert bool(certify(net, x, y, 0.01, arithmetic="float32", **given).certified) == holds


@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (3, 1.0), (0, 1e-38)])
def test_a_segment_is_off_by_at_most_its_share_by_fractions(seed, scale):
    """Also where numbers underflow, to be flushed to zero."""
    exact, x, model = np.vectorize(Fraction), torch.rand(3, 1, 4, 4), random_model(seed)
    model[1].weight.data.mul_(scale)
    net = BoundedNet(model, x).eval()
    device = [segment.on_device() for segment in net.affine_segments()]
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    for order in ORDERS:
        value = x.flatten(1).numpy()
        for segment, layer, z in zip(device, linear, computed(model, x, order), strict=True):
            z = np.where(abs(z) < 2.0**-126, np.float32(0), z)
            weight, bias = (exact(p.detach().numpy().astype(float)) for p in layer.parameters())
            wanted = exact(value.astype(float)) @ weight.T + bias
            off = abs(exact(z.astype(float)) - wanted).astype(float)
            given = torch.from_numpy(value).double()
            sizes = segment.double().sizes(
                given.view(3, 1, 4, 4) if value.shape[1] == 16 else given
            )
            assert (off <= segment.noise * sizes.numpy()).all()
            value = np.maximum(z, np.float32(0))


def test_devices_stay_within_intervals():
    for seed in range(4):
        model, eps = random_model(seed), 0.02
        net = BoundedNet(model, torch.zeros(1, 1, 4, 4)).eval()
        x = torch.rand(4, 1, 4, 4)
        engine = DualEngine(net, Ball(eps), arithmetic="float32")
        bounds, _ = intervals(engine.exact_segments, x.double(), engine.ball)
        moved = points(model, x, model(x).argmax(1), eps)
        for order in ORDERS:
            values = computed(model, moved.flatten(0, 1), order)[:-1]
            for (lower, upper), value in zip(bounds, values, strict=True):
                value = torch.from_numpy(value).double().view(4, 24, -1)
                assert (lower.unsqueeze(1) <= value).all() and (value <= upper.unsqueeze(1)).all()


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_sums_breaks_a_certificate(seed):
    """An image is a hair from open: the last bias takes away what its bound has to spare."""
    model, eps = random_model(seed), 0.01
    x, last = torch.rand(12, 1, 4, 4), model[-1].bias.data.clone()
    y = model(x).argmax(1)
    net, tried = BoundedNet(model, x).eval(), 0
    for method in METHODS:
        given = dict(method=method, arithmetic="float32", time_limit=0.2)
        found = certify(net, x, y, eps, **given)
        for i in (found.certified & (found.margin > 0)).nonzero().flatten().tolist()[:1]:
            model[-1].bias.data[y[i]] -= 0.9999 * found.margin[i]
            one = x[i : i + 1], y[i : i + 1]
            if certify(net, *one, eps, **given).certified:
                moved, tried = points(model, *one, eps)[0], tried + 1
                for order in ORDERS:
                    assert (computed(model, moved, order)[-1].argmax(1) == int(y[i])).all()
            model[-1].bias.data.copy_(last)
    assert tried


@pytest.fixture(scope="module")
def pairs_of_groups():
    """Networks, two groups of each, certificates of single images, and the fewest images of each
    group that a device gets right, in any order, when they are perturbed alike."""
    made = []
    for seed in (0, 3):
        model, x = random_model(seed), torch.rand(8, 1, 4, 4)
        y = model(x).argmax(1)
        net = BoundedNet(model, x).eval()
        found = certify(net, x, y, 0.06, method="bab", arithmetic="float32", time_limit=0.5)
        shared = points(model, x, y, 0.06) - x.unsqueeze(1)
        moved = (x + shared.flatten(0, 1).unsqueeze(1)).flatten(0, 1)
        right = [
            computed(model, moved, order)[-1].argmax(1).reshape(-1, 2, 4) == y.view(2, 4).numpy()
            for order in ORDERS
        ]
        made.append((net, x, y, found, np.concatenate(right).sum(2).min(0)))
    return made


@pytest.mark.parametrize("relational", ["io", "cross"])
def test_groups_keep_as_many_images_on_a_device(pairs_of_groups, relational):
    proved = 0
    given = dict(group_size=4, relational=relational, attack=QUICK, time_limit=0.5)
    for net, x, y, found, right in pairs_of_groups:
        uap = certify_uap(net, x, y, 0.06, certificates=found, arithmetic="float32", **given)
        assert (right >= uap.lower.numpy()).all()
        proved += int(uap.lower.sum()) - int(found.certified.sum())
    assert proved > 0


@pytest.fixture(scope="module")
def fitted_net():
    """A net, twenty images, and their labels."""
    torch.manual_seed(0)
    net = deep_net()
    return net, *images(net, 20)


def test_what_cannot_hold_for_a_device_is_refused(fitted_net):
    net, x, y = fitted_net[0], *(part[:4] for part in fitted_net[1:])
    single = dict(arithmetic="float32")
    sigmoid = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Sigmoid(), nn.Linear(4, 3)).eval()
    with pytest.raises(ModelError, match=r"devices round Sigmoid.* in ways .*arithmetic real"):
        certify(BoundedNet(sigmoid, x).eval(), x, y, 0.01, **single)
    theirs = BoundedNet(net.module, x, bounds="auto-lirpa").eval()
    with pytest.raises(ModelError, match="auto_LiRPA's bounds .*use arithmetic real"):
        certify(theirs, x, y, 0.01, **single)
    with pytest.raises(InputError, match="relational stage raven is not for arithmetic float32"):
        certify_uap(net, x, y, 0.01, group_size=2, relational="raven", **single)
    with pytest.raises(InputError, match="raven"):
        Protocol(eps=0.1, relational="raven", **single)
    with pytest.raises(InputError, match="verdicts of others are of real numbers"):
        certify(net, x, y, 0.01, known=torch.zeros(4, dtype=torch.long), **single)
    with pytest.raises(InputError, match="unknown arithmetic 'float16'"):
        certify(net, x, y, 0.01, arithmetic="float16")
    twin = BoundedNet(copy.deepcopy(net.module).double(), x.double()).eval()
    with pytest.raises(InputError, match="arithmetic float32 is of networks in it"):
        certify(twin, x.double(), y, 0.01, **single)


def test_certificates_of_the_two_arithmetics_do_not_mix(fitted_net):
    net, x, y = fitted_net[0], *(part[:4] for part in fitted_net[1:])
    for mine, other in itertools.permutations(("real", "float32")):
        found = certify(net, x, y, 0.01, method="ibp", arithmetic=mine)
        assert found.arithmetic == mine
        with pytest.raises(InputError, match=f"are of {mine} arithmetic, not of {other}"):
            certify_uap(net, x, y, 0.01, group_size=2, certificates=found, arithmetic=other)
        begun = Unfinished()
        certify(net, x, y, 0.01, method="ibp", arithmetic=mine, unfinished=begun)
        for eps, arithmetic in ((0.01, other), (0.02, mine)):
            with pytest.raises(InputError, match=rf"unfinished.*0.01.* {mine}.*, {arithmetic} "):
                certify(net, x, y, eps, method="ibp", arithmetic=arithmetic, unfinished=begun)


def test_norm_2_has_certificates_of_float32_too(fitted_net):
    net, x, y = fitted_net
    given = dict(method="crown", norm=2)
    single = certify(net, x, y, 0.1, arithmetic="float32", **given)
    real = certify(net, x, y, 0.1, **given)
    assert single.certified.any() and not (single.certified & ~real.certified).any()
    assert (single.margin <= real.margin)[single.certified].all()
