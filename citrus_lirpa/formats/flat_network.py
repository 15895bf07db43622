"""Networks on flat vectors: dense affine maps and elementwise functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: (lower, upper), each (N, n).
Box = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Function:
    """An elementwise function of one or two vectors.

    Args:
        apply: Computes it for (N, n) tensors.
        interval: (lower, upper) of its values, for those of each argument.
    """

    apply: Callable[..., Tensor]
    interval: Callable[..., Box]


def _increasing(function: Callable[..., Tensor]) -> Function:
    """A function that no argument lowers."""
    return Function(
        function, lambda *b: (function(*(x[0] for x in b)), function(*(x[1] for x in b)))
    )


def _of_corners(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """Bounds of a function that is monotone in each argument, from the corners of a box."""

    def interval(a: Box, b: Box) -> Box:
        corners = torch.stack([function(x, y) for x in a for y in b])
        return corners.amin(0), corners.amax(0)

    return interval


def _absolute(x: Box) -> Box:
    lower, upper = x
    return torch.maximum(lower, -upper).relu(), torch.maximum(-lower, upper)


def _quotient(a: Box, b: Box) -> Box:
    lower, upper = _of_corners(torch.div)(a, b)
    zero = (b[0] <= 0) & (b[1] >= 0)
    return lower.masked_fill(zero, -torch.inf), upper.masked_fill(zero, torch.inf)


#: The elementwise functions, by what a graph calls them.
FUNCTIONS = {
    "Abs": Function(torch.abs, _absolute),
    "Max": _increasing(torch.maximum),
    "Min": _increasing(torch.minimum),
    "Relu": _increasing(torch.relu),
    "Sigmoid": _increasing(torch.sigmoid),
    "Tanh": _increasing(torch.tanh),
    "Mul": Function(torch.mul, _of_corners(torch.mul)),
    "Div": Function(torch.div, _quotient),
}
#: Those that are piecewise linear.
PIECEWISE = frozenset({"Abs", "Max", "Min", "Relu"})
#: Those that the dual engine bounds by lines and planes.
CURVES = frozenset({"Mul", "Sigmoid", "Tanh"})


class Dense(nn.Module):
    """An affine function of several vectors.

    Args:
        bias: (m,) the constant part.
        weights: (m, n) of each vector.
    """

    def __init__(self, bias: np.ndarray, weights: Iterable[np.ndarray]):
        super().__init__()
        self.parts = nn.ModuleList(
            linear_layer(weight, 0 * bias if number else bias)
            for number, weight in enumerate(weights)
        )

    def forward(self, *vectors: Tensor) -> Tensor:
        """Return (N, m) of vectors (N, n)."""
        first, *others = (part(v) for part, v in zip(self.parts, vectors, strict=True))
        return sum(others, start=first)

    def interval(self, *boxes: Box) -> Box:
        """Return bounds (N, m) of its values on a box of each vector."""
        found = [linear_interval(p, *box) for p, box in zip(self.parts, boxes, strict=True)]
        lower, upper = (torch.stack(side).sum(0) for side in zip(*found, strict=True))
        return lower, upper


def linear_layer(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    """Return a layer of given numbers, in float32."""
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    for name, numbers in (("weight", weight), ("bias", bias)):
        values = torch.tensor(numbers, dtype=torch.float32)
        setattr(linear, name, nn.Parameter(values, requires_grad=False))
    return linear


def linear_interval(layer: Any, lower: Tensor, upper: Tensor) -> Box:
    """Return bounds (N, m) of the values of an ``nn.Linear`` on boxes (N, n)."""
    centre, radius = layer((lower + upper) / 2), (upper - lower) / 2 @ layer.weight.abs().T
    return centre - radius, centre + radius


class FlatNetwork(nn.Module):
    """A network from one vector, all its inputs, to one vector, all its outputs.

    Step i takes the vectors ``sources[i]``, where 0 is the input and k the result of step k - 1;
    the last step gives the output.

    Args:
        steps: :class:`Dense`, or a name of ``FUNCTIONS``.
        sources: What each step takes.
        inputs: Shapes of the inputs by name, in order.
        outputs: Shapes of the outputs.
    """

    def __init__(
        self,
        steps: Sequence[Dense | str],
        sources: Sequence[tuple[int, ...]],
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
    ):
        super().__init__()
        self.dense = nn.ModuleDict(
            {str(i): s for i, s in enumerate(steps) if not isinstance(s, str)}
        )
        self.steps = [step if isinstance(step, str) else "" for step in steps]
        self.sources, self.inputs, self.outputs = list(sources), dict(inputs), dict(outputs)

    @property
    def functions(self) -> set[str]:
        """The elementwise functions that it has."""
        return set(self.steps) - {""}

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, m) outputs of (N, n) inputs."""
        values = [x]
        for number, (step, sources) in enumerate(zip(self.steps, self.sources, strict=True)):
            apply = FUNCTIONS[step].apply if step else self.dense[str(number)]
            values.append(apply(*(values[i] for i in sources)))
        return values[-1]

    def interval(self, lower: Tensor, upper: Tensor) -> Box:
        """Return bounds (N, m) of the outputs on boxes (N, n) of inputs."""
        boxes = [(lower, upper)]
        for number, (step, sources) in enumerate(zip(self.steps, self.sources, strict=True)):
            taken = [boxes[i] for i in sources]
            function: Any = FUNCTIONS[step] if step else self.dense[str(number)]
            boxes.append(function.interval(*taken))
        return boxes[-1]
