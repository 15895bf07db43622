"""Certificates of single inputs, on nets small enough to recount."""

import contextlib
from dataclasses import dataclass, replace

import pytest
import torch
from networks import CLASSES, QUICK, fitted, images, without_dual_engine
from torch import nn

from citrus_lirpa import (
    METHODS,
    PGD,
    BoundedNet,
    Box,
    Certificates,
    GroupAttack,
    certify,
    certify_uap,
)
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.errors import InputError, ModelError, SoundnessError
from citrus_lirpa.verify import STAGES
from citrus_lirpa.verify.cascade import Cascade
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.engines import LirpaEngine
from citrus_lirpa.verify.stages import stages_up_to


@dataclass(frozen=True)
class Numbered:
    """Images by their numbers, and the stage that bounds them next."""

    number: torch.Tensor
    stage: str

    @property
    def usable(self):
        return torch.ones_like(self.number, dtype=torch.bool)

    def rows(self, which):
        return replace(self, number=self.number[which])

    @staticmethod
    def cat(parts):
        return replace(parts[0], number=torch.cat([part.number for part in parts]))


class Scripted:
    """An engine that answers from a table stage -> bounds of each image's margins; it logs the
    stage, the image and the margin of every bound that it is asked for."""

    rows_at_once = alpha_steps = 1

    def __init__(self, x, table):
        self.x, self.calls = x, []
        self.table = {stage: torch.tensor(bounds) for stage, bounds in table.items()}

    def answer(self, images, open_rows, stage):
        lower = self.table[stage][images.number]
        self.calls += [(stage, int(images.number[i]), r) for i, r in open_rows.nonzero().tolist()]
        return torch.where(open_rows, lower, -torch.inf), open_rows & (lower > 0)

    def ibp(self, x, y):
        found = Numbered(torch.cdist(x.flatten(1), self.x.flatten(1)).argmin(1), "crown-ibp")
        every = torch.ones(len(x), CLASSES - 1, dtype=torch.bool)
        return found, *self.answer(found, every, "ibp")

    def tightened(self, images):
        return replace(images, stage="crown")

    def margins(self, images, open_rows, iterations):
        return self.answer(images, open_rows, "alpha-crown" if iterations else images.stage)

    def as_dual(self):
        raise ModelError("only a script")


def run(net, engine, x, y, method):
    """The certificates of the stages up to ``method`` by an engine."""
    cascade = Cascade(net, Ball(0.1), engine, stages_up_to(method))
    return cascade.certificates(x, y, torch.arange(len(x)))


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
    assert float(proofs.took.sum()) <= sum(proofs.seconds.values()) + 1e-9


# ------------------------------------------------------------------------------ stages


