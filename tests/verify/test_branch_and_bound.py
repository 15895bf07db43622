"""Branch and bound on tuples of images, against the exact program of ``exact``."""

import itertools
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from exact import KINDS, most_broken, random_images, random_net, smallest_margins
from fuzzing import sizes
from torch import nn

from citrus_lirpa import BoundedNet, certify
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.verify.budget import Budget
from citrus_lirpa.verify.crown import branch_and_bound as bab
from citrus_lirpa.verify.crown.ascent import ascend_dual
from citrus_lirpa.verify.crown.branch_and_bound import Problems, branch_and_bound
from citrus_lirpa.verify.crown.engine import ALPHA_STEPS, DualEngine
from citrus_lirpa.verify.crown.joint_attack import JointAttack
from citrus_lirpa.verify.crown.reduced_images import ReducedImages
from citrus_lirpa.verify.crown.tree import BROKEN, GIVEN_UP, OPEN, PROVED


def prepare(kind, seed, eps, clip, *, count=4, classes=3, engine=DualEngine):
    torch.manual_seed(seed)
    model, shape = random_net(kind, seed, classes)
    x, y = random_images(model, shape, seed, count)
    engine = engine(BoundedNet(model, x).eval(), Ball(eps, clip))
    images, *_ = engine.ibp(x, y)
    return model, engine, engine.tightened(images)


def every_combination(members, margins: int) -> Problems:
    """All that could break these tuples: any wrong class for each member."""
    rows = list(itertools.product(range(margins), repeat=len(members[0])))
    return Problems(
        torch.tensor(members),
        torch.arange(len(members)).repeat_interleave(len(rows)),
        torch.tensor(rows * len(members)),
    )


@sizes(9, 15)
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_tuples_are_proved_only_if_unbreakable_and_broken_by_a_perturbation(size, clip, cases):
    tally = Counter()
    for seed in range(cases):
        kind = KINDS[seed % len(KINDS)]
        eps = (0.1, 0.25, 0.4)[seed % 3]
        model, engine, images = prepare(kind, 7 * seed, eps, clip, classes=2 + seed % 3)
        members = list(itertools.combinations(range(4), size))
        problems = every_combination(members, images.c.shape[1])
        outcome = branch_and_bound(ReducedImages(engine, images), problems, Budget.of(3.0, 1))
        for number, which in enumerate(members):
            which = list(which)
            x, y, state = images.x[which], images.y[which], int(outcome.state[number])
            answer = most_broken(model, x, y, eps, clip=clip is not None)
            tally[state, answer and answer[0] == size] += 1
            if answer is None:
                continue
            assert state != (PROVED if answer[0] == size else BROKEN), (seed, which)
            if state == BROKEN:
                u = outcome.u[number]
                assert (u.abs() <= eps * (1 + 1e-6)).all()
                assert (smallest_margins(model, x, y, u, clip is not None) < 1e-5).all()
            assert (number in outcome.u) == (state == BROKEN)
    assert min(tally[PROVED, False], tally[BROKEN, True]) >= cases // 2, tally
    assert sum(tally[OPEN, known] for known in (True, False)) <= 0.1 * tally.total(), tally


@sizes(6, 12)
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_without_time_the_roots_alone_decide_and_never_wrongly(clip, cases):
    tally = Counter()
    for seed in range(cases):
        model, engine, images = prepare(KINDS[seed % 6], seed, 0.25, clip)
        members = list(itertools.combinations(range(4), 2))
        problems = every_combination(members, 2)
        outcome = branch_and_bound(ReducedImages(engine, images), problems, Budget(0.0))
        assert outcome.bounded.tolist() == [4] * 6  # each combination of classes once
        unsplit = branch_and_bound(ReducedImages(engine, images), problems, Budget(), split=False)
        assert torch.equal(outcome.state, unsplit.state)
        for which, state in zip(members, outcome.state.tolist(), strict=True):
            pair = list(which)
            answer = most_broken(model, images.x[pair], images.y[pair], 0.25, clip=clip is not None)
            if answer is not None:
                assert state != (PROVED if answer[0] == 2 else BROKEN)
            tally[state] += 1
    assert min(tally[PROVED], tally[BROKEN]) >= cases // 3


@sizes(12, 20)
def test_splitting_proves_what_the_roots_leave_open(cases):
    more = 0
    for seed in range(cases):
        _, engine, images = prepare(("deep", "residual", "mlp")[seed % 3], seed, 0.25, None)
        problems = every_combination(list(itertools.combinations(range(4), 2)), 2)
        roots = branch_and_bound(ReducedImages(engine, images), problems, Budget(0.0))
        found = branch_and_bound(ReducedImages(engine, images), problems, Budget.of(2.0, 1))
        decided = roots.state != OPEN
        assert torch.equal(found.state[decided], roots.state[decided])
        more += int(((found.state == PROVED) & ~decided).sum())
        assert (found.bounded >= roots.bounded).all()
    assert more >= cases // 6


