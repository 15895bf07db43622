"""The examples run as they stand, and train: each prints what it reached."""

import importlib.util
import re
import runpy
import sys

import pytest
from command_line import ROOT, process


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example in this process, and return what it prints."""

    def from_top_to_bottom(name: str, *options: object) -> str:
        file = ROOT / "examples" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(file), *map(str, options)])
        runpy.run_path(str(file), run_name="__main__")
        return capsys.readouterr().out

    return from_top_to_bottom


def accuracies(output: str) -> list[float]:
    """Standard and certified accuracy, in percent."""
    found = re.search(r"standard accuracy ([\d.]+)%, certified UAP accuracy ([\d.]+)%", output)
    assert found, output
    return [float(share) for share in found.groups()]


def test_a_training_script_of_auto_lirpas() -> None:
    """In a process of its own, where the order of imports matters and warnings are errors."""
    script = ("examples/lirpa_training.py", "--epochs", "4", "--eps", "0.03")
    done = process("-W", "error", *script)
    assert done.returncode == 0, done.stderr
    accuracy, certified = accuracies(done.stdout)
    assert accuracy > 85 and certified > 70


def test_the_same_script_with_a_bounded_net(run) -> None:
    accuracy, certified = accuracies(
        run("lirpa_training", "--net", "bounded", "--epochs", "4", "--eps", "0.03")
    )
    assert accuracy > 85 and certified > 70


def test_the_interface_of_ctrains_wrappers(run) -> None:
    accuracy, certified = accuracies(run("ctrain_wrapper", "--epochs", "8"))
    assert accuracy > 80 and certified > 10


@pytest.mark.filterwarnings("default")  # lightning warns of itself
def test_a_lightning_module(run) -> None:
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("PyTorch Lightning is not installed")
    accuracy, certified = accuracies(run("lightning_module", "--epochs", "12"))
    assert accuracy > 80 and certified > 10


@pytest.mark.filterwarnings("default")  # datasets warns of itself
def test_images_of_hugging_face(run, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("Hugging Face datasets is not installed")
    accuracy, certified = accuracies(run("huggingface_images", "--epochs", "6"))
    assert accuracy > 80 and certified > 10


def test_a_resnet_tightens_its_bounds(run) -> None:
    output = run("resnet18", "--steps", "4")
    before, after = re.search(r"([\d.e+]+) before, ([\d.e+]+) after", output).groups()
    assert "11,172,810 weights, 17 ReLUs" in output
    assert float(after) < 0.5 * float(before)
