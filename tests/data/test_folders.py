"""Folders of images: a folder for each class, in train and in test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from citrus_lirpa.data.datasets import load
from citrus_lirpa.errors import InputError


def save(root: Path, *images: Image.Image, ending="png") -> str:
    """The images in turn to the classes a and b, for training and for testing."""
    for part in ("train", "test"):
        for i, image in enumerate(images):
            place = root / part / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{i}.{ending}")
    return str(root)


def pixels(shape: tuple[int, ...], first: int = 0, dtype=np.uint8) -> Image.Image:
    return Image.fromarray(np.arange(np.prod(shape), dtype=dtype).reshape(shape) + dtype(first))


def read(source: str):
    return load(source, train=True, data_dir=Path())


def test_classes_take_turns_and_images_stay_as_they_are(tmp_path):
    split = read(save(tmp_path, *(pixels((4, 5, 3), i) for i in range(4))))
    assert split.labels.tolist() == [0, 1, 0, 1]
    assert split.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert split.images[2].permute(1, 2, 0).flatten().tolist() == list(range(2, 62))


def test_networks_that_flatten_by_view_take_them(tmp_path):
    split = read(save(tmp_path, pixels((4, 5, 3)), pixels((4, 5, 3))))
    features = nn.Conv2d(3, 2, 3, padding=1)(split.pixels(slice(0, 2)))
    assert features.view(2, -1).shape == (2, 40)


def test_sixteen_bits_are_taken_by_their_upper_eight(tmp_path):
    grey = pixels((4, 5), 256 * 7 + 255, np.uint16)
    assert grey.mode == "I;16"
    split = read(save(tmp_path, grey, grey))
    assert split.images.shape == (2, 1, 4, 5)
    assert split.images[0].flatten().tolist() == [7] + 19 * [8]


def test_grey_with_transparency_is_grey(tmp_path):
    image = pixels((4, 5, 2))
    assert image.mode == "LA"
    split = read(save(tmp_path, image, image))
    assert torch.equal(split.images[0, 0].flatten(), 2 * torch.arange(20, dtype=torch.uint8))


def test_pixels_of_other_numbers_are_refused_in_one_line(tmp_path):
    image = Image.fromarray(np.zeros((4, 5), np.float32))
    with pytest.raises(InputError, match=r"0\.tif .* mode F; expected 8 or 16 bits") as caught:
        read(save(tmp_path, image, image, ending="tif"))
    assert "\n" not in str(caught.value)
