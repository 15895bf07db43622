"""Running out of memory: smaller batches, images left out, clean failures."""

import resource
import sys
from pathlib import Path

import pytest
import torch
from command_line import process
from command_line import run as command
from torch import nn

from citrus_lirpa import METHODS, BoundedNet, Box, GroupAttack, certify, certify_uap
from citrus_lirpa.bounds import lirpa as _compat
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.errors import reason
from citrus_lirpa.verify import stages
from citrus_lirpa.verify.cascade import Cascade
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.engines import LirpaEngine
from citrus_lirpa.verify.memory import allocations_fail_cleanly, in_batches
from citrus_lirpa.verify.stages import stages_up_to

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB"
CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
CUDNN = "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")


def limited(function, most, error):
    """``function`` of rows, which raises ``error`` for more than ``most``; and its calls."""
    calls = []

    def run(rows):
        calls.append(len(rows))
        if len(rows) > most:
            raise error
        return function(rows)

    return run, calls


@pytest.mark.parametrize(
    "error",
    [
        *map(RuntimeError, (CUDA, CPU, CUBLAS, CUDNN)),
        RuntimeError("Unable to find an engine to execute this computation"),
        MemoryError(),
        torch.OutOfMemoryError(CUDA),
    ],
)
def test_batches_are_halved_for_good(error):
    run, calls = limited(lambda rows: rows * 10, 3, error)
    done, told = [], []
    for rows, result in in_batches(run, torch.arange(12), 8, told.append):
        assert torch.equal(result, rows * 10)
        done += rows.tolist()
    assert done == list(range(12))
    assert calls == [8, 4, 2, 2, 2, 2, 2, 2]
    assert sum(told) == 12
    calls.clear()
    list(in_batches(run, torch.arange(5), 64, told.append))
    assert calls == [5, 2, 2, 1]


def test_a_row_that_does_not_fit_is_left_out():
    def run(rows):
        if 2 in rows:
            raise MemoryError
        return rows

    told = []
    found = [(rows.tolist(), result) for rows, result in
             in_batches(run, torch.arange(5), 5, told.append)]  # fmt: skip
    assert [rows for rows, _ in found] == [[0, 1], [2], [3], [4]]
    assert [rows for rows, result in found if result is None] == [[2]]
    assert sum(told) == 5


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), ValueError("out of memory")])
def test_other_errors_pass(error):
    def run(_):
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(in_batches(run, torch.arange(5), 5, lambda _: None))
    assert list(in_batches(run, torch.arange(0), 5, lambda _: None)) == []


def small_net():
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(),
                          nn.Linear(8, 3))  # fmt: skip
    for parameter in model.parameters():
        parameter.data *= 3  # so that the methods differ
    x = torch.rand(25, 4)
    net = BoundedNet(model, x).eval()
    return net, x, net(x).argmax(1)


class Scarce(LirpaEngine):
    """An engine that runs out of memory for more than ``most[stage]`` images, or where it
    bounds an image among ``large[stage]``."""

    def __init__(self, net, most=None, large=None):
        super().__init__(net, Ball(0.05), "scarce")
        self.most, self.large = most or {}, large or {}

    def check(self, x, stage):
        here = self.large.get(stage, x[:0])
        if len(x) > self.most.get(stage, 10**6) or bool((x.unsqueeze(1) == here).all(2).any()):
            raise RuntimeError(CUDA)

    def ibp(self, x, y):
        self.check(x, "ibp")
        return super().ibp(x, y)

    def margins(self, images, open_rows, iterations):
        self.check(images.x, "alpha-crown" if iterations else images.method)
        return super().margins(images, open_rows, iterations)


def run(engine, x, y, method="alpha-crown"):
    cascade = Cascade(engine.net, engine.ball, engine, stages_up_to(method))
    return cascade.certificates(x, y, torch.arange(len(x)))


