"""Networks as attacks see them: curves are steps, too, with values and slopes but no intervals."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from .curve_search import curves_in_parts, whole_curve
from .graph import Graph, Operation
from .interval import IntervalNetwork
from .steps import Step, step_of


class CurveOperation(Operation):
    """A curve of one value, which a graph may have written as several operations."""

    def __init__(self, operation: Operation, x: str, function: Any):
        super().__init__(operation.node)
        self.kind, self.forward = "Curve", function
        self.arguments, self.varying, self.sources = [x], [True], [x]


class CurveStep(Step):
    """A curve of each number, by torch's own kernels for its value and its slope."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the value."""
        return self.operation.forward(x)

    def taped(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the value, and autograd's graph of this step alone."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self.forward(x)
        return value.detach(), (x, value)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return the gradient in the argument."""
        x, value = saved
        return torch.autograd.grad(value, x, g, retain_graph=True)


def attacked_network(graph: Graph) -> IntervalNetwork | None:
    """Return the steps of a network with curves; None where it has operations without a step."""
    whole, parts = curves_in_parts(graph)
    curved = copy.copy(graph)
    curved.operations = {}
    for name, operation in graph.operations.items():
        if name in whole:
            x, curve = whole[name]
            operation = CurveOperation(operation, x, curve.function)
        elif name not in parts and (known := whole_curve(operation)) is not None:
            function = operation.forward if len(operation.arguments) == 1 else known.function
            operation = CurveOperation(operation, operation.arguments[0], function)
        curved.operations[name] = operation
    return IntervalNetwork.of(curved, _step_of)


def _step_of(operation: Operation, sources: tuple[int, ...]) -> Step | None:
    if isinstance(operation, CurveOperation):
        return CurveStep(operation, sources)
    return step_of(operation, sources)
