"""Time limits hold in every stage, on networks of each kind, beside other load."""

import itertools
import multiprocessing
import time

import pytest
import torch
from networks import QUICK, deep_net, images, without_dual_engine
from torch import nn

from citrus_lirpa import PGD, BoundedNet, GroupAttack, certify, certify_uap
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.deadline import ending_by, time_is_over, without_deadline
from citrus_lirpa.data.types import DatasetSpec, Split
from citrus_lirpa.errors import OutOfTime
from citrus_lirpa.formats.onnx import load_onnx, save_onnx
from citrus_lirpa.verify import Protocol, Saved, evaluate

SHAPE, GROUP = (3, 16, 16), 4


def network(kind, folder):
    """An untrained network, of which no stage proves anything at a large ε."""
    torch.manual_seed(0)
    activation, bounds = nn.ReLU, "own"
    if kind == "auto_LiRPA":
        activation, bounds = nn.Tanh, "auto-lirpa"
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), activation(), nn.Conv2d(8, 16, 3, 2, 1), activation(),
        nn.Conv2d(16, 16, 3, padding=1), activation(), nn.Flatten(), nn.Linear(16 * 8 * 8, 10),
    ).eval()  # fmt: skip
    if kind == "ONNX":
        pytest.importorskip("onnx")
        save_onnx(model, SHAPE, folder / "net.onnx")
        model, _ = load_onnx(folder / "net.onnx")
    net = BoundedNet(model, torch.rand(2, *SHAPE), bounds=bounds)
    x = torch.rand(24, *SHAPE)
    certify(net, x[:1], model(x[:1]).argmax(1), 0.01, attack=PGD(1))  # torch imports some more
    return net, x, model(x).argmax(1)


@pytest.fixture(autouse=True)
def own_time():
    """Seconds are those of the machine here, which other processes take too."""


def busy():
    while True:
        sum(range(10_000))


@pytest.fixture
def load():
    """Another process that works all the time."""
    other = multiprocessing.get_context("fork").Process(target=busy)
    other.start()
    yield
    other.kill()
    other.join()


def held(limit, work, *args, **options):
    """What ``work`` returns, which may take a fifth and a second of work longer than its limit."""
    begin, cpu = time.perf_counter(), time.process_time()
    result = work(*args, **options)
    took, worked = time.perf_counter() - begin, time.process_time() - cpu
    slower = max(1.0, took / worked)  # by which others held it up
    assert took <= 1.2 * limit + slower, f"{took:.2f} s, limit {limit:.2f} s, {slower:.1f} x slower"
    return result


@pytest.mark.parametrize(
    ("kind", "methods"),
    [
        ("dual engine", ("crown", "alpha-crown", "bab")),
        ("auto_LiRPA", ("crown", "alpha-crown")),
        ("ONNX", ("bab",)),
    ],
)
def test_limits_hold_beside_other_load(tmp_path, load, kind, methods):
    net, x, y = network(kind, tmp_path)
    attack = PGD(30, restarts=2, clip=None)
    for method, limit in itertools.product(methods, (0.0, 0.05)):
        shared = dict(group_size=GROUP, time_limit=limit)
        allowed = limit * len(x) / GROUP
        found = held(allowed, certify, net, x, y, 0.1, method=method, attack=attack, **shared)
        assert bool(found.correct.all()) and not found.certified.any()
        assert (found.open == ~found.certified).all()
        more = dict(certificates=found, relational="cross", **shared)
        uap = held(allowed, certify_uap, net, x, y, 0.1, **more)
        assert uap.lower.tolist() == [0] * 6 and (uap.upper <= GROUP).all()


@pytest.mark.parametrize("kind", ["dual engine", "auto_LiRPA"])
def test_an_evaluation_keeps_its_total_time(tmp_path, load, kind):
    net, x, y = network(kind, tmp_path)
    spec = DatasetSpec(name="noise", shape=SHAPE, class_names="abcdefghij", loader=lambda *_: None)
    data = Split((255 * x).byte(), y)
    for total in (0.0, 0.5):
        protocol = Protocol(eps=0.1, group_size=GROUP, batch_size=8, total_time=total)
        result = held(total, evaluate, net, data, spec, protocol)
        assert result.record()["total_time"] == total
        assert result.uap.certified_accuracy == 0 and len(result.certificates.correct) == 24
        assert result.shares()["undecided"] + result.shares()["broken"] > 0


