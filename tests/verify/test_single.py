"""Certificates, UAP bounds and the evaluation record, on nets small enough to recount."""

import contextlib
import json
import sys
from dataclasses import fields, replace

import pytest
import torch
from networks import fitted, images
from torch import nn

from citrus_lirpa import (
    METHODS,
    PGD,
    BoundedNet,
    Certificates,
    GroupAttack,
    UapBounds,
    certify,
    certify_uap,
)
from citrus_lirpa.bounds.box import clamp
from citrus_lirpa.data.types import DatasetSpec, Split
from citrus_lirpa.errors import ConfigError, InputError, ModelError, SoundnessError
from citrus_lirpa.verify import STAGES, Protocol, evaluate
from citrus_lirpa.verify import single as cascade
from citrus_lirpa.verify.crown.branch_and_bound import BROKEN, OPEN, PROVED, Outcome
from citrus_lirpa.verify.crown.engine import Engine
from citrus_lirpa.verify.single import find_engine, stages_up_to

CLASSES = 3
NO_ENGINE = "this network has Scripted layers"


@pytest.fixture
def net():
    return fitted(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, CLASSES))


@pytest.fixture
def deep():
    """A net of two hidden layers, whose stages differ."""
    return fitted(
        nn.Flatten(), nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, 10), nn.ReLU(),
        nn.Linear(10, CLASSES),
    )  # fmt: skip


def without_engine(monkeypatch, net):
    """Leave the bounds of ``net`` to auto_LiRPA."""

    def affine_pieces():
        raise ModelError(NO_ENGINE)

    monkeypatch.setattr(net, "affine_pieces", affine_pieces)


def numbers(x, some):
    """Which of ``x`` the images ``some`` are."""
    return torch.cdist(some.flatten(1), x.flatten(1)).argmin(1).tolist()


def script(monkeypatch, net, x, bounds):
    """Let ``net.margins`` answer from a table method -> bound of each image; log the calls."""
    without_engine(monkeypatch, net)
    calls = []

    def margins(box, y, method="ibp"):
        rows = numbers(x, box.centre)
        calls.append((method, rows))
        return torch.tensor(bounds[method])[rows].unsqueeze(1).expand(-1, CLASSES - 1)

    monkeypatch.setattr(net, "margins", margins)
    return calls


def script_engine(monkeypatch, net, x, bounds, outcomes):
    """Let the dual engine of ``net`` answer from a table stage -> bounds of each image's rows,
    and branch and bound with a state of each image that it meets; log stage, image, row."""
    calls = []

    def log(stage, images, open_rows):
        for i, row in open_rows.nonzero().tolist():
            calls.append((stage, numbers(x, images.x)[i], row))

    def ibp(self, some, y):
        found, _ = original(self, some, y)
        lower = torch.tensor(bounds["ibp"])[numbers(x, some)]
        log("ibp", found, torch.ones_like(lower, dtype=torch.bool))
        return found, lower

    def tightened(self, images):
        refined.append(len(images))
        return images

    def margins(self, images, open_rows, iterations):
        stage = "alpha-crown" if iterations else "crown" if refined else "crown-ibp"
        log(stage, images, open_rows)
        lower = torch.tensor(bounds[stage])[numbers(x, images.x)]
        return torch.where(open_rows, lower, -torch.inf), open_rows & (lower > 0)

    def branch_and_bound(engine, images, problems, *, deadline, limit, progress):
        open_rows = torch.zeros(len(images), CLASSES - 1, dtype=torch.bool)
        open_rows[problems.members[problems.problem, 0], problems.rows[:, 0]] = True
        log("bab", images, open_rows)
        assert problems.members.flatten().tolist() == list(range(len(images)))
        state = torch.tensor([outcomes[i] for i in numbers(x, images.x)])
        domains = 1 + 2 * torch.arange(len(images))
        u = {k: torch.full_like(x[0], 0.1) for k, s in enumerate(state) if s == BROKEN}
        return Outcome(state, u, domains)

    original, refined = Engine.ibp, []
    for name, stand_in in (("ibp", ibp), ("tightened", tightened), ("margins", margins)):
        monkeypatch.setattr(Engine, name, stand_in)
    monkeypatch.setattr(cascade, "branch_and_bound", branch_and_bound)
    return calls


def check_consistent(proofs, x, y, net):
    """What must hold of any certificates."""
    n = len(y)
    assert [len(getattr(proofs, name)) for name in
            ("correct", "attacked", "margin", "rows", "decided_by", "took")] == [n] * 6  # fmt: skip
    assert torch.equal(proofs.correct, net(x).argmax(1) == y)
    assert torch.equal(proofs.certified, proofs.decided_by >= 0)
    assert torch.equal(proofs.certified, proofs.rows.all(1))
    assert torch.equal(proofs.open, proofs.correct & ~proofs.certified)
    assert not (proofs.certified & ~proofs.correct).any()
    assert not (proofs.attacked & (proofs.certified | ~proofs.correct)).any()
    assert not proofs.rows[~proofs.correct].any()
    for i, verdict in enumerate(proofs.verdicts()):
        if verdict in proofs.methods:
            assert int(proofs.decided_by[i]) == proofs.methods.index(verdict)
        else:
            flags = bool(proofs.correct[i]), bool(proofs.attacked[i]), bool(proofs.certified[i])
            assert verdict == {
                (False, False, False): "wrong", (True, True, False): "attacked",
                (True, False, False): "undecided",
            }[flags]  # fmt: skip
    assert set(proofs.seconds) - {"attack"} == set(proofs.methods) == set(proofs.not_fitting)
    assert (proofs.took >= 0).all() and not proofs.took[~proofs.correct].any()
    stages = sum(s for stage, s in proofs.seconds.items() if stage != "attack")
    assert float(proofs.took.sum()) <= stages + 1e-9


