"""The fast way through a network: plain tensor operations, read once from an auto_LiRPA graph.

auto_LiRPA bounds any graph. For the layers that certified training uses (convolutions, linear
layers, BatchNorm, ReLU, flattening, addition, pooling by averages) a Plan computes the same values
and the same interval bounds with less work: BatchNorm is folded into the convolution before it,
boxes stay centre and radius between ReLUs, and on the CPU images are laid out channels last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .box import Box, Interval
from .segments import computed, constant_value, operations
from .tracing import input_node, relu_nodes

#: Weight and bias of each affine step.
Weights = list[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Step:
    """One operation. sources: numbers of the values it takes, 0 for the input and k for the
    result of step k - 1; function: of affine steps (x, weight, bias), of others (x).
    """

    kind: str
    sources: tuple[int, ...]
    function: Callable[..., Tensor] | None = None


@dataclass(frozen=True)
class Plan:
    """A network whose last step is linear. nodes: of each affine step, the layer's node and
    that of the BatchNorm folded into it; last_uses: after each step, values no longer needed;
    relus: for each ReLU, in network order, its place among the steps that are ReLUs.
    """

    steps: tuple[Step, ...]
    nodes: tuple[tuple[nn.Module, nn.Module | None], ...]
    last_uses: tuple[tuple[int, ...], ...]
    relus: tuple[int, ...]

    def weights(self) -> Weights:
        """With graph; BatchNorm by the statistics that bounds use: in train mode those of
        the last forward pass, else the running ones."""
        return [_weights(layer, norm) for layer, norm in self.nodes]

    @torch.no_grad()
    def frozen_weights(self, dtype: torch.dtype | None = None) -> Weights:
        """``weights`` without graph, in another type if one is given."""

        def frozen(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.detach().to(dtype or value.dtype)

        return [(frozen(weight), frozen(bias)) for weight, bias in self.weights()]

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """(N, K) logits of normalised inputs."""
        layers = iter(weights)

        def run(step: Step, sources: list[Tensor]) -> Tensor:
            if step.kind == "affine":
                return step.function(*sources, *next(layers))
            if step.kind == "relu":
                return F.relu(*sources)
            return sources[0] + sources[1] if step.kind == "add" else step.function(*sources)

        return self._run(self.steps, run, laid_out(x))

    def intervals(self, weights: Weights, box: Interval) -> tuple[list[Interval], Interval]:
        """Bounds of the input of every ReLU, in network order, and of the last step's.

        Interval bound propagation (Gowal et al. 2018) of a box of normalised inputs, in centre
        and radius: W c + b and |W| r.
        """
        layers = iter(weights[:-1])
        before: list[Interval] = []

        def run(step: Step, sources: list[Interval]) -> Interval:
            (source, *_) = sources
            if step.kind == "affine":
                weight, bias = next(layers)
                centre = step.function(source.centre, weight, bias)
                return Interval(centre, step.function(source.radius, weight.abs(), None))
            if step.kind == "relu":
                before.append(source)
                return Interval(*_IntervalRelu.apply(*source))
            if step.kind == "add":
                return Interval(*(a + b for a, b in zip(*sources, strict=True)))
            return Interval(step.function(source.centre), step.function(source.radius))

        box = Interval(laid_out(box.centre), laid_out(box.radius))
        last = self._run(self.steps[:-1], run, box)
        return [before[place] for place in self.relus], last

    @torch.no_grad()
    def largest_terms(self, weights: Weights, box: Interval, before: list[Box]) -> Tensor:
        """(N,) the largest |W||x| + |b| and |a| + |b| that any step may add up, for normalised
        inputs in ``box`` and inputs of ReLUs in ``before``, in network order: what rounds."""
        layers, numbers, sizes = iter(weights), itertools.count(1), []
        given = iter([before[self.relus.index(place)] for place in range(len(self.relus))])
        wanted = {s for step in self.steps if step.kind != "relu" for s in step.sources}

        def run(step: Step, sources: list[Any]) -> Interval | None:
            bounds = None
            if step.kind == "relu":
                lower, upper = next(given)
                bounds = Interval.of(Box(lower.relu(), upper.relu()))
            elif step.kind == "affine":
                (source,), (weight, bias) = sources, next(layers)
                largest = source.centre.abs() + source.radius
                magnitude = weight.abs(), None if bias is None else bias.abs()
                sizes.append(step.function(largest, *magnitude))
            elif step.kind == "add":
                sizes.append(sum(source.centre.abs() + source.radius for source in sources))
            if next(numbers) not in wanted or bounds is not None:
                return bounds
            if step.kind == "affine":
                centre = step.function(source.centre, weight, bias)
                return Interval(centre, step.function(source.radius, weight.abs(), None))
            if step.kind == "add":
                return Interval(*(a + b for a, b in zip(*sources, strict=True)))
            return Interval(*(step.function(end) for end in sources[0]))

        self._run(self.steps, run, Interval(laid_out(box.centre), laid_out(box.radius)))
        return torch.stack([size.reshape(len(size), -1).amax(1) for size in sizes]).amax(0)

    def _run(self, steps: tuple[Step, ...], run: Callable[..., Any], value: Any) -> Any:
        values = {0: value}
        for number, step in enumerate(steps):  # torch.compile of 2.5 knows no zip(strict=)
            value = values[number + 1] = run(step, [values[s] for s in step.sources])
            for source in self.last_uses[number]:
                del values[source]
        return value


def margin_bounds(weights: tuple[Tensor, Tensor | None], box: Interval, y: Tensor) -> Tensor:
    """(N, K): lower bounds of logit_y - logit_c of a linear layer over ``box``; 0 for c = y.

    (w_y - w_c)·centre + b_y - b_c - |w_y - w_c|·radius: the layer and the margins as one.
    """
    weight, bias = weights
    logits = F.linear(box.centre, weight, bias)
    widths = (weight.unsqueeze(1) - weight).abs()[y]  # (N, K, H)
    margins = logits.gather(1, y.unsqueeze(1)) - logits
    return margins - torch.matmul(widths, box.radius.unsqueeze(2)).squeeze(2)


def laid_out(x: Tensor) -> Tensor:
    """Images channels last on the CPU, where convolutions need not reorder them then."""
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


def terms_of(layer: nn.Module, largest: Tensor) -> Tensor:
    """|W||x| + |b| of a layer's node, where |x| <= ``largest``."""
    weight, bias = _weights(layer, None)
    return _function(layer)(largest, weight.abs(), None if bias is None else bias.abs())


