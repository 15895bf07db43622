"""Groups with many combinations of wrong classes, proved by the cores of these."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from exact import KINDS, most_broken, random_images, random_net
from fuzzing import sizes

from citrus_lirpa import BoundedNet, GroupAttack, certify, certify_uap
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.deadline import ending_by
from citrus_lirpa.bounds.margins import logit_margins
from citrus_lirpa.verify import combinations
from citrus_lirpa.verify.budget import Budget
from citrus_lirpa.verify.crown.branch_and_bound import Outcome
from citrus_lirpa.verify.crown.cores import Root, bound_roots
from citrus_lirpa.verify.crown.engine import ALPHA_STEPS, DualEngine
from citrus_lirpa.verify.crown.linear import Group, Lines
from citrus_lirpa.verify.crown.reduced_images import ReducedImages
from citrus_lirpa.verify.crown.tree import BROKEN, GIVEN_UP, PROVED
from citrus_lirpa.verify.group_proof import Search
from citrus_lirpa.verify.relational import GROUP_STAGES, group_proofs, relate


@sizes(8, 24)
def test_what_cores_prove_of_a_group_is_never_more_than_the_exact_number(monkeypatch, cases):
    monkeypatch.setattr(combinations, "_FEW", 0)
    refute, parts = Group.refute, []

    def noted(group, chosen):
        parts.append(len(chosen))
        refute(group, chosen)

    monkeypatch.setattr(Group, "refute", noted)
    raised = 0
    for seed in range(cases):
        model, shape = random_net(KINDS[seed % len(KINDS)], 40 + seed, 3)
        x, y = random_images(model, shape, seed, 4)
        net, clip = BoundedNet(model, x), (0.0, 1.0) if seed % 4 == 0 else None
        proofs = certify(net, x, y, 0.3, method="ibp", clip=clip)
        attack = GroupAttack(steps=3, restarts=1, clip=clip)
        found = certify_uap(
            net, x, y, 0.3, group_size=4, certificates=proofs, relational="rabbit",
            time_limit=3.0, clip=clip, attack=attack,
        )  # fmt: skip
        answer = most_broken(model, x, y, 0.3, clip=clip is not None)
        if answer is not None:
            assert int(found.lower) <= 4 - answer[0] <= int(found.upper)
            raised += found.stage == ("tuple bab",)
    assert raised >= cases // 4 and min(parts) < max(parts)


def test_a_core_has_nearly_all_weight_and_its_bound_is_nearly_that_of_the_combination():
    torch.manual_seed(0)
    model, shape = random_net("deep", 3, 3)
    x, y = random_images(model, shape, 0, 4)
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(0.2))
    images = engine.tightened(engine.ibp(x, y)[0])
    on = ReducedImages(engine, images)
    every = [((0, a), (2, b), (3, c)) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    roots = bound_roots(on, every)
    assert sorted(root.chosen for root in roots) == every
    assert [root.value for root in roots] == sorted(root.value for root in roots)
    assert any(len(root.parts) > 1 for root in roots)
    for root in roots:
        sizes_of_parts = [len(part) for part in root.parts]
        assert sizes_of_parts == list(range(sizes_of_parts[0], 4))
        assert all(set(some) < set(more) for some, more in itertools.pairwise(root.parts))
        alone = bound_roots(on, [root.parts[0]])[0].value
        assert alone == pytest.approx(root.value, abs=0.05)
    with ending_by(-math.inf):
        late = bound_roots(ReducedImages(engine, images), every)
    assert all(root == Root(math.inf, [root.chosen], {}) for root in late)


def test_margins_that_a_perturbation_makes_negative_are_those_of_the_network():
    torch.manual_seed(0)
    model, shape = random_net("deep", 3, 3)
    x, y = random_images(model, shape, 0, 4)
    net, members = BoundedNet(model, x).eval(), torch.tensor([2, 0, 3])
    engine = DualEngine(net, Ball(0.4))
    images, counts = engine.ibp(x, y)[0], []
    for u in 0.8 * torch.rand(40, *x.shape[1:]) - 0.4:
        negative = engine.attack.negative(images, members, u)
        assert torch.equal(negative, logit_margins(net(x[members] + u), y[members]) < 0)
        shifts = u.expand(3, *u.shape)
        broken = engine.attack.broken(images, members.unsqueeze(1), shifts).squeeze(1)
        assert torch.equal(negative.any(1), broken)
        counts.append(int(broken.sum()))
    assert min(counts) < max(counts)


def settle(monkeypatch, states, *, negative=(), suited=False, limits=None):
    """The proof of three images with three margins each, where branch and bound answers
    ``states`` by the number of images; and what it was asked. The cores are images 1 and 2;
    what it finds makes the margins ``negative`` so. ``limits`` receives what each part may take;
    ``suited`` says whether programs can decide them."""
    asked = []

    def search(images, problems, budget, **options):
        (members,) = problems.members.tolist()
        some = [tuple(zip(members, rows, strict=True)) for rows in problems.rows.tolist()]
        asked.append(some if len(some) > 1 else some[0])
        if limits is not None:
            limits.append(budget.limit)
        state = torch.tensor([states[len(members)]])
        return Outcome(state, {0: torch.zeros(1)}, torch.ones_like(state), state < 0, state < 0)

    def roots(images, every):
        return [Root(-1.0, [each[1:], each] if len(each) == 3 else [each], {}) for each in every]

    monkeypatch.setattr(combinations, "branch_and_bound", search)
    monkeypatch.setattr(combinations, "bound_roots", roots)
    monkeypatch.setattr(ReducedImages, "size", lambda *_: 1)
    monkeypatch.setattr(ReducedImages, "suit_programs", lambda *_: suited)
    x = torch.rand(3, 1, dtype=torch.float64)
    order = torch.arange(9)
    lines = Lines(
        order // 3, order % 3, x.new_zeros(9, 1), x.new_full((9,), -1.0), x,
        Ball(0.5), torch.zeros(3), torch.zeros(9, 0),
    )  # fmt: skip
    found = torch.zeros(3, 3, dtype=torch.bool)
    for margin in negative:
        found[margin] = True
    attack = SimpleNamespace(negative=lambda *_: found)
    engine = SimpleNamespace(proofs=None, splits=True, lines=lambda *_: lines, attack=attack)
    on = Search(engine, SimpleNamespace(x=x), True, Budget.of(60.0, 1), ALPHA_STEPS)
    groups = [([0, 1, 2], set())]
    (proof,) = group_proofs(on, torch.ones(3, 3, dtype=torch.bool), groups, GROUP_STAGES["cross"])
    relate(on, [proof], GROUP_STAGES["cross"])
    return proof, asked


def test_a_core_that_is_proved_stands_for_all_combinations_with_it(monkeypatch):
    proof, asked = settle(monkeypatch, {1: GIVEN_UP, 2: PROVED})
    assert asked[:9] == [((1, a), (2, b)) for a in range(3) for b in range(3)]
    assert len(asked) == 9 + 18 + 1  # then the other pairs, and one image
    assert proof.most == proof.stuck == 1 and proof.stage == "tuple bab"


@pytest.mark.parametrize("state", [GIVEN_UP, BROKEN])
def test_a_combination_is_tried_as_a_whole_where_its_core_is_not_proved(monkeypatch, state):
    proof, asked = settle(monkeypatch, {2: state, 3: GIVEN_UP}, negative=[(1, 0), (2, 0)])
    assert asked == [((1, 0), (2, 0)), ((0, 0), (1, 0), (2, 0))]
    assert proof.most == 3 and proof.stuck == 3
    assert proof.least == (2 if state == BROKEN else 0)


@pytest.mark.parametrize("suited", [False, True])
def test_parts_that_suit_programs_may_take_longer(monkeypatch, suited):
    limits: list[float] = []
    settle(monkeypatch, {2: GIVEN_UP, 3: GIVEN_UP}, suited=suited, limits=limits)
    assert limits == pytest.approx([12.0, 60.0] if suited else [1.8, 12.0])


def test_what_breaks_a_core_counts_for_all_images_that_it_breaks(monkeypatch):
    proof, asked = settle(monkeypatch, {2: BROKEN}, negative=[(0, 1), (1, 0), (2, 0)])
    assert asked == [((1, 0), (2, 0))]
    assert proof.least == proof.most == 3 and proof.stuck == 0


@pytest.mark.parametrize("state", [GIVEN_UP, BROKEN])
def test_combinations_whose_core_is_not_proved_are_tried_together(monkeypatch, state):
    negative = [(1, 0), (1, 1), (2, 0)]
    proof, asked = settle(monkeypatch, {1: GIVEN_UP, 2: state, 3: PROVED}, negative=negative)
    failed = [0] if state == GIVEN_UP else [0, 1]  # of image 1
    first, *others = [((0, a), (1, b), (2, 0)) for a in range(3) for b in failed]
    assert asked[:3] == [first[1:], first, others]
    assert proof.most == 2
    assert (proof.least, proof.stuck) == ((2, 0) if state == BROKEN else (0, 2))