# ------------------------------------------------------- single inputs, by auto_LiRPA


def test_each_image_is_decided_by_the_first_method_that_proves_it(net, monkeypatch):
    x, y = images(net, 7, wrong=[5])
    calls = script(monkeypatch, net, x, {
        "ibp": [1.0, -1, -1, -1, -5, 9, -1],
        "crown-ibp": [-9.0, 2, -2, -2, -4, 9, float("nan")],
        "crown": [-9.0, -9, 3, -3, -3, 9, -1],
        "alpha-crown": [-9.0, -9, -9, 4, -4, 9, -1],
    })  # fmt: skip
    proofs = certify(net, x, y, 0.1)
    assert proofs.methods == tuple(METHODS)
    assert proofs.correct.tolist() == [True] * 5 + [False, True]
    assert proofs.decided_by.tolist() == [0, 1, 2, 3, -1, -1, -1]
    assert proofs.certified.tolist() == [True] * 4 + [False] * 3
    assert proofs.margin.tolist() == [1, 2, 3, 4, -3, -torch.inf, -1]  # NaN hides nothing
    assert [(m, sorted(rows)) for m, rows in calls] == [
        ("ibp", [0, 1, 2, 3, 4, 6]), ("crown-ibp", [1, 2, 3, 4, 6]),
        ("crown", [2, 3, 4, 6]), ("alpha-crown", [3, 4, 6]),
    ]  # fmt: skip
    for i, method in enumerate(METHODS):
        assert proofs.certified_by(method).tolist() == [n <= i and n < 4 for n in range(7)]
    assert proofs.not_fitting == dict.fromkeys(METHODS, 0)
    assert list(proofs.seconds) == list(METHODS)
    assert proofs.verdicts() == [*METHODS, "undecided", "wrong", "undecided"]
    assert proofs.unsupported == {} and not proofs.attacked.any()
    check_consistent(proofs, x, y, net)
    # each image takes its share of the stages that it went through
    s, shares = proofs.seconds, (6, 5, 4, 3)
    spent = torch.tensor([s[m] / n for m, n in zip(METHODS, shares, strict=True)]).cumsum(0)
    expected = [*spent.tolist(), float(spent[-1]), 0.0, float(spent[-1])]
    assert proofs.took.tolist() == pytest.approx(expected, rel=1e-5)


def test_without_the_engine_branch_and_bound_is_not_possible(net, monkeypatch):
    x, y = images(net, 4)
    script(monkeypatch, net, x, {m: [1.0, -1, -1, -1] for m in METHODS})
    proofs = certify(net, x, y, 0.1, method="bab", batch_size=3)
    assert proofs.methods == STAGES
    assert proofs.unsupported == {"bab": NO_ENGINE}
    assert proofs.verdicts() == ["ibp", *["undecided"] * 3]
    assert find_engine(net, 0.1, None) == NO_ENGINE


def test_a_network_without_relu_needs_no_engine():
    net = fitted(nn.Flatten(), nn.Linear(16, CLASSES))
    x, y = images(net, 8)
    proofs = certify(net, x, y, 0.1, method="bab")
    check_consistent(proofs, x, y, net)
    weight, bias = net.module[1].weight.detach(), net.module[1].bias.detach()
    logits = x.flatten(1) @ weight.T + bias
    lowest = []
    for i, label in enumerate(y.tolist()):
        rows = [c for c in range(CLASSES) if c != label]
        gap = 0.1 * (weight[label] - weight[rows]).abs().sum(1)
        lowest.append(float((logits[i, label] - logits[i, rows] - gap).min()))
    assert proofs.certified.tolist() == [low > 1e-4 for low in lowest]
    assert 0 < int(proofs.certified.sum()) < 8
    assert "affine" in proofs.unsupported["bab"]
    uap = certify_uap(net, x, y, 0.1, group_size=4, certificates=proofs)
    assert (uap.lower <= uap.upper).all()


