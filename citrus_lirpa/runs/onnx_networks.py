"""Networks of ONNX files, fitted to the images of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..data.datasets import DATASETS, find_spec
from ..data.types import DatasetSpec
from ..errors import InputError, require
from ..formats.onnx import load_onnx
from ..formats.onnx.layers import Permute
from ..models import Behind, Normalise, leading_normalise
from ..training.layers import layered, presets


def load(
    path: Path,
    dataset: str | None,
    eps: float | None,
    *,
    source: str = "",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> tuple[nn.Module, DatasetSpec, float]:
    """Read the network of an ONNX file for a data set.

    Args:
        path: The file.
        dataset: Name of the data set, which the file does not hold.
        eps: Radius in pixels, likewise.
        source: Must be empty: a file needs no code.
        mean: Of each channel, what the network wants pixels in [0, 1] normalised by.
        std: Of each channel.

    Returns:
        A module in eval mode from pixels in [0, 1] to logits, the data set, cropped to what the
        network takes, and the radius.
    """
    require(not source, f"{path} holds its network itself; leave out --model")
    if dataset is None or eps is None:
        missing = "--dataset" if dataset is None else "--eps"
        example = "--dataset mnist" if dataset is None else "--eps 8/255"
        raise InputError(
            f"{path} is an ONNX file, which says nothing of its data: {missing} is missing; "
            f"add for example {example}"
        )
    model, shape = load_onnx(path)
    spec = _cropped(find_spec(dataset), shape)
    model = _taking(model, shape, spec, path)
    with torch.no_grad():
        classes = model(torch.zeros(1, *spec.shape)).shape[1]
    if classes != spec.classes:
        fix = "give the data set that it was trained on"
        raise InputError(f"{path} knows {classes} classes, but {dataset} has {spec.classes}; {fix}")
    if mean or std:
        require(
            not is_normalised(model),
            f"{path} normalises its inputs itself; leave out --mean and --std",
        )
        model = Behind(leading_normalise(mean, std, spec.shape), model)
    return model.eval(), spec, eps


def is_normalised(model: nn.Module) -> bool:
    """Return whether a network begins with its normalisation."""
    return isinstance(model, nn.Sequential) and isinstance(model[0], Normalise)


def _cropped(spec: DatasetSpec, shape: tuple[int, ...]) -> DatasetSpec:
    """Return a data set as a network takes it, where a preset crops its images to that size."""
    tables = [layered(name, None, None, None)["data"] for name in presets()]
    crops = {table.get("crop") for table in tables if table["name"] == spec.name}
    square = len(shape) == 3 and shape[0] == spec.shape[0] and shape[1] == shape[2]
    return spec.with_crop(shape[1]) if square and shape[1] in crops else spec


def _taking(model: nn.Module, shape: tuple[int, ...], spec: DatasetSpec, path: Path) -> nn.Module:
    """Return a network of images (N, C, H, W): the file's may be of pixels in other orders."""
    channels, height, width = spec.shape
    if shape == spec.shape:
        return model
    if shape == (math.prod(spec.shape),):
        return Behind(nn.Flatten(), model)
    if shape == (height, width, channels):
        return Behind(Permute(0, 2, 3, 1), model)
    fitting = [name for name, other in DATASETS.items() if other.shape == shape]
    raise InputError(
        f"{path} takes inputs {shape}, but the images of {spec.name} are {spec.shape}; data sets "
        f"that fit: {', '.join(fitting) or 'none'}"
    )
