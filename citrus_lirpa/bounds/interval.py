"""The fast way through a network: plain tensor operations, read once from its graph.

auto_LiRPA bounds any graph. For the layers that certified training uses (convolutions, linear
layers, BatchNorm, ReLU, flattening, addition, average pooling) an IntervalNetwork computes the
same values and the same interval bounds with less work: BatchNorm is folded into the convolution
before it, boxes stay centre and radius between ReLUs, and on the CPU images are laid out
channels last. Each step knows its own gradient in its inputs, which attacks take
(:mod:`.frozen`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .affine import is_real
from .box import Box, Interval
from .graph import Graph
from .margins import wrong_classes
from .steps import (
    Affine,
    Convolution,
    Linear,
    Normalisation,
    Relu,
    Reshape,
    Step,
    Weight,
    laid_out,
    root,
    step_of,
)

#: One for each step of a network; () for steps without.
Weights = list[tuple[Any, ...]]


class IntervalNetwork:
    """A network whose last step is linear, as steps in an order in which they can be run.

    Args:
        steps: The steps.
        relus: Of each ReLU, in network order, the number of its step.
    """

    def __init__(self, steps: list[Step], relus: list[int]):
        self.steps, self.relus = steps, relus
        last = {source: number for number, step in enumerate(steps) for source in step.sources}
        self._done = [[s for s, at in last.items() if at == n] for n in range(len(steps))]
        self.logits: Callable[[Weights, Tensor], Tensor] = self._logits
        self.intervals: Callable[..., tuple[list[Interval], Interval]] = self._intervals

    @staticmethod
    def of(graph: Graph, step_of: Callable[..., Step | None] = step_of) -> IntervalNetwork | None:
        """Return the network of a graph, or None where it has operations without a step."""
        order, _ = graph.path(graph.output, {graph.input})
        uses = Counter(source for operation in order for source in operation.sources)
        numbers: dict[str, int] = {graph.input: 0}
        steps: list[Any] = []
        for operation in order:
            sources = tuple(numbers[source] for source in operation.sources)
            step = step_of(operation, sources)
            if step is None:
                return None
            before = graph.operations[operation.sources[0]]
            folds = isinstance(step, Normalisation) and before.kind == "BoundConv"
            if folds and uses[before.name] == 1:
                steps[sources[0] - 1].norm = operation
                numbers[operation.name] = sources[0]
            else:
                steps.append(step)
                numbers[operation.name] = len(steps)
        if not steps or not isinstance(steps[-1], Linear) or not numbers.keys() >= {*graph.relus}:
            return None  # ReLUs that do not lead to the logits have bounds too
        return IntervalNetwork(steps, [numbers[name] - 1 for name in graph.relus])

    def compile(self, cuda: bool) -> None:
        """Let torch.compile make kernels of ``intervals``, and on a GPU of ``logits`` too."""
        # no CUDA graphs: they would copy the weights at each call, and overwrite what it returned
        self.intervals = torch.compile(self._intervals, dynamic=False)
        if cuda:
            self.logits = torch.compile(self._logits, dynamic=False)

    def weights(self) -> Weights:
        """Return weights and biases with graph, BatchNorm by the statistics that bounds use."""
        return [step.weights() for step in self.steps]

    @torch.no_grad()
    def frozen_weights(self, dtype: torch.dtype | None = None) -> Weights:
        """Return ``weights`` without graph, in another type if one is given."""

        def frozen(value: Any) -> Any:
            return value.detach().to(dtype or value.dtype) if is_real(value) else value

        return [tuple(map(frozen, weights)) for weights in self.weights()]

    def _logits(self, weights: Weights, x: Tensor) -> Tensor:
        """(N, K) logits of normalised inputs."""

        def run(number: int, step: Step, values: list[Tensor]) -> Tensor:
            return step.forward(*values, *weights[number])

        return self._run(run, laid_out(x), self.steps)

    def taped(self, weights: Weights, x: Tensor) -> tuple[Tensor, list[Any]]:
        """Return the logits of normalised inputs, and what ``pullback`` needs of their way."""
        tape: list[Any] = []

        def run(number: int, step: Step, values: list[Tensor]) -> Tensor:
            value, saved = step.taped(*values, *weights[number])
            tape.append(saved)
            return value

        return self._run(run, laid_out(x), self.steps), tape

    def pullback(self, weights: Weights, tape: list[Any], g: Tensor) -> Tensor:
        """Return the gradient in the inputs of a gradient ``g`` (N, K) in the logits."""
        gradients = {len(self.steps): g}
        for number in reversed(range(len(self.steps))):
            step, above = self.steps[number], gradients.pop(number + 1)
            found = step.pullback(above, tape[number], *weights[number])
            for source, part in zip(step.sources, found, strict=True):
                gradients[source] = gradients[source] + part if source in gradients else part
        return gradients[0]

    @cached_property
    def first(self) -> tuple[int, list[Step]]:
        """The number of the first linear layer or convolution, and the reshaping before it."""
        for number, step in enumerate(self.steps):
            if isinstance(step, (Linear, Convolution)) and step.sources == (number,):
                return number, self.steps[:number]
            if not isinstance(step, Reshape) or step.sources != (number,):
                break
        return -1, []

    def entering(self, ball: Interval) -> Interval:
        """Return ellipsoids of normalised inputs as the first layer takes them."""
        for step in self.first[1]:
            ball = step.interval(ball)
        return Interval(laid_out(ball.centre), laid_out(ball.radius))

    def _intervals(
        self, weights: Weights, box: Interval, ball: Interval | None = None
    ) -> tuple[list[Interval], Interval]:
        """Bounds of the input of every ReLU, in network order, and of the last step's.

        Interval bound propagation (Gowal et al. 2018) of a box of normalised inputs, or of the
        parts of ellipsoids in it: their first layer has a radius of ε times the ℓ2 norm of a row.
        """
        before = {}

        def run(number: int, step: Step, values: list[Interval]) -> Interval:
            if isinstance(step, Relu):
                before[number] = values[0]
            found = step.interval(*values, *weights[number])
            if ball is None or number != self.first[0] or not isinstance(step, Affine):
                return found
            return step.of_ball(self.entering(ball), found, *weights[number])

        box = Interval(laid_out(box.centre), laid_out(box.radius))
        last = self._run(run, box, self.steps[:-1])
        return [before[number] for number in self.relus], last

    @torch.no_grad()
    def largest_terms(self, box: Interval, before: Iterable[Box]) -> Tensor:
        """Return what rounds: the largest |W||x| + |b| and |a| + |b| of any step, (N,).

        It goes by N boxes of normalised inputs and bounds of every ReLU's input, in network order.
        """
        weights, sizes = self.frozen_weights(), []
        given = dict(zip(self.relus, before, strict=True))
        # bounds behind a ReLU are those given: others matter only up to the next ReLU
        wanted = {s for step in self.steps if not isinstance(step, Relu) for s in step.sources}

        def run(number: int, step: Step, values: list[Any]) -> Interval | None:
            if number in given:
                lower, upper = given[number]
                return Interval.of(Box(lower.relu(), upper.relu()))
            size = step.magnitude(*values, *weights[number])
            sizes.extend([] if size is None else [size])
            return step.interval(*values, *weights[number]) if number + 1 in wanted else None

        self._run(run, Interval(laid_out(box.centre), laid_out(box.radius)), self.steps)
        return torch.stack([size.reshape(len(size), -1).amax(1) for size in sizes]).amax(0)

    def _run(self, run: Callable[..., Any], value: Any, steps: list[Step]) -> Any:
        """The last step's result; earlier ones are freed as soon as no step needs them."""
        values = {0: value}
        for number, step in enumerate(steps):
            value = values[number + 1] = run(number, step, [values[s] for s in step.sources])
            for source in self._done[number]:
                del values[source]
        return value


