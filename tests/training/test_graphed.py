"""Steps as CUDA graphs on a pretended GPU, where tests/pretend_graphs.py stands in for graphs."""

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import on_pretended_gpu

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the pretended GPU needs Linux"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="it needs a C++ compiler"),
    pytest.mark.skipif(not version("torch").startswith("2.11."), reason="it knows torch 2.11"),
]
#: Graphs and replays: of 6 steps without ε, 4 on the ramp and 5 behind it, 3 each come before the
#: capture, which is made anew in each epoch. That of SABR has 12 on the ramp and 1 and 2 beside it;
#: its τ/ε changes at the end of each epoch.
COUNTS = {
    "citrus": [4, 3 + 1 + 2],
    "sabr of cnn7": [3, 12 - 3],
    "universal partners": [4, 3 + 1 + 2],
    "staps": [4, 3 + 1 + 2],
}
#: As many of each: CROWN-IBP's bounds and the game's steps cannot be captured; COLT has kinds of
#: its own, while a stage fades in and after that.
AT_NIGHT = {
    "taps": [4, 3 + 1 + 2],
    "cw-uat": [4, 9],
    "crown-ibp": [3, 5],
    "smoothadv": [4, 9],
    "denoiser": [4, 9],
    "colt": [2, 3],
    "colt, fading in": [3, 6],
    "uap-game": [0, 0],
}


def look(folder: Path, *cases: str) -> dict:
    on_pretended_gpu(HERE / "on_pretended_graphs.py", folder, *cases)
    return json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    return look(tmp_path_factory.mktemp("graphs"))


def check_alike(graphed: dict, usual: dict, counts: list[int]) -> None:
    assert [graphed["captured"], graphed["replayed"]] == counts
    assert usual["captured"] == 0
    assert graphed["mixed"] == []
    assert graphed["weights"] == usual["weights"]
    assert graphed["records"] == usual["records"]


@pytest.mark.parametrize("case", COUNTS)
def test_a_training_by_graphs_ends_with_the_weights_of_usual_steps(seen, case):
    """Through three kinds of steps, with ε, the regulariser and the rate changing in each."""
    check_alike(*seen[case], COUNTS[case])
    assert seen[case][0]["log"] == []


@pytest.mark.nightly
def test_so_does_every_other_loss_as_far_as_its_steps_can_be_captured(tmp_path):
    found = look(tmp_path, *AT_NIGHT)
    for case, counts in AT_NIGHT.items():
        check_alike(*found[case], counts)
        told = ["others are not made CUDA graphs" in line for line in found[case][0]["log"]]
        assert told == ([True] if case in ("crown-ibp", "uap-game") else [])


def test_every_kind_of_step_was_seen_and_changes_with_its_numbers(seen):
    """Else the test above would compare little."""
    records = seen["citrus"][0]["records"]
    assert [record["eps"] for record in records] == [0.0, pytest.approx(0.1), pytest.approx(0.1)]
    assert len({record["lr"] for record in records}) == 3
    assert len({record["regulariser"] for record in records}) == 3


def test_no_step_waits_for_the_gpu(seen):
    graphed = seen["citrus"][0]
    assert sum(graphed["waits"].values()) < 15, graphed["waits"]


def test_a_loss_that_reads_from_the_gpu_trains_as_usual_and_the_log_says_so_once(seen):
    graphed, usual = seen["reading"], seen["citrus"][1]
    assert (graphed["captured"], graphed["replayed"]) == (2, 3)  # while ε is 0 it is not asked
    (line,) = graphed["log"]
    assert "training steps are not made CUDA graphs: the host waits for the GPU" in line
    assert graphed["weights"] == usual["weights"]


def test_a_class_of_a_user_is_not_captured_unless_it_says_that_it_can_be(seen):
    assert seen["a user's class"]["captured"] == 0


def test_a_training_goes_on_from_its_checkpoint_with_graphs(seen):
    resumed = seen["resumed"]
    assert resumed["captured"] == 2  # the kind that it was stopped in has one step left
    assert resumed["weights"] == seen["citrus"][0]["weights"]
