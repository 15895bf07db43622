"""Cutting a traced network into segments: at its ReLUs, or behind one of them.

Curves take the place of ReLUs where a network has them (:mod:`.curves`). Other piecewise linear
operations are written as affine ones and ReLU (:mod:`.piecewise`). Their values are knots:
intervals go from knot to knot.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import InputError, ModelError
from .affine import is_affine
from .graph import Graph
from .piecewise import PiecewiseGraph
from .segments import INPUT, Knot, Segment


def affine_segments(graph: Graph, normalise: nn.Module | None, dtype: torch.dtype) -> list[Segment]:
    """Split a network into affine maps to the inputs of its ReLUs and curves, and to the logits.

    Args:
        graph: The graph of the network, whose BatchNorm must be in eval mode.
        normalise: Applied to the network's input first.
        dtype: The type of the network's numbers.

    Returns:
        The segment that ends in the input of each ReLU or curve, in network order, then the one
        that ends in the logits. They keep the current weights. Piecewise linear operations have
        ReLUs of their own there.

    Raises:
        ModelError: The network has operations other than piecewise linear ones and curves.
    """
    graph = PiecewiseGraph(graph, dtype)
    numbers = {graph.input: INPUT, **{name: k for k, name in enumerate(graph.relus)}}
    known = dict(numbers)

    def part(end: str, numbers: dict[str, int]) -> Segment:
        segment = _segment(graph, numbers, end)
        _check_affine(segment, "bounds of our own take", "piecewise linear layers and curves")
        return replace(segment.frozen(), normalise=normalise)

    segments = []
    for relu in [*graph.relus, None]:
        end = graph.output if relu is None else graph.operations[relu].arguments[0]
        segment, knots = part(end, numbers), []
        if relu is not None:
            segment = replace(
                segment,
                curve=graph.curves.get(relu),
                value_shape=graph.operations[relu].shape,
                origin=graph.origins.get(relu, ""),
            )
        passed = [op.name for op in segment.operations if op.name in graph.knots]
        for name in passed:
            if name not in known:
                operands, hull = graph.knots[name]
                number = INPUT - 1 - len(known)
                knots.append(Knot(number, tuple(part(o, known) for o in operands), hull))
                known[name] = number
        short = part(end, known) if passed else None
        segments.append(replace(segment, knots=tuple(knots), short=short))
    return segments


def chain(graph: Graph, normalise: nn.Module | None, relus: int) -> list[Segment]:
    """Return the affine maps from each of a network's first ReLUs to the next.

    Args:
        graph: The graph of the network. BatchNorm uses the statistics that bounds use.
        normalise: Applied to the network's input first.
        relus: How many ReLUs.

    Returns:
        The segment that ends in the input of each of them, from the output of the one before it;
        the first one from the network's input. They have the current weights, with graph.

    Raises:
        ModelError: There are other operations than affine ones and ReLU, or connections around
            a ReLU.
    """
    numbers = {graph.input: INPUT, **{name: k for k, name in enumerate(graph.relus)}}
    segments = []
    for number, name in enumerate(graph.relus[:relus]):
        segment = _segment(graph, numbers, graph.operations[name].arguments[0])
        _check_affine(segment, "a split in layers takes", "affine layers and ReLU")
        if segment.sources != (number - 1,):
            raise ModelError(
                f"the network cannot be split in layers: ReLU {number} depends on more than the "
                "ReLU before it"
            )
        segments.append(replace(segment, normalise=normalise))
    return segments


def segment_behind(graph: Graph, relu: int) -> Segment:
    """Return the rest of a network: logits (N, K) from the output of one ReLU.

    BatchNorm uses the statistics that bounds use: in train mode those of the last forward
    pass, with gradient; none are updated.

    Args:
        graph: The graph of the network.
        relu: Number of the ReLU in network order, or INPUT for all behind the normalisation.

    Raises:
        InputError: There is no such ReLU.
        ModelError: The logits depend on the input past the ReLU as well: a residual connection
            spans it.
    """
    if not INPUT <= relu < len(graph.relus):
        raise InputError(f"there is no ReLU {relu}; the network has {len(graph.relus)}, from 0")
    start = graph.input if relu == INPUT else graph.relus[relu]
    segment = _segment(graph, {graph.input: INPUT, start: relu}, graph.output)
    if segment.sources != (relu,):
        raise ModelError(
            f"the network cannot be split behind ReLU {relu}: its logits depend on the input "
            "by another way too; choose a place that every way passes"
        )
    return segment


def _segment(graph: Graph, numbers: dict[str, int], end: str) -> Segment:
    """The part of a network from the values in ``numbers`` to ``end``, with the current weights."""
    if end not in graph.operations:
        raise ModelError("a ReLU or the logits of this network do not depend on its input")
    operations, used = graph.path(end, numbers)
    names = tuple(sorted(used, key=numbers.__getitem__))
    constants: dict[str, Any] = {}
    for operation in operations:
        constants |= operation.constants()
    shape = graph.operations[end].shape
    sources = tuple(numbers[name] for name in names)
    return Segment(sources, shape, names, end, operations, constants)


def _check_affine(segment: Segment, what: str, layers: str) -> None:
    for operation in segment.operations:
        if not is_affine(operation):
            raise ModelError(
                f"{what} networks of {layers}; this one has "
                f"{operation.kind.removeprefix('Bound')} on computed values"
            )
