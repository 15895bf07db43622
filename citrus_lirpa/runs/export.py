"""A trained network alone, as one file for other programs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ..bounds.tracing import modes_restored
from ..errors import InputError, ModelError, is_out_of_memory, reason
from ..formats import onnx as onnx_files
from ..formats import safetensors as safetensors_files
from ..formats.atomic import write_atomically
from ..training import checkpoint
from .networks import Subject


def save_network(subject: Subject, out: Path) -> None:
    """Write the network of ``subject`` as the suffix of ``out`` says; see ``FORMATS``.

    Raises:
        InputError: ``out`` exists, or is .safetensors and the network no run's.
        ModelError: the network cannot be written, or what was written computes something else.
        DependencyError: the package for this format is missing.
    """
    if out.exists():
        raise InputError(f"{out} exists; choose another --out")
    FORMATS[out.suffix.lower()](subject, out)


def save_program(model: nn.Module, shape: Sequence[int], path: Path) -> None:
    """Write ``model``, in eval mode, as a program of torch.export: images (N, *shape) to logits.

    The file appears once it is whole and computes what the model does. Raises ModelError.
    """
    device = next(model.parameters()).device
    example = torch.zeros(2, *shape, device=device)
    batch = torch.export.Dim("batch", min=1)
    file = io.BytesIO()
    with modes_restored(model), torch.no_grad():
        model.eval()
        try:
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, file)
        except Exception as error:  # torch.export names no common class for what can go wrong
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"this model cannot be exported by torch.export: {reason(error)}"
            ) from error
        file.seek(0)
        with warnings.catch_warnings():  # torch reads its own file so
            for message in ("The given buffer is not writable", "You are using `torch.load`"):
                warnings.filterwarnings("ignore", message=message)
            written = torch.export.load(file).module()
        x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        if not torch.allclose(written(x), model(x), rtol=1e-4, atol=1e-5):
            raise ModelError("the program of torch.export computes other logits than the model")
    write_atomically(path, lambda out: out.write(file.getvalue()))


def _save_weights(subject: Subject, out: Path) -> None:
    if Path(subject.name).suffix.lower() == onnx_files.SUFFIX:
        raise InputError(
            f"{subject.name} is an ONNX file; {out.suffix} holds a run's weights and configuration"
        )
    config, state = checkpoint.load(Path(subject.name))
    safetensors_files.save(out, config.to_toml(), state["model"])


#: By suffix: the whole network for other frameworks, for PyTorch, and weights for this package.
FORMATS: dict[str, Callable[[Subject, Path], None]] = {
    onnx_files.SUFFIX: lambda subject, out: onnx_files.save_onnx(
        subject.model, subject.spec.shape, out
    ),
    ".pt2": lambda subject, out: save_program(subject.model, subject.spec.shape, out),
    safetensors_files.SUFFIX: _save_weights,
}
