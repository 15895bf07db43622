"""torchvision's classification sets by name, on tiny files in the sets' own formats."""

import bz2
import inspect
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat

from citrus_lirpa.data.datasets import find_spec, load
from citrus_lirpa.data.torchvision_sets import SETS
from citrus_lirpa.data.turns import in_turns, turns
from citrus_lirpa.errors import ConfigError, DataError, InputError


@pytest.fixture(autouse=True)
def any_checksum(monkeypatch):
    """The files made here are not those whose checksums torchvision knows."""
    for name, module in list(sys.modules.items()):
        if name.startswith("torchvision.datasets.") and hasattr(module, "check_integrity"):
            monkeypatch.setattr(
                module, "check_integrity", lambda path, md5=None: Path(path).exists()
            )


def picture(path: Path, number: int = 0, size=(9, 7), mode="RGB") -> None:
    """A picture whose red, or grey, is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (number, 0, 0) if mode == "RGB" else number).save(path, "PNG")


def lines(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")


def idx(path: Path, values: np.ndarray) -> None:
    """MNIST's format: two zero bytes, the type, the number of axes, big-endian sizes, values."""
    kind = {"uint8": 8, "int32": 12}[values.dtype.name]
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, kind, values.ndim]) + sizes + values.astype(">i4" if kind == 12
                     else "u1").tobytes())  # fmt: skip


def emnist(root):
    for part in ("train", "test"):
        raw = root / "EMNIST" / "raw"
        idx(raw / f"emnist-letters-{part}-images-idx3-ubyte", np.full((2, 28, 28), 5, np.uint8))
        idx(raw / f"emnist-letters-{part}-labels-idx1-ubyte", np.array([26, 1], np.uint8))


def qmnist(root):
    for part in ("train", "test"):
        raw = root / "QMNIST" / "raw"
        idx(raw / f"qmnist-{part}-images-idx3-ubyte", np.full((2, 28, 28), 5, np.uint8))
        labels = np.zeros((2, 8), np.int32)
        labels[:, 0] = 9, 1
        idx(raw / f"qmnist-{part}-labels-idx2-int", labels)


def usps(root):
    row = " ".join(f"{i}:0.5" for i in range(1, 257))
    for name in ("usps.bz2", "usps.t.bz2"):
        (root / name).write_bytes(bz2.compress(f"10 {row}\n2 {row}\n".encode()))


def semeion(root):
    rows = np.zeros((20, 266))
    rows[range(20), 256 + np.repeat([3, 4], 10)] = 1
    rows[:, 0] = 1
    np.savetxt(root / "semeion.data", rows, fmt="%g")


def stl10(root):
    folder = root / "stl10_binary"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(bytes([5]) * (2 * 3 * 96 * 96))
        (folder / f"{part}_y.bin").write_bytes(bytes([10, 1]))
    (folder / "unlabeled_X.bin").touch()
    lines(folder / "class_names.txt", *"abcdefghij")
    lines(folder / "fold_indices.txt", "0 1")


def cifar100(root):
    folder = root / "cifar-100-python"
    folder.mkdir()
    entry = {"data": np.full((2, 3072), 5, np.uint8), "fine_labels": [99, 0]}
    for part in ("train", "test"):
        (folder / part).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(map(str, range(100)))}))


def eurosat(root):
    for name in "abcdefghij":
        for i in range(5):
            picture(root / "eurosat" / "2750" / name / f"{i}.jpg", i, (64, 64))


