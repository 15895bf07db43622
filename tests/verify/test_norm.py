"""‖u‖₂ <= ε: closed forms, exhaustive answers, attacks, and the inclusions of balls."""

import math
from collections import Counter

import pytest
import torch
from exact import KINDS, random_images, random_net
from networks import images, small_net, without_dual_engine
from torch import nn

from citrus_lirpa import PGD, BoundedNet, Box, GroupAttack, SgdUap, certify, certify_uap
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.margins import logit_margins, specification
from citrus_lirpa.errors import InputError, ModelError
from citrus_lirpa.losses import Citrus, Ibp, Sabr
from citrus_lirpa.losses.registry import TRAINING_METHODS
from citrus_lirpa.models import Normalise
from citrus_lirpa.verify import Protocol
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.crown.rounding import intervals
from citrus_lirpa.verify.crown.worst import shortfall, worst_shared

CLIPS = [None, (0.0, 1.0)]


def in_ball(count, shape, eps, dtype=torch.float32):
    """(count, ...) points of the ball, most of them on its surface."""
    v = torch.randn(count, *shape, dtype=dtype)
    length = (2 * torch.rand(count, dtype=dtype)).clamp(max=1)
    return eps * v * (length / v.flatten(1).norm(dim=1)).view(-1, *[1] * len(shape))


def smallest_sampled(model, x, y, u, clip):
    """(N,) the smallest margin of each input under perturbations (S, ...)."""
    moved = x.unsqueeze(1) + u
    moved = moved if clip is None else moved.clamp(*clip)
    logits = model(moved.flatten(0, 1))
    margins = logit_margins(logits, y.repeat_interleave(len(u))).amin(1)
    return margins.view(len(x), -1).amin(1)


# -------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("scaling", [(), (Normalise((0.4,), (0.5,)),)])
def test_a_linear_network_has_the_bound_of_its_formula(scaling):
    model = nn.Sequential(*scaling, nn.Flatten(), nn.Linear(9, 4)).eval()
    x, y, eps = torch.rand(5, 1, 3, 3), torch.arange(5) % 4, 0.3
    net = BoundedNet(model, x).eval()
    found = net.margins(Box.around(x, eps, None, norm=2), y)
    rows = specification(y, 4) @ model[-1].weight
    lengths = rows.norm(dim=2) / (scaling[0].std.item() if scaling else 1.0)
    exact = logit_margins(model(x), y) - eps * lengths
    assert torch.allclose(found, exact, atol=1e-5)
    assert (net.margins(Box.around(x, eps, None), y) < found).all()


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("kind", ["conv", "batchnorm", "normalise"])
def test_the_first_layer_moves_by_the_norms_of_its_rows(kind, clip):
    model, shape = random_net(kind, 1)
    x, eps = torch.rand(3, *shape), 0.4
    net = BoundedNet(model, x).eval()
    (bounds,) = net.preactivation_bounds(Box.around(x, eps, clip, norm=2))
    boxes = net.preactivation_bounds(Box.around(x, eps, clip))[0]
    (segment, _) = net.affine_segments()
    u = in_ball(500, shape, eps)
    moved = Ball(eps, clip, 2.0).cut(x.unsqueeze(1) + u).flatten(0, 1)
    z = segment(moved).unflatten(0, (3, -1))
    assert (bounds.lower <= z.amin(1) + 1e-5).all() and (z.amax(1) - 1e-5 <= bounds.upper).all()
    assert (bounds.lower >= boxes.lower - 1e-6).all() and (bounds.upper <= boxes.upper + 1e-6).all()
    if clip is None:
        rows = torch.func.jacrev(lambda one: segment(one[None])[0])(x[0])
        reach = eps * rows.flatten(-len(shape)).norm(dim=-1)
        assert torch.allclose(
            (bounds.upper - bounds.lower) / 2, reach.expand_as(bounds.upper), atol=1e-5
        )


class Doubled(nn.Module):
    """Every number twice, so that the rows behind it are not those of its input."""

    def forward(self, x):
        return torch.cat([x, x], dim=1)


