"""Certificates, UAP bounds and the evaluation record, on nets small enough to recount."""

import contextlib
import json

import pytest
import torch
from torch import nn

from citrus_lirpa import METHODS, BoundedNet, Certificates, GroupAttack, certify, certify_uap
from citrus_lirpa.boxes import clamp
from citrus_lirpa.data import DatasetSpec, Split
from citrus_lirpa.errors import ConfigError, InputError, SoundnessError
from citrus_lirpa.verify import evaluate
from citrus_lirpa.verify.incomplete import methods_up_to

CLASSES = 3


@pytest.fixture
def net():
    """A net of 1x4x4 images, fitted to noise so that its margins are neither large nor tiny."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, CLASSES))
    x, y = torch.rand(60, 1, 4, 4), torch.arange(60) % CLASSES
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return BoundedNet(model, x[:1]).eval()


def images(net, count, wrong=()):
    """Random images with the class the net gives them, except those of ``wrong``.

    Many of their pixels are black or white, so that clipping to [0, 1] matters.
    """
    x = (3 * torch.rand(count, 1, 4, 4) - 1).clamp(0, 1)
    y = net(x).argmax(1)
    y[list(wrong)] = (y[list(wrong)] + 1) % CLASSES
    return x, y


def script(monkeypatch, net, x, bounds):
    """Let ``net.margins`` answer from a table method -> bound of each image; log the calls."""
    calls = []

    def margins(box, y, method="ibp"):
        rows = torch.cdist(box.centre.flatten(1), x.flatten(1)).argmin(1)
        calls.append((method, rows.tolist()))
        return torch.tensor(bounds[method])[rows].unsqueeze(1).expand(-1, CLASSES - 1)

    monkeypatch.setattr(net, "margins", margins)
    return calls


# ------------------------------------------------------------------------ single inputs


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


def test_only_the_methods_up_to_the_named_one_run(net, monkeypatch):
    x, y = images(net, 2)
    calls = script(monkeypatch, net, x, {m: [-1.0, -1.0] for m in METHODS})
    assert certify(net, x, y, 0.1, method="crown-ibp").methods == ("ibp", "crown-ibp")
    assert [method for method, _ in calls] == ["ibp", "crown-ibp"]
    assert methods_up_to("ibp") == ("ibp",)
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


def test_batches_do_not_change_the_result(net):
    x, y = images(net, 23, wrong=[3])
    whole, parts = (certify(net, x, y, 0.02, method="crown", batch_size=n) for n in (256, 4))
    assert torch.equal(whole.decided_by, parts.decided_by)
    assert torch.allclose(whole.margin, parts.margin, atol=1e-5)
    assert 0 < int(whole.certified.sum()) < 22
    assert not whole.certified[3] and whole.margin[3] == -torch.inf


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_clip_cuts_the_boxes(net, monkeypatch, clip):
    x, y = images(net, 6)
    seen, margins = [], net.margins
    monkeypatch.setattr(net, "margins", lambda box, *a: (seen.append(box), margins(box, *a))[1])
    certify(net, x, y, 0.5, clip=clip, method="ibp")
    (box,) = seen
    expected = [x - 0.5, x + 0.5]
    if clip:
        expected = [end.clamp(0, 1) for end in expected]
    assert torch.equal(box.lower, expected[0]) and torch.equal(box.upper, expected[1])


def test_the_mode_is_restored_and_gradients_are_left_alone(net):
    x, y = images(net, 6)
    net.train()
    before = [p.grad.clone() for p in net.parameters()]
    certify_uap(net, x, y, 0.05, group_size=3)
    assert net.training and net.module.training
    for p, grad in zip(net.parameters(), before, strict=True):
        assert torch.equal(p.grad, grad) and p.requires_grad


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


@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_off_inside_and_restored(net, monkeypatch, fails):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    x, y = images(net, 4)
    seen, margins = [], net.margins

    def watched(*args):
        seen.append(tf32())
        if fails:
            raise ZeroDivisionError
        return margins(*args)

    def attack(*args):
        seen.append(tf32())
        return GroupAttack(steps=1)(*args)

    monkeypatch.setattr(net, "margins", watched)
    failure = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
    with setting(matmul, "allow_tf32", True), setting(cudnn, "allow_tf32", True):
        with failure:
            certify_uap(net, x, y, 0.5, group_size=2, attack=attack)
        assert tf32() == (True, True)
    assert len(seen) == (1 if fails else 5)  # four methods and the attack
    assert set(seen) == {(False, False)}


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


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_uap_bounds_are_what_the_certificates_and_perturbations_show(net, clip):
    x, y = images(net, 11, wrong=[2, 10])
    proofs = certify(net, x, y, 0.06, clip=clip)
    uap = certify_uap(net, x, y, 0.06, group_size=4, certificates=proofs, clip=clip)
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
    assert (uap.lower.tolist(), uap.upper.tolist()) == (lower, upper)
    assert uap.broken.tolist() == broken
    assert uap.broken[2] and uap.broken[10]
    assert uap.certified_accuracy == pytest.approx(sum(lower) / 11)
    assert uap.attacked_accuracy == pytest.approx(sum(upper) / 11)
    assert sum(lower) < sum(upper) < 9  # the attack found something, the proofs not all


def test_a_group_without_open_inputs_is_not_attacked(net):
    x, y = images(net, 4, wrong=[3])
    proofs = certify(net, x, y, 0.0)
    assert proofs.certified.tolist() == [True, True, True, False]

    def attack(*_):
        raise AssertionError

    uap = certify_uap(net, x, y, 0.0, group_size=2, certificates=proofs, attack=attack)
    assert uap.lower.tolist() == uap.upper.tolist() == [2, 1]
    assert not uap.u.any()


def test_a_certificate_that_the_attack_refutes_raises(net):
    x, y = images(net, 4)
    x[1], y[1] = x[0], y[0]  # the same image, once certified and once not
    forged = Certificates(
        ("ibp",), torch.ones(4, dtype=torch.bool), torch.ones(4), torch.tensor([0, -1, -1, -1]),
        {"ibp": 0.0}, {"ibp": 0},
    )  # fmt: skip
    with pytest.raises(SoundnessError, match=r"1 certified inputs \(first: number 0\)"):
        certify_uap(net, x, y, 0.5, group_size=2, certificates=forged)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda net, x, y: certify(net, x, y[:1], 0.1),
        lambda net, x, y: certify(net, x, y, -0.1),
        lambda net, x, y: certify(net, x, y, float("nan")),
        lambda net, x, y: certify_uap(net, x, y[:3], 0.1, group_size=2),
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=1),
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=5),
        lambda net, x, y: certify_uap(net, x[:3], y[:3], 0.1, group_size=2,
                                      certificates=certify(net, x, y, 0.1)),
        lambda net, x, y: certify_uap(net, x, y, 0.1, group_size=2,
                                      certificates=certify(net, x[:3], y[:3], 0.1)),
    ],
    ids=["labels", "eps", "nan", "group labels", "one", "five", "long proofs", "short proofs"],
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


def test_the_record_is_json_and_says_what_was_found(net):
    data, spec = data_of(net, 20)
    net.train()
    result = evaluate(net, data, spec, eps=0.06, group_size=4, limit=14, batch_size=5)
    assert net.training
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    x, y = data.images[:14, :, 1:5, 1:5] / 255, data.labels[:14]
    assert torch.equal(result.x, x) and torch.equal(result.y, y)
    correct = net(x).argmax(1) == y
    assert record["standard_accuracy"] == pytest.approx(int(correct.sum()) / 14)
    assert (record["images"], record["eps"], record["group_size"], record["clip"]) == (
        14, 0.06, 4, None)  # fmt: skip

    names = record["decided_by"]
    assert len(names) == 14 and set(names) <= {*METHODS, None}
    for i, method in enumerate(METHODS):
        proved = sum(name in list(METHODS)[: i + 1] for name in names)
        assert record["certified_accuracy"][method] == pytest.approx(proved / 14)
    shares = list(record["certified_accuracy"].values())
    assert shares == sorted(shares) and 0 < shares[-1] < record["standard_accuracy"]

    groups, uap = record["groups"], record["uap_accuracy"]
    assert len(groups["safe_at_least"]) == len(groups["safe_at_most"]) == 4
    assert uap["certified"] == pytest.approx(shares[-1])  # every proof is of one image alone
    assert uap["attacked"] == pytest.approx(sum(groups["safe_at_most"]) / 14)
    assert uap["certified"] <= uap["attacked"] <= record["standard_accuracy"]
    assert set(record["seconds"]) == {*METHODS, "total"}
    assert record["not_fitting"] == dict.fromkeys(METHODS, 0)


def test_the_strongest_perturbation_is_the_best_of_the_groups(net):
    data, spec = data_of(net, 12)
    result = evaluate(net, data, spec, eps=0.1, group_size=3, method="ibp", clip=(0.0, 1.0))
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


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"batch_size": 0}, {"group_size": 1}, {"group_size": 7}, {"limit": 2},
     {"method": "exact"}, {"eps": -1.0}],
    ids=str,
)  # fmt: skip
def test_unusable_options_of_an_evaluation(net, options):
    data, spec = data_of(net, 6)
    with pytest.raises((InputError, ConfigError)):
        evaluate(net, data, spec, **{"eps": 0.1, "group_size": 3, **options})