@pytest.mark.parametrize("engine", [True, False])
def test_only_the_stages_up_to_the_named_one_run(net, monkeypatch, engine):
    x, y = images(net, 2)
    if engine:
        table = {m: [[-1.0, -1.0]] * 2 for m in METHODS}
        calls = script_engine(monkeypatch, net, x, table, {0: OPEN, 1: OPEN})
    else:
        calls = script(monkeypatch, net, x, {m: [-1.0, -1.0] for m in METHODS})
    told = []
    proofs = certify(net, x, y, 0.1, method="crown-ibp", announce=told.append)
    assert proofs.methods == ("ibp", "crown-ibp") and told == ["ibp", "crown-ibp"]
    assert list(dict.fromkeys(call[0] for call in calls)) == ["ibp", "crown-ibp"]
    assert stages_up_to("ibp") == ("ibp",)
    assert stages_up_to("bab") == STAGES == (*METHODS, "bab")
    with pytest.raises(InputError, match="did you mean 'crown'"):
        certify(net, x, y, 0.1, method="crow")


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_bound_within_rounding_of_zero_proves_nothing(net, monkeypatch, scale):
    x, y = images(net, 3)
    net.module[-1].weight.data *= scale
    net.module[-1].bias.data *= scale
    largest = net(x).abs().max(dim=1).values
    threshold = 1e-5 * largest.clamp(min=10)
    bounds = (threshold * torch.tensor([0.9, 1.1, -1])).tolist()
    script(monkeypatch, net, x, {"ibp": bounds})
    assert certify(net, x, y, 0.1, method="ibp").certified.tolist() == [False, True, False]


# --------------------------------------------------- single inputs, by the dual engine


def test_each_image_is_decided_by_the_first_stage_of_the_engine(net, monkeypatch):
    x, y = images(net, 9, wrong=[5])
    no, ok = -1.0, 1.0
    calls = script_engine(monkeypatch, net, x, {
        "ibp": [[ok, ok], [no, ok], [no, no], [ok, -3], [no, no], [ok, ok], [no, no], [no, no],
                [-2, ok]],
        "crown-ibp": [[no, no], [ok, no], [no, no], [no, -2], [no, ok], [ok, ok], [no, no],
                      [no, no], [-4, no]],
        "crown": [[no, no], [no, no], [ok, ok], [no, -5], [no, no], [ok, ok], [no, no],
                  [no, no], [-3, no]],
        "alpha-crown": [[no, no], [no, no], [no, no], [no, ok], [no, no], [ok, ok], [no, no],
                        [ok, no], [-5, no]],
    }, {4: PROVED, 6: BROKEN, 7: OPEN, 8: OPEN})  # fmt: skip
    proofs = certify(net, x, y, 0.1, method="bab")
    assert proofs.verdicts() == ["ibp", "crown-ibp", "crown", "alpha-crown", "bab", "wrong",
                                 "attacked", "undecided", "undecided"]  # fmt: skip
    assert proofs.rows.tolist() == [
        *[[True, True]] * 5, [False, False], [False, False], [True, False], [False, True],
    ]  # fmt: skip
    assert proofs.attacked.nonzero().flatten().tolist() == [6]
    assert torch.equal(proofs.v, torch.full((1, 1, 4, 4), 0.1))
    # a row that is proved is not bounded again, an image that is proved not at all
    both = [(i, row) for i in (0, 1, 2, 3, 4, 6, 7, 8) for row in (0, 1)]
    left = [(1, 0), (2, 0), (2, 1), (3, 1), (4, 0), (4, 1), (6, 0), (6, 1), (7, 0), (7, 1), (8, 0)]
    expected = {
        "ibp": both,
        "crown-ibp": left,
        "crown": [p for p in left if p not in ((1, 0), (4, 1))],
        "alpha-crown": [p for p in left if p not in ((1, 0), (4, 1), (2, 0), (2, 1))],
        "bab": [(4, 0), (6, 0), (6, 1), (7, 1), (8, 0)],
    }
    for stage in STAGES:
        assert sorted(call[1:] for call in calls if call[0] == stage) == expected[stage], stage
    assert proofs.margin[8] == -2 and proofs.margin[5] == -torch.inf
    assert proofs.unsupported == {} and proofs.not_fitting == dict.fromkeys(STAGES, 0)
    check_consistent(proofs, x, y, net)
    # of branch and bound, by the domains that were bounded: 1, 3, 5 and 7
    s, shares = proofs.seconds, {"ibp": 8, "crown-ibp": 7, "crown": 6, "alpha-crown": 5}
    before = sum(s[m] / n for m, n in shares.items())
    of_bab = proofs.took[[4, 6, 7, 8]] - before
    assert of_bab.sum() <= s["bab"]
    parts = (of_bab / of_bab.sum()).tolist()
    assert parts == pytest.approx([1 / 16, 3 / 16, 5 / 16, 7 / 16], abs=1e-6)
    assert float(proofs.took[0]) == pytest.approx(s["ibp"] / 8)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_engine_and_auto_lirpa_decide_alike(deep, monkeypatch, clip):
    x, y = images(deep, 60, wrong=[7, 8])
    found = certify(deep, x, y, 0.06, clip=clip, method="bab", time_limit=60)
    check_consistent(found, x, y, deep)
    with monkeypatch.context() as patch:
        without_engine(patch, deep)
        other = certify(deep, x, y, 0.06, clip=clip)
    check_consistent(other, x, y, deep)
    for method in ("ibp", "crown-ibp", "crown"):
        assert torch.equal(found.certified_by(method), other.certified_by(method))
    assert (found.certified >= other.certified).all()
    counts = [int((found.decided_by == i).sum()) for i in range(len(STAGES))]
    assert min(counts[0], counts[1], counts[2], counts[4]) > 0
    # with so few neurons branch and bound leaves nothing open, and all it breaks is broken
    assert "undecided" not in found.verdicts()
    v = PGD(60, restarts=4, clip=clip)(deep, x, y, 0.06)
    broken = (deep(x + v).argmax(1) != y) & found.correct
    assert broken.any() and (found.attacked >= broken).all()


