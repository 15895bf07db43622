"""Bounds of any traced network by auto_LiRPA: IBP, CROWN-IBP, CROWN and α-CROWN."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import lirpa
from .box import Box, Interval
from .deadline import check_time, deadline
from .graph import Graph
from .steps import Affine, step_of
from .tracing import explained, nodes

#: Our method names, cheapest first, and auto_LiRPA's.
METHODS = {
    "ibp": "IBP",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "CROWN-Optimized",
}


@dataclass(frozen=True)
class LirpaBounds:
    """Bounds from one pass of auto_LiRPA over N boxes.

    Attributes:
        lower: (N, rows) lower bounds of the rows of a specification.
        before: Bounds of the input of every ReLU, in network order; None where auto_LiRPA
            does not have them all.
        within: By name, bounds of all operations that auto_LiRPA has.
    """

    lower: Tensor
    before: list[Box] | None
    within: dict[str, Box]


class LirpaNetwork:
    """A BoundedModule, and how to have it bounded.

    Args:
        bounded: The BoundedModule.
        graph: Its graph.
    """

    def __init__(self, bounded: Any, graph: Graph):
        self.bounded, self.graph = bounded, graph

    def bounds(
        self, inputs: Box, c: Tensor | None, method: str, weights: list[nn.Parameter]
    ) -> LirpaBounds:
        """Bound C @ logits from below over boxes of normalised inputs.

        Args:
            inputs: N boxes.
            c: (N, rows, K) specification C; None for the logits themselves.
            method: A name in METHODS.
            weights: Parameters that α-CROWN must leave alone.

        Raises:
            ModelError: auto_LiRPA cannot bound this network by this method.
        """
        with explained(f"method '{method}'"):
            # with gradients on, CROWN alone: auto_LiRPA differentiates the cut below wrongly
            if method in ("ibp", "crown-ibp") or (method == "crown" and torch.is_grad_enabled()):
                return self._found(self._compute(inputs, c, method))
            return self._crown(inputs, c, weights if method == "alpha-crown" else None)

    def _crown(
        self, inputs: Box, c: Tensor | None, optimising_beside: list[nn.Parameter] | None
    ) -> LirpaBounds:
        """CROWN on intermediate bounds cut with IBP's, which are sometimes the tighter.

        Then, on these, the output's relaxation optimised for the margins not yet positive.
        """
        self._compute(inputs, c, "ibp")
        lower = self._compute(inputs, c, "crown", reference_bounds=self._intermediate())
        if optimising_beside is None:
            return self._found(lower)
        lower = lower.detach()
        found = self._found(lower)
        undecided = int((lower <= 0).sum(dim=1).max())
        if undecided == 0 or c is None:
            return found
        lowest = lower.topk(undecided, dim=1, largest=False).indices
        rows = c.gather(1, lowest.unsqueeze(2).expand(-1, -1, c.shape[2]))
        with _optimising(self.bounded, optimising_beside):
            fixed = lirpa.bound_kwargs(interm_bounds=self._intermediate())
            optimised = self._compute(inputs, rows, "alpha-crown", **fixed)
        best = lower.scatter_reduce(1, lowest, optimised.detach(), "amax")
        return LirpaBounds(best, found.before, found.within)

    def _compute(self, inputs: Box, c: Tensor | None, method: str, **options: Any) -> Tensor:
        library = lirpa.load()
        lower, upper = inputs
        ptb = library.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
        return self.bounded.compute_bounds(
            x=(library.BoundedTensor(lower, ptb),),
            C=c,
            method=METHODS[method],
            bound_upper=False,
            **options,
        )[0]

    def _intermediate(self) -> dict[str, list[Tensor]]:
        """The last pass's bounds before every ReLU, by node, as auto_LiRPA takes them."""
        before = [self.graph.operations[name].node.inputs[0] for name in self.graph.relus]
        return {node.name: [node.lower, node.upper] for node in before}

    def _found(self, lower: Tensor) -> LirpaBounds:
        """What the pass just made has found; auto_LiRPA forgets it at the next."""
        within = {}
        for name, operation in self.graph.operations.items():
            ends: list[Any] = [getattr(operation.node, end, None) for end in ("lower", "upper")]
            if all(isinstance(end, Tensor) and end.shape[:1] == lower.shape[:1] for end in ends):
                within[name] = Box(*ends)
        before = [self.graph.operations[name].arguments[0] for name in self.graph.relus]
        known = all(name in within for name in before)
        return LirpaBounds(lower, [within[n] for n in before] if known else None, within)


def magnitudes(graph: Graph, within: dict[str, Box]) -> list[Tensor]:
    """Return what rounds in a network: what adds up to the values of its layers, and its values.

    Args:
        graph: The graph of the network.
        within: Bounds, by name, of operations on N boxes.

    Returns:
        Tensors (N, ...): the largest |W||x| + |b| of layers and |t| exp(t) of exponentials, then
        the largest absolute values, as far as the bounds tell.
    """
    largest = {name: torch.maximum(*(end.abs() for end in box)) for name, box in within.items()}
    terms = []
    for operation in graph.operations.values():
        step = step_of(operation)
        if isinstance(step, Affine) and operation.sources[0] in largest:
            size = largest[operation.sources[0]]
            terms.append(step.magnitude(Interval(size, torch.zeros_like(size)), *step.weights()))
        if operation.kind == "BoundExp" and {operation.name, *operation.sources} <= largest.keys():
            # exp(t) passes on |t| times the relative error of t
            terms.append(largest[operation.name] * largest[operation.sources[0]].clamp(min=1))
    return [*terms, *largest.values()]


@contextlib.contextmanager
def watching_the_clock(bounded: Any) -> Iterator[None]:
    """Have the bounds of a BoundedModule raise OutOfTime at the deadline, inside the block.

    auto_LiRPA then looks at it before each layer that it passes bounds back through.
    """
    if deadline() == math.inf:
        yield
        return

    def watched(bound_backward: Callable[..., Any]) -> Callable[..., Any]:
        def in_time(*args: Any, **options: Any) -> Any:
            check_time()
            return bound_backward(*args, **options)

        return in_time

    watching = nodes(bounded)
    for node in watching:
        node.bound_backward = watched(node.bound_backward)
    try:
        yield
    finally:
        for node in watching:
            del node.bound_backward


@contextlib.contextmanager
def _optimising(bounded: Any, weights: list[nn.Parameter]) -> Iterator[None]:
    """What α-CROWN needs around it: gradients on, and its state ended even where it fails.

    There are no gradients for ``weights`` or through BatchNorm's batch statistics.
    """
    trained = [p for p in weights if p.requires_grad]
    norms = [n for n in nodes(bounded) if hasattr(n, "current_mean")]
    statistics = [(n.current_mean, n.current_var) for n in norms]
    for p in trained:
        p.requires_grad_(False)
    for n in norms:
        n.current_mean, n.current_var = n.current_mean.detach(), n.current_var.detach()
    try:
        with torch.enable_grad():
            yield
    finally:
        for node in bounded.optimizable_activations:
            node.opt_end()
        for n, (mean, variance) in zip(norms, statistics, strict=True):
            n.current_mean, n.current_var = mean, variance
        for p in trained:
            p.requires_grad_(True)
