"""Several processes as one job: what two of them find is what one does."""

import json
import re
import signal
from pathlib import Path

import pytest
import together
import torch
from command_line import process, run, wait_for
from processes import Processes, program
from torch.nn import functional as F

from citrus_lirpa import data, distributed
from citrus_lirpa.cli import COMMANDS
from citrus_lirpa.errors import DependencyError, DistributedError, InputError
from citrus_lirpa.training import checkpoint, setup


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def started(folder):
    """Two processes that begin with every job."""
    with Processes(together.joined, folder) as processes:
        yield processes


@pytest.fixture(scope="module")
def alone(started, tmp_path_factory) -> dict:
    """What one process says of every job, meanwhile."""
    return together.everything(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two(alone, started, folder) -> list[dict]:
    """What each of two processes says."""
    for status, _, errors in started.wait():
        assert status == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def furthest(a: dict, b: dict) -> float:
    """Largest difference of any weight."""
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def timeless(records: list[dict]) -> list[dict]:
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "kappa")} for record in records
    ]


# -- training -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", together.EQUAL)
def test_two_processes_train_as_one(alone, two, name):
    one, first, second = alone[name], two[0][name], two[1][name]
    assert furthest(one["weights"], first["weights"]) < 1e-6
    assert furthest(first["weights"], second["weights"]) == 0
    assert torch.equal(one["random"], first["random"])
    assert torch.equal(first["random"], second["random"])
    for mine, theirs in zip(timeless(one["records"]), timeless(first["records"]), strict=True):
        assert theirs == pytest.approx(mine, abs=2e-6)
    assert timeless(first["records"]) == timeless(second["records"])
    kappas = [[record["kappa"] for record in part["records"]] for part in (one, first, second)]
    assert kappas[1] == kappas[2]
    assert all(a is None or a >= b for a, b in zip(*kappas[:2], strict=True))
    assert first["seen"] == first["records"] and second["seen"] == []  # one of them talks


def test_the_comparison_sees_a_difference(alone):
    weights = [one["weights"] for name, one in alone.items() if name in together.EQUAL]
    assert all(furthest(weights[0], other) > 1e-3 for other in weights[1:])


def test_batchnorm_in_two_processes(alone, two):
    """One state after every step, and near the one of a single process."""
    one, first, second = alone["cnn"], two[0]["cnn"], two[1]["cnn"]
    assert furthest(first["weights"], second["weights"]) == 0
    assert 1e-6 < furthest(one["weights"], first["weights"]) < 0.1


def test_running_statistics_are_the_mean_of_the_processes(two):
    """After one step, by hand from the first convolution's results on each half."""
    run = together.Run("ibp", (*together.CNN, "data.limit=40"))
    layers = [m for m in run.net.module.modules() if not list(m.children())]
    normalise, first = layers[0], next(m for m in layers if isinstance(m, torch.nn.Conv2d))
    images = data.load("digits", train=True, data_dir=Path("none"))
    order = data.batches(40, 40, seed=run.config.train.seed, epoch=0)[0]
    x = F.conv2d(
        normalise(images.pixels(order)), first.weight, first.bias, first.stride, first.padding
    ).detach()
    means = torch.stack([half.mean(dim=(0, 2, 3)) for half in x.split(20)])
    variances = torch.stack([half.var(dim=(0, 2, 3)) for half in x.split(20)])
    mean, variance, *_ = two[0]["one step"]
    torch.testing.assert_close(mean, 0.1 * means.mean(0))
    torch.testing.assert_close(variance, 0.9 + 0.1 * variances.mean(0))
    assert (means[0] - means[1]).abs().max() > 1e-3  # the halves do differ


def test_a_stop_request_of_one_process_stops_all_at_one_step(two, folder, alone):
    line = f"stopped in epoch 2 of 3, saved; continue with: citrus-lirpa train --resume {folder}"
    assert [part["stopped"] for part in two] == [f"{line}/stopped"] * 2
    state = checkpoint.load(folder / "stopped")[1]
    assert state["step"] == 5
    resumed = together.Run(
        "sabr", (*together.SMALL, together.NO_TIES, together.ATTACK), folder / "stopped"
    )
    resumed.fit()  # in one process, what two began
    assert furthest(resumed.weights(), alone["sabr"]["weights"]) < 1e-6


