"""Proofs of networks with curves, and the lines that the checker puts in place of these."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layers import Function, network
from torch import nn

from citrus_lirpa import BoundedNet, certify, certify_uap, checker
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.checker import curves
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.proof_files import ProofFolder

pytest.importorskip("onnx")

LAYERS = {
    "sigmoid": [nn.Sigmoid()],
    "tanh, twice": [nn.Tanh(), nn.Conv2d(3, 3, 3), nn.Tanh()],
    "softplus": [nn.Softplus(beta=3.0)],
    "elu behind silu": [nn.SiLU(), nn.Conv2d(3, 3, 3), nn.ELU(0.7)],
    "gelu, twice": [nn.GELU(), nn.Conv2d(3, 3, 3), nn.GELU()],
    "tanh gelu": [nn.GELU("tanh")],
    "a sigmoid and its silu": [Function(lambda x: torch.cat([x * x.sigmoid(), x.sigmoid()], 1))],
    "pooled tanh": [nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2), nn.ReLU()],
}
FUNCTIONS = {
    "sigmoid": (curves.SIGMOID, torch.sigmoid),
    "tanh": (curves.TANH, torch.tanh),
    "softplus": (curves.SOFTPLUS, lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "silu": (curves.SILU, F.silu),
    "elu": (curves.elu(0.7), lambda x: F.elu(x, 0.7)),
    "gelu": (curves.gelu(1.0), F.gelu),
    "tanh gelu": (
        curves.tanh_gelu(math.sqrt(2 / math.pi), 0.044715),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
}


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
    return int(found.certified.sum())


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_certified_has_proofs_that_hold(tmp_path, name):
    certified = prove(tmp_path, LAYERS[name], eps=0.02)
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
    x = torch.linspace(-30, 30, 2001, dtype=torch.float64, requires_grad=True)
    value = function(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    at = x.detach().numpy()
    near = 2.0**-45
    assert (abs(curve.value(at) - value.detach().numpy()) <= near * (1 + abs(at))).all()
    apart = at != 0  # where ELU has a kink
    assert (abs(curve.slope(at) - slope.numpy())[apart] <= near).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lines_bound_curves_at_every_place(name):
    """For any slopes and places; where these belong together, they touch the curve."""
    curve, _ = FUNCTIONS[name]
    draw = np.random.default_rng(0)
    lower = draw.normal(size=(400, 1)) * 4
    upper = lower + draw.exponential(size=(400, 1)) * 10.0 ** draw.integers(-4, 1, (400, 1))
    touch = lower + draw.random((400, 1)) * (upper - lower)
    slope = curve.slope(touch)
    slope[::3] += draw.normal(size=slope[::3].shape)
    below, above = curve.offsets(np.stack([slope, touch] * 2), lower, upper)
    x = lower + np.linspace(0, 1, 501) * (upper - lower)
    rest = curve.value(x) - slope * x
    assert (below <= rest.min(1, keepdims=True)).all()
    assert (above >= rest.max(1, keepdims=True)).all()
    low, high = curve.hull(lower, upper)
    assert (low <= curve.value(x)).all() and (high >= curve.value(x)).all()
    gaps = rest.min(1) - below[:, 0], above[:, 0] - rest.max(1)
    fitting = np.arange(400) % 3 > 0
    near = np.minimum(*gaps)[fitting] < 1e-4 * (upper - lower)[fitting, 0] + 1e-9
    assert near.mean() > 0.95


# -- corrupted proofs -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def proofs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curves")
    prove(folder, LAYERS["tanh, twice"])
    with np.load(folder / "00000.npz") as arrays:
        return folder, dict(arrays)


def stated(arrays, **changes):
    values = json.loads(str(arrays["statement"]))
    return {**arrays, "statement": np.array(json.dumps({**values, **changes}))}


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
    "lines of fewer neurons": lambda a, _: {**a, "line_context": a["line_context"][:, :-1]},
    "no lines": lambda a, _: {**a, "line_context": a["line_context"][:, :0]},
    "lines of fewer images": lambda a, _: {**a, "line_context": a["line_context"][:-1]},
    "a lower bound closer than it is": narrowed("lower", 0.05),
    "an upper bound closer than it is": narrowed("upper", 0.05),
    "bounds that cross": narrowed("lower", 1.5),
    "a split curve": split,
    "a larger eps": lambda a, d: stated(a, eps=0.05 * d.uniform(1.2, 3)),
    "another pixel": changed("pixels", lambda v, d: v + np.float32(d.uniform(0.01, 1)), None),
    "another network": lambda a, d: stated(a, network=f"{d.integers(10)}" * 64),
    "bounds of another image": changed("context_image", lambda v, _: (v + 1) % 4, None),
    "a swapped class": changed("entry_class", lambda v, _: (v + 1) % 3, None),
    "a safe image more": lambda a, _: stated(a, groups=[[0, 4, 5]]),
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