def test_each_image_is_decided_by_the_first_stage_that_proves_it(net):
    x, y = images(net, 8, wrong=[5])
    no, ok, nan = -1.0, 1.0, float("nan")
    engine = Scripted(x, {
        "ibp": [[ok, ok], [no, ok], [no, no], [ok, -3], [no, no], [ok, ok], [-2, ok], [no, no]],
        "crown-ibp": [[no, no], [ok, no], [no, no], [no, -2], [no, ok], [ok, ok], [-4, no],
                      [nan, nan]],
        "crown": [[no, no], [no, no], [ok, ok], [no, -5], [no, no], [ok, ok], [-3, no], [no, no]],
        "alpha-crown": [[no, no], [no, no], [no, no], [no, ok], [no, no], [ok, ok], [-5, no],
                        [ok, no]],
    })  # fmt: skip
    proofs = run(net, engine, x, y, "bab")
    assert proofs.methods == STAGES == (*METHODS, "bab")
    assert proofs.decided_by.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert proofs.verdicts() == [*METHODS, "undecided", "wrong", "undecided", "undecided"]
    assert proofs.rows.tolist() == [
        *[[True, True]] * 4, [False, True], [False, False], [False, True], [True, False],
    ]  # fmt: skip
    assert proofs.margin.tolist() == [1, 1, 1, 1, -1, -torch.inf, -2, -1]  # NaN hides nothing
    for i, method in enumerate(METHODS):
        assert proofs.certified_by(method).tolist() == [n <= i and n < 4 for n in range(8)]
    # a margin that is proved is not bounded again, an image that is proved not at all
    left = [(1, 0), (2, 0), (2, 1), (3, 1), (4, 0), (4, 1), (6, 0), (7, 0), (7, 1)]
    done = {
        "crown-ibp": [],
        "crown": [(1, 0), (4, 1)],
        "alpha-crown": [(1, 0), (4, 1), (2, 0), (2, 1)],
    }
    expected = {stage: [p for p in left if p not in out] for stage, out in done.items()}
    expected["ibp"] = [(i, row) for i in (0, 1, 2, 3, 4, 6, 7) for row in (0, 1)]
    for stage in METHODS:
        assert [call[1:] for call in engine.calls if call[0] == stage] == expected[stage], stage
    assert proofs.unsupported == {"bab": "only a script"}
    assert proofs.not_fitting == dict.fromkeys(STAGES, 0) and list(proofs.seconds) == list(STAGES)
    check_consistent(proofs, x, y, net)
    # each image takes its share of the stages that it went through
    s, shares = proofs.seconds, {"ibp": 7, "crown-ibp": 6, "crown": 5, "alpha-crown": 4, "bab": 3}
    spent = torch.tensor([s[m] / n for m, n in shares.items()], dtype=torch.float64).cumsum(0)
    last = float(spent[-1])
    assert proofs.took.tolist() == pytest.approx([*spent[:4].tolist(), last, 0.0, last, last])


def test_the_margin_bounds_every_row(net):
    """Row 0 is known to be at least 1 and row 1 at least 5: the smallest is not proved above 1."""
    x, y = images(net, 1)
    engine = Scripted(x, {"ibp": [[1.0, -1.0]], "crown-ibp": [[-1.0, 5.0]]})
    proofs = run(net, engine, x, y, "crown-ibp")
    assert proofs.verdicts() == ["crown-ibp"] and proofs.margin.tolist() == [1.0]


@pytest.mark.parametrize("dual", [True, False])
def test_only_the_stages_up_to_the_named_one_run(net, dual):
    x, y = images(net, 2)
    if not dual:
        without_dual_engine(net)
    told = []
    proofs = certify(net, x, y, 0.1, method="crown-ibp", announce=told.append)
    assert proofs.methods == ("ibp", "crown-ibp") and told == ["ibp", "crown-ibp"]
    with pytest.raises(InputError, match="did you mean 'crown'"):
        certify(net, x, y, 0.1, method="crow")


