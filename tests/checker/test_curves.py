"""Proofs of networks with curves, and the lines that the checker puts in place of these."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layers import Function, network
from proved import statement
from torch import nn

from citrus_lirpa import BoundedNet, certify, certify_uap, checker
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.checker import curves
from citrus_lirpa.checker.network import Numbers
from citrus_lirpa.checker.products import Product
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.proof_files import ProofFolder

pytest.importorskip("onnx")

FLOATS = Numbers(exact=False)
LAYERS = {
    "sigmoid": [nn.Sigmoid()],
    "tanh, twice": [nn.Tanh(), nn.Conv2d(3, 3, 3), nn.Tanh()],
    "softplus": [nn.Softplus(beta=3.0)],
    "elu behind silu": [nn.SiLU(), nn.Conv2d(3, 3, 3), nn.ELU(0.7)],
    "gelu, twice": [nn.GELU(), nn.Conv2d(3, 3, 3), nn.GELU()],
    "tanh gelu": [nn.GELU("tanh")],
    "a sigmoid and its silu": [Function(lambda x: torch.cat([x * x.sigmoid(), x.sigmoid()], 1))],
    "mish behind selu": [nn.SELU(), nn.Conv2d(3, 3, 3), nn.Mish()],
    "hardswish behind celu": [nn.CELU(0.5), nn.Conv2d(3, 3, 3), nn.Hardswish()],
    "softsign and log-sigmoid": [nn.Softsign(), nn.Conv2d(3, 3, 3), nn.LogSigmoid()],
    "hardsigmoid": [nn.Hardsigmoid()],
    "mish by hand": [
        *(Function(lambda x: x * F.softplus(x).tanh()), nn.Conv2d(3, 3, 3)),
        Function(lambda x: F.softplus(x).tanh() * x),
    ],
    "mish by hand and its gate": [
        Function(lambda x: torch.cat([x * (gate := F.softplus(x).tanh()), gate], 1))
    ],
    "hardswish by hand": [
        *(Function(lambda x: x * F.hardsigmoid(x)), nn.Conv2d(3, 3, 3)),
        Function(lambda x: F.hardsigmoid(x) * x),
    ],
    "hardswish by hand and its gate": [
        Function(lambda x: torch.cat([x * (gate := F.hardsigmoid(x)), gate], 1))
    ],
    "log-sigmoid by hand": [
        *(Function(lambda x: -F.softplus(-x)), nn.Conv2d(3, 3, 3)),
        Function(lambda x: x.sigmoid().log()),
    ],
    "exp and log": [Function(lambda x: x.exp() - (x.abs() + 1).log())],
    "roots and inverses": [Function(lambda x: (x.abs() + 0.1).rsqrt() + (x.relu() + 1).sqrt())],
    "powers": [Function(lambda x: x**3 + x.relu() ** 1.5 - (x.relu() + 1) ** -2.0 + x * x)],
    "tanh of a product with a square": [Function(lambda x: (x + 0.04 * x * (x * x)).tanh())],
    "product": [Function(lambda x: x[:, :2] * x[:, 1:])],
    "glu": [nn.GLU(2)],
    "product of pools of ReLU": [
        Function(lambda x: F.max_pool2d(x.relu(), 2) * F.avg_pool2d(x.relu(), 2))
    ],
    "gate": [Function(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid())],
    "quotients": [Function(lambda x: x / (x.relu() + 1) + 2 / (x.square() + 1) - x / 3)],
    "pooled tanh": [nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2), nn.ReLU()],
}
#: For those whose perturbations are not 0.02.
EPS = {
    "sigmoid": 0.05, "tanh, twice": 0.05, "softsign and log-sigmoid": 0.05, "hardsigmoid": 0.2,
    "log-sigmoid by hand": 0.05,
    "roots and inverses": 0.15, "product": 0.002,
    "product of pools of ReLU": 0.01, "gate": 0.01, "quotients": 0.005,
}  # fmt: skip
FUNCTIONS = {
    "sigmoid": (curves.SIGMOID, torch.sigmoid),
    "tanh": (curves.TANH, torch.tanh),
    "softplus": (curves.softplus_of(1.0), lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "softsign": (curves.SOFTSIGN, F.softsign),
    "log-sigmoid": (curves.LOG_SIGMOID, F.logsigmoid),
    "silu": (curves.SILU, F.silu),
    "mish": (curves.MISH, F.mish),
    "hardswish": (curves.hard_swish(1 / 6), F.hardswish),
    "elu": (curves.elu(0.7), lambda x: F.elu(x, 0.7)),
    "steep elu": (curves.elu(2.0), lambda x: F.elu(x, 2.0)),
    "falling elu": (curves.elu(-0.5), lambda x: F.elu(x, -0.5)),
    "selu": (curves.elu(1.6732632423543772, 1.0507009873554805), F.selu),
    "celu": (curves.elu(0.5, width=0.5), lambda x: F.celu(x, 0.5)),
    "gelu": (curves.gelu(1.0), F.gelu),
    "tanh gelu": (
        curves.tanh_gelu(math.sqrt(2 / math.pi), 0.044715),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "exp": (curves.EXP, torch.exp),
    "square": (curves.power_of(2.0), torch.square),
    "cube": (curves.power_of(3.0), lambda x: x**3),
}
#: Those that are defined on one side of 0 alone, and on which.
ONE_SIDED = {
    "log": (curves.LOG, torch.log, 1),
    "root": (curves.power_of(0.5), torch.sqrt, 1),
    "power": (curves.power_of(1.3), lambda x: x**1.3, 1),
    "small power": (curves.power_of(0.3), lambda x: x**0.3, 1),
    "inverse power": (curves.power_of(-2.5), lambda x: x**-2.5, 1),
    "inverse": (curves.power_of(-1.0), torch.reciprocal, 1),
    "inverse below 0": (curves.power_of(-1.0), torch.reciprocal, -1),
    "inverse square below 0": (curves.power_of(-2.0), lambda x: x**-2.0, -1),
}
FUNCTIONS |= {name: found[:2] for name, found in ONE_SIDED.items()}


def moved(name, x):
    """Move places to where a curve is defined, in their order."""
    side = ONE_SIDED.get(name, (0, 0, 0))[2]
    return x - side * min(0.0, float((side * x).min())) + 0.01 * side


def prove(folder, layers, eps=0.05):
    """Certify images and a group of a network, and write their proofs."""
    model, x, _ = network(*layers)
    with torch.no_grad():  # so that the curves get inputs of a wide range
        for parameter in model.parameters():
            parameter *= 3
    y, net = model(x).argmax(1), BoundedNet(model, x).eval()
    kept, made = Proofs(x, y), ProofFolder(folder, net, Ball(eps))
    known = {"group_size": 4, "time_limit": 5, "proofs": kept}
    found = certify(net, x, y, eps, method="bab", **known)
    uap = certify_uap(net, x, y, eps, certificates=found, **known)
    made.store(0, kept, 0, 4, found, uap)
    assert made.figures(uap).images == int(found.certified.sum()) > 0
    with np.load(folder / "00000.npz") as arrays:
        assert (arrays["entry_kind"] != checker.INTERVAL).any()
    return int(found.certified.sum())


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_certified_has_proofs_that_hold(tmp_path, name):
    certified = prove(tmp_path, LAYERS[name], eps=EPS.get(name, 0.02))
    summary = checker.check_folder(tmp_path, checker.read_network(tmp_path / "model.onnx"))
    assert (summary.images, summary.groups, summary.refused) == (certified, 1, [])


def test_they_hold_in_fractions(tmp_path):
    certified = prove(tmp_path, [nn.SiLU()])
    network_read = checker.read_network(tmp_path / "model.onnx", exact=True)
    summary = checker.check_folder(tmp_path, network_read)
    assert (summary.images, summary.groups, summary.refused) == (certified, 1, [])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_slopes_are_those_of_torch(name):
    curve, function = FUNCTIONS[name]
    x = moved(name, torch.linspace(-30, 30, 2001, dtype=torch.float64)).requires_grad_()
    value = function(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    at, value, slope = x.detach().numpy(), value.detach().numpy(), slope.numpy()
    near = 2.0**-45
    assert (abs(curve.value(at) - value) <= near * (1 + abs(at) + abs(value))).all()
    apart = (at != 0) & (abs(at) != 3)  # where ELU and Hardswish have kinks
    assert (abs(curve.slope(at) - slope) <= near * (1 + abs(slope)))[apart].all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lines_bound_curves_at_every_place(name):
    """For any slopes and places; where these belong together, they touch the curve."""
    curve, _ = FUNCTIONS[name]
    draw = np.random.default_rng(0)
    lower = draw.normal(size=(400, 1)) * 4
    width = draw.exponential(size=(400, 1)) * 10.0 ** draw.integers(-4, 1, (400, 1))
    lower = moved(name, np.concatenate([lower, lower + width]))[:400]
    upper = lower + width
    touch = lower + draw.random((400, 1)) * (upper - lower)
    slope = curve.slope(touch)
    slope[::3] += draw.normal(size=slope[::3].shape)
    _, below, _, above = curve.lines(FLOATS, np.stack([slope, touch] * 2), lower, upper)
    x = np.concatenate([lower + np.linspace(0, 1, 501) * (upper - lower), touch], 1)
    value = curve.value(x)
    rest = value - slope * x
    assert (below <= rest.min(1, keepdims=True)).all()
    assert (above >= rest.max(1, keepdims=True)).all()
    low, high = curve.hull(FLOATS, lower, upper)
    assert (low <= value).all() and (high >= value).all()
    gaps = rest.min(1) - below[:, 0], above[:, 0] - rest.max(1)
    fitting = np.arange(400) % 3 > 0
    near = 1e-4 * (upper - lower)[:, 0] + 1e-9 * (1 + abs(value).max(1) + abs(slope)[:, 0])
    assert (np.minimum(*gaps) < near)[fitting].mean() > 0.95


@pytest.mark.parametrize(
    ("curve", "lower"), [(curves.LOG, 0.0), (curves.power_of(-1), -0.1), (curves.power_of(0.3), -1)]
)
def test_intervals_outside_a_domain_are_refused(curve, lower):
    with pytest.raises(checker.Refused, match="not defined"):
        curve.hull(FLOATS, np.array([[lower]]), np.array([[1.0]]))


@pytest.mark.parametrize("exact", [False, True])
def test_planes_bound_products_and_mccormicks_meet_them_at_three_corners(exact):
    numbers, product = Numbers(exact), Product()
    draw = np.random.default_rng(1)
    lower = numbers.of(draw.integers(-9, 9, (60, 1)) / 4)
    upper = lower + numbers.of(draw.integers(0, 9, (60, 1)) / 8)
    (x, y), (far_x, far_y) = np.split(lower, 2), np.split(upper, 2)
    mccormick = np.stack([y, x, far_y, x]).astype(float)  # below, then above
    stated = np.concatenate([mccormick, draw.normal(size=(4, 30, 2))], 2)
    low_slope, low, high_slope, high = product.lines(numbers, stated, lower, upper)
    gaps = []
    for share in [(0, 0), (0, 1), (1, 0), (1, 1), *draw.random((20, 2))]:
        at = x + numbers.of(share[0]) * (far_x - x), y + numbers.of(share[1]) * (far_y - y)
        planes = [sum(p * v for p, v in zip(np.split(s, 2), at, strict=True)) + m
                  for s, m in ((low_slope, low), (high_slope, high))]  # fmt: skip
        gaps.append([at[0] * at[1] - planes[0], planes[1] - at[0] * at[1]])
        rounding = 0 if exact else 1e-15
        assert (np.stack(gaps[-1]) >= -rounding).all()
    touching = np.array(gaps)[:4, :, :, 0] <= (0 if exact else 1e-13)
    assert (touching.sum(0) >= 3).all()


# -- corrupted proofs -----------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tanh, twice", "product"])
def proofs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curves")
    assert prove(folder, LAYERS[request.param], eps=EPS[request.param]) == 4
    with np.load(folder / "00000.npz") as arrays:
        return folder, dict(arrays)


def changed(name, change, places=slice(None)):
    """Corrupt some places of an array."""

    def corrupt(arrays, draw):
        values = arrays[name].copy()
        at = draw.integers(len(values)) if places is None else places
        values[at] = change(values[at], draw)
        return {**arrays, name: values}

    return corrupt


def narrowed(end, share):
    """Of an input of the first curve, whose bounds are exact, in a context that is used."""

    def corrupt(arrays, draw):
        width = arrays["claim_upper"] - arrays["claim_lower"]
        sign = 1 if end == "lower" else -1
        context = np.searchsorted(arrays["claim_end"], np.arange(len(width)), "right")
        used = np.isin(context, arrays["entry_context"]) & (arrays["claim_neuron"] < 108)
        k = draw.choice(np.flatnonzero(used))
        values = arrays[f"claim_{end}"].copy()
        values[k] += sign * share * width[k]
        return {**arrays, f"claim_{end}": values}

    return corrupt


def split(arrays, draw):
    """A neuron of a curve."""
    more = {"entry": 0, "neuron": draw.integers(100), "sign": 1, "multiplier": 0.0}
    return {**arrays, **{f"split_{k}": np.append(arrays[f"split_{k}"], v) for k, v in more.items()}}


CORRUPTIONS = {
    "a slope that is NaN": changed("line_context", lambda v, _: v * np.nan, None),
    "slopes that are infinite": changed("line_context", lambda v, _: v + np.inf),
    "slopes of another curve": changed("line_context", lambda v, d: v + 30 * d.normal(size=4)),
    "a slope of every line or plane shifted": changed(
        "line_context", lambda v, _: v + [9, 0, 9, 0]
    ),
    "slopes of the other sign": changed("line_context", lambda v, _: v * [-1, 1, -1, 1]),
    "lines of other neurons": changed("line_context", lambda v, d: d.permuted(v, axis=1)),
    "lines of fewer neurons": lambda a, _: {**a, "line_context": a["line_context"][:, :-1]},
    "no lines": lambda a, _: {**a, "line_context": a["line_context"][:, :0]},
    "lines of fewer images": lambda a, _: {**a, "line_context": a["line_context"][:-1]},
    "a lower bound closer than it is": narrowed("lower", 0.05),
    "an upper bound closer than it is": narrowed("upper", 0.05),
    "bounds that cross": narrowed("lower", 1.5),
    "a split curve": split,
    "a larger eps": lambda a, d: statement(a, eps=0.05 * d.uniform(1.2, 3)),
    "another pixel": changed("pixels", lambda v, d: v + np.float32(d.uniform(0.01, 1)), None),
    "another network": lambda a, d: statement(a, network=f"{d.integers(10)}" * 64),
    "bounds of another image": changed("context_image", lambda v, _: (v + 1) % 4, None),
    "a swapped class": changed("entry_class", lambda v, _: (v + 1) % 3, None),
    "a safe image more": lambda a, _: statement(a, groups=[[0, 4, 5]]),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corrupted_proofs_are_refused(tmp_path, proofs, kind):
    folder, arrays = proofs
    network_read = checker.read_network(folder / "model.onnx")
    for seed in range(3):
        bad = CORRUPTIONS[kind](arrays, np.random.default_rng(seed))
        np.savez(tmp_path / "00000.npz", **bad)
        assert checker.check_folder(tmp_path, network_read).refused, seed


@pytest.mark.nightly
def test_hundreds_of_corrupted_proofs_are_refused(tmp_path, proofs):
    folder, arrays = proofs
    network_read, accepted = checker.read_network(folder / "model.onnx"), []
    for kind, corrupt in CORRUPTIONS.items():
        for seed in range(20):
            np.savez(tmp_path / "00000.npz", **corrupt(arrays, np.random.default_rng(seed)))
            if not checker.check_folder(tmp_path, network_read).refused:
                accepted.append((kind, seed))
    assert len(CORRUPTIONS) >= 15 and accepted == []
