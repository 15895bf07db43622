"""Which operation's bounds are to blame where a network's bounds do not hold."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from . import lirpa
from .allowed import name_of
from .box import Box
from .graph import Graph
from .lirpa_bounds import LirpaNetwork
from .margins import specification
from .precision import rounding_threshold
from .tracing import place


class Net(Protocol):
    """What is asked of a network; BoundedNet is one."""

    graph: Graph
    classes: int
    lirpa: LirpaNetwork

    def input_box(self, box: Box) -> Box:
        """Return the box behind the normalisation."""


@torch.no_grad()
def culprit(net: Net, box: Box, point: Tensor, y: Tensor, method: str) -> str:
    """Name the first operation whose value at a point lies outside auto_LiRPA's bounds of it.

    The bounds of the margins of its label y do not hold at the point (1, ...) of the box. Layer and
    line are named as far as they are known; where all that can be seen within the network holds,
    the last operation that is not affine is named.
    """
    c = specification(y, net.classes, point.dtype)
    within = net.lirpa.bounds(net.input_box(box), c, method, []).within
    values: dict[str, Tensor] = {net.graph.input: net.input_box(Box(point, point)).lower}
    order, _ = net.graph.path(net.graph.output, {net.graph.input})
    for operation in order:
        given = values | operation.constants()
        value = operation.forward(*(given[name] for name in operation.arguments))
        values[operation.name] = value
        if operation.name in within and isinstance(value, Tensor):
            slack = float(rounding_threshold(value.reshape(1, -1)))
            lower, upper = (end.reshape(value.shape) for end in within[operation.name])
            if bool((value < lower - slack).any() or (value > upper + slack).any()):
                return _named(operation.node)
    relaxed = [o.node for o in order if o.kind not in _AFFINE] or [order[-1].node]
    return _named(relaxed[-1])


_AFFINE = ("BoundLinear", "BoundConv", "BoundFlatten", "BoundReshape", "BoundMatMul", "BoundAdd")


def _named(node: object) -> str:
    return f"'{name_of(node)}'{place(node)} in auto_LiRPA {lirpa.load().version}"
