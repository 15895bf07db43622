"""Trained networks written for other programs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ..bounds.tracing import modes_restored
from ..errors import InputError, ModelError, foreign
from ..formats import onnx, safetensors
from ..formats.atomic import write_bytes
from ..training import checkpoint
from .networks import Network


def save_network(network: Network, out: Path) -> None:
    """Write a network alone, in the format that the suffix of ``out`` names.

    Raises:
        InputError: ``out`` exists, or is .safetensors and the network is no run's.
        ModelError: The network cannot be written, or what was written computes something else.
    """
    if out.exists():
        raise InputError(f"{out} exists; choose another --out")
    FORMATS[out.suffix.lower()](network, out)


def save_program(model: nn.Module, shape: Sequence[int], path: Path) -> None:
    """Write a model as a program of torch.export, which appears once it is whole and correct.

    It is exported in eval mode, for images of the shape (C, H, W).

    Raises:
        ModelError: torch.export cannot export the model, or computes other logits.
    """
    device = next(model.parameters()).device
    example = torch.zeros(2, *shape, device=device)
    batch = torch.export.Dim("batch", min=1)
    file = io.BytesIO()
    with modes_restored(model), torch.no_grad():
        model.eval()
        with foreign(ModelError, "this model cannot be exported by torch.export"):
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, file)
        file.seek(0)
        with warnings.catch_warnings():  # torch reads its own file so
            for message in ("The given buffer is not writable", "You are using `torch.load`"):
                warnings.filterwarnings("ignore", message=message)
            written = torch.export.load(file).module()
        x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        if not torch.allclose(written(x), model(x), rtol=1e-4, atol=1e-5):
            raise ModelError("the program of torch.export computes other logits than the model")
    write_bytes(path, file.getvalue())


def _save_weights(network: Network, out: Path) -> None:
    if onnx.is_onnx(Path(network.name)):
        raise InputError(
            f"{network.name} is an ONNX file; {out.suffix} holds a run's weights and configuration"
        )
    config, state = checkpoint.load(Path(network.name))
    safetensors.save(out, config.to_toml(), state["model"])


#: By suffix: the whole network for other frameworks, for PyTorch, and weights for this package.
FORMATS: dict[str, Callable[[Network, Path], None]] = {
    onnx.SUFFIX: lambda network, out: onnx.save_onnx(network.model, network.spec.shape, out),
    ".pt2": lambda network, out: save_program(network.model, network.spec.shape, out),
    safetensors.SUFFIX: _save_weights,
}
