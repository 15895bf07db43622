"""The commands of benchmarks/gpu, tried on the CPU."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from citrus_lirpa.runs.networks import load_network
from citrus_lirpa.training import checkpoint

HERE = Path(__file__).parent
KIT = HERE.parents[1] / "benchmarks" / "gpu"


def run(script: str, *options: object) -> str:
    command = [sys.executable, str(KIT / script), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("size", [0, 3, 1_000_001, 20 << 20])
def test_pieces_go_together_again(tmp_path, size):
    raw = np.random.default_rng(0).standard_normal(size // 4 + 1).astype("<f4").tobytes()[:size]
    (tmp_path / "weights").write_bytes(raw)
    run("pieces.py", "split", tmp_path / "weights", tmp_path / "out")
    sizes = [file.stat().st_size for file in (tmp_path / "out").glob("weights.*")]
    assert max(sizes) <= 15 << 20 and (len(sizes) > 1) == (size >= 20 << 20)
    run("pieces.py", "join", tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == raw


def test_cifar_comes_back_byte_for_byte(tmp_path):
    """A file as CIFAR-10's, which Python 2 pickled: of one colour an image, so that it is quick."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    shades = np.random.default_rng(0).integers(0, 256, (10_000, 1), dtype=np.uint8)
    pixels = np.broadcast_to(shades, (10_000, 3072)).tobytes()
    head = pickle.dumps({"labels": [1, 2, 3]}, protocol=2)
    raw = head[:-1] + b"T" + len(pixels).to_bytes(4, "little") + pixels + head
    (folder / "data_batch_1").write_bytes(raw)
    (folder / "batches.meta").write_bytes(b"names")
    run("cifar.py", "pack", tmp_path / "data", tmp_path / "packed", "data_batch_1")
    assert sum(file.stat().st_size for file in (tmp_path / "packed").iterdir()) < len(raw) / 20
    run("cifar.py", "unpack", tmp_path / "packed", tmp_path / "again")
    found = tmp_path / "again" / "cifar-10-batches-py"
    assert (found / "data_batch_1").read_bytes() == raw
    assert (found / "batches.meta").read_bytes() == b"names"


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="the pretended GPU needs Linux")
@pytest.mark.skipif(shutil.which("c++") is None, reason="it needs a C++ compiler")
@pytest.mark.skipif(not version("torch").startswith("2.11."), reason="it knows torch 2.11")
def test_steps_are_timed_by_graphs_on_a_pretended_gpu():
    places = [str(KIT.parents[1]), str(HERE.parent)]
    done = subprocess.run(
        [sys.executable, str(HERE / "kit_on_pretended_gpu.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["mixed"] == [] and found["graphs"]["captured"] == 8
    for row in found["rows"]:
        graphed, usual, channels_last = (way["loss"] for way in row["ways"].values())
        assert graphed == usual == pytest.approx(channels_last, rel=1e-2)


@pytest.mark.nightly
def test_both_commands_end_to_end(tmp_path, real_data):
    said = run("first.py", tmp_path, "--device", "cpu", "--small", "--seconds", 600)
    assert "checks: 15 of 15 passed" in said
    first = json.loads((tmp_path / "first.json").read_text())
    timed = [row["ways"] for row in first["steps"] if row["precision"] != "tf32"]
    assert len(timed) == 4  # a CPU has no TF32
    for ways in timed:
        graphed, usual, channels_last = ways.values()
        assert graphed["loss"] == usual["loss"] == pytest.approx(channels_last["loss"], rel=1e-2)
    assert [row["proved"] for row in first["certifying"]] == 3 * [first["certifying"][0]["proved"]]
    more = ("--precision", "float32", "--total", 800, "--data-dir", real_data)
    run("second.py", tmp_path, "--device", "cpu", "--small", *more)
    second = json.loads((tmp_path / "second.json").read_text())
    assert set(second["said"].values()) == {"finished"} and len(second["said"]) == 6
    for name in second["said"].keys() - {"train", "export"}:
        assert second[name][0]["images"] == 10
    run("pieces.py", "join", tmp_path, tmp_path / "joined.safetensors")
    ours = checkpoint.load_model(tmp_path / "run")[0].state_dict()
    theirs = load_network(tmp_path / "joined.safetensors").model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
