"""Users' own networks, weights and data on the command line, and what cannot be used."""

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run, said
from PIL import Image
from processes import Processes
from torch import nn
from users import photos

from citrus_lirpa import config, distributed, fit, imports, runs
from citrus_lirpa.cli import main
from citrus_lirpa.models import Normalise
from citrus_lirpa.training.trainer import Trainer

MINE = """
import numpy as np
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(36, num_classes)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


def table_net():
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2))


def double():
    return Net().double()


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()


def table(train):
    rng = np.random.default_rng(int(train))
    y = rng.integers(0, 2, 60)
    return np.clip(0.5 + 0.3 * (2 * y[:, None] - 1) + 0.1 * rng.normal(size=(60, 20)), 0, 1), y
"""
QUICK = ("--set", "train.epochs=2", "--set", "train.batch_size=20", "--quiet")


@pytest.fixture(autouse=True)
def files(here):
    """The user's file and pictures."""
    Path("mine.py").write_text(MINE)
    photos({"ant": 0, "bee": 2}, train=20, val=10)


def weights(prefix="", entry=None, **more) -> Path:
    """A file of the network's weights, trained to tell red from blue."""
    scope: dict = {}
    exec(MINE, scope)
    model = scope["Net"]()
    with torch.no_grad():
        model.features[0].weight.zero_()
        model.features[0].weight[0, 0], model.features[0].weight[1, 2] = 1.0, 1.0
        model.head.weight.zero_()
        model.head.weight[0, :9], model.head.weight[1, 9:18] = 1.0, 1.0
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    torch.save({entry: state, **more} if entry else state, "net.pth")
    return Path("net.pth")


# -- what works ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"prefix": "module."},
        {"prefix": "_orig_mod.module."},
        {"prefix": "model.", "entry": "state_dict", "epoch": 3},
        {"entry": "model_state_dict"},
    ],
)
def test_weights_of_others_are_judged(written):
    weights(**written)
    status, output = run("eval", "net.pth", "--model", "mine.py:Net", "--data", "photos",
                         "--eps", "2/255", "--method", "crown", "--quiet")  # fmt: skip
    assert status == 0 and "standard accuracy" in output and "100.00 %" in output
    assert run("report", "net.pth-eval")[0] == 0
    again = Path("net.pth-eval", "report.html").read_text("utf-8")
    assert f"--model={Path('mine.py').resolve()}:Net</span>" in again


@pytest.mark.parametrize("source", ["photos", "a.npz"])
def test_test_images_alone_are_judged(source):
    shutil.rmtree("photos/train")
    images = np.zeros((6, 3, 8, 8))
    images[::2, 0], images[1::2, 2] = 0.8, 0.8
    archive(x_train=None, y_train=None, x_test=images, y_test=np.arange(6) % 2)
    judge = ("eval", weights(), "--model", "mine.py:Net", "--data", source, "--eps", "2/255")
    status, output = run(*judge, "--method", "crown", "--quiet")
    assert status == 0 and "100.00 %" in output, output
    attack = ("attack", *judge[1:], "--split", "train", "--out", "attacked")
    assert "has test images alone" in said(*run(*attack), 2)
    trained = run("train", "--preset", "digits", "--data", source, "--out", "run", *QUICK)
    assert "has test images alone; expected training images too" in said(*trained, 2)
    assert not Path("run").exists()


def test_classes_without_images_are_named():
    Path("mine.py").write_text(f"""{MINE}
def wide():
    return Net(5)

def images(train):
    return np.zeros((6, 3, 8, 8)), np.arange(6) % 2

def named(train):
    return *images(train), list("abcde")
""")
    scope: dict = {}
    exec(Path("mine.py").read_text(), scope)
    torch.save(scope["wide"]().state_dict(), "net.pth")
    archive(x_test=np.zeros((6, 3, 8, 8)), y_test=np.arange(6) % 2, x_train=None, y_train=None,
            class_names=list("abcde"))  # fmt: skip
    judge = ("eval", "net.pth", "--model", "mine.py:wide", "--eps", "0.1", "--method", "ibp")
    for source in ("mine.py:named", "a.npz"):
        assert run(*judge, "--data", source, "--quiet")[0] == 0
    line = said(*run(*judge, "--data", "mine.py:images", "--quiet"), 2)
    assert "returns (2, 5) for two images; the data has 2 classes" in line and "class_names" in line