@pytest.mark.parametrize("most", [1, 3])
def test_certificates_do_not_depend_on_the_memory(most):
    net, x, y = small_net()
    expected = run(LirpaEngine(net, Ball(0.05), ""), x, y, "crown")
    assert len(set(expected.decided_by.tolist())) >= 3
    found = run(Scarce(net, dict.fromkeys(METHODS, most)), x, y, "crown")
    assert torch.equal(found.decided_by, expected.decided_by)
    assert torch.equal(found.rows, expected.rows)
    assert torch.allclose(found.margin, expected.margin, atol=1e-5)
    assert found.not_fitting == dict.fromkeys(expected.methods, 0)


def test_what_does_not_fit_is_counted_and_left_to_the_other_stages():
    net, x, y = small_net()
    plenty = run(LirpaEngine(net, Ball(0.05), ""), x, y)
    scarce = run(Scarce(net, {"crown": 0, "alpha-crown": 0}), x, y)
    left = int((~plenty.certified_by("crown-ibp")).sum())
    assert left >= 3
    assert scarce.not_fitting == {"ibp": 0, "crown-ibp": 0, "crown": left, "alpha-crown": left}
    assert torch.equal(scarce.certified, plenty.certified_by("crown-ibp"))
    assert (scarce.margin > -torch.inf).all()  # the cheaper stages' bounds are kept


@pytest.mark.parametrize("stage", ["crown", "ibp"])
def test_one_large_image_does_not_stop_the_others(stage):
    net, x, y = small_net()
    plenty = run(LirpaEngine(net, Ball(0.05), ""), x, y)
    large = int((plenty.decided_by > 1).nonzero()[0])
    found = run(Scarce(net, large={stage: x[[large]]}), x, y)
    assert found.not_fitting == {**dict.fromkeys(METHODS, 0), stage: 1}
    others = torch.arange(len(x)) != large
    assert torch.equal(found.decided_by[others], plenty.decided_by[others])
    # alpha-crown had its turn; without IBP there are no bounds to start from
    assert bool(found.certified[large]) == (stage == "crown" and bool(plenty.certified[large]))


@pytest.mark.parametrize("name", ["tightened", "margins"])
def test_a_lack_of_memory_in_the_dual_engine_is_counted(monkeypatch, name):
    net, x, y = small_net()
    plenty = certify(net, x, y, 0.05)
    monkeypatch.setattr(DualEngine, name, raising)
    found = certify(net, x, y, 0.05)
    assert found.not_fitting["crown"] > 0
    assert torch.equal(found.certified_by("ibp"), plenty.certified_by("ibp"))


def test_a_lack_of_memory_in_branch_and_bound_proves_nothing(monkeypatch):
    net, x, y = small_net()
    cheaper = certify(net, x, y, 0.3)
    monkeypatch.setattr(stages, "branch_and_bound", raising)
    found = certify(net, x, y, 0.3, method="bab", time_limit=0.1)
    assert torch.equal(found.certified, cheaper.certified)
    assert found.not_fitting["bab"] == int(cheaper.open.sum())


@pytest.mark.parametrize("name", ["ibp", "refined", "margins", "lines"])
def test_a_lack_of_memory_in_the_group_stage_leaves_groups_as_they_are(monkeypatch, name):
    net, x, y = small_net()
    proofs = certify(net, x, y, 0.3, method="ibp")
    monkeypatch.setattr(DualEngine, name, raising)
    found = certify_uap(
        net, x, y, 0.3, certificates=proofs, time_limit=0.2, attack=GroupAttack(5, restarts=1)
    )
    assert int(found.lower.sum()) == int(proofs.certified.sum())


def raising(*_, **__):
    raise RuntimeError(CUDA)


