"""Certificates and group bounds against the exact mixed-integer program of ``exact``."""

from collections import Counter

import numpy as np
import pytest
import torch
from exact import (
    KINDS,
    breakable,
    lowest_margin,
    most_broken,
    random_images,
    random_net,
    smallest_margins,
)
from fuzzing import random_cases, sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from polygons import exact_survivors, tiny
from torch import nn

from citrus_lirpa import BoundedNet, GroupAttack, certify, certify_uap
from citrus_lirpa.attacks import PGD
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.engines import find_engine

EPS = (0.05, 0.1, 0.2, 0.3, 0.5)


def property_test(examples: int, **strategies):
    """A test of many random cases, the same ones every time."""
    options = settings(random_cases, max_examples=examples)
    return lambda check: options(given(**strategies)(check))


strategies = dict(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 4),
    size=st.integers(2, 5),
    eps=st.sampled_from(EPS),
    clip=st.booleans(),
)


# --------------------------------------------------------------------- the program itself


@pytest.mark.parametrize("hidden", [(6,), (5, 4)])
def test_the_program_counts_what_intersecting_polygons_count(hidden):
    counts = set()
    for seed in range(4):
        model, x = tiny(seed, hidden), torch.rand(3, 2)
        y = model(x).argmax(1)
        y[0] = (y[0] + seed % 2) % 3
        for eps in (0.1, 0.3):
            found = survivors(model, x, y, eps)
            if found is not None:
                assert found == exact_survivors(model, x, y, eps)
                counts.add(found)
    assert len(counts) >= 3


@sizes(4, 6)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_no_sampled_perturbation_breaks_more_than_the_program_says(kind, clip, cases):
    reached = answers = 0
    for seed in range(cases):
        model, shape = random_net(kind, seed)
        x, y = random_images(model, shape, seed, 4)
        for eps in (0.1, 0.3):
            answer = most_broken(model, x, y, eps, clip=clip)
            if answer is None:
                continue
            u = eps * (2 * torch.rand(3000, *shape) - 1)
            u[::2] = eps * u[::2].sign()
            moved = (x.unsqueeze(1) + u).flatten(0, 1)
            with torch.no_grad():
                logits = model(moved.clamp(0, 1) if clip else moved)
            found = int((logits.argmax(1).view(4, -1) != y.view(4, 1)).sum(0).max())
            assert found <= answer[0]
            assert int((smallest_margins(model, x, y, answer[1], clip) < 0).sum()) >= answer[0]
            assert float(answer[1].abs().max()) <= eps
            reached += found == answer[0]
            answers += 1
    assert answers >= 1.5 * cases and reached >= 0.7 * answers