def caltech101(root):
    for name in ("Faces", "ant"):
        for i in range(1, 6):
            folder = root / "caltech101" / "101_ObjectCategories" / name
            picture(folder / f"image_{i:04d}.jpg", i, mode="L" if i == 1 else "RGB")
    (root / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google").mkdir()


def caltech256(root):
    for number, name in ((1, "001.ak47"), (2, "002.flag")):
        for i in range(1, 6):
            folder = root / "caltech256" / "256_ObjectCategories" / name
            picture(folder / f"{number:03d}_{i:04d}.jpg", i)


def sun397(root):
    for i in range(10):
        picture(root / "SUN397" / "a" / ("abbey", "alley")[i % 2] / f"sun_{9 - i}.jpg", 9 - i)
    lines(root / "SUN397" / "ClassName.txt", "/a/abbey", "/a/alley")


def food101(root):
    for i, name in enumerate(("pie", "soup")):
        picture(root / "food-101" / "images" / name / f"{i}.jpg", i)
    meta = {"pie": ["pie/0"], "soup": ["soup/1"]}
    for part in ("train", "test"):
        lines(root / "food-101" / "meta" / f"{part}.json", json.dumps(meta))


def flowers102(root):
    folder = root / "flowers-102"
    for i in (1, 2):
        picture(folder / "jpg" / f"image_{i:05d}.jpg", i)
    ids = np.array([[1, 2]])
    savemat(folder / "setid.mat", {"trnid": ids, "valid": ids, "tstid": ids})
    savemat(folder / "imagelabels.mat", {"labels": np.array([[102, 1]])})


def dtd(root):
    for name in ("dots", "lines"):
        picture(root / "dtd" / "dtd" / "images" / name / f"{name}_1.jpg", 5)
    for part in ("train", "val", "test"):
        lines(root / "dtd/dtd/labels" / f"{part}2.txt", "dots/dots_1.jpg", "lines/lines_1.jpg")


def oxfordiiitpet(root):
    for i, name in enumerate(("cat_1", "dog_1")):
        picture(root / "oxford-iiit-pet" / "images" / f"{name}.jpg", i)
    (root / "oxford-iiit-pet" / "annotations").mkdir()
    for part in ("trainval", "test"):
        lines(root / f"oxford-iiit-pet/annotations/{part}.txt", "cat_1 1 1 1", "dog_1 2 2 1")


def fgvcaircraft(root):
    data = root / "fgvc-aircraft-2013b" / "data"
    lines(data / "families.txt", "A300", "ATR")
    for i in (1, 2):
        picture(data / "images" / f"{i}.jpg", i)
    for part in ("train", "val", "trainval", "test"):
        lines(data / f"images_family_{part}.txt", "1 A300", "2 ATR")


def stanfordcars(root):
    folder = root / "stanford_cars"
    for part in ("train", "test"):
        picture(folder / f"cars_{part}" / "1.jpg", 5)
    row = np.array([(196, "1.jpg"), (1, "1.jpg")], dtype=[("class", "O"), ("fname", "O")])
    (folder / "devkit").mkdir()
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": row})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": row})
    names = np.array([str(i) for i in range(196)], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})


def folders(*parts: str, names=("a", "b"), size=(9, 7), ending="png"):
    def write(root):
        for part in parts:
            for name in names:
                picture(root / part / name / f"1.{ending}", 5, size)

    return write


def imagenette(root):
    for part in ("train", "val"):
        for name in torchvision.datasets.Imagenette._WNID_TO_CLASS:
            picture(root / "imagenette2-160" / part / name / "1.JPEG", 5)


def imagenet(root):
    names = [f"n{i:08d}" for i in range(3)]
    folders("train", "val", names=names, ending="JPEG")(root)
    classes = {name: (name,) for name in names}
    torch.save((classes, ["n00000000"]), root / "meta.bin")


def places365(root):
    rows = [f"/a/{i:03d} {i}" for i in range(365)]
    lines(root / "categories_places365.txt", *rows)
    lines(root / "places365_train_standard.txt", "/a/000/1.jpg 0", "/a/364/1.jpg 364")
    lines(root / "places365_val.txt", "1.jpg 364", "2.jpg 0")
    for path in ("data_256_standard/a/000/1.jpg", "data_256_standard/a/364/1.jpg",
                 "data_large_standard/a/000/1.jpg", "data_large_standard/a/364/1.jpg",
                 "val_large/1.jpg", "val_large/2.jpg"):  # fmt: skip
        picture(root / path, 5)


def fer2013(root):
    rows = [f'{label},"{" ".join(["5"] * 2304)}",{usage}'
            for usage in ("Training", "PublicTest") for label in (6, 0)]  # fmt: skip
    lines(root / "fer2013" / "fer2013.csv", '"emotion","pixels","Usage"', *rows)


def clevr(root):
    scenes = []
    for i in (9, 8):
        picture(root / "clevr/CLEVR_v1.0/images/train" / f"{i}.png", i, (480, 320))
        picture(root / "clevr/CLEVR_v1.0/images/val" / f"{i}.png", i, (480, 320))
        scenes.append({"image_filename": f"{i}.png", "objects": [0] * i})
    for part in ("train", "val"):
        lines(root / f"clevr/CLEVR_v1.0/scenes/CLEVR_{part}_scenes.json",
              json.dumps({"scenes": scenes}))  # fmt: skip


