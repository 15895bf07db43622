"""CITRUS on perturbations that break several partners together, k = 3 and 4, written out."""

import itertools
import math

import pytest
import torch
from reference import (
    EPS,
    MODELS,
    PAIRINGS,
    TAU_RATIO,
    batch,
    cross_input_losses,
    gradients,
    margins_of,
    model_names,
    small_conv,
    small_mlp,
    wrapped,
)
from torch import nn

from citrus_lirpa.attacks import PGD, GroupAttack, breaks, kappa
from citrus_lirpa.bounds.box import PIXELS
from citrus_lirpa.bounds.margins import robust_cross_entropy
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.errors import InputError
from citrus_lirpa.losses import LOSSES, Citrus
from citrus_lirpa.losses.cross_input import Groups, Shifts, cross_input_boxes, joint_sets

TAU = TAU_RATIO * EPS


def literal_joint(model, x, y, sets, eps, steps=20, size=0.5):
    """One u for each set: it pushes what it has not broken by 0.005, and keeps its best step."""
    drops = [math.ceil(steps * share / 10) for share in (5, 8, 9)]
    weights = torch.empty(len(sets) * len(sets[0])).exponential_().view(len(sets), -1)
    starts = torch.empty(len(sets), *x.shape[1:]).uniform_(-1, 1).sign() * eps
    model.eval()
    found = []
    for members, weight, u in zip(sets, weights, starts, strict=True):
        best, most, direction = u, 0, torch.zeros_like(u)
        for i in range(steps + 1):
            u = u.detach().requires_grad_()
            margins = [
                margins_of(model((x[j : j + 1] + u).clamp(0, 1))[0], y[j]).min() for j in members
            ]
            broken = sum(margin.item() < 0 for margin in margins)
            if broken > most:
                best, most = u.detach(), broken
            if i == steps:
                break
            pushed = [-w * m for w, m in zip(weight, margins, strict=True) if m.item() > -0.005]
            slope = torch.autograd.grad(sum(pushed), u)[0] if pushed else torch.zeros_like(u)
            direction = 0.75 * direction + slope
            step = size * eps * 0.1 ** sum(i >= drop for drop in drops)
            u = (u + step * direction.sign()).clamp(-eps, eps)
        found.append(best if most else u.detach())
    model.train()
    return torch.stack(found)


@model_names
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_pairs_of_partners_by_the_formula(name, pairing, double):
    """1/n Σ_i Σ_S L(B(x_i + v_S, τ)) over the pairs S of partners of i, each attacked once."""
    model, (x, y), (pairs, sees) = MODELS[name](), batch(), PAIRINGS[pairing]
    net = wrapped(model)
    of_input = [list(map(tuple, map(sorted, itertools.combinations(sees(i), 2)))) for i in range(6)]
    sets = sorted({chosen for pairs_of in of_input for chosen in pairs_of})
    torch.manual_seed(4)
    v = literal_joint(model, x, y, sets, EPS - TAU)
    losses = cross_input_losses(model, x, y, v, TAU, lambda i: [sets.index(s) for s in of_input[i]])
    expected = losses.sum() / 6
    torch.manual_seed(4)
    terms = Citrus(TAU_RATIO, pairing=pairs, k=3)(net, x, y, EPS)
    torch.testing.assert_close(terms.perturbations, v)
    torch.testing.assert_close(terms.total, expected)
    torch.testing.assert_close(gradients(terms.total, model), gradients(expected, model))


def test_triples_with_other_options_by_the_formula(double):
    """Four triples of four partners and two universal perturbations; the two worst, the largest."""
    model, (x, y) = small_conv(), batch(7)
    net = wrapped(model)
    of_input = [
        [
            tuple(sorted((i + d) % 7 for d in chosen))
            for chosen in itertools.combinations(range(1, 5), 3)
        ]
        for i in range(7)
    ]
    sets = sorted({chosen for triples in of_input for chosen in triples})
    torch.manual_seed(4)
    v = literal_joint(model, x, y, sets, EPS - TAU, steps=3)
    u = torch.empty(2, *x.shape[1:]).uniform_(-1, 1).sign() * (EPS - TAU)
    moves, shared = torch.cat([v, u]), [len(sets), len(sets) + 1]

    def sees(i):
        return [*(sets.index(chosen) for chosen in of_input[i]), *shared]

    worst = cross_input_losses(model, x, y, moves, TAU, sees).topk(2, dim=1).indices
    mixed = cross_input_losses(model, x, y, moves, TAU, sees, alpha=0.3)
    expected = mixed.gather(1, worst).max(dim=1).values.mean()
    torch.manual_seed(4)
    loss = LOSSES["citrus"](EPS, tau_ratio=TAU_RATIO, k=4, worst=2, universal=2, alpha=0.3,
                            reduction="max", attack_steps=3)  # fmt: skip
    terms = loss(net, x, y, EPS)
    torch.testing.assert_close((terms.total, terms.perturbations), (expected, moves))
    torch.testing.assert_close(gradients(terms.total, model), gradients(expected, model))


