"""The group stage: fixed lines, sets of images, the mixed-integer program and its caller."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import torch
from exact import KINDS, most_broken, partitions, random_images, random_net
from fuzzing import random_test, sizes
from hypothesis import strategies as st
from scipy.optimize import linprog

from citrus_lirpa import BoundedNet, GroupAttack, certify, certify_uap
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.margins import logit_margins
from citrus_lirpa.errors import SoundnessError
from citrus_lirpa.verify import group_proof, milp, relational
from citrus_lirpa.verify.budget import Budget
from citrus_lirpa.verify.crown.branch_and_bound import Outcome
from citrus_lirpa.verify.crown.differences import with_differences
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.linear import Group, Lines, refuting
from citrus_lirpa.verify.crown.reduced_images import ReducedImages
from citrus_lirpa.verify.crown.tree import BROKEN, GIVEN_UP, OPEN, PROVED
from citrus_lirpa.verify.group_proof import Search
from citrus_lirpa.verify.relational import GROUP_STAGES, group_proofs, relate

NEVER = Budget()


def random_lines(seed, images, rows, each, pixels=3, eps=0.5, clip=None) -> Lines:
    """``each`` lines on every of ``rows`` margins of every image; every line can be made
    negative, and several together sometimes."""
    generator = torch.Generator().manual_seed(seed)
    count = images * rows * each
    g = torch.randn(count, pixels, generator=generator, dtype=torch.float64)
    reach = eps * g.abs().sum(1)
    c = reach * (torch.rand(count, generator=generator, dtype=torch.float64) - 0.5)
    order = torch.arange(count) // each
    x = torch.rand(images, pixels, generator=generator, dtype=torch.float64)
    ball, threshold = Ball(eps, clip), torch.full((len(x),), 1e-9)
    return Lines(order // rows, order % rows, g, c, x, ball, threshold, torch.zeros(count, 0))


def least_maximum(lines: Lines, numbers) -> float:
    """min over |u| <= eps of the largest line, unclipped, by a linear program."""
    g, c = lines.g[numbers].flatten(1).numpy(), lines.c[numbers].numpy()
    answer = linprog(
        np.r_[np.zeros(g.shape[1]), 1.0],
        A_ub=np.c_[g, -np.ones(len(g))],
        b_ub=-c,
        bounds=[(-lines.ball.eps, lines.ball.eps)] * g.shape[1] + [(None, None)],
    )
    assert answer.status == 0
    return float(answer.fun)


def by_brute_force(lines: Lines, rows: dict[int, list[int]], blocked=()):
    """The most images with some row all lines of which can be negative, all under one u; None
    where that hangs on a tie."""
    tie = False
    for size in range(len(rows), 0, -1):
        for members in itertools.combinations(rows, size):
            if any(block <= set(members) for block in blocked):
                continue
            for choice in itertools.product(*(rows[i] for i in members)):
                picked = zip(members, choice, strict=True)
                least = least_maximum(lines, [n for i, r in picked for n in lines.of(i, r)])
                tie = tie or abs(least) < 1e-4
                if least < 0:
                    return None if tie else size
    return None if tie else 0


# ----------------------------------------------------------------------------- refuted


def refuted(lines, chosen):
    """Whether no |u| <= ε makes all chosen lines negative."""
    return refuting(lines, chosen).weights is not None


@random_test(25, 50, seed=st.integers(0, 10_000), count=st.integers(1, 8), pixels=st.integers(1, 6))
def test_lines_are_refuted_exactly_where_a_linear_program_finds_no_point(seed, count, pixels):
    lines = random_lines(seed, count, 1, 1, pixels)
    least = least_maximum(lines, list(range(count)))
    if abs(least) > 1e-6:
        assert refuted(lines, range(count)) == (least > 0)


def test_both_answers_are_met_for_every_size():
    for count in (3, 5, 8):
        answers = [refuted(random_lines(s, count, 1, 1, 4), range(count)) for s in range(60)]
        assert 3 <= sum(answers) <= 57


@random_test(25, 50, seed=st.integers(0, 10_000), count=st.integers(1, 5))
def test_clipped_lines_that_a_sampled_perturbation_makes_negative_are_not_refuted(seed, count):
    lines = random_lines(seed, count, 1, 1, pixels=2, clip=(0.0, 1.0))
    axis = torch.linspace(-lines.ball.eps, lines.ball.eps, 121, dtype=torch.float64)
    u = torch.cartesian_prod(axis, axis)
    v = (lines.x.unsqueeze(1) + u).clamp(0, 1) - lines.x.unsqueeze(1)
    values = (lines.g.unsqueeze(1) * v).sum(2) + lines.c.unsqueeze(1)
    negative = bool((values <= 0).all(0).any())
    if refuted(lines, range(count)):
        assert not negative
    elif count == 1:  # one line: convexity is not needed, the answer is exact
        assert float(values.min()) < 0.05


def test_few_sets_need_a_linear_program(monkeypatch):
    """Met perturbations and multiplicative steps settle the others."""
    asked = programs = 0
    solve = scipy.optimize.linprog

    def counted(*args, **options):
        nonlocal programs
        programs += 1
        return solve(*args, **options)

    monkeypatch.setattr(scipy.optimize, "linprog", counted)
    for seed in range(2):
        lines = random_lines(seed, 5, 2, 2, pixels=300)
        group = Group({i: [0, 1] for i in range(6)}, lines, NEVER)
        for size in range(1, 7):
            asked += sum(1 for _ in group.survivors(size))
    assert asked > 300 and programs < asked / 20, (asked, programs)


# ------------------------------------------------------------------------------- groups


@random_test(25, 50, seed=st.integers(0, 10_000), images=st.integers(2, 7), rows=st.integers(1, 2))
def test_the_largest_set_is_that_of_brute_force_and_of_the_program(seed, images, rows):
    each = 1 + seed % 2
    lines = random_lines(seed, images, rows, each, pixels=2 + seed % 3)
    margins = {i: list(range(rows)) for i in range(images)}
    expected = by_brute_force(lines, margins)
    if expected is None:
        return
    assert Group(margins, lines, NEVER).largest(1) == max(1, expected)
    assert Group(margins, lines, NEVER).largest(min(images, expected + 1)) >= expected
    assert milp.most_broken(Group(margins, lines, NEVER), time_limit=10.0) == expected


def test_the_largest_sets_differ_in_size():
    sizes = [
        Group({i: [0] for i in range(5)}, random_lines(seed, 5, 1, 1), NEVER).largest(0)
        for seed in range(30)
    ]
    assert len(set(sizes)) >= 3


@random_test(25, 50, seed=st.integers(0, 10_000), images=st.integers(3, 6), clip=st.booleans())
def test_blocked_sets_are_kept_apart_and_nothing_else(seed, images, clip):
    """Blocks are taken from the sets that can break, so that they change the answer."""
    limits = (0.0, 1.0) if clip else None
    lines = random_lines(seed, images, 1, 1, pixels=3, clip=limits)
    lines.c.mul_(0.6)
    margins = {i: [0] for i in range(images)}
    generator = np.random.default_rng(seed)
    blocks = [
        frozenset(generator.choice(images, generator.integers(2, 4), replace=False).tolist())
        for _ in range(seed % 4)
    ]
    free = random_lines(seed, images, 1, 1, pixels=3)
    free.c.mul_(0.6)
    group = Group(margins, lines, NEVER)
    group.blocked.update(blocks)
    for block in blocks:
        assert not group.may_break(set(block))
        assert not group.may_break(set(range(images)))
    if not clip:
        expected = by_brute_force(free, margins, blocks)
        if expected is not None:
            assert group.largest(0) == max(1, expected)
            assert milp.most_broken(group, time_limit=10.0) == expected
        return
    sampled = 0
    u = lines.ball.eps * (2 * torch.rand(2000, 3, dtype=torch.float64) - 1)
    v = (lines.x.unsqueeze(1) + u).clamp(0, 1) - lines.x.unsqueeze(1)
    broken = (lines.g.unsqueeze(1) * v).sum(2) + lines.c.unsqueeze(1) <= 0
    for members in {tuple(col.nonzero().flatten().tolist()) for col in broken.T}:
        if not any(block <= set(members) for block in blocks):
            sampled = max(sampled, len(members))
            assert group.may_break(set(members))
    assert group.largest(0) >= sampled
    assert milp.most_broken(group, time_limit=10.0) >= sampled


def sampled_count(lines: Lines, rows: int, samples=20_000) -> int:
    """A number of images that some perturbation does break."""
    u = lines.ball.eps * torch.randn(samples, lines.g.shape[1], dtype=torch.float64).sign()
    u[::2] *= torch.rand(samples // 2, 1, dtype=torch.float64)
    values = u @ lines.g.T + lines.c
    broken = (values <= 0).view(samples, len(lines.x), rows, -1).all(3).any(2)
    return int(broken.sum(1).max())


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.1, 1.0])
def test_a_program_cut_short_counts_too_many_not_too_few(limit):
    for seed in range(3):
        lines = random_lines(seed, 20, 3, 1, pixels=16)
        lines.c.mul_(0.5)
        margins = {i: [0, 1, 2] for i in range(20)}
        most = milp.most_broken(Group(margins, lines, NEVER), time_limit=limit)
        assert sampled_count(lines, 3) <= most <= 20


def test_clipping_lets_images_break_together_that_would_not_without():
    """u = 0.5 moves the dark image enough, and the bright one not at all."""
    one = torch.tensor([0, 0])
    g, c, x = (torch.tensor(v).double() for v in ([[-1.0], [1.0]], [0.3, -0.1], [[0.0], [1.0]]))
    for clip, most in ((None, 1), ((0.0, 1.0), 2)):
        lines = Lines(
            *(torch.tensor([0, 1]), one, g, c, x, Ball(0.5, clip)),
            *(torch.full((2,), 1e-9), torch.zeros(2, 0)),
        )
        group = Group({0: [0], 1: [0]}, lines, NEVER)
        assert group.largest(0) == most
        assert milp.most_broken(group, time_limit=10.0) == most


def test_a_program_that_fails_counts_every_image(monkeypatch):
    lines = random_lines(0, 5, 1, 1)
    group = Group({i: [0] for i in range(5)}, lines, NEVER)
    for answer in (SimpleNamespace(), SimpleNamespace(mip_dual_bound=None),
                   SimpleNamespace(mip_dual_bound=-math.inf)):  # fmt: skip
        monkeypatch.setattr(scipy.optimize, "milp", lambda *a, answer=answer, **k: answer)
        assert milp.most_broken(group, time_limit=1.0) == 5
    # an incumbent is no proof: only the dual bound counts, rounded outward
    answer = SimpleNamespace(mip_dual_bound=-3.99996, fun=-2.0, x=None, status=1)
    monkeypatch.setattr(scipy.optimize, "milp", lambda *a, **k: answer)
    assert milp.most_broken(group, time_limit=1.0) == 4


def test_after_the_deadline_nothing_more_is_refuted():
    lines = random_lines(1, 4, 1, 1)
    lines.c.fill_(10.0)  # no set can break
    margins = {i: [0] for i in range(4)}
    assert Group(margins, lines, NEVER).largest(1) == 1
    late = Group(margins, lines, Budget(0.0))
    assert late.largest(1) == 4 and late.may_break({0, 1})
    late.blocked.add(frozenset({0, 1, 2}))
    assert late.largest(1) == 3


def test_an_image_without_open_margins_cannot_break():
    lines = random_lines(1, 3, 1, 1)
    lines.c.fill_(-10.0)
    group = Group({0: [0], 1: [], 2: [0]}, lines, NEVER)
    assert group.largest(0) == 2 and not group.may_break({0, 1})
    assert milp.most_broken(group, time_limit=1.0) == 2


def test_a_large_group_with_every_margin_proved_has_no_lines():
    empty = random_lines(0, 9, 0, 1)
    group = Group({i: [] for i in range(9)}, empty, NEVER)
    assert milp.most_broken(group, time_limit=1.0) == 0


# ------------------------------------------------------------------ an attack against a block


def settle(monkeypatch, states, *, count, broken=(), mode="cross", c=-1.0, rows=1, series=None,
           suited=False, limits=None):  # fmt: skip
    """The proof of one group where branch and bound says ``states(T)`` of T sets; and the sets
    that it was asked about. The engine knows ``rows`` lines of each image, all of value c.
    ``series`` receives those of the sets, ``limits`` what each call may take of a set; ``suited``
    says whether programs can decide sets."""
    lines = random_lines(0, count, rows, 1)
    lines.c.fill_(c)
    lines.g.zero_()
    engine, asked = SimpleNamespace(proofs=None, lines=lambda *_: lines), []

    def search(images, problems, budget, **options):
        asked.append(problems)
        if series is not None:
            series.append(options["series"].tolist())
        if limits is not None:
            limits.append(budget.limit)
        state = states(len(problems.members))
        u = {k: torch.full((1,), float(k)) for k, s in enumerate(state) if s == BROKEN}
        return Outcome(state, u, torch.ones_like(state), state < 0, state < 0)

    monkeypatch.setattr(relational, "branch_and_bound", search)
    monkeypatch.setattr(ReducedImages, "suit_programs", lambda *_: suited)
    on = Search(engine, SimpleNamespace(x=torch.zeros(count, 1)), True, Budget.of(60.0, 1), 20)
    groups = [(list(range(count)), set(broken))]
    open_rows = torch.ones(count, rows, dtype=torch.bool)
    (proof,) = group_proofs(on, open_rows, groups, GROUP_STAGES[mode])
    relate(on, [proof], GROUP_STAGES[mode])
    return proof, asked


def all_(state):
    return lambda sets: torch.full((sets,), state)


@pytest.mark.parametrize("count", [3, 9])
def test_lines_that_contradict_an_attack_are_an_error(monkeypatch, count):
    with pytest.raises(SoundnessError, match="not sound"):
        settle(monkeypatch, all_(OPEN), count=count, broken={0, 1}, mode="io", c=1.0)


def test_proofs_that_contradict_an_attack_are_an_error(monkeypatch):
    for count, broken in ((9, {0, 1}), (10, {2, 5, 7})):
        with pytest.raises(SoundnessError, match="not sound"):
            settle(monkeypatch, all_(PROVED), count=count, broken=broken)


@pytest.mark.parametrize(
    ("state", "broken", "mode", "least", "most"),
    [
        (PROVED, (), "cross", 0, 0),
        (PROVED, (0, 3), "cross", 2, 2),  # larger sets are proved apart: no contradiction
        (BROKEN, (), "cross", 4, 4),
        (OPEN, (), "cross", 0, 4),
        (PROVED, (), "io", 0, 4),
        (PROVED, (), "none", 0, 4),
    ],
)
def test_proofs_and_breaks_of_sets_settle_a_group(monkeypatch, state, broken, mode, least, most):
    proof, _ = settle(monkeypatch, all_(state), count=4, broken=broken, mode=mode)
    assert (proof.least, proof.most) == (least, most)
    assert proof.settled == (least == most) and (proof.u is not None) == (state == BROKEN)
    assert proof.stage == ("tuple bab" if most < 4 else "single")


def test_a_broken_set_does_not_prove_the_others(monkeypatch):
    """Of the sets of two of nine, one is broken: most is what is left, not what is broken."""

    def first(sets):
        state = torch.full((sets,), OPEN)
        state[0] = BROKEN
        return state

    for count in (4, 9):
        proof, _ = settle(monkeypatch, first, count=count)
        assert proof.most == count and proof.least >= 2


def test_sets_of_a_small_group_are_a_series_and_those_of_a_large_one_are_not(monkeypatch):
    def the_first_four(sets):
        return torch.full((sets,), PROVED if sets == 1 else OPEN)

    series: list = []
    proof, _ = settle(monkeypatch, the_first_four, count=4, series=series)
    assert series[:2] == [[0], [0, 0, 0, 0]] and proof.most == 3
    series.clear()
    settle(monkeypatch, all_(OPEN), count=9, series=series)
    assert series[0] == [-1] * 36


def test_a_small_group_whose_set_is_given_up_is_not_tried_again(monkeypatch):
    proof, asked = settle(monkeypatch, all_(GIVEN_UP), count=4)
    assert len(asked) == 1 and proof.most == 4 and not proof.settled


@pytest.mark.parametrize("suited", [False, True])
def test_a_set_that_suits_programs_may_take_the_time_of_its_group(monkeypatch, suited):
    limits: list[float] = []
    settle(monkeypatch, all_(OPEN), count=2, suited=suited, limits=limits)
    assert limits[0] == (60.0 if suited else 24.0)


def test_every_combination_of_rows_is_handed_to_branch_and_bound(monkeypatch):
    _, (problems,) = settle(monkeypatch, all_(OPEN), count=3, rows=2)
    assert problems.members.tolist() == [[0, 1, 2]]
    assert sorted(problems.rows.tolist()) == [list(r) for r in itertools.product((0, 1), repeat=3)]
    # 2,197 are too many for one group: it stays as it is
    proof, asked = settle(monkeypatch, all_(PROVED), count=3, rows=13)
    assert proof.most == 3 and asked == []


# ---------------------------------------------------------------------- large groups, real


@sizes(12, 18)
def test_groups_too_large_to_enumerate_are_enclosed_in_every_mode(monkeypatch, cases):
    """With a lower limit, so that the mixed-integer program decides groups of three and more."""
    monkeypatch.setattr(group_proof, "ENUMERATED", 2)
    lowered = reached = 0
    modes = ("crown", "io"), ("crown", "cross"), ("bab", "cross")
    for seed in range(cases):
        model, shape = random_net(KINDS[seed % 6], 20 + seed, 3)
        x, y = random_images(model, shape, seed, 5)
        eps, clip = 0.3, seed % 4 == 0
        method, mode = modes[seed // 2 % 3]
        answer = most_broken(model, x, y, eps, clip=clip)
        limits = (0.0, 1.0) if clip else None
        net = BoundedNet(model, x)
        proofs = certify(net, x, y, eps, method=method, time_limit=0.2, clip=limits)
        found = certify_uap(
            net, x, y, eps, group_size=5, certificates=proofs, relational=mode,
            time_limit=4.0, clip=limits, attack=GroupAttack(steps=3, restarts=1, clip=limits),
        )  # fmt: skip
        if answer is not None:
            assert int(found.lower) <= 5 - answer[0] <= int(found.upper)
            lowered += found.stage == ("milp",)
            reached += found.stage == ("milp",) and int(found.lower) == 5 - answer[0]
    assert lowered >= 1 and reached >= 1


# ------------------------------------------------------------------- papers by their names


def by_name(net, x, y, eps, mode, clip=None):
    """How many of one group a mode proves to survive; images alone are bounded by CROWN."""
    proofs = certify(net, x, y, eps, method="crown", clip=clip)
    return int(
        certify_uap(
            net,
            x,
            y,
            eps,
            group_size=len(x),
            certificates=proofs,
            relational=mode,
            time_limit=10.0,
            attack=GroupAttack(steps=3, restarts=1, clip=clip),
            clip=clip,
        ).lower  # fmt: skip
    )


def test_each_paper_proves_no_less_than_the_one_before():
    """With time enough, never more than the exact number; and most prove more somewhere."""
    chain, more = ("none", "zeng", "io", "racoon", "rabbit"), set()
    for seed in (13, 18, 19, 21, 23):
        model, shape = random_net(KINDS[seed % 6], 300 + seed, 3)
        x, y = random_images(model, shape, seed, 5)
        net = BoundedNet(model, x)
        found = {mode: by_name(net, x, y, 0.25, mode) for mode in (*chain, "raven")}
        assert [found[mode] for mode in chain] == sorted(found[mode] for mode in chain)
        assert found["zeng"] <= found["raven"]
        answer = most_broken(model, x, y, 0.25)
        assert answer is None or max(found.values()) <= 5 - answer[0]
        pairs = (*itertools.pairwise(chain), ("zeng", "raven"))
        more |= {pair for pair in pairs if found[pair[0]] < found[pair[1]]}
    assert {("none", "zeng"), ("racoon", "rabbit")} <= more, more


def test_lines_by_differences_hold_at_every_sampled_perturbation():
    """For networks with connections around ReLUs too; and some are above the image's own lines."""
    better = 0
    for seed in range(12):
        model, shape = random_net(KINDS[seed % 6], 400 + seed, 3)
        x, y = random_images(model, shape, seed, 4)
        net = BoundedNet(model, x).eval()
        engine = DualEngine(net, Ball(0.2))
        images = engine.refined(engine.ibp(x, y)[0])
        rows = torch.ones(4, 2, dtype=torch.bool)
        own = engine.lines(images, rows, 0)
        groups = [[0, 1, 2], [3]]
        lines = with_differences(own, engine, images, rows, groups, 0, NEVER)
        assert len(lines.c) == len(own.c) + 3 * 2 * 2 and not (lines.image[len(own.c) :] == 3).any()
        u = 0.2 * (2 * torch.rand(500, *shape) - 1)
        u[::2] = 0.2 * u[::2].sign()
        margins = torch.stack([logit_margins(net(x[i] + u), y[i].repeat(500)) for i in range(4)])
        values = torch.einsum("lp,up->lu", lines.g.flatten(1), u.flatten(1).double())
        values += lines.c.unsqueeze(1)
        least = margins[lines.image, :, lines.row].double()
        slack = lines.threshold[lines.image].unsqueeze(1) + 1e-5
        assert (values <= least + slack).all()
        for i in range(3):
            for row in range(2):
                numbers = torch.tensor(lines.of(i, row))
                theirs = values[numbers[numbers >= len(own.c)]].amax(0)
                better += bool((theirs > values[numbers[numbers < len(own.c)]].amax(0)).any())
    assert better >= 1


