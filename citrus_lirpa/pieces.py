"""A ReLU network as affine pieces between ReLUs, read from an auto_LiRPA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from .errors import ModelError
from .wrapping import nodes

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
    relus = [n for n in nodes(bounded) if type(n).__name__ == "BoundRelu" and n.from_input]
    numbers = {relu.name: k for k, relu in enumerate(relus)}
    numbers[bounded[bounded.input_name[0]].name] = INPUT
    ends = [relu.inputs[0] for relu in relus] + [final]
    return [_piece(end, numbers, normalise) for end in ends]


def _piece(end: nn.Module, numbers: dict[str, int], normalise: nn.Module | None) -> Piece:
    order: list[nn.Module] = []
    sources: set[int] = set()
    seen: set[str] = set()

    def visit(node: nn.Module) -> None:
        if node.name in seen:
            return
        seen.add(node.name)
        if node.name in numbers:
            sources.add(numbers[node.name])
            return
        if _computed(node):
            _check_affine(node)
            for source in node.inputs:
                visit(source)
            order.append(node)

    visit(end)
    known = tuple(sorted(sources))
    constants = {
        source.name: _constant(source)
        for node in order
        for source in node.inputs
        if not _computed(source)
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


def _computed(node: nn.Module) -> bool:
    """Whether a node depends on the input; auto_LiRPA says so of buffers too, which do not."""
    return node.from_input and type(node).__name__ not in _CONSTANTS


def _check_affine(node: nn.Module) -> None:
    kind = type(node).__name__
    computed = [_computed(source) for source in node.inputs]
    product = kind in _PRODUCTS and sum(computed) == 1 and (kind != "BoundDiv" or computed[0])
    weights = kind in ("BoundLinear", "BoundConv", "BoundBatchNormalization") and any(computed[1:])
    if (kind not in _AFFINE and not product) or weights:
        raise ModelError(
            f"branch and bound takes networks of affine layers and ReLU; this one has "
            f"{kind.removeprefix('Bound')} on computed values"
        )


def _constant(node: nn.Module) -> Tensor:
    value = node.forward(*(_constant(source) for source in node.inputs))
    return value.detach() if isinstance(value, Tensor) else value
