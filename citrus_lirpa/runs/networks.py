"""Trained networks on the disk, read from runs and files."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import distributed, models
from ..bounds.checks import Scalar, check_radius
from ..bounds.net import BoundedNet
from ..data.datasets import find_spec, load
from ..data.eps_map import read_eps_map
from ..data.types import DatasetSpec, Split, divide
from ..errors import InputError, expect, require
from ..formats import onnx, safetensors
from ..models import ctrain
from ..training import checkpoint, zoo
from ..training.setup import judged_radius, use_threads
from ..training.weights import SUFFIXES, fit_weights, is_foreign, read_weights
from . import onnx_networks
from .onnx_networks import is_normalised

#: By how much the accuracy of chance a network that is given other inputs than it wants may be
#: better: published ones reached 26 % of 10 classes.
_CHANCE = 3.0


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network with what is needed to evaluate it.

    Attributes:
        model: Module in eval mode that maps pixels in [0, 1], (N, *spec.shape), to logits
            (N, spec.classes).
        spec: The data set it was trained for.
        eps: Radius in pixels; with a map of ε, its largest value.
        threads: CPU threads to use; 0 for as many as torch chooses.
        name: The path it was read from.
        held_out: How many of the last training images it was not trained on.
        eps_map: ε of every pixel, (C, H, W); None for ``eps`` everywhere.
        norm: The norm of ε, inf or 2.
        options: Options of commands that name its code and its normalisation.
    """

    model: nn.Module
    spec: DatasetSpec
    eps: float
    threads: int
    name: str
    held_out: int = 0
    eps_map: Tensor | None = None
    norm: float = math.inf
    options: str = ""

    @property
    def radius(self) -> Scalar:
        """ε in pixels: a number, or the map of one image."""
        return self.eps if self.eps_map is None else self.eps_map

    def doubt(self, accuracy: float) -> str:
        """Return a hint where a file's network classifies little more than chance, else nothing."""
        foreign = onnx.is_onnx(Path(self.name)) or is_foreign(Path(self.name))
        chance = 1 / self.spec.classes
        enough = accuracy >= min(_CHANCE * chance, (1 + chance) / 2)
        if not foreign or is_normalised(self.model) or enough:
            return ""
        return (
            f"only {100 * accuracy:.2f} % of the images are classified correctly, and the "
            "network does not normalise its inputs; if it was trained on normalised pixels, say by "
            "what: --mean and --std"
        )

    def bounded(self, device: torch.device, seed: int, bounds: str = "own") -> BoundedNet:
        """Wrap the model, on a device, for bounds, and make the process ready to use it.

        The process computes on ``threads`` CPU threads and draws by the seed from now on.
        """
        example = torch.zeros(2, *self.spec.shape, device=device)
        net = BoundedNet(self.model.to(device), example, bounds=bounds)
        use_threads(self.threads)
        torch.manual_seed(seed)
        return net


def load_network(
    path: Path,
    dataset: str | None = None,
    eps: float | None = None,
    own: Mapping[str, Any] | None = None,
    eps_map: Path | None = None,
    norm: float | None = None,
) -> Network:
    """Read the network of a run or of a file.

    Args:
        path: A run folder, a checkpoint, a safetensors file of ``export``, zoo:NAME or, if it
            ends in .onnx or .onnx.gz, an ONNX file.
        dataset: Name of the data set; the run's by default. An ONNX file, which holds none,
            needs it.
        eps: Radius in pixels; the run's by default. An ONNX file needs it too.
        own: Options of :func:`~.models.own`: whose weights ``path`` holds, with ``dataset`` and
            ``eps``. An ONNX file takes ``mean`` and ``std``.
        eps_map: A file with the ε of every pixel, in place of ``eps``; see ``read_eps_map``. The
            run's by default, where ``eps`` is not given either.
        norm: That perturbations are measured in; the run's by default, inf for other files.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: If ``dataset`` or ``eps`` is missing, ``eps`` is no radius, or ``dataset``
            does not fit the network; also what ``load_onnx`` raises.
        CheckpointError: If there is no usable run at ``path``.
    """
    if eps_map is None:
        network = _load(Path(path), dataset, eps, own)
        network = network if norm is None else replace(network, norm=norm)
        most = "a radius in pixels, which are from 0 to 1, such as 8/255; --norm 2 takes more"
        expect(network.norm == 2 or network.eps <= 1, "ε", network.eps, most)
        return network
    require(norm != 2, "--eps-map is for norm inf; with --norm 2 give one --eps")
    require(eps is None, "give --eps or --eps-map, which holds the ε of each pixel, not both")
    network = _load(Path(path), dataset, float(read_eps_map(eps_map).max()), own)
    return replace(network, eps_map=read_eps_map(eps_map, network.spec.shape))


