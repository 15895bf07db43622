"""data: the embedded digits, loaders on real, absent and damaged files, batches, augmentation."""

import hashlib
import pickle
import shutil
import sys
from dataclasses import replace
from importlib import resources
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from citrus_lirpa.data.datasets import DATASETS, find_datasets, load
from citrus_lirpa.data.types import Split
from citrus_lirpa.errors import ConfigError, DataError, DependencyError

CIFAR = DATASETS["cifar10"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def offline(monkeypatch):
    """torchvision's downloader, without a network."""

    def fail(*args, **kwargs):
        print("Downloading something")  # as older releases of torchvision do
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", fail)
    monkeypatch.setattr("torchvision.datasets.gtsrb.download_and_extract_archive", fail)


# -- the registry ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_specs_are_consistent(name):
    spec = DATASETS[name]
    assert spec.name == name
    assert len(spec.mean) == len(spec.std) == spec.shape[0]
    assert len(set(spec.class_names)) == spec.classes
    assert bool(spec.files) == bool(spec.archive)


def test_specs_hold_the_recipes():
    rows = {s.name: (s.shape, s.classes, s.flip, s.pad) for s in DATASETS.values()}
    assert rows == {
        "digits": ((1, 8, 8), 10, False, 0),
        "mnist": ((1, 28, 28), 10, False, 0),
        "fashionmnist": ((1, 28, 28), 10, False, 0),
        "kmnist": ((1, 28, 28), 10, False, 0),
        "svhn": ((3, 32, 32), 10, False, 2),
        "gtsrb": ((3, 32, 32), 43, False, 2),
        "cifar10": ((3, 32, 32), 10, True, 2),
        "tinyimagenet": ((3, 64, 64), 200, True, 4),
    }
    assert DATASETS["mnist"].mean == (0.0,)
    assert DATASETS["mnist"].std == (1.0,)


def test_unknown_data_set(tmp_path):
    with pytest.raises(ConfigError, match="'cifar'.*did you mean 'cifar10'.*digits, mnist"):
        load("cifar", train=True, data_dir=tmp_path)


# -- Split -------------------------------------------------------------------------------------


def test_split_pixels_by_hand():
    images = torch.tensor([[[[0, 255]]], [[[51, 102]]]], dtype=torch.uint8)
    split = Split(images, torch.tensor([3, 4]))
    assert len(split) == 2
    pixels = split.pixels(torch.tensor([1, 0, 1]))
    assert pixels.dtype == torch.float32
    expected = [[[[0.2, 0.4]]], [[[0.0, 1.0]]], [[[0.2, 0.4]]]]
    torch.testing.assert_close(pixels, torch.tensor(expected), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 3, 3, dtype=torch.int16), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_split_refuses(images, labels):
    with pytest.raises(DataError, match="expected"):
        Split(images, labels)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 8, 8), [0, 10], "labels 0 to 10; expected 0 to 9"),
        (torch.zeros(2, 1, 8, 8), [-1, 9], "labels -1 to 9"),
        (torch.zeros(2, 1, 8, 9), [0, 9], r"\(1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), [], "at least one"),
    ],
)
def test_load_checks_what_a_loader_returns(monkeypatch, tmp_path, images, labels, message):
    arrays = images.to(torch.uint8), torch.tensor(labels, dtype=torch.int64)
    spec = replace(DATASETS["digits"], loader=lambda *_: arrays)
    monkeypatch.setitem(DATASETS, "digits", spec)
    with pytest.raises(DataError, match=message):
        load("digits", train=True, data_dir=tmp_path)


# -- digits ------------------------------------------------------------------------------------


def test_digits_asset_is_the_documented_one():
    assets = resources.files("citrus_lirpa.data") / "assets"
    content = (assets / "digits.npz").read_bytes()
    assert len(content) < 100_000
    digest = hashlib.sha256(content).hexdigest()
    assert digest in (assets / "README.md").read_text("utf-8")


def test_digits_content(tmp_path):
    train = load("digits", train=True, data_dir=tmp_path / "never", download=False)
    test = load("digits", train=False, data_dir=tmp_path / "never", download=False)
    assert (train.images.shape, test.images.shape) == ((1397, 1, 8, 8), (400, 1, 8, 8))
    both = train.labels.bincount() + test.labels.bincount()
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI's counts
    assert test.labels.bincount().min() > 30
    values = torch.cat([train.images, test.images]).unique().tolist()
    assert values == [round(v * 255 / 16) for v in range(17)]
    content = torch.cat([train.images, test.images]).numpy().tobytes()
    labels = torch.cat([train.labels, test.labels]).to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(content + labels).hexdigest() == (
        "885c1e1d3cb9f9d7599e2175e7ab75c7992220cd9d9099c8a447637823c4fc23"
    )


