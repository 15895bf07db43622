"""A ReLU network as affine pieces between ReLUs, read from an auto_LiRPA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import ModelError
from .tracing import input_node, relu_nodes

#: Operations that are affine in their computed input while the others are constants.
_AFFINE = {
    "BoundLinear", "BoundConv", "BoundBatchNormalization", "BoundFlatten", "BoundReshape",
    "BoundTranspose", "BoundSqueeze", "BoundUnsqueeze", "BoundIdentity", "BoundDropout",
    "BoundPad", "BoundAveragePool", "BoundGlobalAveragePool", "BoundReduceMean",
    "BoundAdd", "BoundSub", "BoundNeg", "BoundConcat",
}  # fmt: skip
#: Affine as long as only one operand is computed from the input (the first, for a quotient).
_PRODUCTS = {"BoundMul", "BoundDiv", "BoundMatMul"}

_CONSTANTS = {"BoundParams", "BoundBuffers", "BoundConstant"}
#: The number under which a piece refers to the network's input.
INPUT = -1


@dataclass(frozen=True)
class Piece:
    """The affine map to the input of ReLU k (or to the logits, for the last piece).

    sources: what it is computed from, INPUT or the numbers of earlier ReLUs, whose outputs
    ``function`` takes in this order as batches; shape: of its result for one input.
    """

    sources: tuple[int, ...]
    function: Callable[..., Tensor]
    shape: tuple[int, ...]

    def __call__(self, values: dict[int, Tensor]) -> Tensor:
        return self.function(*(values[s] for s in self.sources))


def affine_pieces(bounded: nn.Module, normalise: nn.Module | None) -> list[Piece]:
    """The pieces of a BoundedModule's graph, in network order; the last gives the logits.

    ``normalise`` is applied to the input first. Raises ModelError where the network has
    operations other than affine ones and ReLU. Run a forward pass first: the shapes are
    those of the last one. BatchNorm must be in eval mode.
    """
    final = bounded.final_node()
    relus = relu_nodes(bounded)
    numbers = {relu.name: k for k, relu in enumerate(relus)}
    numbers[input_node(bounded).name] = INPUT
    ends = [relu.inputs[0] for relu in relus] + [final]
    return [_piece(end, numbers, normalise) for end in ends]


def _piece(end: nn.Module, numbers: dict[str, int], normalise: nn.Module | None) -> Piece:
    order, sources = operations(end, numbers)
    for node in order:
        _check_affine(node)
    known = tuple(sorted(sources))
    constants = {
        source.name: detached(constant_value(source))
        for node in order
        for source in node.inputs
        if not computed(source)
    }
    names = {number: name for name, number in numbers.items()}

    def function(*arguments: Tensor) -> Tensor:
        values = dict(constants)
        for number, value in zip(known, arguments, strict=True):
            first = normalise is not None and number == INPUT
            values[names[number]] = normalise(value) if first else value
        for node in order:
            values[node.name] = node.forward(*(values[s.name] for s in node.inputs))
        return values[end.name]

    return Piece(known, function, tuple(end.output_shape[1:]))


def operations(end: nn.Module, known: Mapping[str, int]) -> tuple[list[nn.Module], set[int]]:
    """What computes ``end`` from the nodes named in ``known``, in order, and the numbers of
    those of them that are used."""
    order: list[nn.Module] = []
    sources: set[int] = set()
    seen: set[str] = set()

    def visit(node: nn.Module) -> None:
        if node.name in seen:
            return
        seen.add(node.name)
        if node.name in known:
            sources.add(known[node.name])
        elif computed(node):
            for source in node.inputs:
                visit(source)
            order.append(node)

    visit(end)
    return order, sources


def computed(node: nn.Module) -> bool:
    """Whether a node depends on the input; auto_LiRPA says so of buffers too, which do not."""
    return node.from_input and type(node).__name__ not in _CONSTANTS


def constant_value(node: nn.Module) -> object:
    """The value of a node that does not depend on the input, with its graph."""
    return node.forward(*(constant_value(source) for source in node.inputs))


def _check_affine(node: nn.Module) -> None:
    kind = type(node).__name__
    varying = [computed(source) for source in node.inputs]
    product = kind in _PRODUCTS and sum(varying) == 1 and (kind != "BoundDiv" or varying[0])
    weights = kind in ("BoundLinear", "BoundConv", "BoundBatchNormalization") and any(varying[1:])
    if (kind not in _AFFINE and not product) or weights:
        raise ModelError(
            f"branch and bound takes networks of affine layers and ReLU; this one has "
            f"{kind.removeprefix('Bound')} on computed values"
        )


def detached(value: object) -> object:
    """A constant without its graph; what is no tensor stays as it is."""
    return value.detach() if isinstance(value, Tensor) else value
