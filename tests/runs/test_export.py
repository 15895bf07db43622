"""export: a trained network in one file computes what it computed, and is evaluated again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import run as command
from command_line import sets

from citrus_lirpa.errors import CheckpointError, DependencyError, ModelError
from citrus_lirpa.formats import safetensors as safetensors_files
from citrus_lirpa.formats.onnx import load_onnx
from citrus_lirpa.runs.export import save_program
from citrus_lirpa.runs.networks import load_network, results_folder
from citrus_lirpa.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small network with BatchNorm, trained for an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    few = sets("model.name=cnn7", "model.width=2", "model.linear=8", "train.epochs=1")
    words = ("--preset", "digits", "--method", "ce", "--out", folder, "--quiet", *few)
    assert command("train", *words)[0] == 0
    return folder


def export(*words: object) -> tuple[int, str]:
    return command("export", *words)


def test_safetensors_are_evaluated_as_the_run(run, tmp_path):
    file = tmp_path / "net.safetensors"
    assert export(run, "--out", file) == (0, f"network: {file}\n")
    records = []
    for path in (run, file):
        few = ("--method", "ibp", "--limit", 5, "--relational", "none", "--eps", "0.001")
        assert command("eval", path, *few, "--quiet")[0] == 0
        records.append(json.loads((results_folder(path) / "eval-ibp.json").read_text()))
    assert results_folder(file) == tmp_path / "net.safetensors-eval"
    assert records[0]["verdicts"] == records[1]["verdicts"]
    assert records[0]["certified_accuracy"] == records[1]["certified_accuracy"]
    begun, state = checkpoint.load(run)
    again, weights = checkpoint.load(file)
    assert again == begun and set(weights) == {"model"}
    torch.testing.assert_close(weights["model"], dict(state["model"]), rtol=0, atol=0)


def test_training_begins_with_safetensors(run, tmp_path):
    export(run, "--out", tmp_path / "net.safetensors")
    begin = ["--config", run / "config.toml", "--init-from", tmp_path / "net.safetensors"]
    words = (*begin, "--out", tmp_path / "run", "--set", "train.lr=1e-12", "--quiet")
    assert command("train", *words)[0] == 0
    weights = {k: v for k, v in checkpoint.load(run)[1]["model"].items() if "running" not in k}
    trained = checkpoint.load(tmp_path / "run")[1]["model"]
    for name, value in weights.items():
        if "num_batches" not in name:
            torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-6)


def test_programs_of_torch_export_run_without_this_package(run, tmp_path):
    file, model = tmp_path / "net.pt2", load_network(run).model
    assert export(run, "--out", file)[0] == 0
    x = torch.rand(5, 1, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch\n"
        f"net = torch.export.load({str(file)!r}).module()\n"
        f"x = torch.load({str(tmp_path / 'x.pt')!r})\n"
        f"torch.save([net(x), net(x[:1])], {str(tmp_path / 'y.pt')!r})\n"
        "assert not any(name.startswith('citrus') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = [model(x), model(x[:1])]
    torch.testing.assert_close(torch.load(tmp_path / "y.pt", weights_only=True), expected)


def test_onnx_alone(run, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    assert export(run, "--out", tmp_path / "net.onnx")[0] == 0
    again, shape = load_onnx(tmp_path / "net.onnx")
    x = torch.rand(3, *shape)
    torch.testing.assert_close(again(x), load_network(run).model(x), rtol=1e-4, atol=1e-5)
    code, output = export(
        *(tmp_path / "net.onnx", "--dataset", "digits"),
        *("--out", tmp_path / "net.safetensors"),
    )
    assert code == 2 and "is an ONNX file; .safetensors holds a run's weights" in output


def test_what_does_not_fit_a_file(run, tmp_path):
    (tmp_path / "there.onnx").write_bytes(b"mine")
    code, output = export(run, "--out", tmp_path / "there.onnx")
    assert code == 2 and "exists; choose another --out" in output
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"
    for given in (("--limit", 3), ("--eps", 0.1), ("--clip",), ("--timeout", 5), ("--images", "1")):
        code, output = export(run, "--out", tmp_path / "net.pt2", *given)
        assert code == 2 and f"{given[0]} is of images, which need a folder" in output
    code, output = export(run, "--out", tmp_path / "folder")
    assert code == 2 and ".onnx, .pt2, .safetensors" in output
    assert [file.name for file in tmp_path.iterdir()] == ["there.onnx"]


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_a_file_for_other_programs_is_no_run(run, tmp_path, name):
    pytest.importorskip("onnx", reason="onnx is not installed")
    assert export(run, "--out", tmp_path / name)[0] == 0
    with pytest.raises(CheckpointError, match="give the run, or a .safetensors file of it"):
        checkpoint.load(tmp_path / name)


def test_a_program_that_computes_something_else_is_not_written(tmp_path):
    class Tracing(torch.nn.Linear):
        """One more while it is exported."""

        def forward(self, x):
            return super().forward(x) + int(torch.compiler.is_compiling())

    with pytest.raises(ModelError, match="other logits"):
        save_program(Tracing(3, 2), (3,), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


def changed(content: bytes) -> bytes:
    """With another last byte of the weights."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (changed, "checksum of its weights does not match"),
        (lambda content: content[: len(content) // 2], "damaged or no safetensors file"),
        (lambda content: b"no such thing", "damaged or no safetensors file"),
        (lambda content: content.replace(b"weights 1", b"weights 9"), "expected 'citrus-lirpa we"),
        (lambda content: content.replace(b"tau_ratio", b"tau_ratix"), "cannot be used: unknown"),
    ],
)
def test_damaged_safetensors(run, tmp_path, spoil, words):
    file = tmp_path / "net.safetensors"
    citrus = checkpoint.load(run)[0].to_toml()
    citrus = citrus.replace('name = "ce"', 'name = "citrus"\ntau_ratio = 0.5')
    safetensors_files.save(file, citrus, checkpoint.load(run)[1]["model"])
    assert checkpoint.load(file)[0].loss["tau_ratio"] == 0.5
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(CheckpointError, match=words):
        load_network(file)


def test_safetensors_of_other_programs(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="weights but no configuration.*citrus-lirpa export"):
        checkpoint.load(tmp_path / "net.safetensors")


def test_without_the_package(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(DependencyError, match=r"citrus-lirpa\[safetensors\]"):
        safetensors_files.save(tmp_path / "net.safetensors", "", {})