def test_damaged_digits(monkeypatch, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "digits.npz").write_bytes(b"PK\x03\x04 cut short")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="install the package again"):
        load("digits", train=True, data_dir=tmp_path)


# -- absent and damaged files ------------------------------------------------------------------


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.files])
def test_absent_data_is_one_clear_line(offline, capsys, tmp_path, name, download):
    folder = tmp_path / "here"
    with pytest.raises(DataError) as error:
        load(name, train=True, data_dir=folder, download=download)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(folder), DATASETS[name].files[0], DATASETS[name].archive, "--data-dir"):
        assert part in message
    shown = capsys.readouterr()  # where torchvision 0.20 says why
    assert ("no network" in message + shown.err) == (download and name != "tinyimagenet")
    assert not list(folder.glob("*"))
    assert shown.out == ""


def test_a_half_finished_download_is_not_taken_for_data(monkeypatch, tmp_path):
    calls = []

    def half(url, download_root, filename, md5):
        calls.append(filename)
        if len(calls) == 3:
            raise ConnectionResetError("lost connection")
        with open(f"{download_root}/{filename.removesuffix('.gz')}", "wb") as file:
            file.write(b"half")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", half)
    with pytest.raises(DataError, match="lost connection"):
        load("mnist", train=True, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    assert find_datasets(tmp_path)["mnist"].startswith("not found")


def test_archives_laid_by_hand_are_used(monkeypatch, tmp_path):
    (tmp_path / CIFAR.archive).write_bytes(b"archive")

    def unpack(url, download_root, filename, md5):
        with open(f"{download_root}/{filename}", "rb") as file:
            assert file.read() == b"archive"
        raise URLError("stop here")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unpack)
    with pytest.raises(DataError, match="stop here"):
        load("cifar10", train=True, data_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CIFAR.archive]


