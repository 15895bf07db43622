"""UAP bounds of groups: what certificates, attacks and group stages make of them."""

import io
from dataclasses import fields, replace

import pytest
import torch
from networks import QUICK, images

from citrus_lirpa import PGD, Protocol, UapBounds, certify, certify_uap, evaluate
from citrus_lirpa.bounds.box import clamp
from citrus_lirpa.errors import SoundnessError
from citrus_lirpa.verify.crown.engine import DualEngine


@pytest.mark.parametrize("relational", ["none", "io", "cross"])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_uap_bounds_are_what_the_certificates_and_perturbations_show(net, clip, relational):
    x, y = images(net, 11, wrong=[2, 10])
    proofs = certify(net, x, y, 0.06, clip=clip)
    uap = certify_uap(
        net, x, y, 0.06, group_size=4, certificates=proofs, clip=clip, relational=relational
    )
    assert uap.size.tolist() == [4, 4, 3]  # the remainder is a group of its own
    assert uap.u.shape == (3, 1, 4, 4)
    assert float(uap.u.abs().max()) <= 0.06 + 1e-7
    lower, upper, broken = [], [], []
    for g, u in enumerate(uap.u):
        rows = slice(4 * g, min(4 * g + 4, 11))
        survives = (net(clamp(x[rows] + u, clip)).argmax(1) == y[rows]) & proofs.correct[rows]
        lower.append(int(proofs.certified[rows].sum()))
        upper.append(int(survives.sum()))
        broken += (~survives).tolist()
    assert uap.upper.tolist() == upper
    assert uap.broken.tolist() == broken
    assert uap.broken[2] and uap.broken[10]
    assert sum(lower) < sum(upper) < 9  # the attack found something, the proofs not all
    found = uap.lower.tolist()
    if relational == "none":
        assert found == lower and uap.stage == ("single",) * 3
    for g in range(3):
        assert lower[g] <= found[g] <= upper[g]
        assert (uap.stage[g] == "single") == (found[g] == lower[g])
        assert uap.stage[g] in {"none": ["single"], "io": ["single", "io"],
                                "cross": ["single", "io", "cross"]}[relational]  # fmt: skip
    assert uap.certified_accuracy == pytest.approx(sum(found) / 11)
    assert uap.attacked_accuracy == pytest.approx(sum(upper) / 11)
    assert list(uap.seconds) == ["group attack", "group stage"]
    assert 0 <= float(uap.took.sum()) <= sum(uap.seconds.values()) + 1e-9


def test_dearer_group_stages_prove_no_less(deep):
    x, y = images(deep, 40)
    single = certify(deep, x, y, 0.09, method="crown")
    split = certify(deep, x, y, 0.09, method="bab", time_limit=0.5)
    shared = dict(group_size=5, attack=QUICK, time_limit=1.5)
    lower = []
    for proofs, relational in ((single, "none"), (single, "io"), (single, "cross"),
                               (split, "none"), (split, "cross")):  # fmt: skip
        torch.manual_seed(1)
        uap = certify_uap(deep, x, y, 0.09, certificates=proofs, relational=relational, **shared)
        assert (uap.lower <= uap.upper).all()
        lower.append(uap.lower)
    none, io, cross, alone, everything = lower
    assert (none <= io).all() and (io <= cross).all() and (cross <= everything).all()
    assert (none <= alone).all() and (alone <= everything).all()
    assert none.sum() < io.sum() and alone.sum() < everything.sum()
    assert "tuple bab" in uap.stage or "io" in uap.stage


def test_branch_and_bound_leaves_nothing_open_in_a_group_of_a_small_net(deep):
    """One set of four has 40 unstable neurons, and took 4,000 domains when domains handed on
    the last parameters of their ascent; 13,000 were not enough when they handed on the best."""
    x, y = (part[30:35] for part in images(deep, 40))
    proofs = certify(deep, x, y, 0.09, method="bab", time_limit=0.5)
    torch.manual_seed(1)
    uap = certify_uap(deep, x, y, 0.09, group_size=5, certificates=proofs, time_limit=24)
    assert torch.equal(uap.lower, uap.upper) and uap.stage == ("tuple bab",)


def test_groups_are_bounded_together(net, monkeypatch, ticking):
    """The first alone, which tells how long one takes, then eight, then all others."""
    x, y = images(net, 60)
    proofs, sizes, ibp = certify(net, x, y, 0.06, method="ibp"), [], DualEngine.ibp
    monkeypatch.setattr(DualEngine, "ibp", lambda *a: sizes.append(len(a[1])) or ibp(*a))
    ticking(1e-6)
    certify_uap(net, x, y, 0.06, group_size=4, certificates=proofs, attack=QUICK)
    first, eight, others = sizes
    assert first <= 4 < 8 <= eight <= 32 and 0 < others


