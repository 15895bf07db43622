"""What a run needs before its first step: device, threads, memory, network and loss."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import distributed
from ..bounds.checks import Scalar
from ..bounds.net import BoundedNet
from ..bounds.unbounded import UnboundedNet
from ..data.eps_map import read_eps_map
from ..data.types import DatasetSpec
from ..errors import InputError, reason, require
from ..formats import onnx
from . import checkpoint
from .config import RunConfig, make_loss
from .initialisation import shi_initialise

_log = logging.getLogger(__name__)
#: Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def build(config: RunConfig, device: torch.device) -> tuple[BoundedNet, nn.Module]:
    """Seed torch, then make the network and the loss of a configuration.

    Args:
        config: What to train.
        device: Where to train.

    Returns:
        The bounded network, initialised, and a loss that can use it.

    Raises:
        InputError: If the loss cannot use the network.
        ModelError: If the network cannot be bounded.
    """
    torch.manual_seed(config.train.seed)
    model, spec = checkpoint.make_model(config)
    net: BoundedNet
    if config.denoises:
        net = UnboundedNet(model.to(device), spec.classes)
    else:
        net = BoundedNet(model.to(device), torch.zeros(2, *spec.shape, device=device))
    if config.train.initialisation == "shi":
        shi_initialise(net)
    if config.train.compile:
        net.compile()
    loss: Any = make_loss(config.loss, config.train)
    if judge := config.loss.get("classifier"):
        loss.classifier = _classifier(Path(judge), spec).to(device)
    if callable(check := getattr(loss, "check_net", None)):
        check(net)
    return net, loss


def _classifier(path: Path, spec: DatasetSpec) -> nn.Module:
    """Read the network that a denoiser is trained in front of, without gradients."""
    if onnx.is_onnx(path):
        model, shape = onnx.load_onnx(path)
    else:
        model, other, _ = checkpoint.load_model(path)
        shape = other.shape
    require(
        shape == spec.shape,
        f"loss.classifier is {path}, which takes images {shape}; those of {spec.name} are "
        f"{spec.shape}",
    )
    return model.eval().requires_grad_(False)


def judged_radius(config: RunConfig) -> Scalar:
    """Return the ε that a run is judged by: a number, or the map of one image.

    Raises:
        InputError: The map is not there, has changed, or does not fit the images.
    """
    train = config.train
    if not train.eps_map:
        return train.eps
    shape = checkpoint.data_spec(config).shape
    return read_eps_map(Path(train.eps_map), shape, train.eps_map_sha256)


def choose_device(name: str) -> torch.device:
    """Find a device by its name.

    Args:
        name: cpu, cuda, cuda:N, or auto for a GPU where there is one.

    Raises:
        InputError: If it cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:  # it lists what torch was ever built for
        raise InputError(
            f"device '{name}' is unknown; expected --device auto, cpu, cuda (a GPU) or cuda:N"
        ) from error
    try:
        torch.zeros(1, dtype=torch.float64, device=device).item()  # which Apple's GPUs do not have
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise InputError(
            f"device '{name}' cannot be used: {reason(error)}; try --device cpu"
        ) from error
    _log.debug("device %s, %d CPU threads", device, torch.get_num_threads())
    return device


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = named.split(",") if named else map(str, range(torch.cuda.device_count()))
    return list(names)[: torch.cuda.device_count()]


def join_processes(name: str, *, share_gpus: bool = False) -> torch.device:
    """Join the other processes of the job, where torchrun started several.

    Args:
        name: Of the device, as for ``choose_device``; each of several processes takes the GPU
            of its number.
        share_gpus: Whether more processes than GPUs take these in turn. They can then exchange
            nothing but what is on the CPU, which training does not do.

    Returns:
        The device of this process.

    Raises:
        InputError: If the device cannot be used, or there is no GPU for this process.
        DistributedError: If the processes do not find each other.
    """
    device = choose_device(name)
    if device.type == "cuda" and distributed.launched() > 1:
        here, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if device.index is not None or (here >= gpus and not share_gpus):
            raise InputError(
                f"process {here} of this machine cannot take a GPU of its own (--device {name}, "
                f"{gpus} found); use --device cuda and torchrun --nproc_per_node={gpus}, or "
                "--device cpu"
            )
        device = torch.device("cuda", here % gpus)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.start(cuda=device.type == "cuda" and not share_gpus)
    return device


def choose_threads(net: BoundedNet, wanted: int) -> int:
    """Choose the number of CPU threads; more than one slow down a small network (up to 20x).

    Args:
        net: What is computed.
        wanted: What the configuration asks for, 0 for a number that suits the network.
    """
    if wanted:
        return wanted
    parameters = sum(p.numel() for p in net.parameters())
    return 1 if parameters < 1_000_000 else torch.get_num_threads()


def use_threads(wanted: int) -> None:
    """Compute on ``wanted`` CPU threads, at most one a core; 0 leaves the choice to torch."""
    if wanted:
        torch.set_num_threads(min(wanted, os.cpu_count() or wanted))


def measure_convolutions(device: torch.device) -> None:
    """Let a GPU choose convolutions by the time of the first calls: all steps have their shapes."""
    torch.backends.cudnn.benchmark = device.type == "cuda"


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next block of its size.

    By default it gives blocks above 32 MiB back to the kernel, which clears every page of the
    next one anew: half the time of a training step with large boxes.

    Returns:
        Whether it does; other C libraries stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
