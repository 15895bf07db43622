"""Hugging Face data on the disk: read as it was saved, refused in one line where it is not."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from citrus_lirpa.data import own
from citrus_lirpa.data.datasets import load
from citrus_lirpa.errors import DependencyError, InputError

datasets = pytest.importorskip("datasets")
NAMES = ["cat", "dog"]
FEATURES = datasets.Features(picture=datasets.Image(), animal=datasets.ClassLabel(names=NAMES))


def pictures(count: int, side: int = 6, mode: str = "RGB") -> list[Image.Image]:
    shape = (side, side + 1, 3) if mode == "RGB" else (side, side + 1)
    rows = [np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) + i for i in range(count)]
    return [Image.fromarray(row) for row in rows]


def split(count: int = 3, **options) -> datasets.Dataset:
    columns = {"picture": pictures(count, **options), "animal": [i % 2 for i in range(count)]}
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def save(folder: Path, **splits: datasets.Dataset) -> str:
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return str(folder)


@pytest.mark.parametrize("test", ["test", "validation"])
def test_splits_are_read_as_they_were_saved(tmp_path, test):
    source = save(tmp_path / "pets", train=split(3), **{test: split(2)})
    spec = own.find(source)
    assert (spec.shape, spec.class_names) == ((3, 6, 7), ("cat", "dog"))
    assert own.class_names(source) == ("cat", "dog")
    train = load(source, train=True, data_dir=tmp_path)
    assert train.labels.tolist() == [0, 1, 0]
    expected = torch.from_numpy(np.array(pictures(3)[2])).permute(2, 0, 1)
    assert train.images[2].equal(expected) and train.images.dtype == torch.uint8
    assert len(load(source, train=False, data_dir=tmp_path)) == 2


def test_a_training_set_may_be_missing(tmp_path):
    source = save(tmp_path / "pets", validation=split(2))
    assert own.find(source).class_names == own.class_names(source) == ("cat", "dog")
    assert load(source, train=False, data_dir=tmp_path).labels.tolist() == [0, 1]
    with pytest.raises(InputError, match="pets has test images alone"):
        load(source, train=True, data_dir=tmp_path)


def test_grey_images_have_one_channel(tmp_path):
    source = save(tmp_path / "grey", train=split(mode="L"), test=split(mode="L"))
    assert own.find(source).shape == (1, 6, 7)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": split()}, "holds the splits train; expected test or validation, and train"),
        ({"train": split(), "test": split(side=5)}, r"image 0 of test in .* is \(3, 5, 6\)"),
        ({"train": split(), "test": split(0)}, "pets is damaged"),  # for datasets itself
        (
            {"train": split().rename_column("picture", "x").remove_columns("animal"),
             "test": split()},
            r"has columns x \(Image\); expected one of kind ClassLabel",
        ),
    ],
    ids=["no test", "sizes", "empty", "no labels"],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(tmp_path, splits, words):
    source = save(tmp_path / "pets", **splits)
    with pytest.raises(InputError, match=words) as error:
        own.find(source)
    assert "\n" not in str(error.value)


def test_damaged_files_are_one_line(tmp_path):
    source = save(tmp_path / "pets", train=split(), test=split())
    shutil.rmtree(Path(source) / "test")
    with pytest.raises(InputError, match="pets is damaged: .*; save it again"):
        own.find(source)


def test_without_the_package(tmp_path, monkeypatch):
    source = save(tmp_path / "pets", train=split(), test=split())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DependencyError, match="pip install datasets"):
        own.find(source)
