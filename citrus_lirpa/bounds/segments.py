"""Parts of a network as functions: the affine ones between ReLUs, and what follows a ReLU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..errors import InputError, ModelError
from .graph import Graph, Operation

#: Operations that are affine in what varies, while all but one argument are constants, except
#: in sums and concatenations.
_AFFINE = {
    "BoundLinear", "BoundConv", "BoundBatchNormalization", "BoundFlatten", "BoundReshape",
    "BoundTranspose", "BoundSqueeze", "BoundUnsqueeze", "BoundIdentity", "BoundDropout",
    "BoundPad", "BoundAveragePool", "BoundGlobalAveragePool", "BoundReduceMean",
    "BoundAdd", "BoundSub", "BoundNeg", "BoundConcat",
}  # fmt: skip
#: Affine as long as only one operand varies (the first, for a quotient).
_PRODUCTS = {"BoundMul", "BoundDiv", "BoundMatMul"}
_WEIGHTED = {"BoundLinear", "BoundConv", "BoundBatchNormalization"}

#: The number of the network's input among the sources of segments.
INPUT = -1


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a network: ``segment(*values)`` from the values (N, ...) of its sources.

    Attributes:
        sources: What it starts from, in the order of its arguments: INPUT, or numbers of ReLUs,
            whose outputs it takes.
        shape: Shape of its result for one input.
        names: Names of the sources in the graph.
        end: Name of the result in the graph.
        operations: What computes the result, in order.
        constants: By name, what the operations take beside computed values.
        normalise: Applied to the network's input first.
    """

    sources: tuple[int, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    end: str
    operations: list[Operation]
    constants: dict[str, Any]
    normalise: nn.Module | None = None

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Compute the result (N, ...) from the values of the sources."""
        values = dict(self.constants)
        for source, name, value in zip(self.sources, self.names, arguments, strict=True):
            normalise = self.normalise if source == INPUT else None
            values[name] = value if normalise is None else normalise(value)
        for operation in self.operations:
            values[operation.name] = operation.forward(*(values[a] for a in operation.arguments))
        return values[self.end]

    def frozen(self) -> Segment:
        """Return the same function, differentiable in its arguments alone."""
        values = self.constants.items()
        constants = {k: v.detach() if isinstance(v, Tensor) else v for k, v in values}
        return replace(self, constants=constants)


def affine_segments(graph: Graph, normalise: nn.Module | None) -> list[Segment]:
    """Split a network into affine maps to the inputs of its ReLUs and to the logits.

    Args:
        graph: The graph of the network, whose BatchNorm must be in eval mode.
        normalise: Applied to the network's input first.

    Returns:
        The segment that ends in the input of each ReLU, in network order, then the one that
        ends in the logits. They keep the weights of now.

    Raises:
        ModelError: The network has operations other than affine ones and ReLU.
    """
    numbers = {graph.input: INPUT, **{name: k for k, name in enumerate(graph.relus)}}
    ends = [graph.operations[name].arguments[0] for name in graph.relus] + [graph.output]
    segments = []
    for end in ends:
        segment = _segment(graph, numbers, end)
        _check_affine(segment, "branch and bound takes")
        segments.append(replace(segment.frozen(), normalise=normalise))
    return segments


def chain(graph: Graph, normalise: nn.Module | None, relus: int) -> list[Segment]:
    """Return the affine maps from each of a network's first ReLUs to the next.

    Args:
        graph: The graph of the network. BatchNorm uses the statistics that bounds use.
        normalise: Applied to the network's input first.
        relus: How many ReLUs.

    Returns:
        The segment that ends in the input of each of them, from the output of the one before it;
        the first one from the network's input. They have the weights of now, with graph.

    Raises:
        ModelError: There are other operations than affine ones and ReLU, or connections around
            a ReLU.
    """
    numbers = {graph.input: INPUT, **{name: k for k, name in enumerate(graph.relus)}}
    segments = []
    for number, name in enumerate(graph.relus[:relus]):
        segment = _segment(graph, numbers, graph.operations[name].arguments[0])
        _check_affine(segment, "a split in layers takes")
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
    """The part of a network from the values in ``numbers`` to ``end``, with the weights of now."""
    if end not in graph.operations:
        raise ModelError("a ReLU or the logits of this network do not depend on its input")
    operations, used = graph.path(end, numbers)
    names = tuple(sorted(used, key=numbers.__getitem__))
    constants: dict[str, Any] = {}
    for operation in operations:
        constants |= operation.constants()
    shape = tuple(graph.operations[end].node.output_shape[1:])
    sources = tuple(numbers[name] for name in names)
    return Segment(sources, shape, names, end, operations, constants)


def _check_affine(segment: Segment, takes: str) -> None:
    for operation in segment.operations:
        kind, varying = operation.kind, operation.varying
        product = kind in _PRODUCTS and sum(varying) == 1 and (kind != "BoundDiv" or varying[0])
        weights = kind in _WEIGHTED and any(varying[1:])
        if (kind not in _AFFINE and not product) or weights:
            raise ModelError(
                f"{takes} networks of affine layers and ReLU; this one has "
                f"{kind.removeprefix('Bound')} on computed values"
            )