def test_an_own_network_is_trained_judged_attacked_and_reported(here):
    made = ("train", "--preset", "digits", "--model", "mine.py:Net", "--data", "photos")
    more = ("--init-from", weights(), "--set", "train.eps=2/255", "--out", "run")
    assert run(*made, *more, *QUICK)[0] == 0
    imports._PERMITTED.clear()
    refused = said(*run("eval", "run", "--quiet"), 2)
    assert f"{here / 'mine.py'}:Net is code" in refused and "--trust-code" in refused
    assert run("eval", "run", "--trust-code", "--method", "ibp", "--quiet")[0] == 0
    assert '"options": "--trust-code"' in Path("run/eval-ibp.json").read_text("utf-8")
    assert run("attack", "run", "--model", "mine.py:Net", "--epochs", 1, "--quiet")[0] == 0
    assert run("report", "run")[0] == 0
    page = Path("run/report.html").read_text("utf-8")
    assert "<th>ant" in page and "citrus-lirpa eval run</span> <span>--trust-code" in page
    Path("mine.py").write_text(MINE + "\n# changed\n")
    assert "has changed since" in said(*run("eval", "run", "--trust-code", "--quiet"), 2)


def test_the_line_that_continues_a_training_permits_its_code(here, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", stop)
    made = ("train", "--preset", "digits", "--model", "mine.py:Net", "--data", "photos")
    line = said(*run(*made, "--set", "train.eps=2/255", "--out", "run", *QUICK), 130)
    assert line.endswith("continue with: citrus-lirpa train --resume run --trust-code")


def test_any_data_set_of_torchvision_by_a_function():
    Path("fake.py").write_text(
        "from torchvision import datasets, transforms\n\n\n"
        "def data(train):\n"
        "    prepare = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])\n"
        "    return datasets.FakeData(size=20 + train, image_size=(3, 12, 9), num_classes=2,\n"
        "                             transform=prepare)\n"
    )
    status, output = run("eval", weights(), "--model", "mine.py:Net", "--data", "fake.py:data",
                         "--eps", "2/255", "--method", "ibp", "--quiet")  # fmt: skip
    assert status == 0 and "20 test images" in output, output


def test_images_of_several_sizes_are_scaled_to_one():
    picture("photos/val/ant/big.png", (30, 20, 3))
    judged = ("eval", weights(), "--model", "mine.py:Net", "--eps", "2/255", "--method", "ibp",
              "--limit", "10", "--quiet", "--data")  # fmt: skip
    assert "--data FOLDER,resize=64" in said(*run(*judged, "photos"), 2)
    status, output = run(*judged, "photos,resize=8")
    assert status == 0 and "10 test images" in output, output
    made = ("--preset", "digits", "--model", "mine.py:Net", "--data", "photos,resize=8")
    assert run("train", *made, "--out", "run", *QUICK)[0] == 0
    assert run("eval", "run", "--method", "ibp", "--trust-code", "--quiet")[0] == 0


@pytest.mark.parametrize("source", ["table.npz", "mine.py:table"])
def test_a_table_goes_the_whole_way(source):
    scope: dict = {}
    exec(MINE, scope)
    (x, y), (others, more) = scope["table"](True), scope["table"](False)
    np.savez("table.npz", x_train=x, y_train=y, x_test=others, y_test=more)
    made = ("train", "--preset", "digits", "--model", "mine.py:table_net", "--data", source)
    assert run(*made, "--set", "train.eps=0.02", "--out", "run", *QUICK)[0] == 0
    for command in (("eval", "run", "--method", "ibp"), ("attack", "run", "--epochs", 1)):
        assert run(*command, "--trust-code", "--quiet")[0] == 0
    assert run("report", "run")[0] == 0


def test_fit_in_a_script_writes_a_folder_that_commands_take():
    scope: dict = {}
    exec(MINE, scope)
    names = ["model.name=own", "model.source=mine.py:table_net", "data.name=mine.py:table"]
    few = ["train.eps=0.02", "train.epochs=1", "train.batch_size=20", "train.milestones=[]",
           "train.ramp_length=1", "train.ramp_start=1"]  # fmt: skip
    settings = config.named(config.resolve(preset="digits", overrides=names + few))
    net, loss = runs.build(settings, torch.device("cpu"))
    fit(net, loss, scope["table"](True), settings, folder="run")
    imports._PERMITTED.clear()
    judged = ("eval", "run", "--method", "ibp", "--relational", "none", "--trust-code", "--quiet")
    for command in (judged, ("report", "run")):
        status, output = run(*command)
        assert status == 0, output


def test_a_sweep_passes_on_what_its_file_names(here, one_process):
    Path("s.toml").write_text(
        f'preset = "digits"\n[set]\n"model.name" = "own"\n"model.source" = "{here}/mine.py:Net"\n'
        f'"data.name" = "{here}/photos"\n"train.epochs" = 1\n"train.batch_size" = 20\n'
        '"train.milestones" = []\n"train.ramp_start" = 1\n"train.ramp_length" = 1\n'
        '[grid]\nmethod = ["ibp"]\n[eval]\nmethod = "ibp"\nrelational = "none"\n'
    )
    status, output = run("sweep", "s.toml", "--out", "swept")
    assert status == 0, output
    assert list(Path("swept").glob("*/eval-ibp.json"))


def one_after_another(*commands: str) -> None:
    for command in commands:
        imports._PERMITTED.clear()
        main(command.split(), standalone_mode=False)
        distributed.agreed("that it is done")  # by the first process, which writes


def test_two_processes_train_and_judge_an_own_network(here):
    made = ("train", "--preset", "digits", "--model", "mine.py:Net", "--data", "photos", *QUICK)
    judge = ("eval", "r", "--method", "ibp", "--relational", "none", "--quiet", "--trust-code")
    commands = f"{' '.join(made)} --out r", " ".join(judge)
    with Processes(one_after_another, *commands, cwd=here) as processes:
        (_, said, errors), (_, _, others) = ended = processes.wait()
    assert [status for status, _, _ in ended] == [0, 0], errors + others
    assert "citrus-lirpa eval r --trust-code" in said
    assert Path("r/eval-ibp.json").is_file()


def test_means_are_put_before_the_network():
    weights()
    shared = ("eval", "net.pth", "--model", "mine.py:Net", "--data", "photos", "--eps", "0.01",
              "--method", "ibp", "--relational", "none", "--quiet")  # fmt: skip
    assert run(*shared, "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")[0] == 0
    assert "one number per channel" in said(*run(*shared, "--mean", "0.5", "--std", "0.2"), 2)


# -- what cannot be used ------------------------------------------------------------


def archive(**changes) -> None:
    arrays = dict(x_train=np.zeros((9, 4, 4)), y_train=np.arange(9) % 2,
                  x_test=np.zeros((4, 4, 4)), y_test=np.arange(4) % 2)  # fmt: skip
    arrays.update(changes)
    np.savez("a.npz", **{key: value for key, value in arrays.items() if value is not None})


def picture(path: str, shape=(8, 8, 3)) -> None:
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)


