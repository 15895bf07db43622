"""networks: runs and ONNX files, told apart and checked against their data sets."""

import json

import pytest
import torch
from command_line import run
from torch import nn

from citrus_lirpa import data
from citrus_lirpa.errors import InputError
from citrus_lirpa.formats.onnx import save_onnx
from citrus_lirpa.models import build_model
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.runs.networks import Network, evaluation_images, load_network, results_folder
from citrus_lirpa.training import checkpoint, config
from citrus_lirpa.training import loop as train


def small(shape=(1, 8, 8), classes=10):
    zeros, ones = [0.0] * shape[0], [1.0] * shape[0]
    return build_model(
        "mlp", shape=shape, classes=classes, mean=zeros, std=ones, hidden=[12]
    ).eval()


@pytest.fixture
def run_folder(tmp_path):
    overrides = ("train.eps=0.07", "train.threads=2", "model.hidden=[12]")
    settings = config.resolve(preset="digits", overrides=overrides)
    RunFolder(tmp_path / "run").begin(settings)
    torch.manual_seed(3)
    model, _ = checkpoint.make_model(settings)
    checkpoint.save(
        tmp_path / "run" / checkpoint.FILE_NAME, settings, {"model": model.state_dict()}
    )
    return tmp_path / "run", model.eval()


@pytest.fixture
def onnx_file(tmp_path):
    model = small()
    save_onnx(model, (1, 8, 8), tmp_path / "net.onnx")
    return tmp_path / "net.onnx", model


def test_a_run_knows_its_settings(run_folder):
    folder, model = run_folder
    x = torch.rand(3, 1, 8, 8)
    for path in (folder, folder / checkpoint.FILE_NAME, str(folder)):
        network = load_network(path)
        assert (network.spec.name, network.eps, network.threads) == ("digits", 0.07, 2)
        assert network.name == str(path) and not network.model.training
        assert torch.equal(network.model(x), model(x))
        assert results_folder(path) == folder
    assert load_network(folder, "digits", 0.5).eps == 0.5
    assert load_network(folder, eps=0.0).eps == 0.0
    with pytest.raises(InputError, match="was trained on digits, not mnist; drop --dataset"):
        load_network(folder, "mnist")


def test_an_onnx_file_is_told_its_settings(onnx_file):
    path, model = onnx_file
    network = load_network(path, "digits", 0.1)
    assert (network.spec.name, network.eps, network.threads) == ("digits", 0.1, 0)
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(network.model(x), model(x), atol=1e-6)
    assert results_folder(path) == path.parent / "net-eval"


@pytest.mark.parametrize(
    ("dataset", "eps", "words"),
    [
        (None, 0.1, "--dataset is missing; add for example --dataset mnist"),
        ("digits", None, "--eps is missing; add for example --eps 8/255"),
        ("digits", 8, "ε is 8; expected a radius in pixels, which are from 0 to 1, such as 8/255"),
        ("mnist", 0.1, r"takes inputs \(1, 8, 8\), but .* mnist are \(1, 28, 28\).*: digits"),
        ("mnsit", 0.1, "'mnsit'; did you mean 'mnist'"),
    ],
)
def test_an_onnx_file_that_does_not_fit(onnx_file, dataset, eps, words):
    with pytest.raises(InputError, match=words):
        load_network(onnx_file[0], dataset, eps)


def test_other_numbers_of_classes(tmp_path):
    save_onnx(small(classes=7), (1, 8, 8), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="knows 7 classes, but digits has 10"):
        load_network(tmp_path / "net.onnx", "digits", 0.1)


def test_eval_of_a_run_and_of_its_onnx_file_agree(run_folder, tmp_path):
    folder, model = run_folder
    save_onnx(model, (1, 8, 8), tmp_path / "net.onnx")
    records = []
    for path, options, out in (
        (folder, (), folder),
        (tmp_path / "net.onnx", ("--dataset", "digits", "--eps", "0.07"), tmp_path / "net-eval"),
    ):
        assert (
            run("eval", path, *options, "--method", "crown-ibp", "--limit", 20, "--quiet")[0] == 0
        )
        record = json.loads((out / "eval-crown-ibp.json").read_text())
        assert (record["run"], record["data"], record["eps"]) == (str(path), "digits", 0.07)
        of_the_file = ("run", "seconds", "image_seconds", "identity", "weights")
        del record["groups"]["seconds"]
        records.append({k: v for k, v in record.items() if k not in of_the_file})
    assert records[0] == records[1]


def test_held_out_images_are_those_that_training_did_not_see(tmp_path):
    overrides = ("data.held_out=30", "data.limit=40", "model.hidden=[4]")
    settings = config.resolve(preset="digits", overrides=overrides)
    whole = data.load("digits", train=True, data_dir=tmp_path)
    part = train.training_part(whole, settings)
    assert torch.equal(part.images, whole.images[:40])
    model, spec = checkpoint.make_model(settings)
    network = Network(model, spec, 0.1, 1, "run", settings.data.held_out)
    seen = evaluation_images(network, tmp_path, held_out=True, download=False)
    assert torch.equal(seen.images, whole.images[-30:])
    assert torch.equal(seen.labels, whole.labels[-30:])
    test = evaluation_images(network, tmp_path, held_out=False, download=False)
    assert torch.equal(test.images, data.load("digits", train=False, data_dir=tmp_path).images)
    everything = Network(model, spec, 0.1, 1, "run")
    with pytest.raises(InputError, match="run was trained without held-out images"):
        evaluation_images(everything, tmp_path, held_out=True, download=False)


@pytest.mark.parametrize("preset", config.presets())
def test_the_network_of_each_preset_is_taken_back_as_a_file(preset, tmp_path):
    pytest.importorskip("onnx")
    narrow = [] if preset == "digits" else ["model.width=0.05"]
    settings = config.resolve(preset=preset, overrides=narrow)
    model, spec = checkpoint.make_model(settings)
    save_onnx(model.eval(), spec.shape, tmp_path / "net.onnx")
    network = load_network(tmp_path / "net.onnx", settings.data.name, settings.train.eps)
    assert network.spec == spec
    x = torch.rand(2, *spec.shape)
    torch.testing.assert_close(network.model(x), model(x))


@pytest.mark.parametrize(("side", "taken"), [(56, True), (64, True), (40, False)])
def test_a_file_takes_images_cropped_as_a_preset_crops_them(side, taken, tmp_path):
    pytest.importorskip("onnx")
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * (side // 8) ** 2, 200))
    save_onnx(model, (3, side, side), tmp_path / "net.onnx")
    if not taken:
        with pytest.raises(InputError, match=r"images of tinyimagenet are \(3, 64, 64\)"):
            load_network(tmp_path / "net.onnx", "tinyimagenet", 1 / 255)
        return
    network = load_network(tmp_path / "net.onnx", "tinyimagenet", 1 / 255)
    assert network.spec.shape == (3, side, side) and network.spec.classes == 200
