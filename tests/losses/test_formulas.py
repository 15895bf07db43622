"""Every loss against its formula written out, with loops over inputs, partners and classes."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from reference import (
    EPS,
    MODELS,
    PAIRINGS,
    SHAPE,
    TAU_RATIO,
    algorithm_1,
    at_points,
    batch,
    box_margins,
    clean_statistics,
    cross_input_losses,
    gradients,
    literal_pgd,
    margins_of,
    mean_loss,
    model_names,
    robust_loss,
    small_box,
    small_mlp,
    wrapped,
)
from torch import nn

from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.losses import LOSSES, Adversarial, Citrus, CrossEntropy, CrownIbp, Ibp, Sabr
from citrus_lirpa.losses.cross_input import Groups


def check(terms, model, expected):
    """The loss and all its gradients, against those of the formula."""
    torch.testing.assert_close(terms.total, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        gradients(terms.total, model), gradients(expected, model), atol=1e-6, rtol=1e-5
    )


def point_margins(model, statistics, points, y):
    rows = zip(points.split(1), y, strict=True)
    return torch.stack([margins_of(at_points(model, statistics, p)[0], t) for p, t in rows])


# ------------------------------------------------------------------------------ CITRUS


@model_names
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_citrus_is_algorithm_1(name, pairing, double):
    model, (x, y) = MODELS[name](), batch()
    net, (pairs, sees) = wrapped(model), PAIRINGS[pairing]
    torch.manual_seed(4)
    expected = algorithm_1(model, x, y, sees).sum() / len(x)
    torch.manual_seed(4)
    check(Citrus(TAU_RATIO, pairing=pairs)(net, x, y, EPS), model, expected)


#: Options: worst, universal, α and the reduction over the boxes of an input.
OPTIONS = {
    "mean": (0, 0, 1.0, "mean"),
    "max": (0, 0, 1.0, "max"),
    "worst": (1, 0, 1.0, "sum"),
    "universal": (0, 2, 1.0, "sum"),
    "alpha": (0, 0, 0.3, "sum"),
    "worst and universal": (2, 3, 1.0, "mean"),
    "all": (3, 2, 0.6, "max"),
}


@model_names
@pytest.mark.parametrize("options", OPTIONS)
def test_options_of_citrus(name, options, double):
    model, (x, y) = MODELS[name](), batch()
    net, (worst, universal, alpha, reduction) = wrapped(model), OPTIONS[options]
    tau = TAU_RATIO * EPS
    torch.manual_seed(4)
    v = literal_pgd(model, x, y, EPS - tau)
    u = (torch.empty(universal, *x.shape[1:]).uniform_(-1, 1).sign() * (EPS - tau)).requires_grad_()
    moves = torch.cat([v, u])

    def sees(i):
        return [(i + 1) % 6, (i + 2) % 6, *range(6, 6 + universal)]

    bounds = cross_input_losses(model, x, y, moves, tau, sees)
    losses = cross_input_losses(model, x, y, moves, tau, sees, alpha)
    kept = []
    for of_bounds, of_input in zip(bounds.tolist(), losses, strict=True):
        order = sorted(range(len(of_bounds)), key=lambda j: -of_bounds[j])
        kept.append([of_input[j] for j in order[: worst or len(order)]])
    over_j = {"sum": sum, "mean": lambda t: sum(t) / len(t), "max": max}[reduction]
    expected = sum(map(over_j, kept)) / 6

    torch.manual_seed(4)
    loss = LOSSES["citrus"](EPS, tau_ratio=TAU_RATIO, partners=2, reduction=reduction,
                            worst=worst, universal=universal, alpha=alpha)  # fmt: skip
    terms = loss(net, x, y, EPS)
    torch.testing.assert_close((terms.total, terms.perturbations), (expected, moves))
    torch.testing.assert_close(gradients(terms.total, model), gradients(expected, model))
    assert len(terms.box) == 6 * len(kept[0]) and terms.margins.shape == (6, len(kept[0]), 2)
    assert not terms.perturbations.requires_grad
    if universal:
        (slope,) = torch.autograd.grad(expected, u)
        terms.backward()
        moved = (u + 0.25 * (EPS - tau) * slope.sign()).clamp(tau - EPS, EPS - tau)
        torch.testing.assert_close(loss.universal.shares * (EPS - tau), moved)


def test_a_batch_of_three_by_hand():
    """In Python numbers alone; the attack is a stub, so nothing is random."""
    w1, b1 = [[1.0, -2.0], [0.5, 1.0]], [0.25, -0.5]
    w2, b2 = [[1.0, -1.0], [-0.5, 0.75]], [0.125, 0.0]
    x, v = [[0.5, 0.25], [0.0, 1.0], [0.75, 0.5]], [[0.125, -0.125], [-0.25, 0.25], [0.0, 0.125]]
    y, eps, tau = [0, 1, 0], 0.375, 0.125
    total, margins = 0.0, []
    for i in range(3):
        for j in range(3):
            if i == j:
                continue
            low = [min(max(x[i][d] + v[j][d] - tau, 0.0), 1.0) for d in range(2)]
            high = [min(max(x[i][d] + v[j][d] + tau, 0.0), 1.0) for d in range(2)]
            hidden = []
            for row, b in zip(w1, b1, strict=True):
                ends = [b, b]
                for d, w in enumerate(row):
                    ends[0] += w * (low[d] if w > 0 else high[d])
                    ends[1] += w * (high[d] if w > 0 else low[d])
                hidden.append([max(end, 0.0) for end in ends])
            right, wrong = y[i], 1 - y[i]
            margin = b2[right] - b2[wrong]
            for h, (low_h, high_h) in enumerate(hidden):
                w = w2[right][h] - w2[wrong][h]
                margin += w * (low_h if w > 0 else high_h)
            margins.append(margin)
            total += math.log(1 + math.exp(-margin)) / 3
    # the first box, by pen: [.125, .375] x [.375, .625], hidden [0, 0] and [0, .3125]
    assert margins[0] == 0.125 - 1.75 * 0.3125

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    model.load_state_dict({
        "0.weight": torch.tensor(w1), "0.bias": torch.tensor(b1),
        "2.weight": torch.tensor(w2), "2.bias": torch.tensor(b2),
    })  # fmt: skip
    net, seen = BoundedNet(model, torch.rand(1, 2)), []

    def attack(net, x, y, radius):
        seen.append(radius)
        return torch.tensor(v)

    loss = Citrus(tau / eps, attack=attack, pairing=Groups(3))
    terms = loss(net, torch.tensor(x), torch.tensor(y), eps)
    assert seen == [pytest.approx(eps - tau)]
    assert terms.total.item() == pytest.approx(total, rel=1e-6)
    assert terms.item() == terms.total.item()
    assert terms.margins.flatten().tolist() == pytest.approx(margins, abs=1e-6)
    assert terms.certified().item() == pytest.approx(sum(m > 0 for m in margins) / 6)
    torch.testing.assert_close(terms.logits, model(torch.tensor(x)))


# ------------------------------------------------------------------- on the whole ε-box


@model_names
def test_ibp_is_the_box_of_each_input(name, double):
    model, (x, y) = MODELS[name](), batch()
    net, statistics = wrapped(model), clean_statistics(model, x)
    margins = box_margins(model, statistics, (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1), y)
    check(Ibp()(net, x, y, EPS), model, mean_loss(margins))


@model_names
@pytest.mark.parametrize(("max_eps", "beta"), [(0.25, 0.6), (EPS, 0.0), (0.05, 0.0)])
def test_crown_ibp_fades_into_ibp(name, max_eps, beta, double):
    model, (x, y) = MODELS[name](), batch()
    net, statistics = wrapped(model), clean_statistics(model, x)
    box = Box((x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1))
    net(x)
    crown = net.margins(box, y, "crown-ibp")
    margins = beta * crown + (1 - beta) * box_margins(model, statistics, *box, y)
    terms = CrownIbp(max_eps)(net, x, y, EPS)
    torch.testing.assert_close(terms.margins.squeeze(1), margins)
    check(terms, model, mean_loss(margins))


# ------------------------------------------------------- on a small box at an attack's end


@model_names
@pytest.mark.parametrize("tau_ratio", [0.3, 0.8])
def test_sabr_is_a_small_box_at_the_adversarial_example(name, tau_ratio, double):
    model, (x, y) = MODELS[name](), batch()
    net, statistics = wrapped(model), clean_statistics(model, x)
    torch.manual_seed(4)
    v = literal_pgd(model, x, y, EPS, steps=8)
    box = small_box(x, v, EPS, tau_ratio * EPS)
    expected = mean_loss(box_margins(model, statistics, *box, y))
    torch.manual_seed(4)
    terms = Sabr(tau_ratio)(net, x, y, EPS)
    torch.testing.assert_close((*terms.box, terms.perturbations), (*box, v))
    check(terms, model, expected)


def test_sabrs_box_by_hand():
    """ε = 0.2, τ = 0.15: pulled back into the ball; held by it; at the edge of the range."""
    net = BoundedNet(nn.Sequential(nn.Linear(3, 2)), torch.rand(1, 3))
    x, v = torch.tensor([[0.5, 0.5, 0.0625]]), torch.tensor([[0.2, 0.01, -0.0625]])
    box = Sabr(0.75, attack=lambda *_: v)(net, x, torch.tensor([0]), 0.2).box
    torch.testing.assert_close(box.lower, torch.tensor([[0.4, 0.36, 0.0]]))
    torch.testing.assert_close(box.upper, torch.tensor([[0.7, 0.66, 0.2625]]))


# ------------------------------------------------------------ mixed with an attack's values

MIXED = {
    "mtl-ibp": lambda a, bounds, values: a * robust_loss(bounds) + (1 - a) * robust_loss(values),
    "cc-ibp": lambda a, bounds, values: robust_loss(a * bounds + (1 - a) * values),
    "exp-ibp": lambda a, bounds, values: robust_loss(bounds) ** a * robust_loss(values) ** (1 - a),
}
#: Options, and those of the attack that they mean: radius, steps, step size.
ATTACKS = {
    "one step": ({}, (EPS, 1, 10.0)),
    "a wider ball": (dict(attack_ratio=2.1, attack_steps=8, attack_step_size=0.25),
                     (2.1 * EPS, 8, 0.25)),
}  # fmt: skip


@model_names
@pytest.mark.parametrize("method", MIXED)
@pytest.mark.parametrize("attack", ATTACKS)
def test_bounds_mixed_with_an_attack(name, method, attack, double):
    model, (x, y), alpha = MODELS[name](), batch(), 0.3
    net, statistics = wrapped(model), clean_statistics(model, x)
    options, (radius, steps, size) = ATTACKS[attack]
    torch.manual_seed(4)
    v = literal_pgd(model, x, y, radius, steps, size)
    bounds = box_margins(model, statistics, (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1), y)
    values = point_margins(model, statistics, x + v, y)
    losses = [MIXED[method](alpha, *rows) for rows in zip(bounds, values, strict=True)]
    torch.manual_seed(4)
    terms = LOSSES[method](EPS, alpha=alpha, **options)(net, x, y, EPS)
    torch.testing.assert_close((terms.margins.squeeze(1), terms.perturbations), (bounds, v))
    check(terms, model, sum(losses) / 6)


@pytest.mark.parametrize("alpha", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("method", MIXED)
def test_a_confident_network_has_finite_gradients(method, alpha):
    """Its losses round to 0, where a power with an exponent below 1 has none."""
    model, x = small_mlp(), torch.rand(4, *SHAPE)
    nn.init.constant_(model[-1].bias, 0)
    model[-1].bias.data[1] = 60.0
    y = torch.tensor([1, 1, 1, 0])  # the last is as confidently wrong
    terms = LOSSES[method](EPS, alpha=alpha)(wrapped(model), x, y, EPS)
    assert math.isfinite(terms.item()) and terms.item() > 10
    assert all(torch.isfinite(g).all() for g in gradients(terms.total, model))


# ------------------------------------------------------------------- without certificates


def trained_on(model, points, y):
    """Loss, gradients and running statistics of one forward pass on a copy in train mode."""
    model = copy.deepcopy(model).train()
    total = F.cross_entropy(model(points), y)
    return total, gradients(total, model), running_statistics(model)


def running_statistics(model):
    return {name: value for name, value in model.state_dict().items() if "running" in name}


@model_names
@pytest.mark.parametrize(
    ("loss", "size"), [(Adversarial(), 0.5), (LOSSES["pgd"](EPS), 0.25)], ids=["class", "name"]
)
def test_pgd_training_is_one_pass_on_the_perturbed_batch(name, loss, size, double):
    model, (x, y) = MODELS[name](), batch()
    net = wrapped(model)
    torch.manual_seed(4)
    v = literal_pgd(model, x, y, EPS, steps=10, size=size)
    total, expected, after = trained_on(model, x + v, y)
    torch.manual_seed(4)
    terms = loss(net, x, y, EPS)
    torch.testing.assert_close((terms.total, terms.perturbations), (total, v))
    torch.testing.assert_close(gradients(terms.total, model), expected)
    torch.testing.assert_close(running_statistics(model), after)


@model_names
def test_plain_training_is_cross_entropy_at_every_eps(name, double):
    model, (x, y) = MODELS[name](), batch()
    net = wrapped(model)
    total, expected, after = trained_on(model, x, y)
    terms = CrossEntropy()(net, x, y, EPS)
    torch.testing.assert_close(terms.total, total)
    torch.testing.assert_close(gradients(terms.total, model), expected)
    torch.testing.assert_close(running_statistics(model), after)
    assert terms.margins is None and terms.perturbations is None