def test_saved_batches_count_against_the_total_time(tmp_path, deep):
    x, y = images(deep, 12)
    spec = DatasetSpec(name="noise", shape=(1, 4, 4), class_names="abc", loader=lambda *_: None)
    data = Split((255 * x).byte(), y)
    protocol = Protocol(eps=0.1, group_size=3, batch_size=6, total_time=30.0)
    saved = Saved(tmp_path / "p", {}, resume=False)
    whole = evaluate(deep, data, spec, protocol, saved=saved)
    first = torch.load(tmp_path / "p" / "00000.pt", weights_only=True)
    (tmp_path / "p" / "00000.pt").unlink()
    saved.store(0, {**first, "seconds": 100.0})
    (tmp_path / "p" / "00001.pt").unlink()
    again = evaluate(deep, data, spec, protocol, saved=saved)
    assert torch.equal(again.certificates.rows[:6], whole.certificates.rows[:6])
    assert not again.certificates.certified[6:].any() and again.seconds > 100


def test_without_time_attacks_take_no_step_and_are_still_valid(deep):
    x, y = images(deep, 8)
    with ending_by(0.0):
        v = PGD(1000, restarts=3, clip=None)(deep, x, y, 0.1)
        found = GroupAttack(steps=1000)(deep, x.view(2, 4, 1, 4, 4), y.view(2, 4), 0.1)
    assert float(v.abs().max()) <= 0.1 * (1 + 1e-6)
    moved = deep((x.view(2, 4, 1, 4, 4) + found.u).flatten(0, 1)).argmax(1).view(2, 4)
    assert torch.equal(found.broken, moved != y.view(2, 4))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_bounds_that_stop_halfway_are_sound_and_no_tighter(deep, monkeypatch, share):
    """The clock moves with each look at it, so that every loop is stopped somewhere."""
    x, y = images(deep, 8)
    whole = certify(deep, x, y, 0.15, method="alpha-crown")
    with monkeypatch.context() as patch:
        ticks = itertools.count()
        patch.setattr(time, "perf_counter", lambda: float(next(ticks)))
        half = certify(deep, x, y, 0.15, method="alpha-crown", time_limit=100 * share)
    assert not (half.certified & ~whole.certified).any()
    v = PGD(50, restarts=5, clip=None)(deep, x, y, 0.15)
    broken = deep(x + v).argmax(1) != y
    assert not (half.certified & broken).any()


def test_auto_lirpa_stops_between_layers_and_bounds_rightly_afterwards():
    net = deep_net()
    without_dual_engine(net)
    x, y = images(net, 6)
    box = Box.around(x, 0.05)
    before = {method: net.margins(box, y, method) for method in ("crown", "alpha-crown")}
    for method, expected in before.items():
        with ending_by(0.0), net.in_time(), pytest.raises(OutOfTime):
            net.margins(box, y, method)
        torch.testing.assert_close(net.margins(box, y, method), expected)
        with ending_by(0.0):  # nobody watches the clock
            torch.testing.assert_close(net.margins(box, y, method), expected)


def test_deadlines_nest():
    now = time.perf_counter()
    with ending_by(now - 1):
        with ending_by(now + 100):
            assert time_is_over()
        with without_deadline():
            assert not time_is_over()
        assert time_is_over()
    assert not time_is_over()


def test_quick_methods_have_a_quick_group_stage(deep):
    x, y = images(deep, 12)
    for method, stage in (("crown-ibp", "io"), ("alpha-crown", "io"), ("bab", "cross")):
        assert Protocol(eps=0.1, method=method).relational == stage
        proofs = certify(deep, x, y, 0.1, method=method)
        torch.manual_seed(1)
        shared = dict(group_size=4, certificates=proofs, attack=QUICK)
        found = certify_uap(deep, x, y, 0.1, **shared)
        torch.manual_seed(1)
        named = certify_uap(deep, x, y, 0.1, relational=stage, **shared)
        assert found.lower.tolist() == named.lower.tolist() and found.stage == named.stage


@pytest.mark.parametrize("group", [4, 12])
def test_no_program_runs_where_one_perturbation_breaks_all_lines(deep, monkeypatch, group):
    """As on a network that has no chance; the bounds are those that programs give."""
    x, y = images(deep, 12)
    proofs = certify(deep, x, y, 2.0, method="crown-ibp")
    calls = []
    for name in ("linprog", "milp"):
        monkeypatch.setattr(f"scipy.optimize.{name}", lambda *_, **__: calls.append(1))
    found = certify_uap(deep, x, y, 2.0, group_size=group, certificates=proofs)
    assert calls == [] and found.lower.sum() == 0 == int(proofs.certified.sum())
