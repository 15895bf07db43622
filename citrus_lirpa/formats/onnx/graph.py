"""An ONNX graph as PyTorch layers that auto_LiRPA can bound.

Feed-forward graphs on images only: each operation is one layer, and a graph without branches
becomes a flat ``nn.Sequential``. The operators are in ``operators``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...models import Normalise

if TYPE_CHECKING:
    import onnx

Shapes = dict[str, tuple[int, ...]]  # of values, by name, for a batch of one


def kind(node: onnx.NodeProto) -> str:
    """Return the operator's name, with its domain where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def unusable(node: onnx.NodeProto, why: str) -> ModelError:
    """Return the error for a node that cannot be read, which names it."""
    return ModelError(f"{kind(node)} '{node.output[0]}' {why}")


def per_channel(array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return ``array`` as float64 values (C,) where it has one for each channel, else None.

    Args:
        array: A constant that is combined with a value of ``shape``; None is returned as it is.
        shape: (1, C, ...).
    """
    if array is None or array.dtype != np.float32 or array.ndim > len(shape):
        return None
    padded = (1,) * (len(shape) - array.ndim) + array.shape
    if any(side != 1 for axis, side in enumerate(padded) if axis != 1):
        return None
    if padded[1] not in (1, shape[1]):
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), shape[1:2])


class Reader:
    """Collects the layers of one graph in network order.

    Attributes:
        shapes: The shape of every value, for a batch of one.
        constants: The arrays of the file, by name.
        nodes: The nodes that compute something.
        uses: How many nodes and outputs take a value.
        where: Which layer computes a value; 0 is the input.
        layers: The layers so far, and in ``sources`` and ``names`` what each takes and computes.
        normalise: The leading layer, where the graph begins with one.
    """

    def __init__(self, graph: onnx.GraphProto, shapes: Shapes) -> None:
        from onnx import numpy_helper

        self.graph, self.shapes = graph, shapes
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.nodes = self._without_constants()
        self.uses = Counter(name for node in self.nodes for name in node.input)
        self.uses.update(value.name for value in graph.output)
        self.layers: list[nn.Module] = []
        self.sources: list[tuple[int, ...]] = []
        self.names: list[str] = []
        self.normalise, entry = self._leading_normalise(graph_inputs(graph)[0].name)
        self.where = {entry: 0}

    def index(self, name: str) -> int:
        """Return which layer computes the value ``name``."""
        if name not in self.where:
            raise ModelError(f"value '{name}' is used but not computed from the input")
        return self.where[name]

    def add(self, node: onnx.NodeProto, layer: nn.Module, *names: str, output: int = 0) -> None:
        """Append ``layer``, which takes the values ``names`` and computes an output of ``node``."""
        self.sources.append(tuple(self.index(name) for name in names))
        self.layers.append(layer)
        self.names.append(node.output[output])
        self.where[node.output[output]] = len(self.layers)

    def skip(self, node: onnx.NodeProto, name: str) -> None:
        """Note that ``node``'s output is the value ``name`` unchanged."""
        self.where[node.output[0]] = self.index(name)

    def given(self, node: onnx.NodeProto, index: int) -> bool:
        """Return whether ``node`` has input ``index``; trailing ones may be left out."""
        return len(node.input) > index and bool(node.input[index])

    def constant(self, node: onnx.NodeProto, index: int) -> Tensor:
        """Return the input ``index`` of ``node``, a float32 array of the file."""
        if not self.given(node, index) or node.input[index] not in self.constants:
            raise unusable(node, f"has input {index}, which must be a constant of the file")
        array = self.constants[node.input[index]]
        if array.dtype != np.float32:
            raise ModelError(f"constant '{node.input[index]}' is {array.dtype}; expected float32")
        return torch.from_numpy(array.copy())

    def integers(self, node: onnx.NodeProto, index: int) -> list[int]:
        """Return the input ``index`` of ``node``, whole numbers of the file."""
        array = self.constants.get(node.input[index])
        if array is None or array.dtype != np.int64:
            raise unusable(node, f"has input {index}, which must be whole numbers of the file")
        return [int(value) for value in array.reshape(-1)]

    def before(self, name: str) -> nn.Module | None:
        """Return the layer that computes value ``name`` if nothing else takes that value."""
        index = self.index(name)
        alone = index > 0 and self.names[index - 1] == name and self.uses[name] == 1
        return self.layers[index - 1] if alone else None

    def _without_constants(self) -> list[onnx.NodeProto]:
        """Return the nodes that compute; Constant and Identity of constants become constants."""
        nodes = []
        for node in self.graph.node:
            if node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            elif node.op_type == "Constant":
                self.constants[node.output[0]] = constant_value(node)
            else:
                nodes.append(node)
        return nodes

    def _leading_normalise(self, name: str) -> tuple[Normalise | None, str]:
        """Return the per-channel operations at the input as one layer, and the value after them.

        BoundedNet applies a leading Normalise itself: auto_LiRPA fails on such constants.
        """
        shape = self.shapes[name]
        mean, std = np.zeros(shape[1]), np.ones(shape[1])  # float64
        while len(shape) == 4 and len(users := [n for n in self.nodes if name in n.input]) == 1:
            (node,) = users
            other = node.input[1 - list(node.input).index(name)] if len(node.input) == 2 else ""
            value = per_channel(self.constants.get(other), shape)
            if value is None or node.op_type not in ("Add", "Sub", "Mul", "Div"):
                break
            if node.input[0] != name and node.op_type in ("Sub", "Div"):
                break
            with np.errstate(all="ignore"):
                new_mean, new_std = {
                    "Add": (mean - value * std, std),
                    "Sub": (mean + value * std, std),
                    "Mul": (mean, std / value),
                    "Div": (mean, std * value),
                }[node.op_type]
                usable = np.float32(new_std) > 0
            if not (usable & np.isfinite(new_mean) & np.isfinite(np.float32(new_std))).all():
                break
            mean, std, name = new_mean, new_std, node.output[0]
        found = (mean != 0).any() or (std != 1).any()
        return (Normalise(mean.tolist(), std.tolist()) if found else None), name


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are not weights, which old files list among the inputs."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def remove_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes that the output does not depend on."""
    wanted = {value.name for value in graph.output}
    used = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            used.append(node)
    del graph.node[:]
    graph.node.extend(used[::-1])


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of the graph and of the graphs within its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            yield from tensors_of(inner)


def constant_value(node: onnx.NodeProto) -> np.ndarray:
    """Return the array of a Constant node; raise ModelError where it holds no numbers."""
    from onnx import helper, numpy_helper

    (value,) = node.attribute
    if value.name == "value":
        return numpy_helper.to_array(value.t)
    if value.name in ("value_float", "value_floats"):
        return np.array(helper.get_attribute_value(value), dtype=np.float32)
    if value.name in ("value_int", "value_ints"):
        return np.array(helper.get_attribute_value(value), dtype=np.int64)
    raise unusable(node, f"holds {value.name}; expected numbers")