BAD = [
    ("--model none.py:Net", lambda: None, "none.py cannot be read"),
    ("--model mine.py:Nothing", lambda: None, "has no function or class Nothing"),
    ("--model mine.py:Wide", lambda: None, "needs the argument width"),
    ("--model mine.py:table", lambda: None, "needs the argument train"),
    ("--model mine.py:np", lambda: None, "has no function or class np"),
    ("--model broken.py:Net", lambda: Path("broken.py").write_text("1 / 0"), "division by zero"),
    ("--data nowhere.npz", lambda: None, "does not exist"),
    ("--data photos", lambda: picture("photos/train/ant/x.png", (9, 8, 3)), "must be alike"),
    ("--data photos", lambda: Path("photos/val/bee/x.png").write_text("no"), "damaged"),
    ("--data photos", lambda: [f.unlink() for f in Path("photos/val/ant").glob("*")], "no images"),
    ("--data photos", lambda: os.mkdir("photos/val/cat"), "val has a folder cat, and"),
    ("--data photos,resize=0", lambda: None, "unknown data set 'photos,resize=0'"),
    ("--data ./a.npz,resize=4", archive, "is not a folder; resize scales images of a folder"),
    ("--data empty", lambda: os.mkdir("empty"), "holds no folder test or val; expected test"),
    ("--data half", lambda: os.makedirs("half/train/ant"), "holds no folder test or val;"),
    ("--data a.npz", lambda: archive(x_test=None), "a.npz lacks x_test; expected the arrays"),
    ("--data a.npz", lambda: archive(x_train=np.full((9, 4, 4), np.nan)), "NaN"),
    ("--data a.npz", lambda: archive(x_train=np.full((9, 4, 4), 3.0)), "expected bytes"),
    ("--data a.npz", lambda: archive(x_train=np.full((9, 4, 4), "a")), "expected numbers"),
    ("--data a.npz", lambda: archive(y_train=np.arange(9) - 1), "labels -1 to 7"),
    ("--data a.npz", lambda: archive(class_names=np.array(["a"])), "expected 0 to 0"),
    ("--data a.npz", lambda: archive(y_train=np.zeros(8, int)), "9 images and 8 labels"),
    ("--data a.npz", lambda: archive(x_test=np.zeros((4, 5, 5))), "expected one shape"),
    ("--data a.npz --model mine.py:Net", archive, "does not take images of (1, 4, 4)"),
    ("--data a.npz --model mine.py:Net", archive, "(return self.head(self.features(x)"),
    ("--data photos --model mine.py:double", lambda: None, "weights torch.float64; make them"),
    ("--data mine.py:Net", lambda: None, "or a Dataset"),
    ("--data photos --model mine.py:Net --init-from mine.py", lambda: None, "mine.py"),
    ("--data photos --model mine.py:Net --init-from gone.pth", lambda: None, "does not exist"),
    ("--data photos --model mine.py:Net --init-from other.pth",
     lambda: torch.save(nn.Linear(2, 2).state_dict(), "other.pth"),
     "it lacks features.0.weight, features.0.bias, head.weight and 1 more"),
    ("--data photos --model mine.py:Net --init-from whole.pth",
     lambda: torch.save(nn.Linear(2, 2), "whole.pth"), "more than weights"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "make", "message"), BAD)