# -- reading the graph ------------------------------------------------------------------


def make_plan(bounded: nn.Module) -> Plan | None:
    """The plan of a BoundedModule's graph, or None where it has other layers than a Plan's.

    Run a forward pass first: shapes are those of the last one.
    """
    first, final = input_node(bounded), bounded.final_node()
    order, _ = operations(final, {first.name: -1})
    if type(final).__name__ != "BoundLinear" or not all(map(_plain, order)):
        return None
    uses = [source.name for node in order for source in node.inputs]
    numbers, steps, nodes = {first.name: 0}, [], []
    folded = {n.name: n for n in order if _folds(n, uses)}
    for node in order:
        kind = type(node).__name__
        if node.name in folded:
            numbers[node.name] = numbers[node.inputs[0].name]
            continue
        if kind in _AFFINE:
            norm = next((n for n in folded.values() if n.inputs[0] is node), None)
            nodes.append((node, norm))
        sources = tuple(numbers[s.name] for s in node.inputs if computed(s))
        steps.append(Step(_KINDS[kind], sources, _function(node)))
        numbers[node.name] = len(steps)
    # branches may be added in another order than they were traced in
    met = [node.name for node in order if _KINDS[type(node).__name__] == "relu"]
    if len(met) != len(relu_nodes(bounded)):
        return None  # some do not lead to the logits
    relus = tuple(met.index(node.name) for node in relu_nodes(bounded))
    return Plan(tuple(steps), tuple(nodes), _last_uses(steps), relus)


