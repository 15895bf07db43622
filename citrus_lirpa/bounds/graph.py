"""The traced graph of a network, read once: operations that refer to auto_LiRPA's nodes.

Segments between ReLUs (:mod:`.segments`) and the fast interval bounds (:mod:`.interval`) are
both read off this graph. Weights stay where they are: they are read whenever they are used.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor

from .tracing import input_node, nodes

#: Nodes that hold a value; of buffers auto_LiRPA says that they depend on the input.
_CONSTANTS = {"BoundParams", "BoundBuffers", "BoundConstant"}


class Operation:
    """A node whose value depends on the network's input, and what it is computed from.

    Attributes:
        node: auto_LiRPA's node.
        kind: Name of the node's class.
        name: The node's name, unique in its graph.
        arguments: Names of all values that ``forward`` takes, constants among them.
        sources: Names of those that depend on the network's input.
        varying: For each argument, whether it is a source.
        forward: Computes the value from all arguments, as auto_LiRPA does.
    """

    def __init__(self, node: Any):
        self.node, self.kind, self.name = node, type(node).__name__, node.name
        self.arguments = [source.name for source in node.inputs]
        self.varying = [computed(source) for source in node.inputs]
        self.sources = [
            name for name, varies in zip(self.arguments, self.varying, strict=True) if varies
        ]
        self.forward = node.forward

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value, for one input."""
        return tuple(self.node.output_shape[1:])

    def constants(self) -> dict[str, Any]:
        """Return the arguments that do not vary, by name, as they are now and with graph."""
        sources = zip(self.node.inputs, self.varying, strict=True)
        return {source.name: constant_of(source) for source, varies in sources if not varies}


class BatchNorm(Operation):
    """BatchNorm by the statistics that bounds use: it updates none.

    In train mode these are the statistics of the last forward pass, with gradient, else the
    running ones.
    """

    def __init__(self, node: Any):
        super().__init__(node)
        self.forward = self._forward

    def constants(self) -> dict[str, Any]:
        """Return weight, bias, mean and variance by name, as they are now and with graph."""
        constants = super().constants()
        if self.node.training:
            _, _, mean, variance = constants
            constants |= {mean: self.node.current_mean, variance: self.node.current_var}
        return constants

    def scale_and_shift(self, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each channel is multiplied by, and what is added to it then."""
        weight, bias, mean, variance = constants or self.constants().values()
        scale = weight / (variance + self.node.eps).sqrt()
        return scale, bias - mean * scale

    def _forward(self, x: Tensor, *constants: Tensor) -> Tensor:
        if self.node.training:
            return scaled(x, *self.scale_and_shift(*constants))
        return self.node.forward(x, *constants)


class Concat(Operation):
    """A concatenation; its constants, known for one input, are the same for all."""

    def __init__(self, node: Any):
        super().__init__(node)
        self.forward = self._forward

    def _forward(self, *values: Tensor) -> Tensor:
        rows = max(map(len, values))
        return self.node.forward(*(value.expand(rows, *value.shape[1:]) for value in values))


class Graph:
    """The operations of a BoundedModule by name; the names of its input, logits and ReLUs.

    Args:
        bounded: The BoundedModule. Shapes are those of its last forward pass.
    """

    def __init__(self, bounded: Any):
        self.input: str = input_node(bounded).name
        self.output: str = bounded.final_node().name
        self.operations = {n.name: _operation(n) for n in nodes(bounded) if computed(n)}
        self.operations = self._in_order()
        found = self.operations.items()
        self.relus = [name for name, operation in found if operation.kind == "BoundRelu"]

    def _in_order(self) -> dict[str, Operation]:
        """Return the operations, each behind those that it takes, else in auto_LiRPA's order.

        auto_LiRPA 0.7 puts the parts of maxima and quotients behind what takes their values.
        """
        ordered: dict[str, Operation] = {}
        for name in self.operations:
            ordered |= {operation.name: operation for operation in self.path(name, ordered)[0]}
        return ordered

    def forget_values(self) -> None:
        """Let go of what auto_LiRPA's nodes keep of a forward pass, which is large."""
        for operation in self.operations.values():
            vars(operation.node).pop("forward_value", None)

    def path(self, end: str, known: Container[str]) -> tuple[list[Operation], set[str]]:
        """Return the operations that compute the value ``end`` from those that are ``known``.

        Each stands behind those whose values it takes. Return also the known values that they start
        from.
        """
        order: list[Operation] = []
        used: set[str] = set()
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name in seen:
                return
            seen.add(name)
            if name in known:
                used.add(name)
            elif operation := self.operations.get(name):
                for source in operation.sources:
                    visit(source)
                order.append(operation)

        visit(end)
        return order, used


def computed(node: Any) -> bool:
    """Return whether a node's value depends on the network's input.

    auto_LiRPA counts ConstantOfShape, and so the widths of paddings, as depending on it.
    """
    if not node.from_input or type(node).__name__ in _CONSTANTS:
        return False
    return not node.inputs or any(map(computed, node.inputs))


def scaled(x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """Multiply each channel of ``x`` (N, C, ...) by ``scale`` (C,) and add ``shift`` (C,)."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    x = x * scale.view(shape)
    return x if shift is None else x + shift.view(shape)


def _operation(node: Any) -> Operation:
    if type(node).__name__ == "BoundConcat":
        return Concat(node)
    usual = type(node).__name__ == "BoundBatchNormalization" and len(node.inputs) == 5
    return BatchNorm(node) if usual and not any(map(computed, node.inputs[1:])) else Operation(node)


def constant_of(node: Any) -> Any:
    """Return the value of a node that does not depend on the input, with its graph."""
    if type(node).__name__ == "BoundParams":
        return node.param
    if type(node).__name__ == "BoundBuffers":
        return node.buffer
    inputs = map(constant_of, node.inputs)
    # sizes as tensors: auto_LiRPA 0.7 gathers from nothing else
    return node.forward(*(torch.tensor(v) if isinstance(v, tuple) else v for v in inputs))