def test_a_number_that_is_there_twice_counts_twice():
    model = nn.Sequential(Doubled(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    net = BoundedNet(model, torch.rand(2, 2)).eval()
    assert net.affine_segments()[0].spread(torch.ones(1, 2)) is None
    segments = [segment.double() for segment in net.affine_segments()]
    x = torch.zeros(1, 2, dtype=torch.float64)
    ((_, upper),), _ = intervals(segments, x, Ball(1.0, None, 2.0))
    assert (upper - model[1].bias >= 2 * math.sqrt(2)).all()


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("members", [1, 3])
def test_no_sample_is_below_the_minimum_of_a_weighted_sum(members, clip):
    eps, shape = 0.6, (4, members, 2, 3)
    a = torch.randn(shape, dtype=torch.float64)
    x = torch.rand(shape, dtype=torch.float64).clamp(0.05, 0.8)
    weight = torch.rand(4, members, dtype=torch.float64).softmax(1)
    ball = Ball(eps, clip, 2.0)

    def value(u):
        added = ball.cut(x + u.unsqueeze(1)) - x
        return torch.einsum("ds...,ds->d", (a * added).flatten(2), weight)

    u = worst_shared(a, weight, x, ball)
    assert (u.flatten(1).norm(dim=1) <= eps * (1 + 1e-9)).all()
    below = shortfall(a, weight, x, ball, u)
    least = value(u) - below
    sampled = torch.stack([value(v.expand(4, 2, 3)) for v in in_ball(2000, (2, 3), eps, x.dtype)])
    assert (least <= sampled.amin(0)).all()
    if clip is None:  # the closed form
        mixed = (weight.view(4, members, 1, 1) * a).sum(1)
        assert torch.allclose(least, -eps * mixed.flatten(1).norm(dim=1), atol=1e-9)
    if members == 1:  # u attains it
        assert (below <= 1e-9).all() and (value(u) <= sampled.amin(0) + 1e-9).all()


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-200), (torch.float32, 1e-30)])
def test_the_worst_perturbation_of_tiny_slopes_is_in_the_ball(dtype, size):
    """The squares of such numbers are zero."""
    a = size * torch.tensor([[[3.0, -4.0]]], dtype=dtype)
    u = worst_shared(a, torch.ones(1, 1, dtype=dtype), torch.zeros_like(a), Ball(0.5, None, 2.0))
    assert u.flatten().tolist() == pytest.approx([-0.3, 0.4], rel=1e-6)


# ------------------------------------------------------- single inputs, against every search


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("kind", KINDS)
def test_certified_inputs_survive_samples_and_attacks(kind, clip):
    tally = Counter()
    for seed in range(3):
        torch.manual_seed(seed)
        model, shape = random_net(kind, seed)
        x, y = random_images(model, shape, seed, 4)
        eps = (0.03, 0.1, 0.3)[seed] / (10 if kind == "normalise" else 1)
        net = BoundedNet(model, x).eval()
        attack = PGD(steps=8, norm=2, clip=clip)
        found = certify(net, x, y, eps, method="bab", time_limit=1.0, clip=clip, norm=2,
                        attack=attack)  # fmt: skip
        sampled = smallest_sampled(model, x, y, in_ball(2000, shape, eps), clip)
        v = PGD(steps=40, restarts=3, norm=2, clip=clip)(net, x, y, eps)
        assert (v.flatten(1).norm(dim=1) <= eps * (1 + 1e-5)).all()
        broken = (sampled < 0) | (model(x + v).argmax(1) != y)
        assert not bool((found.certified & broken).any())
        assert not bool((found.v.flatten(1).norm(dim=1) > eps * (1 + 1e-5)).any())
        tally.update(found.verdicts())
    assert tally["undecided"] <= 4 and tally.total() - tally["attacked"] >= 4, tally


