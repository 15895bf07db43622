"""The networks that ship with the package."""

import shutil

import pytest
import torch
from command_line import run, said, sets
from fuzzing import sizes

from citrus_lirpa import BoundedNet, certify, data
from citrus_lirpa.errors import CheckpointError, InputError
from citrus_lirpa.runs.networks import load_network, results_folder
from citrus_lirpa.training import checkpoint, zoo

every_network = pytest.mark.parametrize("name", zoo.names())


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The zoo's folder, to be changed."""
    folder = shutil.copytree(zoo.FOLDER, tmp_path / "zoo")
    monkeypatch.setattr(zoo, "FOLDER", folder)
    return folder


@every_network
def test_a_network_is_small_weights_alone_and_evaluated_on_all_images(name):
    file = zoo.find(f"zoo:{name}")
    assert file.stat().st_size < 1_000_000
    config, state = checkpoint.load(file)
    assert set(state) == {"format", "config", "model"}
    found, spec = zoo.evaluation(name), load_network(f"zoo:{name}").spec
    assert (found["run"], found["data"]) == (f"zoo:{name}", spec.name)
    assert found["images"] == 10_000 and found["eps"] == config.train.eps
    bounds = found["uap_accuracy"]
    assert 0 < bounds["certified"] <= bounds["attacked"] <= found["standard_accuracy"] < 1


@every_network
@sizes(1_000, 10_000)
def test_a_network_certifies_what_its_evaluation_says(name, cases, real_data):
    """Of all images the shares are those of the evaluation, of the first ones they are near."""
    subject, found = load_network(f"zoo:{name}"), zoo.evaluation(name)
    images = data.load(subject.spec.name, train=False, data_dir=real_data, download=False)
    net = BoundedNet(subject.model, torch.zeros(2, *subject.spec.shape))
    x, y = images.pixels(slice(cases)), images.labels[:cases]
    near = 2e-4 if len(x) == found["images"] else 0.05
    parts = [
        certify(net, *part, eps=subject.eps, method="crown-ibp", attack=None)
        for part in zip(x.split(500), y.split(500), strict=True)
    ]
    said = found["certified_accuracy"]
    for stage, share in (("ibp", said["ibp"]), ("crown-ibp", said["crown-ibp"])):
        proved = sum(int(part.certified_by(stage).sum()) for part in parts)
        assert proved / len(x) == pytest.approx(share, abs=near), stage
    correct = sum(int(part.correct.sum()) for part in parts)
    assert correct / len(x) == pytest.approx(found["standard_accuracy"], abs=near)


def test_what_is_not_there(copied):
    name = zoo.names()[0]
    with pytest.raises(InputError, match=f"network of the zoo 'mnst'.*{name}"):
        zoo.find("zoo:mnst")
    assert "unknown network" in said(*run("eval", "zoo:mnst"), 2)
    file = copied / f"{name}.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged; install citrus-lirpa again"):
        zoo.find(f"zoo:{name}")
    file.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_network(f"zoo:{name}")


@every_network
def test_results_go_into_the_current_folder(name):
    assert str(results_folder(f"zoo:{name}")) == f"{name}-eval"


def test_training_begins_with_a_network_of_the_zoo(tmp_path, real_data):
    name = next(name for name in zoo.names() if name.startswith("mnist"))
    begin = ["--preset", "mnist-0.1", "--init-from", f"zoo:{name}", "--data-dir", real_data]
    few = sets("model.name=convsmall", "train.epochs=1", "train.batch_size=64", "data.limit=64",
               "train.lr=1e-9")  # fmt: skip
    status, output = run("train", *begin, *few, "--out", tmp_path / "run", "--quiet")
    assert status == 0, output
    config, state = checkpoint.load(tmp_path / "run")
    assert config.train.init_from == f"zoo:{name}"
    weights = checkpoint.load(zoo.find(f"zoo:{name}"))[1]["model"]
    torch.testing.assert_close(state["model"], weights, atol=1e-6, rtol=0)
