"""The part of a network behind one of its ReLUs, as a function of that ReLU's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import InputError, ModelError
from .segments import INPUT, computed, constant_value, detached, operations
from .tracing import input_node, relu_nodes


@dataclass(frozen=True)
class Tail:
    """``tail(z)``: logits (N, K) from the values (N, ...) of the node named ``start``.

    BatchNorm uses the statistics that bounds use: in train mode those of the last forward
    pass, with gradient, and updates none. steps: (name, function, names of its arguments);
    constants: by name, weights among them.
    """

    start: str
    steps: list[tuple[str, Callable[..., Tensor], list[str]]]
    constants: dict[str, object]

    def __call__(self, z: Tensor) -> Tensor:
        values = {**self.constants, self.start: z}
        for name, function, arguments in self.steps:
            z = values[name] = function(*(values[a] for a in arguments))
        return z

    def frozen(self) -> Tail:
        """The same function, differentiable in z alone."""
        constants = {name: detached(value) for name, value in self.constants.items()}
        return Tail(self.start, self.steps, constants)

    @staticmethod
    def behind(bounded: nn.Module, relu: int) -> Tail:
        """What follows ReLU ``relu`` of a BoundedModule, or the input for INPUT.

        Raises InputError where there is no such ReLU, ModelError where the logits depend on
        the input past it as well (a residual connection spans it).
        """
        relus = relu_nodes(bounded)
        if not INPUT <= relu < len(relus):
            raise InputError(f"there is no ReLU {relu}; the network has {len(relus)}, from 0")
        first = input_node(bounded)
        start = first if relu == INPUT else relus[relu]
        order, met = operations(bounded.final_node(), {first.name: INPUT, start.name: relu})
        if met != {relu}:
            raise ModelError(
                f"the network cannot be split behind ReLU {relu}: its logits depend on the input "
                "by another way too; choose a place that every way passes"
            )
        steps: list[tuple[str, Callable[..., Tensor], list[str]]] = []
        constants: dict[str, object] = {}
        for node in order:
            arguments = [source.name for source in node.inputs]
            constants |= {s.name: constant_value(s) for s in node.inputs if not computed(s)}
            function = node.forward
            if type(node).__name__ == "BoundBatchNormalization" and node.training:
                mean, variance = arguments[3:]
                constants |= {mean: node.current_mean, variance: node.current_var}
                function = _Normalisation(node.eps)
            steps.append((node.name, function, arguments))
        return Tail(start.name, steps, constants)


@dataclass(frozen=True)
class _Normalisation:
    """BatchNorm by given statistics, differentiable in them."""

    eps: float

    def __call__(self, x: Tensor, w: Tensor, b: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        scale = w / (variance + self.eps).sqrt()
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * scale.view(shape) + (b - mean * scale).view(shape)