def test_balls_that_contain_each_other_imply_each_others_certificates():
    """A proof for ∞ covers ℓ2 of the same ε, and one for ℓ2 covers ∞ of ε / sqrt(d)."""
    proved = Counter()
    for seed in range(4):
        model, shape = random_net("deep", seed)
        x, y = random_images(model, shape, seed, 8)
        net = BoundedNet(model, x).eval()
        for method in ("ibp", "crown", "bab"):
            inner, outer = 0.1, 0.1 * math.sqrt(shape[0])
            boxes = certify(net, x, y, inner, method=method)
            same = certify(net, x, y, inner, method=method, norm=2)
            around = certify(net, x, y, outer, method=method, norm=2)
            assert not bool((boxes.certified & ~same.certified).any())
            v = PGD(steps=40, clip=None)(net, x, y, inner)
            assert not bool((around.certified & (model(x + v).argmax(1) != y)).any())
            proved["more"] += int((same.certified & ~boxes.certified).sum())
            proved["around"] += int(around.certified.sum())
    assert proved["more"] > 0 and proved["around"] > 0, proved


# --------------------------------------------------------------- groups, against the whole disc


def disc(eps, steps=161):
    """A grid of the disc of two pixels."""
    side = torch.linspace(-eps, eps, steps)
    points = torch.cartesian_prod(side, side)
    return points[points.norm(dim=1) <= eps]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("relational", ["io", "cross"])
def test_groups_are_counted_as_the_whole_disc_counts_them(relational, clip):
    method = "bab" if relational == "cross" else "alpha-crown"
    gap = gained = 0
    for seed, kind in ((0, "mlp"), (4, "mlp"), (8, "mlp"), (4, "deep"), (8, "residual")):
        torch.manual_seed(seed)
        model, shape = random_net(kind, seed)
        assert shape == (2,)
        x, y = random_images(model, shape, seed, 4)
        eps = 0.25
        net = BoundedNet(model, x).eval()
        single = certify(net, x, y, eps, method=method, clip=clip, norm=2, time_limit=1.0)
        found = certify_uap(
            net, x, y, eps, group_size=4, certificates=single, relational=relational,
            time_limit=1.0, clip=clip, norm=2, attack=GroupAttack(norm=2, clip=clip, restarts=2),
        )  # fmt: skip
        u = disc(eps)
        moved = x.unsqueeze(0) + u.unsqueeze(1)
        moved = moved if clip is None else moved.clamp(*clip)
        wrong = model(moved.flatten(0, 1)).argmax(1).view(len(u), 4) != y
        truth = 4 - int(wrong.sum(1).max())
        assert int(found.lower) <= truth, (seed, kind)
        assert int(found.upper) >= int(found.lower)
        assert float(found.u.norm()) <= eps * (1 + 1e-5)
        gap += truth - int(found.lower)
        gained += int(found.lower) - int(single.certified.sum())
    assert gap <= 5 and (gained > 0 or clip or relational == "cross"), (gap, gained)


def test_programs_of_large_groups_count_no_less_than_the_whole_disc():
    """Ten open images are too many to try every set: a program bounds how many break."""
    gained = 0
    for seed in (4, 8, 12):
        torch.manual_seed(seed)
        model, shape = random_net("mlp", seed)
        x, y = random_images(model, shape, seed, 20)
        net, eps = BoundedNet(model, x).eval(), 0.25
        certificates = certify(net, x, y, eps, method="alpha-crown", norm=2)
        x, y = x[certificates.open][:10], y[certificates.open][:10]
        if len(x) < 9:
            continue
        found = certify_uap(
            net, x, y, eps, group_size=len(x), relational="io", norm=2,
            certificates=certify(net, x, y, eps, method="alpha-crown", norm=2),
            attack=GroupAttack(norm=2, restarts=2),
        )  # fmt: skip
        u = disc(eps, 81)
        wrong = model((x.unsqueeze(0) + u.unsqueeze(1)).flatten(0, 1)).argmax(1).view(len(u), -1)
        truth = len(x) - int((wrong != y).sum(1).max())
        assert int(found.lower) <= truth, seed
        gained += found.stage == ("milp",)
    assert gained >= 1


# -------------------------------------------------------------------- attacks and training