def test_a_loss_that_is_no_number_in_one_process_stops_all(two, alone, folder):
    for part in two:
        assert part["nan"].startswith("the loss became nan at step 4 (epoch 2); the last good ")
    assert alone["nan"].startswith("the loss became nan at step 4 (epoch 2)")
    assert checkpoint.load(folder / "nan")[1]["step"] == 4


# -- evaluation and attack ----------------------------------------------------------------


def test_two_processes_evaluate_as_one(alone, two):
    one = alone["evaluated"]["first"]
    assert len(one["verdicts"]) == 142 and {"attacked", "ibp", "wrong"} <= set(one["verdicts"])
    assert one["kept"] == 5  # each batch is once on the disk
    for part in (alone, *two):
        assert part["evaluated"] == {"first": one, "resumed": one}


def test_a_smoothed_network_has_the_same_counts(alone, two):
    assert all(part["smoothed"] == alone["smoothed"] for part in two)


def test_two_processes_attack_as_one(alone, two):
    one = alone["attacked"]
    assert one["u"].abs().max() > 0
    for part in two:
        for name, value in one.items():
            other = part["attacked"][name]
            assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value


# -- the exchanges ------------------------------------------------------------------------


def test_exchanges_between_two(two):
    first, second = (part["exchanges"] for part in two)
    for part in (first, second):
        assert [t.tolist() for t in part["average"]] == [[1.5, 4.5], [[0.5]]]
        assert part["averaged"].tolist() == [1]
        assert part["highest"] == [True, 0] and part["agreed"] == ["of 0", 0]
        assert part["copied"].tolist() == [5]
        assert part["share"] == [*range(7), *range(7)] and part["none"] == []
        assert part["rows of a batch that is not shared"].tolist() == [0, 0, 0]
        wanted = "a multiple of the 2 processes, such as 40"
        assert part["refused"] == f"train.batch_size is 41; expected {wanted}"
        assert part["refused pairs"].startswith(
            "train.batch_size is 10, so each of 2 processes takes 5 inputs a step: group size 10"
        )
    assert [part["rows"].tolist() for part in (first, second)] == [[0, 10, 20], [30, 40, 50]]
    assert [part["part"] for part in (first, second)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert first["remote"] + second["remote"] == 7  # each item is another's for one of them
    assert sorted([first["claimed"], second["claimed"]]) == [False, True]
    assert (first["leads"], second["leads"]) == (True, False)


def test_alone_nothing_is_exchanged(alone):
    found = alone["exchanges"]
    assert [t.tolist() for t in found["average"]] == [[1, 3], [[0]]]
    assert found["rows"].tolist() == [0, 10, 20] and found["averaged"].tolist() == [0]
    assert found["highest"] == [False, 0]
    assert found["share"] == [*range(7), *range(7)] and found["remote"] == 0
    assert found["part"] == [*range(10)] and found["refused"] == found["refused pairs"] == ""
    assert found["leads"] and not found["claimed"]


# -- the command line ---------------------------------------------------------------------

TRAIN = ("train", "--preset", "digits", "--quiet", "--set", "data.limit=800", "--set",
         "train.batch_size=16", "--set", "train.epochs=40", "--set", "train.threads=1")  # fmt: skip


def test_a_killed_process_ends_the_other_and_leaves_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    with Processes(program, *TRAIN, "--out", run) as processes:
        wait_for(run / "checkpoint.pt", *processes.all)
        processes.all[1].kill()
        (status, output, errors), (killed, talk, noise) = processes.wait()
    assert killed == -signal.SIGKILL and (talk, noise) == ("", "")
    assert status == 1
    line, *others = errors.splitlines()
    assert all(other.startswith("[rank0]:") for other in others)  # torch 2.5's own temporary folder
    assert line.startswith("Error: another process of this job ended or cannot be reached (")
    assert line.endswith("what was saved is whole: continue with --resume")
    assert re.fullmatch(
        r"citrus on digits: .*, batch 16 over 2 processes, cpu; run folder .*\n", output
    )
    state = checkpoint.load(run)[1]
    assert state["step"] and state["step"] % 50 == 0 and not state["finished"]


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory) -> Path:
    """A run folder that torchrun trained."""
    run = tmp_path_factory.mktemp("torchrun") / "run"
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "cli.py")
    few = ("--set", "data.limit=320", "--set", "train.epochs=3", "--set", "train.ramp_length=1")
    done = process(*launcher, "train", "--preset", "digits", "--method", "ibp", *few, "--out", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("batch 64 over 2 processes") == 1
    assert len(done.stdout.splitlines()) == 1 + 3 + 3  # one of them talks
    return run


def test_what_torchrun_trained_two_processes_evaluate_as_one(run_of_two, tmp_path):
    command = ("eval", run_of_two, "--method", "crown", "--relational", "none", "--limit", 45,
               "--batch-size", 15, "--quiet")  # fmt: skip
    with Processes(program, *command, "--out", tmp_path / "two") as processes:
        ended = processes.wait()
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert run(*command, "--out", tmp_path / "one")[0] == 0
    two, one = (json.loads((tmp_path / n / "eval-crown.json").read_text()) for n in ("two", "one"))
    for record in (one, two):
        del record["seconds"], record["image_seconds"], record["groups"]["seconds"]
    assert two == one and len(one["verdicts"]) == 45
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == sorted(
        file.name for file in (tmp_path / "one").iterdir()
    )


def test_an_error_of_all_processes_is_said_once(two, folder):
    assert [part["misused"][0] for part in two] == [2, 2] and not (folder / "misused").exists()
    assert sorted(part["misused"][1] for part in two) == [
        "",
        "Error: train.batch_size is 65; expected a multiple of the 2 processes, such as 64\n",
    ]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"train", "eval", "attack", "smooth"}))
