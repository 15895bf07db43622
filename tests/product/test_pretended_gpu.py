"""All that computes, on a GPU that is pretended (tests/pretend_cuda.py): nothing fails or waits."""

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import on_pretended_gpu

from citrus_lirpa.losses.registry import TRAINING_METHODS

TESTS = Path(__file__).parents[1]
#: Methods with attacks, with bounds of auto_LiRPA, and with perturbations that are kept.
METHODS = ("citrus", "crown-ibp", "uat")
COMMANDS = ("resume", "eval", "import", "attack", "smooth", "sweep", "doctor")
#: The versions of torch whose private names tests/pretend_cuda.py knows.
TORCH = "2.11."

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the pretended GPU needs Linux"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="it needs a C++ compiler"),
    pytest.mark.skipif(
        not version("torch").startswith(TORCH), reason=f"it knows torch {TORCH}x alone"
    ),
]


def look(folder: Path, methods) -> dict:
    """What was seen there."""
    on_pretended_gpu(TESTS / "on_pretended_gpu.py", folder, *methods)
    return json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    return look(tmp_path_factory.mktemp("gpu"), METHODS)


def test_the_pretended_gpu_sees_what_a_gpu_would(seen):
    """Controls: else the tests below would find nothing whatever there was."""
    controls = seen["controls"]
    assert controls["raised"] == [True, True, False, False]
    assert controls["mixed"] == 1
    assert controls["waits"] == 5


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_without_mixing_devices(seen, name):
    found = seen["commands"][name]
    assert (found["exit"], found["mixed"], found["without_kernel"]) == (0, [], []), found["told"]
    if name == "doctor":
        assert found["told"].count("on the GPU") == 3
    else:
        assert found["operators"] > 10


def test_an_eps_on_the_cpu_is_moved(seen):
    assert seen["radii"]["mixed"] == []


def test_wrapping_leaves_weights_and_buffers_where_they_are(seen):
    assert seen["moved"]["of"] > 30 and seen["moved"]["tensors"] == []


def test_certificates_convolve_without_transforms_and_training_as_fast_as_cudnn_can(seen):
    assert (seen["moved"]["certify"], seen["moved"]["train"]) == ([False], [True])


def test_as_many_margins_are_bounded_together_as_the_free_memory_takes(seen):
    many, alone, shared = seen["moved"]["rows"]
    assert many == 4096  # 32 GiB are free, and the network is small
    assert 4 < shared == alone // 4  # four processes on the GPU, of which 16 MiB are free


def test_a_training_begins_with_the_weights_that_it_has_on_the_cpu(seen):
    assert seen["moved"]["alike"]


def test_a_training_lets_cudnn_measure_its_convolutions_and_nothing_else_does(seen):
    measures = {name for name, found in seen["commands"].items() if found["measures convolutions"]}
    assert measures == {"resume", "sweep"}


def test_data_is_checked_once_before_the_steps(seen):
    labels, numbers, pixels = seen["refusals"]
    assert "expected 0 to 9 for 10 classes" in labels
    assert "NaN" in numbers
    assert "outside the valid range" in pixels


def test_the_steps_of_a_group_attack_do_not_wait(seen):
    few, many = seen["radii"]["waits of a group attack"]
    assert few == many


def check_waits(found: dict) -> None:
    assert (found["mixed"], found["without_kernel"]) == ([], [])
    assert len(found["lines"]) > 3  # an epoch has some
    assert sum(found["lines"].values()) <= 1, found["lines"]


@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_waits_for_the_gpu_at_most_once(seen, method):
    check_waits(seen["waits"][method])


def flat(values) -> list:
    nested = isinstance(values, list)
    return [one for value in values for one in flat(value)] if nested else [values]


def test_results_are_those_of_the_cpu(seen):
    """With the same random numbers: weights, metrics, bounds, verdicts, groups, attacks."""
    cpu, gpu = seen["results"]["cpu"], seen["results"]["cuda"]
    assert cpu.keys() == gpu.keys() and len(cpu) > 10
    assert {"attacked", "wrong", "ibp", "crown"} < set(cpu["certificates"])
    for name, values in cpu.items():
        if name in ("certificates", "groups"):
            assert gpu[name] == values
        else:
            assert flat(gpu[name]) == pytest.approx(flat(values), rel=1e-4, abs=1e-5), name


@pytest.mark.nightly
def test_two_processes_exchange_what_nccl_can_carry(tmp_path):
    """On both the same in the same order: the GPU's tensors, and numbers of the host by gloo."""
    launcher = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"
    on_pretended_gpu(TESTS / "job_on_pretended_gpu.py", tmp_path, launcher=launcher)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one == other and one["mixed"] == []
    assert one["backends"] == ["cpu:gloo,cuda:nccl"]
    kinds = {(name, device) for name, device, *_ in one["exchanges"]}
    assert kinds == {("broadcast", "cuda"), ("all_reduce", "cuda"), ("all_reduce", "cpu")}
    for _, device, by_gloo_alone, _, count, contiguous in one["exchanges"]:
        assert contiguous and not by_gloo_alone
        assert device == "cuda" or count == 1


@pytest.mark.nightly
def test_no_method_waits_in_its_steps(tmp_path):
    found = look(tmp_path, TRAINING_METHODS)["waits"]
    assert found.keys() == TRAINING_METHODS.keys()
    for method in found.values():
        check_waits(method)