def test_every_margin_that_counts_as_proved_holds(deep):
    x, y = images(deep, 30)
    proofs = certify(deep, x, y, 0.08, method="crown-ibp")
    points = x + 0.08 * (2 * torch.rand(2000, *x.shape) - 1).sign()
    logits = deep(points.flatten(0, 1)).view(2000, 30, CLASSES)
    for i, label in enumerate(y.tolist()):
        others = [c for c in range(CLASSES) if c != label]
        lowest = (logits[:, i, [label]] - logits[:, i, others]).amin(0)
        assert (lowest[proofs.rows[i]] > 0).all()
    partly = proofs.rows.any(1) & ~proofs.rows.all(1)
    assert partly.any() and proofs.rows.all(1).any()


def one_pixel(bias):
    """A net of one pixel and two classes, with margin relu(x) + bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(0.0)
        model[3].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[3].bias.copy_(torch.tensor([bias, 0.0]))
    return BoundedNet(model, torch.rand(1, 1, 1, 1)).eval()


@pytest.mark.parametrize(("excess", "proved"), [(1e-6, True), (0.0, False), (-1e-6, False)])
def test_a_bound_near_zero_is_decided_in_float64(excess, proved):
    net = one_pixel(excess - 0.25)
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.long)
    exact = 0.25 + net.module[3].bias[0].item()  # at x = 0.25; the bias as float32 has it
    assert (exact > 1e-9) == proved
    assert not certify(net, x, y, 0.25, method="ibp").certified  # within float32 rounding
    assert not certify(net, x, y, 0.25, method="alpha-crown").certified  # on bounds in float32
    proofs = certify(net, x, y, 0.25, method="bab", time_limit=0.1)
    assert proofs.certified.tolist() == [proved]


@pytest.mark.parametrize(
    ("engine", "method"), [(True, "bab"), (False, "crown")], ids=["engine", "auto_LiRPA"]
)
def test_batches_do_not_change_the_result(deep, monkeypatch, engine, method):
    if not engine:
        without_engine(monkeypatch, deep)
    x, y = images(deep, 23, wrong=[3])
    whole, parts = (
        certify(deep, x, y, 0.06, method=method, batch_size=n, time_limit=60) for n in (256, 4)
    )
    assert torch.equal(whole.decided_by, parts.decided_by)
    assert torch.equal(whole.attacked, parts.attacked)
    assert torch.equal(whole.rows[whole.correct], parts.rows[whole.correct])
    assert torch.allclose(whole.margin, parts.margin, atol=1e-5)
    assert 0 < int(whole.certified.sum()) < 22
    assert not whole.certified[3] and whole.margin[3] == -torch.inf
    assert parts.methods == whole.methods and list(parts.seconds) == list(whole.seconds)
    check_consistent(parts, x, y, deep)


def test_certificates_of_parts_are_those_of_the_whole(deep):
    x, y = images(deep, 12, wrong=[1])
    whole = certify(deep, x, y, 0.05, method="crown")
    parts = [certify(deep, x[a:b], y[a:b], 0.05, method="crown") for a, b in ((0, 5), (5, 12))]
    joined = Certificates.cat(parts)
    for name in ("correct", "attacked", "rows", "decided_by"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    assert torch.equal(joined.took, torch.cat([p.took for p in parts]))
    for stage in whole.methods:
        assert joined.seconds[stage] == sum(p.seconds[stage] for p in parts)
    assert joined.verdicts() == [*parts[0].verdicts(), *parts[1].verdicts()]


def test_no_images_at_all(net):
    x, y = images(net, 3)
    proofs = certify(net, x[:0], y[:0], 0.1, method="bab", attack=PGD(2))
    assert (proofs.methods, proofs.verdicts(), proofs.rows.shape) == (STAGES, [], (0, 2))
    check_consistent(proofs, x[:0], y[:0], net)


def test_the_margin_bounds_every_row(net, monkeypatch):
    """Row 0 is known to be at least 1 and row 1 at least 5: the smallest is not proved above 1."""
    x, y = images(net, 1)
    script_engine(monkeypatch, net, x, {"ibp": [[1.0, -1.0]], "crown-ibp": [[-1.0, 5.0]]}, {})
    proofs = certify(net, x, y, 0.1, method="crown-ibp")
    assert proofs.verdicts() == ["crown-ibp"]
    assert proofs.margin.tolist() == [1.0]


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_clip_cuts_the_boxes(net, monkeypatch, clip, engine):
    x, y = images(net, 6)
    if not engine:
        without_engine(monkeypatch, net)
    seen, margins = [], net.margins
    monkeypatch.setattr(net, "margins", lambda box, *a: (seen.append(box), margins(box, *a))[1])
    certify(net, x, y, 0.5, clip=clip, method="ibp")
    (box,) = seen
    expected = [x - 0.5, x + 0.5]
    if clip:
        expected = [end.clamp(0, 1) for end in expected]
    assert torch.equal(box.lower, expected[0]) and torch.equal(box.upper, expected[1])


@pytest.mark.parametrize("engine", [True, False])
def test_the_mode_is_restored_and_gradients_are_left_alone(net, monkeypatch, engine):
    if not engine:
        without_engine(monkeypatch, net)
    x, y = images(net, 6)
    net.train()
    before = [p.grad.clone() for p in net.parameters()]
    proofs = certify(net, x, y, 0.05, method="bab", attack=PGD(2))
    certify_uap(net, x, y, 0.05, group_size=3, certificates=proofs)
    assert net.training and net.module.training
    for p, grad in zip(net.parameters(), before, strict=True):
        assert torch.equal(p.grad, grad) and p.requires_grad


# ------------------------------------------------------ attacks and verdicts from elsewhere


@pytest.mark.parametrize("engine", [True, False])
def test_what_the_attack_breaks_is_not_bounded(deep, monkeypatch, engine):
    if not engine:
        without_engine(monkeypatch, deep)
    x, y = images(deep, 20, wrong=[0, 4])
    attack = PGD(10, clip=None)
    bounded, margins = set(), deep.margins

    def watched(box, *rest):
        bounded.update(numbers(x, box.centre))
        return margins(box, *rest)

    monkeypatch.setattr(deep, "margins", watched)
    told = []
    proofs = certify(deep, x, y, 0.1, attack=attack, announce=told.append)
    assert told == ["attack", *METHODS]
    check_consistent(proofs, x, y, deep)

    rows = proofs.correct.nonzero().flatten()
    torch.manual_seed(5)
    again = certify(deep, x, y, 0.1, attack=attack, method="ibp")
    torch.manual_seed(5)
    v = attack(deep, x[rows], y[rows], 0.1)
    broken = rows[deep(x[rows] + v).argmax(1) != y[rows]]
    assert again.attacked.nonzero().flatten().tolist() == broken.tolist()

    left = proofs.correct & ~proofs.attacked
    assert 0 < int(proofs.attacked.sum()) < 18
    assert bounded == set(left.nonzero().flatten().tolist()) | set(
        (again.correct & ~again.attacked).nonzero().flatten().tolist()
    )
    assert (proofs.margin[proofs.attacked] == -torch.inf).all()
    assert not proofs.took[proofs.attacked].any()
    assert set(proofs.seconds) == {"attack", *METHODS} and proofs.seconds["attack"] > 0
    assert "attack" not in certify(deep, x, y, 0.1, method="ibp").seconds


def test_verdicts_from_elsewhere_are_taken(net, monkeypatch):
    x, y = images(net, 6, wrong=[2, 3])
    bounded, margins = [], net.margins

    def watched(box, *rest):
        bounded.extend(numbers(x, box.centre))
        return margins(box, *rest)

    monkeypatch.setattr(net, "margins", watched)
    known = torch.tensor([1, -1, 1, -1, 0, 0])
    proofs = certify(net, x, y, 0.0, method="ibp", known=known, batch_size=4)
    assert proofs.methods == ("ibp", "imported")
    assert proofs.verdicts() == ["imported", "attacked", "wrong", "wrong", "ibp", "ibp"]
    assert bounded == [4, 5]
    assert proofs.rows[0].all() and not proofs.rows[1].any()
    assert proofs.certified_by("ibp").tolist() == [False] * 4 + [True] * 2
    assert proofs.certified_by("imported").tolist() == [True] + [False] * 3 + [True] * 2
    assert proofs.seconds["imported"] == 0 and not proofs.took[:4].any()
    check_consistent(proofs, x, y, net)


def test_a_verdict_from_elsewhere_that_the_attack_refutes_raises(net):
    x, y = images(net, 5)
    attack = PGD(20, clip=None)
    broken = certify(net, x, y, 0.5, method="ibp", attack=attack).attacked
    assert broken.any()
    first = int(broken.nonzero()[0])
    known = torch.zeros(5, dtype=torch.long)
    known[first] = 1
    assert certify(net, x, y, 0.5, method="ibp", known=known).verdicts()[first] == "imported"
    with pytest.raises(SoundnessError, match=rf"1 inputs .* imported .*number {first} of"):
        certify(net, x, y, 0.5, method="ibp", attack=attack, known=known)


# --------------------------------------------------------------------------------- TF32


@contextlib.contextmanager
def setting(backend, name, value):
    """monkeypatch cannot undo it: these modules compute their attributes."""
    before = getattr(backend, name)
    setattr(backend, name, value)
    try:
        yield
    finally:
        setattr(backend, name, before)


def tf32():
    """Whether multiplications and convolutions may round to TF32."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch >= 2.9
        return tuple(b.fp32_precision == "tf32" for b in (
            torch.backends.cuda.matmul, torch.backends.cudnn.conv))  # fmt: skip
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_off_inside_and_restored(deep, monkeypatch, fails, engine):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    x, y = images(deep, 4)
    seen = []

    def watch(owner, name, *, breaks=False):
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            seen.append((name, tf32()))
            if breaks:
                raise ZeroDivisionError
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    def attack(*args):
        seen.append(("attack", tf32()))
        return GroupAttack(steps=1, restarts=1)(*args)

    if engine:
        for name in ("ibp", "tightened", "margins", "lines", "proved"):
            watch(Engine, name, breaks=fails and name == "tightened")
    else:
        without_engine(monkeypatch, deep)
        watch(deep, "margins", breaks=fails)
    failure = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
    with setting(matmul, "allow_tf32", True), setting(cudnn, "allow_tf32", True):
        with failure:
            certify_uap(deep, x, y, 0.2, group_size=2, attack=attack)
        assert tf32() == (True, True)
    names = [name for name, _ in seen]
    if engine:
        expected = {"ibp", "margins", "proved", "tightened", "lines", "attack"}
        assert set(names) == (expected - {"lines", "attack"} if fails else expected)
    else:  # four methods and the attack
        assert names == (["margins"] if fails else ["margins"] * 4 + ["attack"])
    assert {state for _, state in seen} == {(False, False)}


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch < 2.9 has it not"
)
def test_tf32_may_have_been_switched_on_by_its_newer_name(net, monkeypatch):
    x, y = images(net, 2)
    seen, margins = [], net.margins
    monkeypatch.setattr(net, "margins", lambda *args: (seen.append(tf32()), margins(*args))[1])
    with setting(torch.backends.cuda.matmul, "fp32_precision", "tf32"):
        certify(net, x, y, 0.1, method="ibp")
        assert tf32()[0]
    assert seen == [(False, False)]