def margin_bounds(
    weights: Weight, box: Interval, y: Tensor, ball: Interval | None = None
) -> Tensor:
    """Return lower bounds of the margins of a linear layer over boxes of its inputs.

    (w_y - w_c)·centre + b_y - b_c - |w_y - w_c|·radius: the layer and the margins as one.

    Args:
        weights: Weight (K, H) and bias (K,) of the layer.
        box: N boxes of its inputs.
        y: (N,) labels.
        ball: Ellipsoids of its inputs, of which only the parts in the boxes count.

    Returns:
        (N, K-1) bounds of logit_y - logit_c, c != y ascending.
    """
    weight, bias = weights
    logits = F.linear(box.centre, weight, bias)
    widths = (weight.unsqueeze(1) - weight).abs()[y]  # (N, K, H)
    margins = logits.gather(1, y.unsqueeze(1)) - logits
    margins = margins - torch.matmul(widths, box.radius.unsqueeze(2)).squeeze(2)
    if ball is not None:
        logits = F.linear(ball.centre, weight, bias)
        spread = root(torch.matmul(widths.square(), ball.radius.square().unsqueeze(2)).squeeze(2))
        margins = torch.maximum(margins, logits.gather(1, y.unsqueeze(1)) - logits - spread)
    return margins.gather(1, wrong_classes(y, len(weight)))
