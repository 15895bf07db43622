"""The losses against Algorithm 1 written out in ``reference``, and by pen and paper."""

import math

import pytest
import torch
from reference import (
    EPS,
    MODELS,
    PAIRINGS,
    TAU_RATIO,
    algorithm_1,
    batch,
    clean_statistics,
    cross_input_losses,
    gradients,
    interval_margins,
    literal_pgd,
    model_names,
    small_conv,
    wrapped,
)
from torch import nn

from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.errors import InputError
from citrus_lirpa.losses import LOSSES, Citrus, Ibp
from citrus_lirpa.losses.cross_input import Groups


@model_names
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_citrus_is_algorithm_1(name, pairing, double):
    model, (x, y) = MODELS[name](), batch()
    net, (pairs, sees) = wrapped(model), PAIRINGS[pairing]
    torch.manual_seed(4)
    expected = algorithm_1(model, x, y, sees).sum() / len(x)
    expected_gradients = gradients(expected, model)
    torch.manual_seed(4)
    terms = Citrus(TAU_RATIO, pairing=pairs)(net, x, y, EPS)
    torch.testing.assert_close(terms.total, expected, atol=1e-5, rtol=1e-5)
    got = gradients(terms.total, model)
    torch.testing.assert_close(got, expected_gradients, atol=1e-5, rtol=1e-4)
    assert all(g.abs().max() > 1e-6 for g in got[-2:])


@model_names
def test_ibp_is_the_box_of_each_input(name, double):
    model, (x, y) = MODELS[name](), batch()
    net, statistics = wrapped(model), clean_statistics(model, x)
    losses = []
    for i in range(len(x)):
        lower, upper = (x[i : i + 1] - EPS).clamp(0, 1), (x[i : i + 1] + EPS).clamp(0, 1)
        margins = interval_margins(model, statistics, lower, upper, y[i])
        losses.append(torch.log(1 + torch.exp(-margins).sum()))
    expected = sum(losses) / len(x)
    terms = Ibp()(net, x, y, EPS)
    torch.testing.assert_close(terms.total, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        gradients(terms.total, model), gradients(expected, model), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("reduction", "over_j"),
    [("sum", lambda t: sum(t)), ("mean", lambda t: sum(t) / len(t)), ("max", max)],
)
def test_reductions_over_the_partners(reduction, over_j, double):
    model, (x, y) = small_conv(), batch()
    net = wrapped(model)
    torch.manual_seed(4)
    pairs = algorithm_1(model, x, y, PAIRINGS["groups"][1]).tolist()
    torch.manual_seed(4)
    terms = Citrus(TAU_RATIO, pairing=Groups(3), reduction=reduction)(net, x, y, EPS)
    assert terms.total.item() == pytest.approx(sum(map(over_j, pairs)) / 6, abs=1e-5)


# -------------------------------------------------------------------- beyond the paper

#: Options: worst, universal, α and the reduction over the boxes of an input.
OPTIONS = {
    "worst": (1, 0, 1.0, "sum"),
    "universal": (0, 2, 1.0, "sum"),
    "alpha": (0, 0, 0.3, "sum"),
    "worst and universal": (2, 3, 1.0, "mean"),
    "all": (3, 2, 0.6, "max"),
}


@model_names
@pytest.mark.parametrize("options", OPTIONS)
def test_options_beyond_the_paper(name, options, double):
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
    assert len(terms.box) == len(terms.margins) == 6 * len(kept[0])
    assert not terms.perturbations.requires_grad
    if universal:
        (slope,) = torch.autograd.grad(expected, u)
        terms.backward()
        moved = (u + 0.25 * (EPS - tau) * slope.sign()).clamp(tau - EPS, EPS - tau)
        torch.testing.assert_close(loss.universal.shares * (EPS - tau), moved)


def test_more_boxes_than_there_are_cannot_be_the_worst():
    net, (x, y) = wrapped(small_conv()), batch()
    with pytest.raises(InputError, match=r"worst is 4, but each input has 3 boxes"):
        Citrus(worst=4, universal=1, pairing=Groups(3))(net, x, y, EPS)
    assert len(Citrus(worst=3, universal=1, pairing=Groups(3))(net, x, y, EPS).box) == 18


# ----------------------------------------------------------------------- pen and paper


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
    terms.backward()
    assert model[0].weight.grad.abs().max() > 0