# ------------------------------------------------------------------------------- groups


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
        assert found == lower and uap.stage == ("single",) * 3 and not uap.took.any()
    for g in range(3):
        assert lower[g] <= found[g] <= upper[g]
        assert (uap.stage[g] == "single") == (found[g] == lower[g])
        assert uap.stage[g] in {"none": ["single"], "io": ["single", "io"],
                                "cross": ["single", "io", "cross"]}[relational]  # fmt: skip
    assert uap.certified_accuracy == pytest.approx(sum(found) / 11)
    assert uap.attacked_accuracy == pytest.approx(sum(upper) / 11)
    assert list(uap.seconds) == ["group attack", "group stage"]
    assert 0 <= float(uap.took.sum()) <= uap.seconds["group stage"]


def test_dearer_group_stages_prove_no_less(deep):
    x, y = images(deep, 40)
    single = certify(deep, x, y, 0.09, method="crown")
    split = certify(deep, x, y, 0.09, method="bab", time_limit=0.5)
    shared = dict(group_size=5, attack=GroupAttack(), time_limit=1.5)
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


def test_branch_and_bound_leaves_nothing_open_in_the_groups_of_a_small_net(deep):
    """One set of four has 40 unstable neurons, and took 4,000 domains when domains handed on
    the last parameters of their ascent; 13,000 were not enough when they handed on the best."""
    x, y = images(deep, 40)
    proofs = certify(deep, x, y, 0.09, method="bab", time_limit=0.5)
    torch.manual_seed(1)
    uap = certify_uap(deep, x, y, 0.09, group_size=5, certificates=proofs, time_limit=60)
    assert torch.equal(uap.lower, uap.upper)