_KINDS = {
    "BoundConv": "affine",
    "BoundLinear": "affine",
    "BoundBatchNormalization": "affine",
    "BoundRelu": "relu",
    "BoundAdd": "add",
    "BoundFlatten": "reshape",
    "BoundReshape": "reshape",
    "BoundAveragePool": "average",
    "BoundGlobalAveragePool": "average",
}
_AFFINE = [name for name, kind in _KINDS.items() if kind == "affine"]


def is_layer(node: nn.Module) -> bool:
    """Whether a node is a linear layer, a convolution of images or a BatchNorm of constants."""
    return type(node).__name__ in _AFFINE and _plain(node)


def _plain(node: nn.Module) -> bool:
    """Whether a Plan's functions compute what the node does."""
    kind = type(node).__name__
    varying = [computed(source) for source in node.inputs]
    if kind == "BoundAdd":
        return all(varying)
    if kind not in _KINDS or not varying[0] or any(varying[1:]):
        return False
    if any(getattr(source, "perturbation", None) is not None for source in node.inputs[1:]):
        return False  # weights that are bounded too
    if kind == "BoundConv":
        return len(node.stride) == 2
    if kind == "BoundAveragePool":
        return list(node.padding) == [0, 0]
    if kind == "BoundLinear":
        scales = [getattr(node, name, 1.0) for name in _SCALES[hasattr(node, "alpha_linear")]]
        return scales == [1.0, 1.0] and not node.transA
    if kind == "BoundBatchNormalization":
        parts = node.use_mean, node.use_var, node.use_affine
        return node.bn_mode == "forward" and all(parts)
    return True


#: What a linear layer's product and bias are scaled by: before auto_LiRPA 0.7, and in it.
_SCALES = (("alpha", "beta"), ("alpha_linear", "beta_linear"))


def _folds(node: nn.Module, uses: list[str]) -> bool:
    """Whether a BatchNorm follows a convolution whose result nothing else takes."""
    if type(node).__name__ != "BoundBatchNormalization":
        return False
    before = node.inputs[0]
    return type(before).__name__ == "BoundConv" and uses.count(before.name) == 1


def _function(node: nn.Module) -> Callable[..., Tensor] | None:
    kind = type(node).__name__
    if kind == "BoundConv":
        options = tuple(map(tuple, (node.stride, node.padding, node.dilation)))
        return lambda x, weight, bias: F.conv2d(x, weight, bias, *options, node.groups)
    if kind == "BoundLinear":
        return F.linear
    if kind == "BoundBatchNormalization":
        return _scaled
    if kind == "BoundAveragePool":
        size, stride = tuple(node.kernel_size), tuple(node.stride)
        return lambda x: F.avg_pool2d(x, size, stride)
    if kind == "BoundGlobalAveragePool":
        return lambda x: x.mean(dim=(2, 3), keepdim=True)
    shape = tuple(node.output_shape[1:])
    return (lambda x: x.reshape(len(x), *shape)) if _KINDS[kind] == "reshape" else None


def _scaled(x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """Channels (of dimension 1) times scale, plus shift."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    x = x * scale.view(shape)
    return x if shift is None else x + shift.view(shape)


def _weights(layer: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    if type(layer).__name__ == "BoundBatchNormalization":
        return _normalisation(layer)
    weight, *rest = (constant_value(source) for source in layer.inputs[1:])
    bias = rest[0] if rest else None
    if type(layer).__name__ == "BoundLinear" and not layer.transB:
        weight = weight.T
    if norm is None:
        return weight, bias
    scale, shift = _normalisation(norm)
    shift = shift if bias is None else shift + bias * scale
    return weight * scale.view(-1, 1, 1, 1), shift


def _normalisation(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a BatchNorm multiplies with and adds, for each channel."""
    weight, bias, mean, variance = (constant_value(source) for source in norm.inputs[1:])
    if norm.training:
        mean, variance = norm.current_mean, norm.current_var
    scale = weight / (variance + norm.eps).sqrt()
    return scale, bias - mean * scale


def _last_uses(steps: list[Step]) -> tuple[tuple[int, ...], ...]:
    last = {source: number for number, step in enumerate(steps) for source in step.sources}
    return tuple(
        tuple(source for source, at in last.items() if at == number) for number in range(len(steps))
    )