def test_universal_attacks_stay_in_the_ball_and_break_more_than_noise():
    net = small_net()
    x, y = images(net, 40)
    eps = 1.0
    u = SgdUap(epochs=5, restarts=1, norm=2)(net, x, y, eps)
    assert 0.99 * eps <= float(u.u.norm()) <= eps * (1 + 1e-5)
    noise = in_ball(20, x.shape[1:], eps)
    rates = [(net(x + one).argmax(1) != y).float().mean() for one in noise]
    assert u.fooling_rate > float(torch.stack(rates).mean())
    found = GroupAttack(norm=2, steps=20, restarts=2)(net, x.view(8, 5, 1, 4, 4), y.view(8, 5), eps)
    assert (found.u.flatten(1).norm(dim=1) <= eps * (1 + 1e-5)).all() and found.broken.any()


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("kind", ["ibp", "sabr", "citrus"])
def test_losses_bound_what_is_in_their_balls(kind, clip):
    net = small_net()
    x, y = images(net, 6)
    eps = 0.4
    loss = {
        "ibp": lambda: Ibp(norm=2, clip=clip),
        "sabr": lambda: Sabr(0.5, norm=2, clip=clip),
        "citrus": lambda: Citrus(0.5, norm=2, clip=clip),
    }[kind]()
    terms = loss(net, x, y, eps)
    terms.backward()
    gradients = [p.grad for p in net.parameters()]
    assert all(bool(g.isfinite().all()) for g in gradients) and any(g.any() for g in gradients)
    boxes, tau = terms.box, eps if kind == "ibp" else eps / 2
    owner = torch.arange(len(boxes)) // (len(boxes) // len(x))
    if kind == "sabr":  # each ball lies in that of its own input
        away = (boxes.middle - x).flatten(1).norm(dim=1)
        assert (away <= eps - tau + 1e-5).all() and float(away.max()) > 0
    if kind == "citrus":
        assert (terms.perturbations.flatten(1).norm(dim=1) <= eps - tau + 1e-5).all()
    margins = terms.margins.flatten(0, 1)
    for u in in_ball(200, x.shape[1:], tau):
        moved = Ball(tau, clip, 2.0).cut(boxes.middle + u)
        assert (logit_margins(net(moved), y[owner]) >= margins - 1e-5).all()


# ---------------------------------------------------------------------------- refusals


def refusals():
    net = small_net()
    x, y = images(net, 4)
    other = small_net()
    without_dual_engine(other)
    single = certify(net, x, y, 0.1, norm=2)
    return {
        "norm is 3; expected inf or 2": lambda: certify(net, x, y, 0.1, norm=3),
        "norm is 1; expected": lambda: Protocol(eps=0.1, norm=1),
        "norm is '2'; expected": lambda: PGD(norm="2"),
        "a map of ε is for norm inf": lambda: certify(net, x, y, torch.rand(1, 4, 4), norm=2),
        "a map of ε is for norm": lambda: SgdUap(norm=2)(net, x, y, torch.rand(1, 4, 4)),
        "the attack's norm is inf; expected 2": lambda: certify(
            net, x, y, 0.1, norm=2, attack=PGD()
        ),
        "norm 2 is not for the bounds of auto_LiRPA": lambda: certify(other, x, y, 0.1, norm=2),
        "ℓ2 balls are bounded by this package's IBP": lambda: net.margins(
            Box.around(x, 0.1, norm=2), y, "crown"
        ),
        "proofs are of norm inf": lambda: certify(net, x, y, 0.1, norm=2, proofs=Proofs(x, y)),
        r"are of ε = 0.1 \(ℓ2\) and clip None, not of ε = 0.1 and": lambda: certify_uap(
            net, x, y, 0.1, group_size=2, certificates=single
        ),
        "norm 2 is for method ibp, not for crown": lambda: Ibp(method="crown", norm=2),
        "universal partners are for norm inf": lambda: Citrus(universal=2, norm=2),
        "norm 2 is for the methods ibp, sabr and citrus": lambda: TRAINING_METHODS["taps"].make(
            0.1, norm=2.0
        ),
    }


def test_what_does_not_take_the_norm_says_so():
    for message, call in refusals().items():
        with pytest.raises((InputError, ModelError), match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