def test_what_cannot_be_used_is_one_line(words, make, message):
    make()
    status, output = run("train", "--preset", "digits", *words.split(), "--out", "run", *QUICK)
    assert message in said(status, output, 1 if "mine.py" == words.split()[-1] else 2)
    if "--init-from" not in words:
        data = words if "--data" in words else f"{words} --data photos"
        assert message in said(*run("suggest", *data.split(), "--out", "run"), 2)
        model = data if "--model" in words else f"{data} --model mine.py:Net"
        judged = ("eval", weights(), *model.split(), "--eps", "0.01", "--out", "run")
        assert message in said(*run(*judged), 2)
    assert not Path("run").exists()


def test_weights_without_a_network_point_to_it():
    assert "--model FILE.py:NAME" in said(*run("eval", weights(), "--quiet"), 1)
    assert "--model mine.py:NAME" in said(*run("eval", "mine.py"), 2)
    assert "--data is missing" in said(*run("eval", "net.pth", "--model", "mine.py:Net"), 2)
    assert "either PATH or --weights" in said(*run("eval", "--model", "mine.py:Net"), 2)


def test_weights_that_the_network_has_no_place_for_are_refused(here):
    state = torch.load(weights(), weights_only=True)
    torch.save({**state, "extra.weight": torch.zeros(1)}, "net.pth")
    judged = ("--model", "mine.py:Net", "--data", "photos", "--eps", "2/255", "--quiet")
    assert "it has in addition extra.weight" in said(*run("eval", "net.pth", *judged), 2)


