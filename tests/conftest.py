"""Fixtures of all tests. Nothing here or in a test needs a network."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import leave_pictures_out, run_in_this_process, small_run
from networks import attack_quickly
from results import made_up_evaluation

from citrus_lirpa.bounds import lirpa

lirpa.load()  # sets the recursion limit, which must not change within a test of hypothesis
torch.set_num_threads(1)
# A shell that starts the tests in the background has them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: What is tested in these rooms does not depend on how many images an attack breaks.
COMMANDS = ("benchmarks", "cli", "docs", "product", "reports", "runs", "tuning")
UNPACKER = Path(__file__).parents[2] / "shared" / "data" / "unpack.py"


def pytest_collection_finish() -> None:
    """Leave what is imported and collected out of garbage collections, half a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def quick_attack(request) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in COMMANDS:
            attack_quickly(patch)
        yield


@pytest.fixture(autouse=True)
def pictures(request, monkeypatch) -> None:
    """In the rooms of commands, only tests that ask for ``rendered`` have their plots rendered."""
    commands = request.path.parent.name in ("cli", "product", "runs", "tuning")
    if commands and "rendered" not in request.fixturenames:
        leave_pictures_out(monkeypatch)


@pytest.fixture
def rendered() -> None:
    """Plots are rendered, for tests that look at them."""


@pytest.fixture
def double():
    """Float64, so that a comparison of gradients sees no rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory) -> Path:
    """A folder with the real MNIST and CIFAR-10 in torchvision's layout; skips without."""
    if folder := os.environ.get("CITRUS_DATA_DIR"):
        return Path(folder)
    if not UNPACKER.exists():
        pytest.skip("no real data: set CITRUS_DATA_DIR to a folder with MNIST and CIFAR-10")
    folder = tmp_path_factory.mktemp("data")
    subprocess.run(
        [sys.executable, UNPACKER, folder, "mnist", "cifar10"], check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory) -> Path:
    """A run of one epoch, with an evaluation by IBP; to be copied before it is changed."""
    return small_run(tmp_path_factory.mktemp("evaluated") / "run")


@pytest.fixture
def evaluation():
    return made_up_evaluation()


@pytest.fixture
def one_process(monkeypatch) -> None:
    """The steps of a sweep run in this process, which has imported everything already."""
    monkeypatch.setattr("citrus_lirpa.runs.jobs.run_jobs", run_in_this_process)