def _load(
    path: Path, dataset: str | None, eps: float | None, own: Mapping[str, Any] | None
) -> Network:
    way = f"give its weights and the network's name: --weights FILE --model {path}:NAME"
    require(path.suffix.lower() != ".py", f"{path} is code; {way}")
    if eps is not None:
        check_radius(eps, "ε")
    if onnx.is_onnx(path):
        model, spec, radius = onnx_networks.load(path, dataset, eps, **(own or {}))
        return Network(model, spec, radius, 0, str(path), options=_options(own or {}))
    if own is not None and "source" not in own:
        raise InputError("--mean and --std are for --model FILE.py:NAME, and for ONNX files")
    if own is not None and path.suffix.lower() in SUFFIXES:
        return _load_own(path, dataset, eps, own)
    model, spec, config = checkpoint.load_model(path)
    if dataset not in (None, spec.name):
        raise InputError(f"{path} was trained on {spec.name}, not {dataset}; drop --dataset")
    network = Network(
        *(model, spec, config.train.eps, config.train.threads, str(path), config.data.held_out),
        norm=config.train.norm,
        options=config.trust.strip(),
    )
    if eps is not None:
        return replace(network, eps=eps)
    judged = judged_radius(config)
    return replace(network, eps_map=judged) if isinstance(judged, Tensor) else network


def _load_own(
    path: Path, dataset: str | None, eps: float | None, own: Mapping[str, Any]
) -> Network:
    if dataset is None or eps is None:
        missing = "--data" if dataset is None else "--eps"
        raise InputError(f"{path} holds weights, which say nothing of their data: {missing} is "
                         "missing; add for example --data FOLDER --eps 8/255")  # fmt: skip
    spec, options = find_spec(dataset), _options(own)
    if ctrain.is_ctrain(own["source"]) and dataset in ctrain.PIXELS:
        mean, std = ctrain.PIXELS[dataset]
        own = {"mean": mean, "std": std, **own}
    model = models.own(spec.shape, spec.classes, **own)
    fit_weights(models.core_of(model), read_weights(path), path)
    return Network(model.eval(), spec, eps, 0, str(path), options=options)


def _options(own: Mapping[str, Any]) -> str:
    named = {"--model": own.get("source"), "--mean": own.get("mean"), "--std": own.get("std")}
    texts = {k: v if isinstance(v, str) else ",".join(map(str, v)) for k, v in named.items() if v}
    return " ".join(f"{option}={shlex.quote(text)}" for option, text in texts.items())


def evaluation_images(network: Network, data_dir: Path, *, held_out: bool, download: bool) -> Split:
    """Read the images that a network is evaluated on; the first process of a job reads first.

    They are the test set, or with ``held_out`` the training images that its training left out.

    Raises:
        InputError: If its training left out no images.
        DataError: If the data set is missing or damaged.
    """
    fix = "train with --set data.held_out=N, or drop --held-out"
    known = network.held_out or not held_out
    require(known, f"{network.name} was trained without held-out images; {fix}")
    with distributed.leader_first():
        images = load(network.spec.name, train=held_out, data_dir=data_dir, download=download)
    return divide(images, network.held_out)[1] if held_out else images


def is_trained(path: Path) -> bool:
    """Tell whether ``path`` is a run trained to its end, or a network from elsewhere."""
    path = Path(path)
    if onnx.is_onnx(path) or is_foreign(path):
        return True
    return checkpoint.load(path)[1].get("finished", True)


def results_folder(path: Path) -> Path:
    """Choose where results go unless a user says otherwise.

    That is the folder of a run, NAME-eval beside NAME.onnx, FILE-eval beside another FILE, which
    may have the same NAME, or NAME-eval in the current folder for a network of the zoo.
    """
    path = Path(path)
    if zoo.is_name(path):
        return Path(f"{zoo.find(path).stem}-eval")
    if onnx.is_onnx(path):
        return path.parent / f"{path.name.rpartition(onnx.SUFFIX)[0]}-eval"
    if path.suffix.lower() == safetensors.SUFFIX or is_foreign(path):
        return path.parent / f"{path.name}-eval"
    return checkpoint.find(path).parent
