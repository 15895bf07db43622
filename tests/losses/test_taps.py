"""TAPS and STAPS against their formula written out, and the networks they can split."""

import math

import pytest
import torch
from reference import (
    EPS,
    MEAN,
    MODELS,
    STD,
    at_points,
    batch,
    box_margins,
    clean_statistics,
    gradients,
    intervals,
    literal_pgd,
    margins_of,
    mean_loss,
    model_names,
    small_box,
    small_conv,
    small_mlp,
    wrapped,
)
from torch import nn

from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.errors import InputError, ModelError
from citrus_lirpa.losses import LOSSES, Taps
from citrus_lirpa.losses.taps import linked
from citrus_lirpa.models import build_model

# ------------------------------------------------------------------------- written out


class Link(torch.autograd.Function):
    """The point itself forwards; backwards the rectified linear link to both ends."""

    @staticmethod
    def forward(ctx, lower, upper, point, c):
        ctx.save_for_backward(lower, upper, point)
        ctx.c = c
        return point.clone()

    @staticmethod
    def backward(ctx, gradient):
        lower, upper, point = ctx.saved_tensors
        reach = ctx.c * (upper - lower)
        to_upper = torch.where(point >= upper - reach, (point - (upper - reach)) / reach, 0.0)
        to_lower = torch.where(point <= lower + reach, (lower + reach - point) / reach, 0.0)
        # dead ReLUs have boxes of width 0, and pass no gradient on
        return gradient * to_lower.nan_to_num(), gradient * to_upper.nan_to_num(), None, None


def latent_attack(tail, statistics, lower, upper, start, y, c, steps):
    """Sign ascent of logit_c - logit_y inside the box, from ``start`` (a share of its width)."""
    lower, upper = lower.detach(), upper.detach()
    width = upper - lower
    point = lower + start * width
    for i in range(steps):
        point = point.detach().requires_grad_()
        logits = at_points(tail, statistics, point)[0]
        (slope,) = torch.autograd.grad(logits[c] - logits[y], point)
        step = max(0.2, 2 / steps) * (0.1 if i >= math.ceil(0.7 * steps) else 1)
        point = torch.minimum(torch.maximum(point + step * width * slope.sign(), lower), upper)
    return point.detach()