def test_without_the_dual_engine_branch_and_bound_is_not_possible(net):
    x, y = images(net, 4)
    without_dual_engine(net)
    proofs = certify(net, x, y, 0.0, method="bab", batch_size=3)
    assert proofs.methods == STAGES and proofs.unsupported == {"bab": "no dual engine"}
    assert proofs.verdicts() == ["ibp"] * 4  # it is said even where nothing is left to prove


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
    uap = certify_uap(net, x, y, 0.1, group_size=4, certificates=proofs, attack=QUICK)
    assert (uap.lower <= uap.upper).all()


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize(
    ("excess", "twin"), [(0.9, False), (1.1, False), (0.9, True), (-0.1, True)]
)
def test_a_bound_within_rounding_of_zero_proves_nothing_without_float64(scale, excess, twin):
    """The bound of an affine net is exact: here it is ``excess`` times the threshold."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    threshold = 1e-5 * max(10.0, scale)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0], [0.0]]))
        model[1].bias.copy_(torch.tensor([scale + excess * threshold, scale]))
        margin = float(model[1].bias[0] - model[1].bias[1])
    x, y = torch.rand(1, 1, 1, 1), torch.zeros(1, dtype=torch.long)
    net = BoundedNet(model, x).eval()
    engine = LirpaEngine(net, Ball(0.1), "affine")
    if not twin:
        engine.twin = None
    assert (margin > threshold) == (excess > 1)
    proofs = run(net, engine, x, y, "ibp")
    assert proofs.certified.tolist() == [margin > (0 if twin else threshold)]


# --------------------------------------------------------------------------- real bounds


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_engine_and_auto_lirpa_decide_alike(deep, clip):
    x, y = images(deep, 60, wrong=[7, 8])
    found = certify(deep, x, y, 0.06, clip=clip, method="bab", time_limit=60)
    check_consistent(found, x, y, deep)
    without_dual_engine(deep)
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
    for method in ("ibp", "alpha-crown", "bab"):
        proofs = certify(net, x, y, 0.25, method=method, time_limit=0.1)
        assert proofs.certified.tolist() == [proved]


def test_normalised_images_are_warned_about_once_unless_their_range_is_known():
    net, y = one_pixel(0.1), torch.zeros(1, dtype=torch.long)
    x = torch.full((1, 1, 1, 1), 1.5)
    certify(net, x, y, 0.1, method="ibp", clip=(-2, 2))
    certify(net, x / 2, y, 0.1, method="ibp")
    with pytest.warns(UserWarning, match=r"from 1\.5 to 1\.5, so that ε = 0\.1 is in their units"):
        certify(net, x, y, 0.1, method="ibp")
    certify(net, x, y, 0.1, method="ibp")


@pytest.mark.parametrize(
    ("engine", "method"), [(True, "bab"), (False, "crown")], ids=["engine", "auto_LiRPA"]
)
def test_batches_do_not_change_the_result(deep, engine, method):
    if not engine:
        without_dual_engine(deep)
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


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_clip_cuts_the_boxes(net, clip, engine):
    x, y = images(net, 6)
    expected = net.margins(Box.around(x, 0.5, clip), y, "ibp").min(dim=1).values
    if not engine:
        without_dual_engine(net)
    torch.testing.assert_close(certify(net, x, y, 0.5, clip=clip, method="ibp").margin, expected)


@pytest.mark.parametrize("engine", [True, False])
def test_the_mode_is_restored_and_gradients_are_left_alone(net, engine):
    if not engine:
        without_dual_engine(net)
    x, y = images(net, 6)
    net.train()
    before = [p.grad.clone() for p in net.parameters()]
    proofs = certify(net, x, y, 0.05, method="bab", attack=PGD(2))
    certify_uap(net, x, y, 0.05, group_size=3, certificates=proofs, attack=QUICK)
    assert net.training and net.module.training
    for p, grad in zip(net.parameters(), before, strict=True):
        assert torch.equal(p.grad, grad) and p.requires_grad


# ------------------------------------------------------ attacks and verdicts from elsewhere


@pytest.mark.parametrize("engine", [True, False])
def test_the_attack_gets_what_bounds_leave_open(deep, engine):
    if not engine:
        without_dual_engine(deep)
    x, y = images(deep, 20, wrong=[0, 4])
    attack, told = PGD(10, clip=None), []
    torch.manual_seed(5)
    proofs = certify(deep, x, y, 0.1, method="crown-ibp", attack=attack, announce=told.append)
    assert told == ["ibp", "crown-ibp", "attack", "attack"]
    check_consistent(proofs, x, y, deep)
    assert torch.equal(proofs.margin > -torch.inf, proofs.correct)

    left = certify(deep, x, y, 0.1, method="crown-ibp").open
    torch.manual_seed(5)
    v = attack(deep, x[left], y[left], 0.1)
    broken = left.clone()
    broken[left] = deep(x[left] + v).argmax(1) != y[left]
    assert broken.any() and (proofs.attacked >= broken).all() and (left >= proofs.attacked).all()
    moved = x[proofs.attacked] + proofs.v
    assert (deep(moved).argmax(1) != y[proofs.attacked]).all()
    assert float(proofs.v.abs().max()) <= 0.1 + 1e-6
    assert set(proofs.seconds) == set(told) and proofs.seconds["attack"] > 0
    assert "attack" not in certify(deep, x, y, 0.1, method="ibp").seconds


def test_margins_that_bounds_leave_open_are_attacked_one_by_one():
    """Thirty logits rise with x and stay below that of class 0, one falls and gets above it: the
    gradient of all together leads away from there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 32)).eval()
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:] = 1.0, 2.0
        model[2].weight[:, 0] = torch.tensor([0.0, *[1.0] * 30, -1.0])
        model[2].bias[:] = torch.tensor([0.0, *[-3.2] * 30, 1.1])
    net, x, y = BoundedNet(model, torch.zeros(2, 1)), torch.zeros(4, 1), torch.zeros(4).long()
    attack = PGD(20, restarts=3, clip=None)
    assert not (model(x + attack(net, x, y, 1.0)).argmax(1) == 31).any()
    assert not certify(net, x, y, 1.0, method="crown").attacked.any()
    told = []
    found = certify(net, x, y, 1.0, method="crown", attack=attack, announce=told.append)
    assert told == ["ibp", "crown-ibp", "attack", "crown", "attack"]
    assert bool(found.attacked.all()) and bool((model(x + found.v).argmax(1) == 31).all())
    assert float(found.v.abs().max()) <= 1


