"""An evaluation that is stopped inside a batch goes on with what it has found there."""

import signal
import time

import pytest
import torch
from command_line import after, run, sets
from networks import attack_quickly, images, without_dual_engine

from citrus_lirpa import PGD, GroupAttack
from citrus_lirpa.data.types import DatasetSpec, Split
from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.verify import Protocol, Saved, cascade, evaluate
from citrus_lirpa.verify.crown.dual import DualBound
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.joint_attack import JointAttack
from citrus_lirpa.verify.damage import Damage
from citrus_lirpa.verify.engines import LirpaEngine

SPEC = DatasetSpec(name="noise", shape=(1, 4, 4), class_names="abc", loader=lambda *_: None)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick_attack(monkeypatch) -> None:
    attack_quickly(monkeypatch)


def protocol(**changes):
    given = {"eps": 0.05, "group_size": 3, "batch_size": 24, "time_limit": 100, **changes}
    return Protocol(**given)


@pytest.fixture
def data(deep):
    x, y = images(deep, 24, wrong=[2])
    return deep, Split((255 * x).byte(), y), SPEC


_WHOLE = []


@pytest.fixture
def whole(data):
    """The evaluation that nothing stops, made once: the network and images are always the same."""
    if not _WHOLE:
        _WHOLE.append(evaluate(*data, protocol()))
    return _WHOLE[0]


def stopping(monkeypatch, owner, name, every, *, once=False):
    """Let every ``every``-th call of a method, or the first such alone, end in Ctrl-C."""
    original, calls = getattr(owner, name), []

    def stopped(self, *args, **options):
        calls.append(1)
        if len(calls) % every == 0 and not (once and len(calls) > every):
            raise KeyboardInterrupt
        return original(self, *args, **options)

    monkeypatch.setattr(owner, name, stopped)


def runs(work, most=60):
    """What ``work`` returns in the end, and how often it was stopped before."""
    for stops in range(most):
        try:
            return work(), stops
        except KeyboardInterrupt:
            continue
    raise AssertionError(f"not done after {most} starts")


def same(found, whole):
    assert torch.equal(found.certificates.certified, whole.certificates.certified)
    assert torch.equal(found.certificates.correct, whole.certificates.correct)
    assert found.uap.lower.tolist() == whole.uap.lower.tolist()
    assert (found.uap.lower <= found.uap.upper).all()


@pytest.mark.parametrize("every", [25, 35])
def test_what_is_found_is_the_same_however_often_it_is_stopped(
    tmp_path, monkeypatch, data, whole, every
):
    assert 5 < int(whole.certificates.certified.sum()) < 20
    saved = Saved(tmp_path, {}, resume=False)
    known = []

    def once():
        try:
            return evaluate(*data, protocol(), saved=saved)
        except KeyboardInterrupt:
            kept = saved.load_unfinished(0, CPU)
            proof = kept.proof
            decided = (~proof.open).sum() if kept.certificates is None else len(proof.took)
            known.append((int(decided), float(proof.took.sum())))
            raise

    with monkeypatch.context() as patch:
        stopping(patch, DualBound, "__call__", every)
        found, stops = runs(once)
    assert stops >= 1 and known == sorted(known)
    same(found, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.pt", "settings.json"]


@pytest.mark.parametrize(
    ("owner", "name", "every"),
    [
        (PGD, "perturb", 1), (DualEngine, "ibp", 1), (DualEngine, "tightened", 1),
        (DualEngine, "margins", 1), (DualEngine, "margins", 3), (DualEngine, "refined", 1),
        (JointAttack, "__call__", 1), (Damage, "adopt", 1),
    ],
)  # fmt: skip
def test_a_stop_in_each_stage(tmp_path, monkeypatch, data, whole, owner, name, every):
    saved = Saved(tmp_path, {}, resume=False)
    with monkeypatch.context() as patch:
        stopping(patch, owner, name, every, once=True)
        found, stops = runs(lambda: evaluate(*data, protocol(), saved=saved))
    assert stops == 1
    same(found, whole)


def test_a_stop_in_the_joint_attack(tmp_path, monkeypatch, data):
    """Nothing that breaks single images is tried on their groups, which would settle these."""
    monkeypatch.setattr(Damage, "adopt_single_attacks", lambda self: None)
    whole, saved = evaluate(*data, protocol()), Saved(tmp_path, {}, resume=False)
    with monkeypatch.context() as patch:
        stopping(patch, GroupAttack, "_ascend", 1, once=True)
        found, stops = runs(lambda: evaluate(*data, protocol(), saved=saved))
    assert stops == 1
    same(found, whole)


def test_a_stop_on_bounds_of_auto_lirpa(tmp_path, monkeypatch, deep, data):
    without_dual_engine(deep)
    how = protocol(method="alpha-crown")
    whole = evaluate(*data, how)
    saved = Saved(tmp_path, {}, resume=False)
    with monkeypatch.context() as patch:
        stopping(patch, LirpaEngine, "_bound", 4, once=True)
        found, stops = runs(lambda: evaluate(*data, how, saved=saved))
    assert stops >= 1
    same(found, whole)


def test_it_ends_where_every_start_gets_too_little_time(tmp_path, monkeypatch, data):
    """A start gets two seconds of a clock that each bound moves; hopeless images need more."""
    clock = [0.0, 0]
    original = DualBound.__call__

    def slow(self, *args):
        clock[0], clock[1] = clock[0] + 0.1, clock[1] + 1
        if clock[1] % 20 == 0:
            raise KeyboardInterrupt
        return original(self, *args)

    def look():
        clock[0] += 1e-4
        return clock[0]

    monkeypatch.setattr(DualBound, "__call__", slow)
    monkeypatch.setattr(time, "perf_counter", look)
    saved = Saved(tmp_path, {}, resume=False)
    found, stops = runs(lambda: evaluate(*data, protocol(time_limit=4.0), saved=saved))
    assert stops >= 2 and found.seconds <= 1.2 * 4.0 * 8 + 2 * stops


def test_what_is_known_of_a_batch_is_checked_like_a_batch(tmp_path, monkeypatch, data, whole):
    saved = Saved(tmp_path, {}, resume=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping(patch, DualEngine, "refined", 1)
        evaluate(*data, protocol(), saved=saved)
    assert saved.count() == 0 and saved.holds_unfinished()
    with pytest.raises(CheckpointError, match="continue with --resume"):
        Saved(tmp_path, {}, resume=False)
    file = tmp_path / "00000.unfinished"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"00000.unfinished .*remove it"):
        evaluate(*data, protocol(), saved=saved)
    file.unlink()
    same(evaluate(*data, protocol(), saved=saved), whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_requeue_goes_on_inside_its_only_batch(tmp_path, monkeypatch, number):
    few = sets("train.epochs=1", "data.limit=64", "loss.attack_steps=1", "model.hidden=[6]")
    folder = tmp_path / "run"
    assert run("train", "--preset", "digits", *few, "--out", folder, "--quiet")[0] == 0
    command = ("eval", folder, "--method", "crown", "--limit", 40, "--quiet", "--requeue")
    monkeypatch.setattr(cascade, "aim", lambda *given: None)  # it leaves CROWN nothing to do here
    for call in (1, 2):
        with monkeypatch.context() as patch:
            after(patch, DualEngine, "margins", call, number)
            status, output = run(*command)
        assert status == 0 and "0 finished batches are kept" in output
        assert "what is known of the one in hand: repeat the command" in output
    status, output = run(*command)
    assert status == 0 and "UCert" in output
    assert not (folder / "eval-crown.partial").exists()
