"""GTSRB, photographs of German traffic signs, scaled to one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import DataError
from .readers import IMAGE_ERRORS, decode_all, last_line, read_with_torchvision
from .turns import in_turns
from .types import Arrays, DatasetSpec

SIGNS = (
    "20 km/h", "30 km/h", "50 km/h", "60 km/h", "70 km/h", "80 km/h", "end of 80 km/h", "100 km/h",
    "120 km/h", "no passing", "no passing for lorries", "right of way", "priority road", "yield",
    "stop", "no vehicles", "no lorries", "no entry", "danger", "curve left", "curve right",
    "double curve", "bumpy road", "slippery road", "narrow on the right", "road work",
    "traffic lights", "pedestrians", "children", "bicycles", "ice", "wild animals",
    "end of limits", "turn right", "turn left", "ahead only", "ahead or right", "ahead or left",
    "keep right", "keep left", "roundabout", "end of no passing", "end of no passing for lorries",
)  # fmt: skip
_TRACK = 30  # photographs of one sign, which follow each other in its class


def load_gtsrb(spec: DatasetSpec, folder: Path, train: bool, download: bool) -> Arrays:
    """Read GTSRB, scaled bilinearly; download it if it is missing.

    Training images stand in the order of their tracks, so that the first ones are of all classes
    and photographs of one sign stay together; test images in the order of their list.
    """
    data = read_with_torchvision("GTSRB", spec, folder, train, download)
    if train:
        _check_classes(folder / spec.files[0])
    _, height, width = spec.shape
    images = torch.empty((len(data), *spec.shape), dtype=torch.uint8)
    labels = torch.empty(len(data), dtype=torch.int64)

    def decode(i: int) -> None:
        image, labels[i] = data[i]
        scaled = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
        images[i] = torch.from_numpy(scaled).permute(2, 0, 1)

    try:
        decode_all(decode, len(data))
    except IMAGE_ERRORS as error:
        raise DataError(
            f"gtsrb in {folder} is damaged ({last_line(error)}); delete {folder / 'gtsrb'} and run "
            "again to have it downloaded"
        ) from error
    if not train:
        return images, labels
    order = in_turns(labels, _TRACK)
    return images[order], labels[order]


def _check_classes(folder: Path) -> None:
    """Refuse training images with classes missing, which torchvision would number anew."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    wrong = sorted(names ^ {f"{label:05}" for label in range(len(SIGNS))})
    if wrong:
        raise DataError(
            f"{folder} does not hold the {len(SIGNS)} classes of GTSRB: {wrong[0]} is missing or "
            "unknown; delete it and run again to have it downloaded"
        )