def inaturalist(root):
    for part in ("2021_train", "2021_valid"):
        for i, kind in enumerate(("bee", "wasp")):
            picture(root / part / f"{i:05d}_A_B_C_D_E_F_{kind}" / "1.jpg", 5)


#: Name with options: the writer of its files, its shape, and labels of the test set.
CASES = {
    "emnist,split=letters": (emnist, (1, 28, 28), [26, 1]),
    "qmnist": (qmnist, (1, 28, 28), [9, 1]),
    "usps": (usps, (1, 16, 16), [9, 1]),
    "semeion": (semeion, (1, 16, 16), [3, 4] * 2),
    "stl10": (stl10, (3, 96, 96), [9, 0]),
    "cifar100": (cifar100, (3, 32, 32), [99, 0]),
    "eurosat": (eurosat, (3, 64, 64), list(range(10))),
    "caltech101,resize=4": (caltech101, (3, 4, 4), [0, 1]),
    "caltech256,resize=4": (caltech256, (3, 4, 4), [0, 1]),
    "sun397,resize=4": (sun397, (3, 4, 4), [0, 1]),
    "food101,resize=4": (food101, (3, 4, 4), [0, 1]),
    "flowers102,resize=4": (flowers102, (3, 4, 4), [101, 0]),
    "dtd,partition=2,resize=4": (dtd, (3, 4, 4), [0, 1]),
    "oxfordiiitpet,resize=4": (oxfordiiitpet, (3, 4, 4), [0, 1]),
    "fgvcaircraft,annotation_level=family,resize=4": (fgvcaircraft, (3, 4, 4), [0, 1]),
    "stanfordcars,resize=4": (stanfordcars, (3, 4, 4), [195, 0]),
    "country211,resize=4": (folders("country211/train", "country211/test", ending="jpg"),
                            (3, 4, 4), [0, 1]),
    "renderedsst2": (
        folders("rendered-sst2/train", "rendered-sst2/test", "rendered-sst2/valid",
                names=("negative", "positive"), size=(448, 448)), (3, 448, 448), [0, 1]),
    "imagenette,size=160px,resize=4": (imagenette, (3, 4, 4), list(range(10))),
    "imagenet,resize=4": (imagenet, (3, 4, 4), [0, 1, 2]),
    "places365,resize=4": (places365, (3, 4, 4), None),
    "fer2013": (fer2013, (1, 48, 48), [6, 0]),
    "clevrclassification,resize=4": (clevr, (3, 4, 4), [8, 9]),
    "inaturalist,resize=4": (inaturalist, (3, 4, 4), [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_set_is_read_from_its_own_files(name, tmp_path):
    write, shape, labels = CASES[name]
    write(tmp_path)
    train, test = (load(name, train=part, data_dir=tmp_path, download=False) for part in (1, 0))
    assert find_spec(name).shape == train.images.shape[1:] == test.images.shape[1:] == shape
    assert labels is None or test.labels.tolist() == labels
    assert len(train) and test.images.any()


def test_the_sets_are_those_of_torchvision():
    """A class of torchvision with one label for each image is a set, or stands here."""
    others = {
        # read by loaders of their own
        "cifar10", "fashionmnist", "gtsrb", "kmnist", "mnist", "svhn",
        # folders, which are users' own data; no images; no labels; several labels; other people
        # or letters in the test set than in the training set
        "imagefolder", "datasetfolder", "fakedata", "visiondataset", "phototour", "sbu", "celeba",
        "lfwpeople", "lfwpairs", "omniglot", "lsun", "lsunclass",
        # videos, captions, boxes, masks, flows and depths
        "movingmnist", "kinetics", "hmdb51", "ucf101", "cococaptions", "cocodetection", "flickr8k",
        "flickr30k", "vocsegmentation", "vocdetection", "cityscapes", "widerface", "sbdataset",
        "kitti", "kittiflow", "sintel", "flyingchairs", "flyingthings3d", "hd1k",
    }  # fmt: skip
    there = {
        name.lower()
        for name in torchvision.datasets.__all__
        if inspect.isclass(getattr(torchvision.datasets, name)) and "Stereo" not in name
    }
    assert there - others == {name for name in SETS if hasattr(torchvision.datasets,
                                                               SETS[name].kind)}  # fmt: skip
    assert all(hasattr(torchvision.datasets, row.kind) for row in SETS.values())


@pytest.mark.parametrize(("name", "option"), [(n, o) for n in SETS for o in SETS[n].options])
def test_options_are_those_of_torchvision(name, option, tmp_path):
    reader = getattr(torchvision.datasets, SETS[name].kind)
    part = (SETS[name].parts or ({},))[0]
    for value in SETS[name].options[option]:
        with pytest.raises((RuntimeError, OSError), match="not found|No such"):
            reader(tmp_path, **part, **{option: int(value) if value.isdecimal() else value})
    if name != "dtd":  # which refuses no number
        with pytest.raises(ValueError, match="99"):
            reader(tmp_path, **part, **{option: "99"})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar1000", "unknown data set 'cifar1000'; did you mean 'cifar100'"),
        ("cocodetection", "unknown data set 'cocodetection'"),
        ("flowers102", "of many sizes; scale them to one: --data flowers102,resize=64"),
        ("flowers102,resize=x", "resize of flowers102 is 'x'; expected 1 to 4096 pixels"),
        ("flowers102,resize=0", "expected 1 to 4096 pixels"),
        ("usps,split=test", "unknown option of usps 'split' .known: resize"),
        ("emnist", "emnist needs its split: --data emnist,split=..., one of byclass, bymerge"),
        ("emnist,split=letter", "unknown split of emnist 'letter'; did you mean 'letters'"),
        ("emnist,split=letters,split=mnist", "expected split=VALUE once"),
    ],
)
def test_names_that_cannot_be_used_are_one_line(name, words):
    with pytest.raises(ConfigError, match=words) as caught:
        find_spec(name)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"cannot be read in .* .Dataset not found.*; put its "):
        load("dtd,resize=4", train=True, data_dir=tmp_path, download=False)
    dtd(tmp_path)
    with pytest.raises(InputError, match="image 0 of eurosat is 7x9, not 64x64; scale all to one"):
        eurosat(tmp_path)
        picture(tmp_path / "eurosat" / "2750" / "a" / "0.jpg")
        load("eurosat", train=True, data_dir=tmp_path, download=False)
    (tmp_path / "dtd/dtd/images/dots/dots_1.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dtd,partition=2,resize=4 in .* is damaged"):
        load("dtd,partition=2,resize=4", train=False, data_dir=tmp_path, download=False)
    (tmp_path / "dtd/dtd/labels/train2.txt").unlink()
    monkeypatch.setattr(torchvision.datasets.DTD, "_download", lambda self: dtd(Path(self.root)))
    with pytest.raises(DataError, match=r"the download failed: .*dtd is incomplete.* delete it"):
        load("dtd,partition=2,resize=4", train=True, data_dir=tmp_path)


