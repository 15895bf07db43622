"""The networks of a query: what their files compute, here and by onnxruntime."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError, ModelError, foreign, require
from ...formats.onnx.checks import TOLERANCE, difference, why_off
from ...formats.onnx.flat import flat_of
from ...formats.onnx.reading import layers_of, parse
from ...formats.query import Query, QueryNetwork
from ...formats.query_reader import INSTALL_HINT
from ...imports import import_optional
from ...models import Normalise
from .statement import UndecidedError

#: What numbers are declared as, and how they are computed with; files are in float32.
DTYPES: dict[str, Any] = {"real": None, "float32": np.float32, "float16": np.float16}

#: Networks of at most so many inputs are read as dense matrices first, which takes all operators.
_SMALL = 256


class ImageNetwork(nn.Module):
    """A network of images as one of flat vectors, without its normalisation.

    Args:
        core: Maps images (N, C, H, W) to logits.
        shape: (C, H, W).
    """

    def __init__(self, core: nn.Module, shape: tuple[int, ...]):
        super().__init__()
        self.shape, self.core = shape, core

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K) of (N, C·H·W)."""
        return self.core(x.reshape(-1, *self.shape))


@dataclass(frozen=True, eq=False)
class FileNetwork:
    """The network of an ONNX file, from one vector to one vector.

    Args:
        path: The file.
        module: What it computes of inputs that are shifted and scaled.
        mean: (n,) what is subtracted from the inputs.
        std: (n,) what they are divided by then.
        session: The file in onnxruntime.
    """

    path: Path
    module: nn.Module
    mean: np.ndarray
    std: np.ndarray
    session: Any

    @staticmethod
    def load(path: Path) -> FileNetwork:
        """Read a file.

        Raises:
            InputError: It is missing or no ONNX.
            ModelError: It is not understood, or onnxruntime computes something else.
            DependencyError: onnx or onnxruntime is missing.
        """
        path = Path(path)
        content = parse(path)
        session = _session(content.SerializeToString(), path)
        ways = [_as_images, _as_vectors]
        if sum(int(np.prod(_sides(value))) for value in session.get_inputs()) <= _SMALL:
            ways.reverse()
        for way in ways:
            try:
                module, mean, std = way(copy.deepcopy(content), path)
                network = FileNetwork(path, module.eval(), mean, std, session)
                network.check()
                return network
            except ModelError as error:
                why = error
        raise why

    @torch.no_grad()
    def check(self) -> None:
        """Compare the module with onnxruntime on three random inputs."""
        generator = np.random.default_rng(0)
        for _ in range(3):
            x = generator.random(len(self.mean), dtype=np.float32)
            scaled = torch.from_numpy((x - self.mean) / self.std).float()[None]
            off = difference(self.module(scaled)[0], torch.from_numpy(self.run(x)))
            if not off <= TOLERANCE:
                raise ModelError(
                    f"{self.path}: results are off by {off:.2g} of their size from onnxruntime's; "
                    f"{why_off(self.module, scaled)}"
                )

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the outputs (m,) of float32 inputs (n,), by onnxruntime."""
        feed, begin = {}, 0
        for value in self.session.get_inputs():
            shape = _sides(value)
            size = int(np.prod(shape))
            feed[value.name] = x[begin : begin + size].reshape(shape)
            begin += size
        return np.concatenate([np.ravel(y) for y in self.session.run(None, feed)])

    def check_fits(self, network: QueryNetwork) -> None:
        """Raise InputError unless a query declares the inputs and outputs that the file has."""
        ends = (
            (network.inputs, self.session.get_inputs(), "inputs"),
            (network.outputs, self.session.get_outputs(), "outputs"),
        )
        for declared, values, what in ends:
            require(
                len(declared) == len(values),
                f"network '{network.name}' has {len(declared)} {what}, but {self.path} "
                f"{len(values)}",
            )
            for tensor, value in zip(declared, values, strict=True):
                size = int(np.prod(_sides(value)))
                require(
                    tensor.size == size,
                    f"'{tensor.name}' is {list(tensor.shape)}, but '{value.name}' of {self.path} "
                    f"has {size} numbers",
                )


def load_networks(query: Query, files: Mapping[str, Path]) -> dict[str, FileNetwork]:
    """Read the file of each network of a query; a copy shares that of its original.

    Args:
        query: The query.
        files: The file of each network that is no copy, by name.

    Raises:
        InputError: A file is missing, or given for no network of the query; a type is not the
            file's.
        ModelError: A file is not understood.
    """
    names = [network.name for network in query.networks]
    for name in files:
        require(name in names, f"--network {name}=... names no network of the query: "
                f"{', '.join(names)}")  # fmt: skip
    loaded: dict[Path, FileNetwork] = {}
    found: dict[str, FileNetwork] = {}
    for network in query.networks:
        for tensor in (*network.inputs, *network.outputs):
            if tensor.dtype not in DTYPES:
                raise UndecidedError(
                    f"'{tensor.name}' is {tensor.dtype}; only {', '.join(DTYPES)} are decided"
                )
        if network.equal_to:
            require(
                network.name not in files and network.equal_to in found,
                f"network '{network.name}' is equal to '{network.equal_to}', an earlier network; "
                "it takes no file of its own",
            )
            found[network.name] = found[network.equal_to]
            found[network.name].check_fits(network)
            continue
        require(
            network.name in files,
            f"network {network.name} has no file; give --network {network.name}=FILE.onnx",
        )
        path = Path(files[network.name])
        if path not in loaded:
            loaded[path] = FileNetwork.load(path)
        found[network.name] = loaded[path]
        loaded[path].check_fits(network)
    return found


def _as_images(content: Any, path: Path) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """Read a network of images, with its convolutions."""
    module, shape = layers_of(content, path)
    mean, std = np.zeros(shape), np.ones(shape)
    if isinstance(module, nn.Sequential) and isinstance(module[0], Normalise):
        mean = np.broadcast_to(module[0].mean.double().numpy(), shape)
        std = np.broadcast_to(module[0].std.double().numpy(), shape)
        module = module[1:]
    return ImageNetwork(module, shape), mean.ravel(), std.ravel()


def _as_vectors(content: Any, path: Path) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """Read a network as dense matrices."""
    flat = flat_of(content, path)
    size = sum(int(np.prod(shape)) for shape in flat.inputs.values())
    return flat, np.zeros(size), np.ones(size)


def _session(content: bytes, path: Path) -> Any:
    runtime = import_optional("onnxruntime", INSTALL_HINT)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    with foreign(InputError, f"{path} cannot be run by onnxruntime"):
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _sides(value: Any) -> list[int]:
    """Return the sides of a value in a file; what is open is a batch of one."""
    return [side if isinstance(side, int) else 1 for side in value.shape]