def test_a_group_attack_that_does_not_fit():
    net, x, y = small_net()
    proofs = certify(net, x, y, 0.3, method="ibp")

    def scarce(most):
        def attack(net, x, *rest):
            if len(x) > most:
                raise RuntimeError(CUDA)
            return GroupAttack(steps=10, restarts=1)(net, x, *rest)

        return attack

    found = certify_uap(net, x, y, 0.3, certificates=proofs, time_limit=1, attack=scarce(1))
    assert int(found.lower.sum()) <= int(found.upper.sum()) < 25
    nothing = certify_uap(net, x, y, 0.3, certificates=proofs, time_limit=0.2, attack=scarce(0))
    assert nothing.upper.tolist() == [5] * 5
    assert not nothing.u.any()


def test_a_failure_while_optimising_leaves_the_net_usable(monkeypatch):
    net, x, y = small_net()
    small = Box.around(x[:2], 0.1)
    expected = {method: net.margins(small, y[:2], method).detach() for method in METHODS}

    def step(*_, **__):
        raise RuntimeError(CUDA)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(torch.optim.Adam, "step", step)
        net.margins(Box.around(x, 0.1), y, "alpha-crown")
    assert all(p.requires_grad for p in net.parameters())
    for method in METHODS:
        assert torch.allclose(net.margins(small, y[:2], method), expected[method], atol=1e-6)


# ---------------------------------------------------------------------- the real thing


@LINUX
def test_the_limit_holds_inside_only():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(KeyError), allocations_fail_cleanly(torch.device("cpu")):
        inside = resource.getrlimit(resource.RLIMIT_DATA)
        raise KeyError
    assert inside[0] != before[0] and inside[1] == before[1]
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with allocations_fail_cleanly(torch.device("cuda")):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before

    net, x, y = small_net()
    seen = []

    def announce(stage):
        seen.append(resource.getrlimit(resource.RLIMIT_DATA))

    certify(net, x, y, 0.1, method="ibp", announce=announce)
    assert seen and all(limit[0] != before[0] for limit in seen)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


REALLY_RUN_OUT = """
import sys, torch
from pathlib import Path
from citrus_lirpa.errors import is_out_of_memory
from citrus_lirpa.verify.memory import allocations_fail_cleanly

lines = Path("/proc/meminfo").read_text().splitlines()
free = next(int(l.split()[1]) for l in lines if l.startswith("MemAvailable")) * 1024

def hoard(share, chunks=20):
    # memory that is never written to: Linux would grant more of it than there is
    kept = []
    for _ in range(chunks):
        kept.append(torch.empty(int(free * share / chunks), dtype=torch.uint8))

hoard(1.8)  # not limited: granted
with allocations_fail_cleanly(torch.device("cpu")):
    hoard(0.5)
    try:
        hoard(1.8)
    except RuntimeError as error:
        print("raised", is_out_of_memory(error))
    x = torch.rand(1000, 1000)  # and life goes on
    print(float((x @ x).sum()) > 0)
hoard(1.8)
print("restored")
"""


@LINUX
def test_allocating_more_than_there_is_raises_instead_of_killing():
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this kernel never promises more than there is")
    done = process("-c", REALLY_RUN_OUT)
    assert (done.returncode, done.stdout.split()) == (0, ["raised", "True", "True", "restored"]), (
        done.stderr
    )


@pytest.mark.parametrize("error", [MemoryError("no 9 GiB"), RuntimeError(CUDA)])
def test_out_of_memory_is_one_line_on_the_command_line(error, monkeypatch):
    def full() -> None:
        raise error

    monkeypatch.setattr(_compat, "load", full)
    status, output = command("attack", "zoo:mnist-0.1-convsmall")
    assert (status, output.count("\n")) == (1, 1)
    assert "out of memory; use a smaller batch" in output


def test_a_reason_is_one_line_even_where_an_error_says_nothing():
    assert reason(AssertionError()) == "AssertionError"
    assert reason(RuntimeError(" \n ")) == "RuntimeError"
    assert reason(RuntimeError("first\n\tsecond")) == "first second"
    assert len(reason(RuntimeError("a" * 999))) == 200