def test_bounds_of_joined_groups(net):
    x, y = images(net, 12)
    parts = [
        certify_uap(net, x[a:b], y[a:b], 0.06, group_size=3, attack=QUICK)
        for a, b in ((0, 6), (6, 12))
    ]
    joined = UapBounds.cat(parts)
    assert joined.size.tolist() == [3, 3, 3, 3] and len(joined.stage) == 4
    for f in fields(UapBounds):
        value = getattr(joined, f.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, torch.cat([getattr(p, f.name) for p in parts]))
    for stage, seconds in joined.seconds.items():
        assert seconds == pytest.approx(sum(p.seconds[stage] for p in parts))
    survived = sum(int(p.upper.sum()) for p in parts)
    assert joined.attacked_accuracy == pytest.approx(survived / 12)


def test_a_group_without_open_inputs_is_not_attacked(net):
    x, y = images(net, 4, wrong=[3])
    proofs = certify(net, x, y, 0.0)
    assert proofs.certified.tolist() == [True, True, True, False]

    def attack(*_):
        raise AssertionError

    uap = certify_uap(net, x, y, 0.0, group_size=2, certificates=proofs, attack=attack)
    assert uap.lower.tolist() == uap.upper.tolist() == [2, 1]
    assert not uap.u.any() and uap.stage == ("single", "single")


def test_a_group_that_attacks_on_single_inputs_settle_is_not_attacked(net):
    """Of two inputs that are the same, what breaks one breaks the other."""
    x, y = images(net, 2)
    x[1], y[1] = x[0], y[0]
    proofs = certify(net, x, y, 0.5, method="ibp", attack=PGD(5))
    assert proofs.attacked.all()

    def attack(*_):
        raise AssertionError

    uap = certify_uap(net, x, y, 0.5, group_size=2, certificates=proofs, attack=attack)
    assert uap.lower.tolist() == uap.upper.tolist() == [0] and uap.broken.all()


def test_a_certificate_that_the_attack_refutes_raises(net):
    x, y = images(net, 4)
    x[1], y[1] = x[0], y[0]  # the same image, once certified and once not
    honest = certify(net, x, y, 0.5, method="ibp")
    assert honest.correct.all() and not honest.certified.any()
    first = torch.tensor([0, -1, -1, -1])
    forged = replace(honest, decided_by=first, rows=(first == 0).view(4, 1).expand_as(honest.rows))
    with pytest.raises(SoundnessError, match=r"1 certified inputs \(first: number 0\)"):
        certify_uap(net, x, y, 0.5, group_size=2, certificates=forged)


def test_what_the_group_stage_proves_of_everything_is_no_error(net):
    """Certificates of IBP alone, where the group stage's own bounds prove every margin."""
    x, y = images(net, 60)
    full = certify(net, x, y, 0.06)
    some = (full.decided_by > 0).nonzero().flatten()[:6]
    assert len(some) == 6
    x, y = x[some], y[some]
    proofs = certify(net, x, y, 0.06, method="ibp")
    assert not proofs.certified.any()
    uap = certify_uap(net, x, y, 0.06, group_size=3, certificates=proofs, attack=QUICK)
    assert (uap.lower >= 2).all()  # the group stage takes a single image for breakable
    assert uap.upper.tolist() == [3, 3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "asked", "drawn"),
    [(Terminal, None, True), (io.StringIO, None, False), (Terminal, False, False),
     (io.StringIO, True, True)],
)  # fmt: skip
def test_a_bar_with_the_time_limit_is_drawn_in_terminals(net, monkeypatch, stream, asked, drawn):
    x, y = images(net, 4, wrong=[])
    monkeypatch.setattr("sys.stderr", shown := stream())
    certify_uap(net, x, y, 0.06, group_size=2, time_limit=0.5, progress=asked, attack=QUICK)
    assert ("groups, at most 0.5 s each" in shown.getvalue()) == drawn
    evaluation = Protocol(eps=0.06, group_size=2, method="ibp", relational="none")
    monkeypatch.setattr("sys.stderr", shown := stream())
    evaluate(net, (x, y), None, evaluation, progress=asked)
    assert ("certifying" in shown.getvalue()) == ("image/s" in shown.getvalue()) == drawn