def test_verdicts_from_elsewhere_are_taken(net):
    x, y = images(net, 6, wrong=[2, 3])
    known = torch.tensor([1, -1, 1, -1, 0, 0])
    proofs = certify(net, x, y, 0.0, method="ibp", known=known, batch_size=4)
    assert proofs.methods == ("ibp", "imported")
    assert proofs.verdicts() == ["imported", "attacked", "wrong", "wrong", "ibp", "ibp"]
    assert (proofs.margin > -torch.inf).tolist() == [False] * 4 + [True] * 2  # bounded at all
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


@pytest.mark.parametrize("engine", [DualEngine, LirpaEngine])
@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_off_inside_and_restored(deep, monkeypatch, fails, engine):
    x, y = images(deep, 4)
    seen = {}

    def watch(name, *, breaks=False):
        original = getattr(engine, name)

        def watched(*args, **kwargs):
            seen[name] = tf32()
            if breaks:
                raise ZeroDivisionError
            return original(*args, **kwargs)

        monkeypatch.setattr(engine, name, watched)

    def attack(*args):
        seen["attack"] = tf32()
        return GroupAttack(steps=1, restarts=1)(*args)

    names = {"ibp", "margins", "tightened"}
    if engine is DualEngine:
        names |= {"proved", "lines"}
    else:
        without_dual_engine(deep)
    for name in names:
        watch(name, breaks=fails and name == "tightened")
    failure = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with setting(matmul, "allow_tf32", True), setting(cudnn, "allow_tf32", True):
        with failure:
            certify_uap(deep, x, y, 0.2, group_size=2, attack=attack)
        assert tf32() == (True, True)
    assert set(seen) == (names - {"lines"} if fails else names | {"attack"})
    assert set(seen.values()) == {(False, False)}


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch < 2.9 has it not"
)
def test_tf32_may_have_been_switched_on_by_its_newer_name(net):
    x, y = images(net, 2)
    seen = []
    with setting(torch.backends.cuda.matmul, "fp32_precision", "tf32"):
        certify(net, x, y, 0.1, method="ibp", announce=lambda stage: seen.append(tf32()))
        assert tf32()[0]
    assert seen == [(False, False)]


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
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=2, solver="higs"),
        lambda net, x, y: certify_uap(net, x[:3], y[:3], 0.1, group_size=2,
                                      certificates=certify(net, x, y, 0.1)),
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=2,
                                      certificates=certify(net, x[:3], y[:3], 0.1)),
    ],
    ids=["labels", "eps", "nan", "batch", "group labels", "one", "five", "stage", "solver",
         "long proofs", "short proofs"],
)  # fmt: skip
def test_misuse_raises_one_line(net, misuse):
    with pytest.raises(InputError) as caught:
        misuse(net, *images(net, 4))
    assert "\n" not in str(caught.value)