def test_bounds_of_joined_groups(net):
    x, y = images(net, 12)
    parts = [certify_uap(net, x[a:b], y[a:b], 0.06, group_size=3) for a, b in ((0, 6), (6, 12))]
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


def certificates_of(decided_by):
    """Forged ones, of IBP alone, at ε = 0.5."""
    decided_by = torch.tensor(decided_by)
    n = len(decided_by)
    return Certificates(
        eps=0.5,
        clip=None,
        methods=("ibp",),
        correct=torch.ones(n, dtype=torch.bool),
        attacked=torch.zeros(n, dtype=torch.bool),
        v=torch.zeros(0, 1, 4, 4),
        margin=torch.ones(n),
        rows=(decided_by >= 0).view(n, 1).expand(n, CLASSES - 1),
        decided_by=decided_by,
        took=torch.zeros(n, dtype=torch.float64),
        seconds={"ibp": 0.0},
        not_fitting={"ibp": 0},
    )


def test_a_certificate_that_the_attack_refutes_raises(net):
    x, y = images(net, 4)
    x[1], y[1] = x[0], y[0]  # the same image, once certified and once not
    forged = certificates_of([0, -1, -1, -1])
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
    uap = certify_uap(net, x, y, 0.06, group_size=3, certificates=proofs)
    assert (uap.lower >= 2).all()  # the group stage takes a single image for breakable
    assert uap.upper.tolist() == [3, 3]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda net, x, y: certify(net, x, y[:1], 0.1),
        lambda net, x, y: certify(net, x, y, -0.1),
        lambda net, x, y: certify(net, x, y, float("nan")),
        lambda net, x, y: certify(net, x, y, 0.1, batch_size=0),
        lambda net, x, y: certify_uap(net, x, y[:3], 0.1, group_size=2),
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=1),
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=5),
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=2, relational="crosss"),
        lambda net, x, y: certify_uap(net, x[:3], y[:3], 0.1, group_size=2,
                                      certificates=certify(net, x, y, 0.1)),
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=2,
                                      certificates=certify(net, x[:3], y[:3], 0.1)),
    ],
    ids=["labels", "eps", "nan", "batch", "group labels", "one", "five", "stage", "long proofs",
         "short proofs"],
)  # fmt: skip
def test_misuse_raises_one_line(net, misuse):
    with pytest.raises(InputError) as caught:
        misuse(net, *images(net, 4))
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------- evaluation