def literal_taps(model, statistics, lower, upper, y, *, split, c, steps):
    """Margins (B, K-1) of IBP, and those at the latent points."""
    layers = list(model)
    relus = [at for at, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    cut = relus[split - 1] + 1  # behind the split-th ReLU; 0 - 1 and less count from the end
    first, tail = layers[:cut], layers[cut:]
    frozen = {norm: (mean.detach(), var.detach()) for norm, (mean, var) in statistics.items()}
    boxes = zip(lower.split(1), upper.split(1), strict=True)
    latent = [intervals(first, statistics, *box) for box in boxes]
    starts = torch.rand(len(y), 2, *latent[0][0].shape[1:])
    inside = []
    for n, (low, high) in enumerate(latent):
        of_input = []
        for position, wrong in enumerate(k for k in range(3) if k != y[n]):
            start = starts[n, position].unsqueeze(0)
            point = latent_attack(tail, frozen, low, high, start, y[n], wrong, steps)
            logits = at_points(tail, statistics, Link.apply(low, high, point, c))[0]
            of_input.append(logits[y[n]] - logits[wrong])
        inside.append(torch.stack(of_input))
    return box_margins(model, statistics, lower, upper, y), torch.stack(inside)


#: Model, and options of the loss.
SETTINGS = {
    "mlp": ("mlp", {}),
    "conv": ("conv", {}),
    "conv split earlier": ("conv", dict(split=1)),
    "few steps, other link and scale": ("conv", dict(steps=4, link=0.3, scale=2.0)),
    "one step, to the ends": ("conv", dict(steps=1, link=1.0)),
    "STAPS, mlp": ("mlp", dict(tau_ratio=0.4)),
    "STAPS, conv": ("conv", dict(tau_ratio=0.7, split=-2)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_taps_is_its_formula(setting, double):
    name, options = SETTINGS[setting]
    model, (x, y) = MODELS[name](), batch()
    net, statistics = wrapped(model), clean_statistics(model, x)
    lower, upper = (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1)
    torch.manual_seed(4)
    if "tau_ratio" in options:
        v = literal_pgd(model, x, y, EPS, steps=8)
        lower, upper = small_box(x, v, EPS, options["tau_ratio"] * EPS)
    bounds, inside = literal_taps(
        model, statistics, lower, upper, y,
        split=options.get("split", -1), c=options.get("link", 0.5),
        steps=options.get("steps", 20),
    )  # fmt: skip
    ibp, taps = mean_loss(bounds), mean_loss(inside)
    scale = options.get("scale", 5.0)
    expected = [
        taps * a + scale * ibp * b
        for a, b in zip(gradients(ibp, model), gradients(taps, model), strict=True)
    ]
    torch.manual_seed(4)
    terms = Taps(EPS, **options)(net, x, y, EPS)
    torch.testing.assert_close((*terms.box, terms.margins.squeeze(1)), (lower, upper, bounds))
    torch.testing.assert_close(terms.total, ibp * taps, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients(terms.total, model), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["taps", "staps"])
def test_the_attack_finds_less_than_the_bounds_allow(name):
    """So L_TAPS < L_IBP; and it finds more than a random corner of the boxes between the parts."""
    model, (x, y) = small_conv(), batch()
    net = wrapped(model)
    options = dict(tau_ratio=0.4) if name == "staps" else {}
    loss = LOSSES[name](EPS, split=1, **options)
    terms = loss(net, x, y, EPS)
    found = loss.margins_inside(net, terms.bounds, y)
    assert (found >= terms.margins.squeeze(1) - 1e-5).all()
    z = net.preactivation_bounds(terms.box)[0]
    for _ in range(10):
        point = torch.lerp(z.lower.relu(), z.upper.relu(), torch.rand_like(z.lower).round())
        logits = net.tail(0)(point)
        anywhere = torch.stack([margins_of(*row) for row in zip(logits, y, strict=True)])
        assert found.mean() < anywhere.mean() - 0.5


@model_names
def test_taps_is_ibp_until_the_ramp_ends(name, double):
    model, (x, y) = MODELS[name](), batch()
    net, statistics = wrapped(model), clean_statistics(model, x)
    half = EPS / 2
    ends = (x - half).clamp(0, 1), (x + half).clamp(0, 1)
    expected = mean_loss(box_margins(model, statistics, *ends, y))
    for max_eps in (EPS, half * 1.001):
        terms = Taps(max_eps)(net, x, y, half)
        torch.testing.assert_close(terms.total, expected)
        torch.testing.assert_close(gradients(terms.total, model), gradients(expected, model))
    assert Taps(half * (1 + 1e-9))(net, x, y, half).item() != pytest.approx(expected.item())


# ---------------------------------------------------------------------------- the link


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_link_by_hand(dtype):
    """Boxes [1, 3], [1, 3], ..., and one without width; with c = 1/2 the reach is 1."""
    lower = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.7], dtype=dtype, requires_grad=True)
    upper = torch.tensor([3.0, 3.0, 3.0, 3.0, 3.0, 0.7], dtype=dtype, requires_grad=True)
    points = torch.tensor([1.0, 1.25, 2.0, 2.5, 3.0, 0.7], dtype=dtype)
    value = linked(Box(lower, upper), points, 0.5)
    assert torch.equal(value, points)
    value.sum().backward()
    assert lower.grad.tolist() == [1.0, 0.75, 0.0, 0.0, 0.0, 0.5]
    assert upper.grad.tolist() == [0.0, 0.0, 0.0, 0.5, 1.0, 0.5]


# ----------------------------------------------------------------- networks of the papers


def network(name):
    options = dict(width=2, linear=6) if name.startswith("cnn") else {}
    shape = (2, 10, 10)
    return build_model(name, shape=shape, classes=3, mean=MEAN, std=STD, **options), shape


@pytest.mark.parametrize("split", [-1, -2, 1])
@pytest.mark.parametrize("name", ["convsmall", "cnn7", "cnn5"])
def test_taps_trains_the_networks_of_the_papers(name, split):
    model, shape = network(name)
    x, y = torch.rand(4, *shape), torch.tensor([0, 1, 2, 1])
    net = BoundedNet(model, x).train()
    loss = Taps(0.01, split=split, steps=3)
    optimiser, totals = torch.optim.Adam(model.parameters(), lr=0.003), []
    for _ in range(6):
        optimiser.zero_grad()
        terms = loss(net, x, y, 0.01)
        terms.backward()
        optimiser.step()
        totals.append(terms.item())
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert totals[-1] < totals[0]


# ---------------------------------------------------------------------------- refusals


class Spanned(nn.Module):
    """A connection around the ReLU in the middle of three."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Linear(4, 5), nn.Linear(5, 5)
        self.after, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.first(x).relu()
        x = x + self.after(self.inner(x).relu())
        return self.last(x.relu())


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_a_split_that_a_connection_spans_is_refused_at_the_first_call(eps):
    x, y = torch.rand(3, 4), torch.tensor([0, 1, 2])
    net = BoundedNet(Spanned(), x).train()
    with pytest.raises(ModelError, match=r"cannot be split behind ReLU 1: .*another way") as error:
        Taps(0.1)(net, x, y, eps)
    assert "\n" not in str(error.value)
    assert math.isfinite(Taps(0.05, split=1)(net, x, y, eps).item())


@pytest.mark.parametrize("eps", [0.0, EPS])
@pytest.mark.parametrize("split", [2, 3, 50, 0, -2, -3])
def test_a_part_without_relus_is_refused_at_the_first_call(eps, split):
    net, (x, y) = wrapped(small_mlp()), batch()
    with pytest.raises(InputError, match=rf"split is {split}, but .* has 2 ReLUs"):
        Taps(EPS, split=split)(net, x, y, eps)
