"""The examples run as they stand, and train: each prints what it reached."""

import importlib.util
import json
import re

import pytest
from command_line import process
from command_line import run as cli


def run(name: str, *options: object, strict: bool = True) -> str:
    """What the example prints; strict: warnings are errors in it."""
    words = [*(["-W", "error"] if strict else []), f"examples/{name}.py", *options]
    done = process(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracies(output: str) -> list[float]:
    """Standard and certified accuracy, in percent."""
    found = re.search(r"standard accuracy ([\d.]+)%, certified UAP accuracy ([\d.]+)%", output)
    assert found, output
    return [float(share) for share in found.groups()]


@pytest.mark.parametrize("net", ["lirpa", "bounded"])
def test_a_training_script_of_auto_lirpas(net: str) -> None:
    accuracy, certified = accuracies(
        run("lirpa_training", "--net", net, "--epochs", "4", "--eps", "0.03")
    )
    assert accuracy > 85 and certified > 70


def test_the_interface_of_ctrains_wrappers() -> None:
    accuracy, certified = accuracies(run("ctrain_wrapper", "--epochs", "8"))
    assert accuracy > 80 and certified > 10


def test_a_lightning_module() -> None:
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("PyTorch Lightning is not installed")
    output = run("lightning_module", "--epochs", "12", strict=False)  # lightning warns of itself
    accuracy, certified = accuracies(output)
    assert accuracy > 80 and certified > 10


def test_images_of_hugging_face(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("Hugging Face datasets is not installed")
    accuracy, certified = accuracies(run("huggingface_images", "--epochs", "6", strict=False))
    assert accuracy > 80 and certified > 10


def test_a_denoiser_in_front_of_a_network_makes_it_smoother(tmp_path) -> None:
    """More is certified of a network that has seen no noise, and the network stays as it is."""
    file, folder = tmp_path / "denoiser.onnx", tmp_path / "run"
    told = run("denoiser", "--out", file, "--steps", "250")
    found = re.search(r"error ([\d.]+), of the noise itself 0.0625", told)
    assert float(found.group(1)) < 0.03
    made = ("train", "--preset", "digits", "--method", "ce", "--out", folder, "--quiet")
    assert cli(*made, "--set", "train.epochs=10")[0] == 0
    smooth = ("smooth", folder, "--sigma", "0.25", "--n", 200, "--limit", 40, "--quiet")
    assert cli(*smooth)[0] == cli(*smooth, "--denoiser", file)[0] == 0
    plain, denoised = (
        json.loads((folder / f"smooth-0.25{name}.json").read_text()) for name in ("", "-denoised")
    )
    assert (plain["denoiser"], denoised["denoiser"]) == (None, str(file))
    assert denoised["accuracy_at"]["0.25"] > plain["accuracy_at"]["0.25"] + 0.05


def test_a_resnet_tightens_its_bounds() -> None:
    output = run("resnet18", "--steps", "4")
    before, after = re.search(r"([\d.e+]+) before, ([\d.e+]+) after", output).groups()
    assert "11,172,810 weights, 17 ReLUs" in output
    assert float(after) < 0.5 * float(before)
