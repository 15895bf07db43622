"""What a command is pointed at: a trained run or an ONNX file, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..bounds.checks import check_one_radius
from ..data.datasets import DATASETS, find_spec, load
from ..data.types import DatasetSpec, Split, divide
from ..errors import InputError
from ..formats import safetensors as safetensors_files
from ..formats.onnx import SUFFIX, load_onnx
from ..training import checkpoint, zoo


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, in eval mode on the CPU, with what is needed to evaluate it.

    model maps pixels in [0, 1], (N, *spec.shape), to logits (N, spec.classes). eps: radius in
    pixels. threads: CPU threads to use, 0 for as many as torch chooses. name: the path.
    held_out: how many of the last training images it was not trained on.
    """

    model: nn.Module
    spec: DatasetSpec
    eps: float
    threads: int
    name: str
    held_out: int = 0


def load_subject(path: Path, dataset: str | None = None, eps: float | None = None) -> Subject:
    """The network of a run folder, a checkpoint, a safetensors file of ``export``, zoo:NAME or,
    if it ends in .onnx, an ONNX file.

    dataset, eps: of a run, its own by default; required for an ONNX file, which holds neither.

    Raises:
        InputError: ``dataset`` or ``eps`` is missing, ``eps`` is no radius, or ``dataset`` does
            not fit the network.
        CheckpointError: there is no usable run at ``path``.
        and what ``load_onnx`` raises.
    """
    path = Path(path)
    if eps is not None:
        check_one_radius(eps)
    if path.suffix.lower() == SUFFIX:
        return _load_onnx_subject(path, dataset, eps)
    model, spec, settings = checkpoint.load_model(path)
    if dataset not in (None, spec.name):
        raise InputError(f"{path} was trained on {spec.name}, not {dataset}; drop --dataset")
    radius = settings.train.eps if eps is None else eps
    return Subject(model, spec, radius, settings.train.threads, str(path), settings.data.held_out)


def evaluation_images(subject: Subject, data_dir: Path, *, held_out: bool, download: bool) -> Split:
    """The test set, or with ``held_out`` the training images kept from the run's training.

    Raises:
        InputError: there are no such training images.
        and what ``data.load`` raises.
    """
    if held_out and not subject.held_out:
        raise InputError(
            f"{subject.name} was trained without held-out images; train with --set "
            "data.held_out=5000, or drop --held-out"
        )
    images = load(subject.spec.name, train=held_out, data_dir=data_dir, download=download)
    return divide(images, subject.held_out)[1] if held_out else images


def is_trained(path: Path) -> bool:
    """Whether ``path`` is a run that was trained to its end, or no run of this package.

    Raises CheckpointError for a damaged one.
    """
    path = Path(path)
    return path.suffix.lower() == SUFFIX or checkpoint.load(path)[1].get("finished", True)


def results_folder(path: Path) -> Path:
    """Where results go unless a user says otherwise: the run, a folder beside an ONNX or
    safetensors file, or one in the current folder for a network of the zoo."""
    path = Path(path)
    if zoo.is_name(path):
        return Path(f"{zoo.find(path).stem}-eval")
    if path.suffix.lower() in (SUFFIX, safetensors_files.SUFFIX):
        return path.parent / f"{path.stem}-eval"
    return checkpoint.find(path).parent


def _load_onnx_subject(path: Path, dataset: str | None, eps: float | None) -> Subject:
    if dataset is None or eps is None:
        missing = "--dataset" if dataset is None else "--eps"
        example = "--dataset mnist" if dataset is None else "--eps 8/255"
        raise InputError(
            f"{path} is an ONNX file, which says nothing of its data: {missing} is missing; "
            f"add for example {example}"
        )
    spec = find_spec(dataset)
    model, shape = load_onnx(path)
    if shape != spec.shape:
        fitting = [name for name, other in DATASETS.items() if other.shape == shape]
        raise InputError(
            f"{path} takes images {shape}, but those of {dataset} are {spec.shape}; data sets "
            f"that fit: {', '.join(fitting) or 'none'}"
        )
    classes = _classes(model, shape)
    if classes != spec.classes:
        raise InputError(f"{path} knows {classes} classes, but {dataset} has {spec.classes}")
    return Subject(model, spec, eps, 0, str(path))


@torch.no_grad()
def _classes(model: nn.Module, shape: tuple[int, ...]) -> int:
    return model(torch.zeros(1, *shape)).shape[1]