def test_no_lines_by_differences_under_clipping_or_without_time():
    model, shape = random_net(KINDS[0], 7, 3)
    x, y = random_images(model, shape, 7, 3)
    net, rows = BoundedNet(model, x).eval(), torch.ones(3, 2, dtype=torch.bool)
    for clip, budget in (((0.0, 1.0), NEVER), (None, Budget(0.0))):
        engine = DualEngine(net, Ball(0.2, clip))
        images = engine.refined(engine.ibp(x, y)[0])
        own = engine.lines(images, rows, 0)
        assert with_differences(own, engine, images, rows, [[0, 1, 2]], 0, budget) is own


# ------------------------------------------------------------------------------ theorem 3


@random_test(
    6,
    12,
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    eps=st.sampled_from((0.1, 0.2, 0.3)),
    clip=st.booleans(),
)
def test_the_mean_over_batches_is_below_the_share_of_the_whole_set(kind, seed, eps, clip):
    """Theorem 3 of Xu & Singh, for every partition into batches, weighted by their sizes."""
    model, shape = random_net(kind, seed, 3)
    x, y = random_images(model, shape, seed, 4)
    worst = {}

    def safe(part) -> int | None:
        key = tuple(part)
        if key not in worst:
            answer = most_broken(model, x[part], y[part], eps, clip=clip)
            worst[key] = None if answer is None else len(part) - answer[0]
        return worst[key]

    whole = safe([0, 1, 2, 3])
    for parts in partitions([0, 1, 2, 3]):
        counts = [safe(part) for part in parts]
        if whole is not None and None not in counts:
            assert sum(counts) <= whole


def test_certified_accuracy_over_batches_is_below_the_share_of_the_whole_set():
    strict = 0
    for seed, kind in enumerate(KINDS):
        model, shape = random_net(kind, 60 + seed, 3)
        x, y = random_images(model, shape, seed, 6)
        answer = most_broken(model, x, y, 0.15)
        net = BoundedNet(model, x)
        proofs = certify(net, x, y, 0.15, method="bab", time_limit=0.2)
        for size in (2, 3, 6):
            found = certify_uap(
                net, x, y, 0.15, group_size=size, certificates=proofs, time_limit=0.3,
                attack=GroupAttack(steps=3, restarts=1),
            )  # fmt: skip
            if answer is not None:
                assert found.certified_accuracy <= (6 - answer[0]) / 6
                strict += size < 6 and found.certified_accuracy < (6 - answer[0]) / 6
    assert strict >= 1