class Stubborn(DualEngine):
    """Nothing about image 0 is ever proved or broken."""

    def __init__(self, net, ball):
        super().__init__(net, ball)
        self.attack.broken = self.broken

    def tightened(self, images):
        images = super().tightened(images)
        images.threshold[0] = torch.inf
        return images

    def broken(self, images, members, u):
        return JointAttack.broken(self.attack, images, members, u) & (members != 0)


@sizes(3, 6)
def test_easy_problems_are_decided_although_a_hopeless_one_is_in_the_pool(cases):
    decided = 0
    for seed in range(cases):
        _, engine, images = prepare("deep", seed, 0.3, None, engine=Stubborn, count=6)
        engine.rows_at_once = 4  # so that the problems compete for every batch
        members = [(i,) for i in range(6)]
        problems = every_combination(members, 2)
        alone = branch_and_bound(
            ReducedImages(engine, images), every_combination(members[1:], 2), Budget.of(1.0, 1)
        )
        outcome = branch_and_bound(ReducedImages(engine, images), problems, Budget.of(4.0, 1))
        # given up where it is split to the end
        assert outcome.state[0] in (OPEN, GIVEN_UP) and 0 not in outcome.u
        settled = alone.state != OPEN
        assert torch.equal(outcome.state[1:][settled], alone.state[settled])
        decided += int(settled.sum())
        spent = outcome.bounded[1:][settled]
        assert int(outcome.bounded[0]) > int(spent.max())
    assert decided >= 3 * cases


class Undecided(Stubborn):
    """Nothing about any image is ever proved or broken."""

    def tightened(self, images):
        return replace(images, threshold=torch.full_like(images.threshold, torch.inf))

    def broken(self, images, members, u):
        return torch.zeros_like(members, dtype=torch.bool)


def test_a_series_begins_with_the_least_bound_and_ends_where_one_problem_fails():
    for seed in (2, 3):
        _, engine, images = prepare("deep", seed, 0.3, None, engine=Undecided, count=6)
        reduced = ReducedImages(engine, images)
        problems = every_combination([(i,) for i in range(6)], 2)
        least = engine.margins(images, torch.ones(6, 2, dtype=torch.bool), ALPHA_STEPS)[0].amin(1)
        series = torch.tensor([7, 7, 7, 3, 3, 3])
        found = branch_and_bound(reduced, problems, Budget(limit=0.1), series=series)
        failed = [int(least[:3].argmin()), 3 + int(least[3:].argmin())]
        assert (found.state == GIVEN_UP).nonzero().flatten().tolist() == failed
        rest = [p for p in range(6) if p not in failed]
        assert (found.bounded[rest] == 2).all() and (found.bounded[failed] > 2).all()


def test_roots_of_a_series_that_has_ended_are_not_bounded():
    _, engine, images = prepare("deep", 3, 0.3, None)
    engine.rows_at_once = 2
    problems, series = every_combination([(0,), (1,), (2,), (3,)], 2), torch.tensor([0, 0, 0, -1])
    found = branch_and_bound(ReducedImages(engine, images), problems, Budget(), series=series)
    assert found.state.tolist() == [BROKEN, OPEN, OPEN, BROKEN] and set(found.u) == {0, 3}
    assert found.bounded.tolist() == [2, 0, 0, 2]