def test_a_missing_set_is_fetched_whole(tmp_path, monkeypatch):
    def begin(self, root, train=True, download=False, **_):
        self.root = root
        if download:
            usps(Path(root))
        original(self, root, train)

    original = torchvision.datasets.USPS.__init__
    monkeypatch.setattr(torchvision.datasets.USPS, "__init__", begin)
    assert load("usps", train=True, data_dir=tmp_path / "new").labels.tolist() == [9, 1]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["usps.bz2", "usps.t.bz2"]


def test_sets_of_one_part_are_divided_class_by_class(tmp_path):
    sun397(tmp_path)
    train, test = (load("sun397,resize=4", train=p, data_dir=tmp_path) for p in (True, False))
    numbers = [part.images[:, 0, 0, 0].tolist() for part in (train, test)]
    assert numbers == [[1, 0, 3, 2, 5, 4, 7, 6], [9, 8]]


def test_classes_take_turns():
    labels = torch.tensor([0, 0, 0, 2, 2, 1])
    assert turns(labels).tolist() == [0, 1, 2, 0, 1, 0]
    assert labels[in_turns(labels)].tolist() == [0, 1, 2, 0, 2, 0]
    assert labels[in_turns(labels, 2)].tolist() == [0, 0, 1, 2, 2, 0]