def data_of(net, count):
    """6x6 images of which the middle 4x4 pixels count, a third of the labels wrong."""
    pixels = torch.randint(-255, 511, (count, 1, 6, 6)).clamp(0, 255).byte()
    y = net(pixels[:, :, 1:5, 1:5] / 255).argmax(1)
    y[::3] = (y[::3] + 1) % CLASSES
    return Split(pixels, y), DatasetSpec(
        name="noise", shape=(1, 4, 4), class_names=("a", "b", "c"), loader=lambda *_: None
    )


SETTLED = ("undecided", "broken", "wrong")


@pytest.mark.parametrize("engine", [True, False])
def test_the_record_is_json_and_says_what_was_found(deep, monkeypatch, engine):
    if not engine:
        without_engine(monkeypatch, deep)
    data, spec = data_of(deep, 20)
    deep.train()
    protocol = Protocol(eps=0.06, group_size=4, limit=14, batch_size=5, time_limit=60)
    result = evaluate(deep, data, spec, protocol)
    assert deep.training and result.protocol is protocol
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    x, y = data.images[:14, :, 1:5, 1:5] / 255, data.labels[:14]
    assert torch.equal(result.x, x) and torch.equal(result.y, y)
    correct = deep(x).argmax(1) == y
    assert record["standard_accuracy"] == pytest.approx(int(correct.sum()) / 14)
    settings = {"images": 14, "eps": 0.06, "method": "bab", "relational": "cross",
                "group_size": 4, "time_limit": 60, "batch_size": 5, "seed": 0,
                "clip": None}  # fmt: skip
    assert settings.items() <= record.items() and "limit" not in record

    verdicts = record["verdicts"]
    assert len(verdicts) == 14 and set(verdicts) <= {*STAGES, "attacked", "undecided", "wrong"}
    assert [v == "wrong" for v in verdicts] == (~correct).tolist()
    for i, stage in enumerate(STAGES):
        proved = sum(v in STAGES[: i + 1] for v in verdicts)
        assert record["certified_accuracy"][stage] == pytest.approx(proved / 14)
    shares = list(record["certified_accuracy"].values())
    assert shares == sorted(shares) and 0 < shares[-1] < record["standard_accuracy"]
    attacked = verdicts.count("attacked")
    under = record["standard_accuracy"] - attacked / 14
    assert attacked and record["accuracy_under_single_attacks"] == pytest.approx(under)

    groups, uap = record["groups"], record["uap_accuracy"]
    assert [len(values) for values in groups.values()] == [4] * 4
    safe = sum(groups["safe_at_least"]), sum(groups["safe_at_most"])
    assert uap["certified"] == pytest.approx(safe[0] / 14)
    assert uap["attacked"] == pytest.approx(safe[1] / 14)
    assert uap["gap"] == pytest.approx(uap["attacked"] - uap["certified"])
    assert shares[-1] <= uap["certified"] <= uap["attacked"] <= record["standard_accuracy"]
    assert (uap["gap"] == pytest.approx(0)) == engine  # without it images stay undecided
    assert record["not_fitting"] == dict.fromkeys(STAGES, 0)
    assert record["unsupported"] == ({} if engine else {"bab": NO_ENGINE})

    settled = record["shares"]
    assert list(settled) == [*STAGES, "group stage", *SETTLED]
    assert sum(settled.values()) == 14 and min(settled.values()) >= 0
    assert all(settled[stage] == verdicts.count(stage) for stage in STAGES)
    assert settled["wrong"] == verdicts.count("wrong")
    assert settled["group stage"] == safe[0] - sum(v in STAGES for v in verdicts)
    assert settled["undecided"] == safe[1] - safe[0]
    assert settled["broken"] == int(correct.sum()) - safe[1]

    seconds = record["seconds"]
    assert set(seconds) == {"attack", *STAGES, "group attack", "group stage", "total"}
    assert sum(seconds.values()) - seconds["total"] <= seconds["total"]
    assert len(record["image_seconds"]) == 14
    assert sum(record["image_seconds"]) <= seconds["total"] + 14 * 5e-5


def test_shares_add_up_whatever_was_found(deep):
    data, spec = data_of(deep, 12)
    for method, relational, eps in (("ibp", "none", 0.02), ("crown", "io", 0.1),
                                    ("bab", "cross", 0.15), ("ibp", "cross", 0.0)):  # fmt: skip
        protocol = Protocol(eps=eps, method=method, relational=relational, group_size=3)
        result = evaluate(deep, data, spec, protocol)
        shares = result.shares()
        assert sum(shares.values()) == 12 and min(shares.values()) >= 0
        assert list(shares) == [*stages_up_to(method), "group stage", *SETTLED]
        if relational == "none":
            assert shares["group stage"] == 0
        if eps == 0:
            assert (shares["ibp"], shares["wrong"]) == (8, 4)