def test_other_commands_are_for_one_process(monkeypatch, command):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = f"Error: {command} runs in one process; leave out torchrun, which is for train, "
    assert run(command) == (2, f"{line}eval, attack, smooth\n")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert run(command, "--help")[0] == 0


# -- coming together ----------------------------------------------------------------------


@pytest.mark.parametrize("size", ["two", "0", "-1", "1.5", ""])
def test_a_world_that_is_no_number_is_refused(monkeypatch, size):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(InputError, match=f"^WORLD_SIZE is '{size}'; expected a number"):
        distributed.start()


def test_processes_that_cannot_come_together(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(DistributedError, match="^2 processes could not come together: .*torchrun"):
        distributed.start()
    assert distributed.size() == 1


@pytest.mark.parametrize(
    ("backend", "words"), [("gloo", "with gloo"), ("nccl", "GPUs need NCCL.*--device cpu")]
)
def test_without_a_backend(monkeypatch, backend, words):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, f"is_{backend}_available", lambda: False)
    with pytest.raises(DependencyError, match=words):
        distributed.start(cuda=backend == "nccl")


@pytest.mark.parametrize(("name", "rank", "gpu"), [("cuda", "1", 1), ("auto", "0", 0)])
def test_each_process_takes_the_gpu_of_its_number(two_gpus, name, rank, gpu):
    two_gpus.setenv("LOCAL_RANK", rank)
    assert setup.join_processes(name) == torch.device("cuda", gpu)


def test_processes_of_an_evaluation_share_gpus(two_gpus):
    backends = []
    two_gpus.setattr(distributed, "start", lambda *, cuda: backends.append(cuda))
    for rank, gpu in enumerate((0, 1, 0)):
        two_gpus.setenv("LOCAL_RANK", str(rank))
        assert setup.join_processes("cuda", share_gpus=True) == torch.device("cuda", gpu)
    assert backends == [False] * 3  # NCCL takes one process a GPU


@pytest.mark.parametrize(("name", "rank"), [("cuda:1", "0"), ("cuda", "2")])
def test_two_processes_of_a_training_never_share_a_gpu(two_gpus, name, rank):
    two_gpus.setenv("LOCAL_RANK", rank)
    with pytest.raises(InputError, match=f"^process {rank} of this machine .*--device {name}, 2 "):
        setup.join_processes(name)


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that says it has two GPUs; none is touched."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    named = {"auto": "cuda"}
    monkeypatch.setattr(setup, "choose_device", lambda name: torch.device(named.get(name, name)))
    monkeypatch.setattr(distributed, "start", lambda *, cuda: None)
    return monkeypatch