def undecided_pair():
    """Two images of a network with too many neurons to split all, or for programs."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 99), nn.ReLU(), nn.Linear(99, 99), nn.ReLU(), nn.Linear(99, 3)]
    model, x = nn.Sequential(*layers).eval(), torch.rand(2, 6)
    engine = Undecided(BoundedNet(model, x).eval(), Ball(0.3))
    return ReducedImages(engine, engine.tightened(engine.ibp(x, model(x).argmax(1))[0]))


def test_a_tuple_without_progress_is_given_up_before_its_limit(monkeypatch):
    reduced, problems, bounded = undecided_pair(), every_combination([(0, 1)], 2), []
    for tried in (0.0, 1.0):
        monkeypatch.setattr(bab, "_TRIED", tried)
        outcome = branch_and_bound(reduced, problems, Budget(limit=0.6))
        assert outcome.state[0] == GIVEN_UP and 0 not in outcome.u
        bounded.append(int(outcome.bounded[0]))
    assert bounded[0] < bounded[1]


def test_a_problem_is_exhausted_once_it_is_split_to_the_end():
    _, engine, images = prepare("deep", 0, 0.3, None, engine=Stubborn)
    problems = every_combination([(0,), (1,), (2,), (3,)], 2)
    for limit, exhausted in ((60.0, True), (0.0, False)):
        outcome = branch_and_bound(ReducedImages(engine, images), problems, Budget(limit=limit))
        assert outcome.state[0] == GIVEN_UP
        assert outcome.exhausted.tolist() == [exhausted, False, False, False]


def test_a_pool_too_large_is_given_up_and_nothing_is_proved_by_it(monkeypatch):
    reduced, problems, begin = undecided_pair(), every_combination([(0,)], 2), time.perf_counter()
    monkeypatch.setattr(bab, "_POOL_LIMIT", 0)
    monkeypatch.setattr("citrus_lirpa.verify.crown.tree._MOST_PROGRAMS", 0)  # which take longer
    outcome = branch_and_bound(reduced, problems, Budget(limit=4.0))
    assert outcome.state[0] == GIVEN_UP and not outcome.exhausted[0] and not outcome.u
    assert time.perf_counter() - begin < 2.0  # in its first turn


# ------------------------------------------------------------------------------ rounding


def offset_by(model: nn.Module, x, y, shift: float):
    """The dual of image 0, the margin moved so that its bound in float64 is ``shift``."""
    with torch.no_grad():
        for _ in range(2):
            engine = DualEngine(BoundedNet(model, x).eval(), Ball(0.1))
            images = engine.refined(engine.ibp(x, y)[0])
            member = torch.zeros(1, 1, dtype=torch.long)
            dual = engine.dual(images, member, member)
            found = ascend_dual(dual, 0)
            again = dual.rows(torch.tensor([0]), engine.exact_segments, torch.float64)
            value = again(found.parameter.double(), found.logits.double().softmax(1)).value
            model[-1].bias[int(y)] -= float(value) - shift
    return engine, images, member, dual, found


@pytest.mark.parametrize("shift", [-1e-5, 1e-5])
def test_near_zero_float64_decides_whatever_float32_says(shift):
    model, shape = random_net("mlp", 1, 2)
    x, y = random_images(model, shape, 1, 1)
    engine, images, member, dual, found = offset_by(model, x, y, shift)
    threshold = float(images.threshold)
    for claimed in (-0.5 * threshold, -0.1 * threshold, 0.0):
        value = torch.tensor([claimed])
        off = replace(found, value=value, point=replace(found.point, value=value))
        assert engine.proved(dual, off, images, member).tolist() == [shift > 0]
    hopeless = torch.tensor([-3 * threshold]) - found.rounding
    low = replace(found, value=hopeless, point=replace(found.point, value=hopeless))
    assert not engine.proved(dual, low, images, member).any()
    nan = replace(found, value=hopeless * torch.nan, point=replace(found.point, value=hopeless))
    assert not engine.proved(dual, nan, images, member).any()


@sizes(30, 60)
def test_a_network_that_float32_gets_wrong_is_not_certified(cases):
    """Large weights cancel: in float32 the smallest margin is above zero, and is below it."""
    misled = 0
    for seed in range(cases):
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
        with torch.no_grad():
            for layer in (model[0], model[2]):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
                layer.bias.fill_(1000.0)  # logits of thousands, from active neurons
        x = torch.rand(1, 6, generator=generator)
        y = torch.zeros(1, dtype=torch.long)
        with torch.no_grad():  # an exact minimum, as no neuron is unstable
            slope = (model[2].weight[0] - model[2].weight[1]).double() @ model[0].weight.double()
            margin = model.double()(x.double())
            lowest = float(margin[0, 0] - margin[0, 1] - 1e-3 * slope.abs().sum())
            model.float()[2].bias[0] -= lowest + 1e-5
            exact = model.double()(x.double())
            lowest = float(exact[0, 0] - exact[0, 1] - 1e-3 * slope.abs().sum())
            model.float()
        if lowest > -1e-7 or int(model(x).argmax(1)) != 0:
            continue
        engine = DualEngine(BoundedNet(model, x).eval(), Ball(1e-3))
        images, *_ = engine.ibp(x, y)
        member = torch.zeros(1, 1, dtype=torch.long)
        found = ascend_dual(engine.dual(images, member, member), 0)
        misled += float(found.value + found.rounding) > 0  # without what rounding is charged
        proofs = certify(engine.net, x, y, 1e-3, method="bab", time_limit=0.05)
        assert not proofs.certified.any()
    assert misled >= cases // 20


@sizes(20, 40)
def test_a_proof_in_float64_does_not_stand_on_rounded_bounds(cases):
    """The one unstable neuron's upper bound is rounded in float32, and the output enlarges it:
    the margin at one corner is -3e-6 in float64, of logits below two."""
    wrong, eps = [], 0.01
    for seed in range(cases):
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 2)).eval()
        x = torch.rand(1, 6, generator=generator)
        with torch.no_grad():
            model[0].weight.copy_(torch.randn(1, 6, generator=generator))
            weight = model[0].weight.double()
            reach = eps * float(weight.abs().sum())
            top = float(weight @ x[0].double()) + reach
            model[0].bias.fill_(0.5 * reach - top)
            top += float(model[0].bias)
            model[2].weight.copy_(torch.tensor([[0.0], [1 / top]]))
            model[2].bias.copy_(torch.tensor([1.0, 0.0]))
            lowest = float(model[2].bias[0].double() - model[2].weight[1, 0].double() * top)
            model[2].bias[0] -= lowest + 3e-6
        y = torch.tensor([0])
        u = eps * weight.sign()
        if float(smallest_margins(model, x, y, u)) < -1e-6:
            proofs = certify(BoundedNet(model, x), x, y, eps, method="bab", time_limit=0.01)
            wrong.append(proofs.certified.item())
    assert len(wrong) >= cases // 2
    assert not any(wrong), f"{sum(wrong)} of {len(wrong)} certified wrongly"
