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

from .box import Box, Interval
from .graph import BatchNorm, Graph, Operation, scaled
from .margins import wrong_classes
from .products import linear, product

#: Weight and bias of an affine operation.
Weight = tuple[Tensor, Tensor | None]
#: One for each step of a network; () for steps without.
Weights = list[tuple[Any, ...]]


# -- operations ---------------------------------------------------------------------------


class Step:
    """One step of an IntervalNetwork, by default a monotone function of one value.

    Its methods take the values that the step is computed from, then its weight and bias if it
    has them. ``sources`` are numbers of these values: 0 for the network's input, k for the
    result of step k - 1.
    """

    function: Callable[..., Tensor]
    #: Whether ``pullback`` needs the value; it gets the shape of the first argument else.
    saves_value = False

    def __init__(self, operation: Operation, sources: tuple[int, ...]):
        self.operation, self.sources = operation, sources

    @staticmethod
    def computes(node: Any) -> bool:
        """Return whether the step computes what a node of its kind does."""
        return True

    def weights(self) -> tuple[Any, ...]:
        """Return weight and bias as they are now, with graph."""
        return ()

    def forward(self, x: Tensor) -> Tensor:
        """Return the value."""
        return self.function(x)

    def interval(self, box: Interval) -> Interval:
        """Return the box around all values that the step has on a box."""
        return Interval(self.function(box.centre), self.function(box.radius))

    def magnitude(self, box: Interval) -> Tensor | None:
        """Return the largest sum of absolute values that the step adds up on a box."""
        return None

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return gradients in the step's arguments; here of a linear function without weights.

        Args:
            g: Gradient in the step's value, which may be overwritten.
            saved: The value, or the shape of the first argument: see ``saves_value``.
            weights: As ``forward`` takes them.
        """
        with torch.enable_grad():
            x = g.new_zeros(saved).requires_grad_()
            return torch.autograd.grad(self.function(x), x, g)


class _Reshape(Step):
    def __init__(self, operation: Operation, sources: tuple[int, ...]):
        super().__init__(operation, sources)
        shape = tuple(operation.node.output_shape[1:])
        self.function = lambda x: x.reshape(len(x), *shape)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        return (laid_out(g.reshape(saved)),)


class _AveragePool(Step):
    def __init__(self, operation: Operation, sources: tuple[int, ...]):
        super().__init__(operation, sources)
        node = operation.node
        sizes = tuple(node.kernel_size), tuple(node.stride), tuple(node.padding)
        switches = node.ceil_mode, node.count_include_pad
        self.function = lambda x: F.avg_pool2d(x, *sizes, *switches)


class _GlobalAveragePool(Step):
    @staticmethod
    def function(x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True)


class _Relu(Step):
    saves_value = True

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        return (torch.ops.aten.threshold_backward.grad_input(g, saved, 0, grad_input=g),)

    def interval(self, box: Interval) -> Interval:
        return Interval(*_IntervalRelu.apply(*box))


class _Add(Step):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        return g, g.clone()

    def interval(self, a: Interval, b: Interval) -> Interval:
        return Interval(a.centre + b.centre, a.radius + b.radius)

    def magnitude(self, a: Interval, b: Interval) -> Tensor:
        return (a.centre.abs() + a.radius) + (b.centre.abs() + b.radius)


class Affine(Step):
    """W x + b; its box has the centre W c + b and the radius |W| r (Gowal et al. 2018)."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return W x + b."""
        return self.function(x, weight, bias)

    def interval(self, box: Interval, weight: Tensor, bias: Tensor | None) -> Interval:
        """Return the box around all W x + b, x in a box."""
        centre = self.function(box.centre, weight, bias)
        return Interval(centre, self.function(box.radius, weight.abs(), None))

    def of_ball(
        self, ball: Interval, box: Interval, weight: Tensor, bias: Tensor | None
    ) -> Interval:
        """Return the box around all W x + b, x in ellipsoids, as far as it is within ``box``.

        Args:
            ball: Middles (N, ...) and half axes (1, ...).
            box: A box around these values.
            weight: W.
            bias: b.
        """
        centre = self.function(ball.centre, weight, bias)
        radius = root(self.function(ball.radius.square(), weight.square(), None))
        lower = torch.maximum(box.centre - box.radius, centre - radius)
        upper = torch.minimum(box.centre + box.radius, centre + radius)
        return Interval.of(Box(lower, torch.maximum(lower, upper)))

    def magnitude(self, box: Interval, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return |W||x| + |b| for the largest |x| in a box."""
        largest = box.centre.abs() + box.radius
        return self.function(largest, weight.abs(), None if bias is None else bias.abs())

    def weights(self) -> Weight:
        """Return W and b as they are now, with graph."""
        weight, *bias = self.operation.constants().values()
        return weight, bias[0] if bias else None


class _Linear(Affine):
    function = staticmethod(linear)

    @staticmethod
    def computes(node: Any) -> bool:
        # product and bias are scaled by these: before auto_LiRPA 0.7, and in it
        old, new = ("alpha", "beta"), ("alpha_linear", "beta_linear")
        names = new if hasattr(node, "alpha_linear") else old
        return [getattr(node, name, 1.0) for name in names] == [1.0, 1.0] and not node.transA

    def weights(self) -> Weight:
        weight, bias = super().weights()
        return weight if self.operation.node.transB else weight.T, bias

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        return (product(g.flatten(0, -2), weights[0]).view(saved),)


class Convolution(Affine):
    """A convolution of images, with a BatchNorm behind it folded in."""

    norm: BatchNorm | None = None

    def __init__(self, operation: Operation, sources: tuple[int, ...]):
        super().__init__(operation, sources)
        node = operation.node
        self.stride, self.padding = tuple(node.stride), tuple(node.padding)
        self.dilation, self.groups = tuple(node.dilation), node.groups

    def function(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of images."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    @staticmethod
    def computes(node: Any) -> bool:
        """Return whether it is one of images."""
        return len(node.stride) == 2

    def weights(self) -> Weight:
        """Return weight and bias as they are now, with the BatchNorm's, and with graph."""
        weight, bias = super().weights()
        if self.norm is None:
            return weight, bias
        scale, shift = self.norm.scale_and_shift()
        shift = shift if bias is None else shift + bias * scale
        return weight * scale.view(-1, 1, 1, 1), shift

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return the gradient in the images."""
        weight = weights[0]
        sizes = saved[2:], g.shape[2:], weight.shape[2:]
        sides = zip(*sizes, self.stride, self.padding, self.dilation, strict=True)
        beyond = [n - 1 - (m - 1) * s + 2 * p - d * (k - 1) for n, m, k, s, p, d in sides]
        options = self.stride, self.padding, beyond, self.groups, self.dilation
        return (F.conv_transpose2d(g, weight, None, *options),)


class _Normalisation(Affine):
    """A BatchNorm that no convolution takes in."""

    function = staticmethod(scaled)

    @staticmethod
    def computes(node: Any) -> bool:
        parts = node.use_mean, node.use_var, node.use_affine
        return node.bn_mode == "forward" and all(parts)

    def weights(self) -> Weight:
        return self.operation.scale_and_shift()

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        return (scaled(g, weights[0], None),)


_STEPS: dict[str, type[Step]] = {
    "BoundConv": Convolution,
    "BoundLinear": _Linear,
    "BoundBatchNormalization": _Normalisation,
    "BoundRelu": _Relu,
    "BoundAdd": _Add,
    "BoundFlatten": _Reshape,
    "BoundReshape": _Reshape,
    "BoundAveragePool": _AveragePool,
    "BoundGlobalAveragePool": _GlobalAveragePool,
}


def step_of(operation: Operation, sources: tuple[int, ...] = ()) -> Step | None:
    """Return the step that computes an operation, or None where there is none."""
    kind, node = _STEPS.get(operation.kind, Step), operation.node
    varying = [True, True] if kind is _Add else [True] + [False] * (len(node.inputs) - 1)
    bounded_weights = any(getattr(i, "perturbation", None) is not None for i in node.inputs[1:])
    if kind is Step or operation.varying != varying or not kind.computes(node):
        return None
    return None if kind is not _Add and bounded_weights else kind(operation, sources)


# -- networks -----------------------------------------------------------------------------


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
    def of(graph: Graph) -> IntervalNetwork | None:
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
            folds = isinstance(step, _Normalisation) and before.kind == "BoundConv"
            if folds and uses[before.name] == 1:
                steps[sources[0] - 1].norm = operation
                numbers[operation.name] = sources[0]
            else:
                steps.append(step)
                numbers[operation.name] = len(steps)
        if not steps or not isinstance(steps[-1], _Linear) or not numbers.keys() >= {*graph.relus}:
            return None  # ReLUs that do not lead to the logits have bounds too
        return IntervalNetwork(steps, [numbers[name] - 1 for name in graph.relus])

    def compile(self, cuda: bool) -> None:
        """Let torch.compile make kernels of ``intervals``, and on a GPU of ``logits`` too."""
        options: Any = {"dynamic": False, "mode": "reduce-overhead" if cuda else "default"}
        self.intervals = torch.compile(self._intervals, **options)
        if cuda:
            self.logits = torch.compile(self._logits, **options)

    def weights(self) -> Weights:
        """Return weights and biases with graph, BatchNorm by the statistics that bounds use."""
        return [step.weights() for step in self.steps]

    @torch.no_grad()
    def frozen_weights(self, dtype: torch.dtype | None = None) -> Weights:
        """Return ``weights`` without graph, in another type if one is given."""

        def frozen(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.detach().to(dtype or value.dtype)

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
            value = step.forward(*values, *weights[number])
            tape.append(value if step.saves_value else values[0].shape)
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
            if isinstance(step, (_Linear, Convolution)) and step.sources == (number,):
                return number, self.steps[:number]
            if not isinstance(step, _Reshape) or step.sources != (number,):
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
            if isinstance(step, _Relu):
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
        """Return what rounds: the largest sum of absolute values that any step adds up.

        Args:
            box: N boxes of normalised inputs.
            before: Bounds of the input of every ReLU, in network order.

        Returns:
            (N,) the largest |W||x| + |b| and |a| + |b| within these bounds.
        """
        weights, sizes = self.frozen_weights(), []
        given = dict(zip(self.relus, before, strict=True))
        # bounds behind a ReLU are those given: others matter only up to the next ReLU
        wanted = {s for step in self.steps if not isinstance(step, _Relu) for s in step.sources}

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


def root(squares: Tensor) -> Tensor:
    """Return square roots, with a gradient at 0."""
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()


def laid_out(x: Tensor) -> Tensor:
    """Lay images out channels last on the CPU, where convolutions need not reorder them then."""
    if x.ndim == 4 and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x


class _IntervalRelu(torch.autograd.Function):
    """ReLU of a box; backward needs nothing but the results, which the next layer keeps."""

    @staticmethod
    def forward(ctx, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        # nothing in place: torch.compile (2.11) would then give wrong gradients, silently
        lower, upper = (centre - radius).relu(), (centre + radius).relu()
        new_centre = torch.lerp(lower, upper, 0.5)
        new_radius = upper - new_centre
        ctx.save_for_backward(new_centre, new_radius)
        return new_centre, new_radius

    @staticmethod
    def backward(ctx, to_centre: Tensor, to_radius: Tensor) -> tuple[Tensor, Tensor]:
        centre, radius = ctx.saved_tensors
        active = torch.ops.aten.threshold_backward  # its first where its second is positive
        to_upper = active(to_centre + to_radius, centre, 0)
        to_lower = active(to_centre - to_radius, centre - radius, 0)
        to_centre = torch.lerp(to_lower, to_upper, 0.5)
        return to_centre, to_upper - to_centre
