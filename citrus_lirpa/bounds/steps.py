"""Steps of the fast way through a network: what a layer does to values, boxes and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .box import Box, Interval
from .elementwise import interval_relu
from .graph import BatchNorm, Operation, scaled
from .products import linear, product

#: Devices on which images lie channels last. Whether that pays on a GPU, benchmarks/gpu measures.
CHANNELS_LAST = frozenset({"cpu"})
#: Weight and bias of an affine operation.
Weight = tuple[Tensor, Tensor | None]


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

    def taped(self, *arguments: Any) -> tuple[Tensor, Any]:
        """Return the value of what ``forward`` takes, and what ``pullback`` needs of it."""
        value = self.forward(*arguments)
        return value, value if self.saves_value else arguments[0].shape

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


class Reshape(Step):
    """Reshaping of each input."""

    def __init__(self, operation: Operation, sources: tuple[int, ...]):
        super().__init__(operation, sources)
        shape = tuple(operation.node.output_shape[1:])
        self.function = lambda x: x.reshape(len(x), *shape)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return the gradient in the argument."""
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


class Relu(Step):
    """ReLU."""

    saves_value = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the value."""
        return F.relu(x)

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return the gradient in the argument."""
        return (torch.ops.aten.threshold_backward.grad_input(g, saved, 0, grad_input=g),)

    def interval(self, box: Interval) -> Interval:
        """Return the box around the values on a box."""
        return interval_relu(box)


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


class Linear(Affine):
    """A linear layer."""

    function = staticmethod(linear)

    @staticmethod
    def computes(node: Any) -> bool:
        """Return whether the step computes what a node does."""
        # product and bias are scaled by these: before auto_LiRPA 0.7, and in it
        old, new = ("alpha", "beta"), ("alpha_linear", "beta_linear")
        names = new if hasattr(node, "alpha_linear") else old
        return [getattr(node, name, 1.0) for name in names] == [1.0, 1.0] and not node.transA

    def weights(self) -> Weight:
        """Return the weight and bias, or scale and shift, as they are now, with graph."""
        weight, bias = super().weights()
        return weight if self.operation.node.transB else weight.T, bias

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return the gradient in the argument."""
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


class Normalisation(Affine):
    """A BatchNorm that no convolution takes in."""

    function = staticmethod(scaled)

    @staticmethod
    def computes(node: Any) -> bool:
        """Return whether the step computes what a node does."""
        parts = node.use_mean, node.use_var, node.use_affine
        return node.bn_mode == "forward" and all(parts)

    def weights(self) -> Weight:
        """Return the weight and bias, or scale and shift, as they are now, with graph."""
        return self.operation.scale_and_shift()

    def pullback(self, g: Tensor, saved: Any, *weights: Any) -> tuple[Tensor, ...]:
        """Return the gradient in the argument."""
        return (scaled(g, weights[0], None),)


_STEPS: dict[str, type[Step]] = {
    "BoundConv": Convolution,
    "BoundLinear": Linear,
    "BoundBatchNormalization": Normalisation,
    "BoundRelu": Relu,
    "BoundAdd": _Add,
    "BoundFlatten": Reshape,
    "BoundReshape": Reshape,
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


def root(squares: Tensor) -> Tensor:
    """Return square roots, with a gradient at 0."""
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()


def laid_out(x: Tensor) -> Tensor:
    """Lay images out channels last where convolutions need not reorder them then."""
    if x.ndim == 4 and x.device.type in CHANNELS_LAST:
        return x.contiguous(memory_format=torch.channels_last)
    return x