# -- ONNX files ---------------------------------------------------------------------------


def onnx_file(name: str, *layers: nn.Module, shape=(3, 8, 8)) -> Path:
    """A file of the network that tells red from blue, whose layers take inputs of a shape."""
    onnx = pytest.importorskip("citrus_lirpa.formats.onnx")
    pytest.importorskip("onnx")
    scope: dict = {}
    exec(MINE, scope)
    model = scope["Net"]()
    model.load_state_dict(torch.load(weights(), weights_only=True))
    onnx.save_onnx(nn.Sequential(*layers, model), shape, Path(name))
    return Path(name)


class Flat(nn.Module):
    def forward(self, x):
        return x.view(-1, 3, 8, 8)


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2)


PHOTOS = ("--data", "photos", "--eps", "0.01", "--method", "ibp", "--relational", "none", "--quiet")


@pytest.mark.parametrize(
    ("layers", "shape"),
    [((Flat(),), (192,)), ((ChannelsLast(),), (8, 8, 3))],
    ids=["flat", "channels last"],
)
def test_files_that_take_pixels_in_another_order(layers, shape):
    path = onnx_file("net.onnx", *layers, shape=shape)
    status, output = run("eval", path, *PHOTOS)
    assert status == 0 and "100.00 %" in output, output


def test_the_bounds_of_auto_lirpa_are_recorded_and_are_other_settings():
    path, record = onnx_file("net.onnx"), Path("net-eval", "eval-ibp.json")
    assert run("eval", path, *PHOTOS, "--bounds", "auto-lirpa")[0] == 0
    assert json.loads(record.read_text())["bounds"] == "auto-lirpa"
    status, output = run("eval", path, *PHOTOS)
    assert status == 0 and "earlier results, of other settings" in output
    assert "bounds" not in json.loads(record.read_text())


def test_a_compressed_file_has_its_results_beside_it():
    path = Path("net.onnx.gz")
    path.write_bytes(gzip.compress(onnx_file("net.onnx").read_bytes()))
    assert run("eval", path, *PHOTOS)[0] == 0
    assert Path("net-eval", "eval-ibp.json").is_file()


def test_what_normalises_a_file_is_said_or_asked_for():
    """Pixels moved by their mean: without that, the network calls everything red."""
    path, blind = onnx_file("net.onnx"), nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        blind.weight.zero_()
        blind.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
        blind.weight[0, 0], blind.weight[2, 2] = 1.0, 1.0
    path = onnx_file("moved.onnx", blind)
    normalised = ("--mean", "1,0,0", "--std", "1,1,1")
    status, output = run("eval", path, *PHOTOS)
    assert status == 0 and "warning: only 50.00 % of the images" in output and "--mean" in output
    status, output = run("eval", path, *PHOTOS, *normalised)
    assert status == 0 and "100.00 %" in output and "warning" not in output
    line = said(*run("eval", path, *PHOTOS, "--model", "mine.py:Net"), 2)
    assert "moved.onnx holds its network itself" in line
    assert "one number per channel" in said(
        *run("eval", path, *PHOTOS, "--mean", "1", "--std", "1"), 2
    )
    line = said(*run("eval", weights(), *PHOTOS, *normalised), 2)
    assert "--mean and --std are for --model FILE.py:NAME, and for ONNX files" in line


def test_a_file_that_normalises_itself_is_not_normalised_twice():
    path = onnx_file("net.onnx", Normalise([0.5] * 3, [0.5] * 3))
    line = said(*run("eval", path, *PHOTOS, "--mean", "0,0,0", "--std", "1,1,1"), 2)
    assert "normalises its inputs itself" in line


def test_an_operator_that_cannot_be_read_is_the_users_to_change():
    line = said(*run("eval", onnx_file("net.onnx", nn.Hardshrink(0.1)), *PHOTOS), 2)
    assert "is not supported" in line