@pytest.mark.parametrize("pairing", [Shifts(2), Groups(3), Groups(3, include_self=True)])
def test_two_is_citrus_bit_for_bit(pairing):
    model, (x, y) = small_mlp(), batch()
    net = wrapped(model)
    torch.manual_seed(4)
    loss = Citrus(TAU_RATIO, pairing=pairing, k=2)(net, x, y, EPS)
    torch.manual_seed(4)
    v = PGD()(net, x, y, EPS - TAU)
    partners = pairing(6)
    labels = y.unsqueeze(1).expand(partners.shape).flatten()
    margins = net.margins(cross_input_boxes(x, v, TAU, partners), labels)
    expected = robust_cross_entropy(margins).view_as(partners).sum(dim=1).mean()
    assert torch.equal(loss.perturbations, v) and torch.equal(loss.total, expected)
    assert all(map(torch.equal, gradients(loss.total, model), gradients(expected, model)))


def test_sets_of_one_are_the_partners_themselves():
    for pairing in (Shifts(2), Groups(3)):
        sets, rows = joint_sets(pairing(6), 1)
        assert sets.flatten().tolist() == list(range(6)) and torch.equal(rows, pairing(6))


@pytest.mark.parametrize(("size", "different"), [(2, 10), (3, 10), (4, 5)])
def test_a_group_shares_its_sets(size, different):
    """Of five inputs: each set once, seen by all who are not in it."""
    sets, rows = joint_sets(Groups(5)(10), size)
    assert len(sets) == 2 * different and rows.shape == (10, math.comb(4, size))
    for i, row in enumerate(rows.tolist()):
        seen = {tuple(sets[s].tolist()) for s in row}
        others = [j for j in range(i // 5 * 5, i // 5 * 5 + 5) if j != i]
        assert seen == set(itertools.combinations(others, size))


#: Labels 0, 0 and 1 of class 1 above 1/2; a perturbation of 0.12 to 0.2 breaks the first two.
LINE = torch.tensor([[0.4], [0.38], [0.9]]), torch.tensor([0, 0, 1])


def line():
    model = nn.Linear(1, 2)
    model.load_state_dict(
        {"weight": torch.tensor([[0.0], [1.0]]), "bias": torch.tensor([0.5, 0.0])}
    )
    return BoundedNet(model, torch.rand(2, 1)).train()


def test_the_attack_breaks_a_set_together_or_gives_its_last_step():
    net, (x, y) = line(), LINE
    attack = GroupAttack.like(PGD(clip=None))
    sets = torch.tensor([[0, 1], [2, 2]])
    for _ in range(5):
        u = attack.perturb(net, x[sets], y[sets], 0.2)
        assert u.shape == (2, 1) and kappa(net, x[:2], y[:2], u[:1], None) == 2
        # nothing breaks the last: it is pushed to the end of the ball all the same
        assert u[1].item() == pytest.approx(-0.2)
    assert net.training


def test_restarts_keep_what_breaks_most():
    model, (x, y) = small_conv(), batch(8)
    net, sets = wrapped(model), torch.arange(8).view(4, 2)

    def broken(u):
        with net.evaluating(), torch.no_grad():
            wrong = net((x[sets] + u.unsqueeze(1)).clamp(0, 1).flatten(0, 1)).argmax(1)
        return (wrong != y[sets].flatten()).view(4, 2).sum(dim=1)

    torch.manual_seed(1)
    once = broken(GroupAttack(steps=2, restarts=1, clip=PIXELS).perturb(net, x[sets], y[sets], 0.1))
    torch.manual_seed(1)
    more = broken(GroupAttack(steps=2, restarts=6, clip=PIXELS).perturb(net, x[sets], y[sets], 0.1))
    assert (more >= once).all() and more.sum() > 0


# -- a measured k ---------------------------------------------------------------------


def literal_k(model, x, y, v, members_of):
    """The largest k so that one of the v breaks k members of the sets of half of the inputs."""
    model.eval()
    right = model(x).argmax(1) == y
    broken = [right & (model((x + one).clamp(0, 1)).argmax(1) != y) for one in v]
    most = [max(int(b[members_of(i)].sum()) for b in broken) for i in range(len(x))]
    ks = [k for k in range(2, 99) if sum(kappa >= k for kappa in most) >= len(x) / 2]
    return max([2, *ks])


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_measured_k_by_the_formula(pairing):
    (pairs, sees), found, model, (x, _) = PAIRINGS[pairing], set(), small_mlp(), batch()
    net = wrapped(model)
    for seed in range(12):
        torch.manual_seed(seed)
        model.load_state_dict(small_mlp().state_dict())
        y = model(x).argmax(1)
        y[seed % 6] = (y[seed % 6] + 1) % 3  # it is misclassified already, and does not count
        v = (torch.rand(7, *x.shape[1:]) - 0.5) * seed / 3
        loss = Citrus(TAU_RATIO, pairing=pairs, k=0)
        assert loss.current_k() == 2
        loss.end_epoch(breaks(net, x, y, v, PIXELS))
        sets = [sorted({i, *sees(i)}) for i in range(6)]
        assert loss.current_k() == literal_k(model, x, y, v, sets.__getitem__)
        found.add(loss.current_k())
    assert found == ({2} if pairing == "with itself" else {2, 3})


def test_a_measured_k_makes_the_loss_of_this_k_and_is_saved():
    net, (x, y) = wrapped(small_mlp()), batch()
    measured = LOSSES["citrus"](EPS, tau_ratio=TAU_RATIO, k=0, worst=3)
    for k, worst in ((2, 3), (3, 3), (4, 3), (5, 1)):  # of five inputs
        measured.end_epoch(torch.arange(6).expand(1, 6) < k + (k > 3))
        assert measured.state_dict() == {"_measured": torch.tensor(k)}
        given = LOSSES["citrus"](EPS, tau_ratio=TAU_RATIO, k=k, worst=worst)
        torch.manual_seed(4)
        loss = measured(net, x, y, EPS)
        torch.manual_seed(4)
        assert torch.equal(loss, given(net, x, y, EPS)) and not given.state_dict()


# -- what cannot be used --------------------------------------------------------------


@pytest.mark.parametrize("k", [1, -3, 2.5, True, False, 0.0])
def test_k_below_two_is_refused(k):
    with pytest.raises(InputError, match=rf"^k is {k}; expected at least 2, a whole number, or 0"):
        Citrus(k=k)


def test_another_attack_finds_nothing_for_sets():
    Citrus(attack=lambda net, x, y, eps: torch.zeros_like(x))
    with pytest.raises(InputError, match=r"k is 3, and the attack is <.*; expected PGD\(\)"):
        Citrus(attack=lambda net, x, y, eps: torch.zeros_like(x), k=3)


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 5, 5), (1, 2, 5, 5)])
def test_a_radius_of_each_pixel(shape):
    net, (x, y) = wrapped(small_conv()), batch()
    eps = torch.rand(shape) * EPS
    terms = Citrus(TAU_RATIO, k=3)(net, x, y, eps)
    assert (terms.perturbations.abs() <= (1 - TAU_RATIO) * eps + 1e-6).all()
    with pytest.raises(InputError, match=r"^ε of inputs that share a perturbation is "):
        Citrus(TAU_RATIO, k=3)(net, x, y, torch.rand(6, 1, 1, 1) * EPS)


def test_k_beyond_the_partners_or_the_batch_is_refused():
    net, (x, y) = wrapped(small_conv()), batch()
    line = r"^k is 6, but an input has 4 partners; expected k to be at most 5: lower k"
    with pytest.raises(InputError, match=line):
        Citrus(k=6)(net, x, y, EPS)
    with pytest.raises(InputError, match=r"worst is 2, but each input has 1 boxes"):
        Citrus(k=5, worst=2)(net, x, y, EPS)
    assert len(Citrus(k=5)(net, x, y, EPS).box) == 6
