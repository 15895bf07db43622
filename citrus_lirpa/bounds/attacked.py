"""Networks as attacks see them: values and slopes of all layers that proofs know, no intervals."""

from __future__ import annotations

import copy
import math
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .affine import is_affine
from .curve_search import curves_in_parts, whole_curve
from .graph import Graph, Operation
from .interval import IntervalNetwork
from .lirpa.nodes import leaky_slope
from .steps import Step, laid_out, step_of


class CurveOperation(Operation):
    """A curve of one value, which a graph may have written as several operations."""

    def __init__(self, operation: Operation, x: str, function: Any):
        super().__init__(operation.node)
        self.kind, self.forward = "Curve", function
        self.arguments, self.varying, self.sources = [x], [True], [x]

    def constants(self) -> dict[str, Any]:
        """Return none."""
        return {}


class PlainStep(Step):
    """An operation as it stands, by torch's own kernels for its value and its slopes."""

    def weights(self) -> tuple[Any, ...]:
        """Return the arguments that do not vary, as they are now."""
        constants = self.operation.constants()
        return tuple(constants[a] for a in self.operation.arguments if a in constants)

    def forward(self, *arguments: Any) -> Tensor:
        """Return the value."""
        varying, constant = (iter(part) for part in self._parts(arguments))
        order = self.operation.varying
        return self.operation.forward(*(next(varying if v else constant) for v in order))

    def taped(self, *arguments: Any) -> tuple[Tensor, Any]:
        """Return the value, and autograd's graph of this step alone."""
        varying, constant = self._parts(arguments)
        with torch.enable_grad():
            varying = tuple(x.detach().requires_grad_() for x in varying)
            value = self.forward(*varying, *constant)
        return value.detach(), (varying, value)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return the gradients in the arguments."""
        varying, value = saved
        return torch.autograd.grad(value, varying, g, retain_graph=True)

    def _parts(self, arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return arguments[: len(self.sources)], arguments[len(self.sources) :]


class AffineStep(PlainStep):
    """An affine operation, whose gradients may be views of what they are computed from."""

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return the gradients in the arguments, in memory of their own."""
        return tuple(laid_out(part.clone()) for part in super().pullback(g, saved))


class _OfOne(Step):
    """A function of single numbers, whose slope follows from them."""

    def taped(self, *arguments: Any) -> tuple[Tensor, Any]:
        return self.forward(*arguments), arguments[0]


class _Absolute(_OfOne):
    function = staticmethod(torch.abs)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        return (g.mul_(saved.sign()),)


class _Leaky(_OfOne):
    def __init__(self, operation: Operation, sources: tuple[int, ...]):
        super().__init__(operation, sources)
        self.slope = leaky_slope(operation.node)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        back: Any = torch.ops.aten.leaky_relu_backward.grad_input
        return (back(g, saved, self.slope, False, grad_input=g),)


class _LeakyByChannel(_OfOne):
    """PReLU."""

    def weights(self) -> tuple[Any, ...]:
        return tuple(self.operation.constants().values())

    def forward(self, x: Tensor, *slopes: Tensor) -> Tensor:
        return F.prelu(x, slopes[0].flatten())

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        above = torch.ops.aten.threshold_backward(g, saved, 0)
        return (above.addcmul_(g.sub_(above), weights[0]),)


class _Clamp(_OfOne):
    """ReLU6 and Hardtanh, too, whose slope at their ends is 0, not 1."""

    def weights(self) -> tuple[Any, ...]:
        ends = zip_longest(self.operation.constants().values(), (-math.inf, math.inf))
        return tuple(other if end is None or not end.numel() else float(end) for end, other in ends)

    def forward(self, x: Tensor, *ends: float) -> Tensor:
        return x.clamp(*ends)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        low, high = weights
        if "of" in self.operation.node.attr:
            back: Any = torch.ops.aten.hardtanh_backward.grad_input
            return (back(g, saved, low, high, grad_input=g),)
        return (g.mul_((saved >= low) & (saved <= high)),)


_BY_HAND: dict[str, type[Step]] = {
    "BoundAbs": _Absolute,
    "BoundClip": _Clamp,
    "BoundHardTanh": _Clamp,
    "BoundLeakyRelu": _Leaky,
    "BoundPRelu": _LeakyByChannel,
}
#: Others beside affine ones and curves.
_PLAIN = {"BoundDiv", "BoundMax", "BoundMaxPool", "BoundMin", "BoundMul", *_BY_HAND}


def attacked_network(graph: Graph) -> IntervalNetwork | None:
    """Return the steps of a network; None where it has operations without a step.

    Paddings and other affine operations of the input, which no convolution takes in, are such:
    with them attacks take longer than by autograd.
    """
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
    if (step := step_of(operation, sources)) is not None:
        return step
    kind: type[Step] | None = None
    if is_affine(operation):
        kind = None if 0 in sources else AffineStep
    elif isinstance(operation, CurveOperation) or operation.kind in _PLAIN:
        kind = _BY_HAND[operation.kind] if _fits(operation) else PlainStep
    return None if kind is None else kind(operation, sources)


def _fits(operation: Operation) -> bool:
    """Whether an operation is of a form that is written by hand here."""
    if operation.kind not in _BY_HAND or sum(operation.varying) > 1 or not operation.varying[0]:
        return False
    if operation.kind != "BoundPRelu":
        return all(end.numel() <= 1 for end in operation.constants().values())
    (slope,) = operation.constants().values()
    channels, *others = operation.shape
    return slope.numel() == 1 or slope.shape == (channels, *[1] * len(others))