def test_clipping_is_exact_where_it_decides():
    """A bright pixel cannot grow, so that it does not break what it would break unclipped."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        model[2].bias.copy_(torch.tensor([1.05, 0.0]))
    x, y = torch.tensor([[0.95, 0.5]]), torch.tensor([0])
    assert most_broken(model, x, y, 0.2)[0] == 1
    assert most_broken(model, x, y, 0.2, clip=True)[0] == 0


# -------------------------------------------------------------------------- single images


def engine_of(model, x, eps, limits) -> BoundedNet:
    """The network, of which it is certain that the dual engine takes it."""
    net = BoundedNet(model, x).eval()
    assert isinstance(find_engine(net, Ball(eps, limits)), DualEngine)
    return net


def test_no_certificate_contradicts_the_exact_answer():
    tally = Counter()

    @property_test(70, **strategies)
    def check(kind, seed, classes, size, eps, clip):
        torch.manual_seed(seed)
        model, shape = random_net(kind, seed, classes)
        x, y = random_images(model, shape, seed, size, wrong=seed % 5 == 0)
        limits = (0.0, 1.0) if clip else None
        proofs = certify(
            engine_of(model, x, eps, limits), x, y, eps, method="bab", time_limit=0.3,
            clip=limits, attack=PGD(steps=seed % 3, clip=limits),
        )  # fmt: skip
        assert not proofs.unsupported
        tally[kind] += 1
        for verdict, can in zip(
            proofs.verdicts(), breakable(model, x, y, eps, clip=clip), strict=True
        ):
            assert can is None or verdict in (
                ("attacked", "wrong", "undecided") if can else (*proofs.methods, "undecided")
            ), (verdict, can)
            tally[verdict] += can is not None
        assert not (proofs.certified & proofs.attacked).any()

    check()
    assert all(tally.pop(kind) >= 3 for kind in KINDS), tally
    decided = tally.total() - tally["undecided"]
    assert decided >= 0.95 * tally.total() and decided >= 150, tally
    assert tally["attacked"] >= 50 and tally["ibp"] + tally["crown-ibp"] >= 20, tally


@sizes(36, 60)
def test_images_a_hair_from_breaking_are_told_apart(cases):
    """The exact smallest margin is moved just above or below zero, where bounds are tried most."""
    tally = Counter()

    @property_test(cases, **{k: strategies[k] for k in ("kind", "seed", "classes", "eps", "clip")})
    def check(kind, seed, classes, eps, clip):
        torch.manual_seed(seed)
        model, shape = random_net(kind, seed, classes)
        x, y = random_images(model, shape, seed, 1)
        lowest = lowest_margin(model, x[0], int(y), eps, clip=clip)
        gap = (-0.02, -0.003, 0.003, 0.02)[seed % 4]
        with torch.no_grad():
            model[-1].bias[int(y)] -= lowest - gap
            if int(model(x).argmax(1)) != int(y):
                return
        limits = (0.0, 1.0) if clip else None
        net = engine_of(model, x, eps, limits)
        proofs = certify(net, x, y, eps, method="bab", time_limit=0.3, clip=limits)
        (verdict,) = proofs.verdicts()
        if gap < 0:
            assert verdict in ("attacked", "undecided"), (verdict, lowest, gap)
        else:
            assert verdict != "attacked", (verdict, lowest, gap)
        assert float(proofs.margin) <= gap + 1e-4
        tally[verdict] += 1
        tally[verdict, gap] += 1

    check()
    assert tally["undecided"] <= cases // 7, tally
    assert tally["attacked"] >= cases // 6 and tally["bab"] >= cases // 12, tally


# --------------------------------------------------------------------------------- groups


def survivors(model, x, y, eps, clip=False):
    """How many of the correctly classified images survive every shared u; None for a tie."""
    right = model(x).argmax(1) == y
    if not right.any():
        return 0
    answer = most_broken(model, x[right], y[right], eps, clip=clip)
    return None if answer is None else int(right.sum()) - answer[0]


MODES = [
    ("none", "crown"), ("io", "alpha-crown"), ("io", "bab"), ("cross", "alpha-crown"),
    ("cross", "bab"), ("cross", "bab"),
]  # fmt: skip


@sizes(50, 110)
def test_group_bounds_enclose_the_exact_number_and_reach_it(cases):
    tally = Counter()

    @property_test(cases, **strategies)
    def check(kind, seed, classes, size, eps, clip):
        torch.manual_seed(seed)
        relational, method = mode = MODES[seed * 2654435761 // 256 % len(MODES)]
        model, shape = random_net(kind, seed, classes)
        x, y = random_images(model, shape, seed, size, wrong=seed % 5 == 0)
        limits = (0.0, 1.0) if clip else None
        exact = survivors(model, x, y, eps, clip)
        if exact is None:
            tally["tie"] += 1
            return
        net = engine_of(model, x, eps, limits)
        proofs = certify(net, x, y, eps, method=method, time_limit=0.3, clip=limits)
        found = certify_uap(
            net, x, y, eps, group_size=size, certificates=proofs, relational=relational,
            time_limit=1.0, clip=limits,
            attack=GroupAttack(steps=1 + seed // 7 % 6, restarts=1, clip=limits),
        )  # fmt: skip
        assert int(found.lower) <= exact <= int(found.upper)
        margins = smallest_margins(model, x, y, found.u[0], clip)
        if float(margins.abs().min()) > 1e-5:
            assert int(((margins > 0) & proofs.correct).sum()) == int(found.upper)
        assert float(found.u.abs().max()) <= eps * (1 + 1e-6)
        if int(proofs.open.sum()) > 1:
            tally[mode] += 1
            tally[mode, "reached"] += int(found.lower) == exact
        # a set may take 0.4 of the limit before its group is left as it is
        unfinished = "undecided" in proofs.verdicts() or float(found.took.sum()) >= 0.4
        if mode == ("cross", "bab") and unfinished:
            tally["unfinished"] += 1
        elif mode == ("cross", "bab"):
            assert int(found.lower) == exact, "branch and bound finished without the answer"

    check()
    full = "cross", "bab"
    assert all(tally[mode] >= 1 for mode in MODES), tally
    assert tally["unfinished"] <= 0.4 * tally[full], tally  # a busy machine has little time
    assert tally[full, "reached"] >= 0.8 * tally[full], tally
    assert tally[full] >= cases // 20 and tally["tie"] <= 5, tally


def test_several_groups_and_a_short_last_one_are_each_enclosed():
    for seed, kind in enumerate(KINDS):
        model, shape = random_net(kind, 40 + seed, 3)
        x, y = random_images(model, shape, seed, 8, wrong=1)
        eps, clip = 0.2, bool(seed % 2)
        limits = (0.0, 1.0) if clip else None
        net = engine_of(model, x, eps, limits)
        proofs = certify(net, x, y, eps, method="bab", time_limit=0.3, clip=limits)
        found = certify_uap(
            net, x, y, eps, group_size=3, certificates=proofs, time_limit=2.0, clip=limits,
            batch_size=6, attack=GroupAttack(steps=2, restarts=1, clip=limits),
        )  # fmt: skip
        assert found.size.tolist() == [3, 3, 2]
        for g, rows in enumerate(np.array_split(np.arange(9), 3)):
            part = torch.from_numpy(rows[rows < 8])
            exact = survivors(model, x[part], y[part], eps, clip)
            if exact is not None:
                assert int(found.lower[g]) <= exact <= int(found.upper[g])