def test_a_data_dir_that_is_a_file(offline, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--data-dir"):
        load("cifar10", train=True, data_dir=tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x03", b"\xff" * 100])
@pytest.mark.parametrize("name", ["mnist", "kmnist", "cifar10", "svhn"])
def test_damaged_files(offline, tmp_path, name, content):
    for file in DATASETS[name].files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    assert find_datasets(tmp_path)[name].startswith("found")
    with pytest.raises(DataError, match="damaged") as error:
        load(name, train=True, data_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert f"delete {tmp_path} " not in str(error.value)  # it holds other data sets too


def test_mnist_images_and_labels_must_match(tmp_path):
    write_mnist(tmp_path, images=3, labels=2)
    with pytest.raises(DataError, match="one for each image"):
        load("mnist", train=True, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "kmnist"])
def test_mnist_layout(tmp_path, name):
    write_mnist(tmp_path, images=3, labels=3, name=name)
    split = load(name, train=False, data_dir=tmp_path, download=False)
    assert split.images.shape == (3, 1, 28, 28)
    assert split.images[1, 0, 0, :2].tolist() == [784 % 256, 785 % 256]
    assert split.labels.tolist() == [0, 1, 2]


def write_mnist(folder, *, images, labels, name="mnist"):
    """IDX files: two zero bytes, type 8 (uint8), number of axes, big-endian sizes, bytes."""
    for file in DATASETS[name].files:
        shape = (images, 28, 28) if "images" in file else (labels,)
        size = torch.Size(shape).numel()
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(header + bytes(i % 256 for i in range(size)))


def test_torchvision_is_needed_for_downloads_alone(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DependencyError, match="torchvision cannot be imported"):
        load("mnist", train=True, data_dir=tmp_path)
    write_mnist(tmp_path, images=2, labels=2)
    assert len(load("mnist", train=True, data_dir=tmp_path)) == 2


class Runs:
    """A pickle of it runs code."""

    def __reduce__(self):
        return print, ("run",)


def test_a_cifar_file_of_another_checksum_is_not_unpickled(capsys, tmp_path):
    for file in CIFAR.files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(pickle.dumps(Runs()))
    with pytest.raises(DataError, match="data_batch_1 has another checksum"):
        load("cifar10", train=True, data_dir=tmp_path)
    assert capsys.readouterr().out == ""


# -- SVHN and GTSRB ----------------------------------------------------------------------------


def test_svhn_layout(monkeypatch, tmp_path):
    """Images (32, 32, 3, N), labels 1 to 10, of which 10 is the digit 0."""
    images = np.arange(32 * 32 * 3 * 4, dtype=np.uint8).reshape(32, 32, 3, 4)
    checksums = dict(torchvision.datasets.SVHN.split_list)
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        savemat(file, {"X": images, "y": np.array([[1], [10], [9], [2]], dtype=np.uint8)})
        md5 = hashlib.md5(file.read_bytes()).hexdigest()
        checksums[part] = [*checksums[part][:2], md5]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", checksums)
    split = load("svhn", train=False, data_dir=tmp_path, download=False)
    assert split.labels.tolist() == [1, 0, 9, 2]
    assert split.images.shape == (4, 3, 32, 32)
    assert split.images[3, 2, 5, 7] == images[5, 7, 2, 3]


def write_gtsrb(folder):
    """Training: 31 photographs of sign 0, one of the others; test: two, of two sizes."""
    base = folder / "gtsrb"
    for label in range(43):
        count = 1 if label else 31
        place = base / "GTSRB" / "Training" / f"{label:05}"
        place.mkdir(parents=True)
        for i in range(count):
            name = f"{i // 30:05}_{i % 30:05}.ppm"
            Image.new("RGB", (40 + i, 30), (label, i, 7)).save(place / name)
    place = base / "GTSRB" / "Final_Test" / "Images"
    place.mkdir(parents=True)
    rows = ["Filename;Width;Height;ClassId"]
    for i, (label, size) in enumerate([(14, (15, 18)), (0, (100, 90))]):
        Image.new("RGB", size, (label, 200, i)).save(place / f"{i:05}.ppm")
        rows.append(f"{i:05}.ppm;{size[0]};{size[1]};{label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows), "utf-8")


def test_gtsrb_is_scaled_and_keeps_tracks_together(tmp_path):
    write_gtsrb(tmp_path)
    test = load("gtsrb", train=False, data_dir=tmp_path, download=False)
    assert test.labels.tolist() == [14, 0] and test.images.shape == (2, 3, 32, 32)
    assert test.images[0, :, 3, 3].tolist() == [14, 200, 0]
    train = load("gtsrb", train=True, data_dir=tmp_path, download=False)
    assert train.labels.tolist() == [0] * 30 + [*range(1, 43)] + [0]  # its second track
    assert train.images[:30, 1, 0, 0].tolist() == list(range(30))
    assert train.images[-1, :, 31, 31].tolist() == [0, 30, 7]
    shutil.rmtree(tmp_path / "gtsrb" / "GTSRB" / "Training" / "00007")
    with pytest.raises(DataError, match="43 classes of GTSRB: 00007 is missing"):
        load("gtsrb", train=True, data_dir=tmp_path, download=False)


def test_a_damaged_photograph_is_one_clear_line(tmp_path):
    write_gtsrb(tmp_path)
    next((tmp_path / "gtsrb").rglob("00001.ppm")).write_bytes(b"P6 no image")
    with pytest.raises(DataError, match="gtsrb in .* is damaged") as error:
        load("gtsrb", train=False, data_dir=tmp_path, download=False)
    assert "\n" not in str(error.value)


# -- TinyImageNet ------------------------------------------------------------------------------


WNIDS = DATASETS["tinyimagenet"].class_names


def write_tinyimagenet(folder, *, layout, size=(64, 64)):
    """One flat-coloured PNG-in-JPEG-name for each class; number i belongs to class 199 - i."""
    val = folder / "tiny-imagenet-200" / "val"
    lines = []
    for i, wnid in enumerate(reversed(WNIDS)):
        place = {"original": val / "images", "flat": val / wnid, "nested": val / wnid / "images"}
        path = place[layout] / f"val_{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB" if i % 2 else "L", size, (i, 0, i) if i % 2 else i).save(path, "PNG")
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    if layout == "original":
        (val / "val_annotations.txt").write_text("".join(lines))
    return val


@pytest.mark.parametrize("layout", ["original", "flat", "nested"])
def test_tinyimagenet_val_layouts_agree(tmp_path, layout):
    write_tinyimagenet(tmp_path, layout=layout)
    split = load("tinyimagenet", train=False, data_dir=tmp_path)
    assert split.labels.tolist() == list(range(199, -1, -1))
    assert split.images[:, 0, 5, 5].tolist() == list(range(200))
    assert split.images[6, :, 0, 0].tolist() == [6, 6, 6]
    assert split.images[7, :, 0, 0].tolist() == [7, 0, 7]


def test_tinyimagenet_missing_class_is_named(tmp_path):
    val = write_tinyimagenet(tmp_path, layout="flat")
    (val / "images").mkdir()  # left behind by whoever sorted the images into folders
    assert len(load("tinyimagenet", train=False, data_dir=tmp_path)) == 200
    (val / WNIDS[3] / "val_196.JPEG").unlink()
    with pytest.raises(DataError, match=f"200 classes.*{WNIDS[3]}"):
        load("tinyimagenet", train=False, data_dir=tmp_path)


def test_tinyimagenet_train_is_ordered_by_class_and_number(tmp_path):
    for wnid in WNIDS:
        folder = tmp_path / "tiny-imagenet-200" / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for i in (10, 9):
            Image.new("RGB", (64, 64), (i, i, i)).save(folder / f"{wnid}_{i}.JPEG", "PNG")
    split = load("tinyimagenet", train=True, data_dir=tmp_path)
    assert split.labels.tolist() == [label for label in range(200) for _ in range(2)]
    assert split.images[:, 0, 0, 0].tolist() == [9, 10] * 200


def test_tinyimagenet_corrupt_image_is_named(tmp_path):
    val = write_tinyimagenet(tmp_path, layout="original")
    broken = val / "images" / "val_7.JPEG"
    for content in (broken.read_bytes()[:60], b"", b"no image at all"):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"val_7\.JPEG is missing or damaged"):
            load("tinyimagenet", train=False, data_dir=tmp_path)
    broken.unlink()
    with pytest.raises(DataError, match=r"val_7\.JPEG is missing or damaged"):
        load("tinyimagenet", train=False, data_dir=tmp_path)


def test_tinyimagenet_wrong_size_is_named(tmp_path):
    write_tinyimagenet(tmp_path, layout="flat", size=(32, 64))
    with pytest.raises(DataError, match=r"val_\d+\.JPEG is \(3, 64, 32\)"):
        load("tinyimagenet", train=False, data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["no file", "no tab", "binary", "a class less"])
def test_tinyimagenet_annotations(tmp_path, damage):
    annotations = write_tinyimagenet(tmp_path, layout="original") / "val_annotations.txt"
    lines = annotations.read_text().splitlines(keepends=True)
    if damage == "no file":
        annotations.unlink()
    elif damage == "no tab":
        annotations.write_text("val_0.JPEG n01443537\n")
    elif damage == "binary":
        annotations.write_bytes(b"\xff\xfe\x00")
    else:
        annotations.write_text("".join(lines[1:]))
    with pytest.raises(DataError, match="annotations.txt is|200 classes.*n12267677"):
        load("tinyimagenet", train=False, data_dir=tmp_path)


# -- find_datasets -----------------------------------------------------------------------------


def test_find_datasets(tmp_path):
    status = find_datasets(tmp_path / "nowhere")
    assert list(status) == list(DATASETS)
    assert status.pop("digits") == "embedded"
    assert all(line.startswith(f"not found in {tmp_path}") for line in status.values())
    assert not (tmp_path / "nowhere").exists()
    write_mnist(tmp_path, images=1, labels=1)
    assert find_datasets(tmp_path)["mnist"] == f"found in {tmp_path}"
    (tmp_path / DATASETS["mnist"].files[2]).unlink()
    assert "t10k-images" in find_datasets(tmp_path)["mnist"]


# -- real data ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "train", "n"), [("mnist", True, 60_000), ("mnist", False, 10_000),
                                                  ("cifar10", True, 50_000),
                                                  ("cifar10", False, 10_000)])  # fmt: skip
def test_real_data(real_data, name, train, n):
    split = load(name, train=train, data_dir=real_data, download=False)
    assert split.images.shape == (n, *DATASETS[name].shape)
    counts = split.labels.bincount()
    assert counts.tolist() == [n // 10] * 10 if name == "cifar10" else counts.min() > 0.08 * n
    if train:  # the recipes' normalisation is that of the training set
        mean = split.pixels(slice(0, 10_000)).mean((0, 2, 3))
        expected = torch.tensor(DATASETS[name].mean) if name == "cifar10" else torch.tensor([0.131])
        torch.testing.assert_close(mean, expected, rtol=0, atol=5e-3)


def test_real_first_labels(real_data):
    mnist = load("mnist", train=False, data_dir=real_data, download=False)
    assert mnist.labels[:5].tolist() == [7, 2, 1, 0, 4]
    cifar = load("cifar10", train=False, data_dir=real_data, download=False)
    names = [CIFAR.class_names[label] for label in cifar.labels[:4].tolist()]
    assert names == ["cat", "ship", "ship", "airplane"]