def same(a, b):
    """What two evaluations found, without the times."""

    def plain(result):
        record = result.record()
        del record["seconds"], record["image_seconds"], record["groups"]["seconds"]
        return record

    assert plain(a) == plain(b)
    for name in ("lower", "upper", "size", "u", "broken"):
        assert torch.equal(getattr(a.uap, name), getattr(b.uap, name))
    assert torch.equal(a.certificates.margin, b.certificates.margin)
    assert torch.equal(a.strongest, b.strongest)
    return True


def test_an_evaluation_repeats_itself(deep):
    data, spec = data_of(deep, 17)
    protocol = Protocol(eps=0.06, method="crown", group_size=3, batch_size=7)
    first = evaluate(deep, data, spec, protocol)
    torch.manual_seed(77)
    assert same(first, evaluate(deep, data, spec, protocol))  # the seed is the protocol's
    other = evaluate(deep, data, spec, replace(protocol, seed=1))
    assert not torch.equal(other.uap.u, first.uap.u)


@pytest.mark.parametrize(
    ("count", "group_size", "batch_size", "sizes"),
    [
        (17, 3, 7, [6, 6, 5]),
        (16, 3, 7, [6, 6, 4]),
        (14, 3, 7, [6, 8]),  # a rest of two is no group: it goes with the batch before it
        (15, 3, 7, [6, 6, 3]),
        (10, 5, 3, [5, 5]),
        (6, 5, 256, [6]),
        (12, 2, 6, [6, 6]),
        (13, 2, 6, [6, 7]),
    ],
)
def test_batches_hold_whole_groups(monkeypatch, deep, count, group_size, batch_size, sizes):
    data, spec = data_of(deep, count)
    found = []

    def watched(net, x, *rest, **options):
        found.append(len(x))
        return certify(net, x, *rest, **options)

    monkeypatch.setattr(sys.modules["citrus_lirpa.verify.evaluation"], "certify", watched)
    protocol = Protocol(
        eps=0.02, method="ibp", relational="none", group_size=group_size, batch_size=batch_size
    )
    result = evaluate(deep, data, spec, protocol)
    assert found == sizes and sum(result.uap.size.tolist()) == count
    assert len(result.uap.size) == -(-count // group_size)
    assert torch.equal(result.certificates.correct, deep(result.x).argmax(1) == result.y)


def test_the_strongest_perturbation_is_the_best_of_the_groups(net):
    data, spec = data_of(net, 12)
    protocol = Protocol(eps=0.1, group_size=3, method="ibp", clip=(0.0, 1.0))
    result = evaluate(net, data, spec, protocol)
    x, y = result.x, result.y
    clean = net(x).argmax(1)
    rates = []
    for u in result.uap.u:
        moved = net((x + u).clamp(0, 1)).argmax(1)
        rates.append(int(((moved != y) & (clean == y)).sum()) / int((clean == y).sum()))
    assert result.fooling_rate == pytest.approx(max(rates))
    assert 0 < result.fooling_rate <= 1
    assert result.strongest.shape == (1, 4, 4)
    moved = net((x + result.strongest).clamp(0, 1)).argmax(1)
    assert torch.equal(result.predictions[0], clean)
    assert torch.equal(result.predictions[1], moved)
    assert result.record()["clip"] == [0.0, 1.0]


def test_imported_verdicts_of_some_batches(net):
    """Whatever batch they fall into, also where a batch has none, or only broken images."""
    data, spec = data_of(net, 12)
    protocol = Protocol(eps=0.0, method="ibp", group_size=2, batch_size=4)
    imported = {1: "attacked", 2: "undecided", 7: "certified", 9: "certified"}
    result = evaluate(net, data, spec, protocol, imported=imported)
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    assert result.certificates.methods == ("ibp", "imported")
    expected = ["wrong" if i % 3 == 0 else "ibp" for i in range(12)]
    expected[1], expected[7] = "attacked", "imported"  # 9 is misclassified
    assert record["verdicts"] == expected
    assert sum(record["shares"].values()) == 12 and record["shares"]["imported"] == 1
    assert "imported" not in evaluate(net, data, spec, protocol).record()["shares"]


def test_an_imported_proof_that_the_attack_refutes_stops_the_evaluation(net):
    data, spec = data_of(net, 12)
    protocol = Protocol(eps=0.5, method="ibp", group_size=2, batch_size=4)
    verdicts = evaluate(net, data, spec, protocol).record()["verdicts"]
    number = verdicts.index("attacked")
    with pytest.raises(SoundnessError, match="imported verdicts"):
        evaluate(net, data, spec, protocol, imported={number: "certified"})


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"batch_size": 0}, {"group_size": 1}, {"group_size": 7}, {"limit": 2},
     {"method": "exact"}, {"relational": "some"}, {"eps": -1.0}, {"eps": float("nan")},
     {"time_limit": -1.0}, {"time_limit": float("nan")}],
    ids=str,
)  # fmt: skip
def test_unusable_options_of_an_evaluation(net, options):
    data, spec = data_of(net, 6)
    with pytest.raises((InputError, ConfigError)):
        evaluate(net, data, spec, Protocol(**{"eps": 0.1, "group_size": 3, **options}))


def test_a_protocol_refuses_a_radius_before_anything_is_done():
    with pytest.raises(InputError, match="-1"):
        Protocol(eps=-1.0)
