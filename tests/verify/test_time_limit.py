"""What the time limit of a group leaves out, and in which order the rest is done."""

import time

import pytest
import torch
from networks import images

from citrus_lirpa import GroupAttack, certify, certify_uap
from citrus_lirpa.attacks import GroupAttackResult
from citrus_lirpa.errors import SoundnessError
from citrus_lirpa.verify.crown.engine import DualEngine

EPS = 0.3


@pytest.fixture
def refined(monkeypatch):
    """The images whose bounds are refined, in order."""
    seen, original = [], DualEngine.refined

    def watched(self, some):
        seen.append(some.x.clone())
        return original(self, some)

    monkeypatch.setattr(DualEngine, "refined", watched)
    return seen


@pytest.fixture
def slow(refined, monkeypatch):
    """The same; each refinement takes an hour by the clock."""
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600 * len(refined))
    return refined


def test_the_most_hopeful_images_are_refined_first_and_none_after_the_deadline(deep, slow):
    x, y = images(deep, 60)
    before = certify(deep, x, y, EPS, method="alpha-crown")
    open_ = before.open & ~before.attacked
    after = certify(deep, x, y, EPS, method="bab", batch_size=64)
    (first,) = slow
    assert len(first) < int(open_.sum())
    best = torch.where(open_, before.margin, -torch.inf).argsort(descending=True)[: len(first)]
    torch.testing.assert_close(first, x[best])
    proved_now = (after.certified & ~before.certified).nonzero().flatten().tolist()
    assert set(proved_now) <= set(best.tolist())


def test_with_time_all_are_refined_best_first(deep, refined):
    x, y = images(deep, 12)
    before = certify(deep, x, y, EPS, method="alpha-crown")
    open_ = before.open & ~before.attacked
    certify(deep, x, y, EPS, method="bab", batch_size=16)
    order = torch.where(open_, before.margin, -torch.inf).argsort(descending=True)
    expected = x[order[: int(open_.sum())]]
    torch.testing.assert_close(torch.cat(refined), expected)


@pytest.mark.parametrize("method", ["crown", "bab"])
def test_without_time_nothing_is_refined(deep, refined, method):
    x, y = images(deep, 12)
    found = certify(deep, x, y, EPS, method=method, time_limit=0.0)
    certify_uap(
        deep, x, y, EPS, group_size=4, certificates=found, attack=Attack(deep, []), time_limit=0.0
    )
    assert refined == [] and bool(found.margin[found.correct].isfinite().all())


def test_the_most_hopeful_group_is_prepared_first_and_none_after_the_deadline(deep, slow):
    x, y = images(deep, 16)
    certificates = certify(deep, x, y, EPS, method="crown")
    attack = Attack(deep, [])
    found = certify_uap(
        deep, x, y, EPS, group_size=4, certificates=certificates, attack=attack, relational="cross"
    )
    groups = certificates.open.view(4, 4)
    hope = [
        float(certificates.margin.view(4, 4)[g][groups[g]].mean()) if groups[g].any() else -1e9
        for g in range(4)
    ]
    best = max(range(4), key=hope.__getitem__)
    assert sum(bool(row.any()) for row in groups) >= 2
    (only,) = slow
    torch.testing.assert_close(only, x.view(4, 4, 1, 4, 4)[best][groups[best]])
    others = [g for g in range(4) if g != best]
    alone = certificates.certified.view(4, 4).sum(1)
    assert found.lower[others].tolist() == alone[others].tolist()


class Attack:
    """Gives zero perturbations, but for call ``n`` those of ``told[n]``; counts its calls."""

    def __init__(self, net, told):
        self.net, self.told, self.sizes = net, told, []

    def __call__(self, net, x, y, eps, worth):
        number = len(self.sizes)
        self.sizes.append(len(x))
        u = torch.zeros_like(x[:, :1])
        if number < len(self.told):
            u = self.told[number](x)
        logits = self.net((x + u).flatten(0, 1))
        return GroupAttackResult(u, logits.argmax(1).view(y.shape) != y)


def test_unsettled_groups_are_attacked_again_and_the_best_is_kept(deep):
    x, y = images(deep, 8)
    certificates = certify(deep, x, y, EPS, method="ibp", attack=None)
    strong = GroupAttack(steps=20, restarts=3)(deep, x.view(2, 4, 1, 4, 4), y.view(2, 4), EPS)
    assert strong.broken.any(1).all()
    late = Attack(deep, [lambda x: torch.zeros_like(x[:, :1]), lambda x: strong.u[: len(x)]])
    found = certify_uap(
        *(deep, x, y, EPS), group_size=4, certificates=certificates, attack=late, time_limit=1.0,
        relational="cross",
    )  # fmt: skip
    assert late.sizes[:2] == [2, 2]
    assert (found.upper <= 4 - strong.broken.sum(1)).all()
    once = Attack(deep, [])
    certify_uap(
        deep, x, y, EPS, group_size=4, certificates=certificates, attack=once, relational="none"
    )
    assert once.sizes == [2]


def test_a_weaker_perturbation_that_breaks_a_certified_input_is_not_overlooked(deep):
    """It breaks fewer inputs than are known to break, so it is not adopted, but it is met."""
    x, y = images(deep, 4)
    certificates = certify(deep, x, y, EPS, method="ibp", attack=None)
    strong = GroupAttack(steps=20, restarts=3)(deep, x.view(1, 4, 1, 4, 4), y.view(1, 4), EPS)
    broken = strong.broken[0].nonzero().flatten().tolist()
    assert len(broken) >= 1
    certificates.decided_by[broken[0]] = 0  # a false certificate
    with pytest.raises(SoundnessError, match="1 certified inputs"):
        certify_uap(
            deep, x, y, EPS, group_size=4, certificates=certificates, attack=Weak(strong),
        )  # fmt: skip


class Weak:
    """Says of one input alone that the perturbation breaks it."""

    def __init__(self, strong):
        self.strong = strong

    def __call__(self, net, x, y, eps, worth):
        first = torch.zeros_like(self.strong.broken)
        first[0, self.strong.broken[0].nonzero()[0]] = True
        return GroupAttackResult(self.strong.u, first)


@pytest.mark.parametrize("method", ["alpha-crown", "bab"])
def test_a_single_open_input_is_not_searched_twice(deep, refined, method):
    """The group stage has nothing to relate it to; without branch and bound it may still help."""
    x, y = images(deep, 40)
    known = certify(deep, x, y, 0.1, method=method)
    open_, proved = known.open.nonzero()[:1], known.certified.nonzero()[:3]
    chosen = torch.cat([open_, proved]).flatten()
    x, y = x[chosen], y[chosen]
    certificates = certify(deep, x, y, 0.1, method=method)
    assert certificates.open.tolist() == [True, False, False, False]
    refined.clear()
    stub = Attack(deep, [])
    certify_uap(
        deep, x, y, 0.1, group_size=4, certificates=certificates, attack=stub, relational="cross"
    )
    assert len(refined) == (method != "bab")
