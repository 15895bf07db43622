"""Repairs of auto_LiRPA's nodes for modules as people write them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any

import torch
import torch.nn.functional as F


def repair_nodes(operators: Any) -> None:
    """Repair flattening by the batch size and layers without bias, where that is needed."""
    _keep_the_batch_open(operators.BoundReshape)
    _bound_without_bias(operators.BoundMatMul)
    _keep_activations()
    _pool_as_written(operators.BoundMaxPool, _max_pool)
    _pool_as_written(operators.BoundAveragePool, _average_pool)
    _unsqueeze_several_axes(operators.BoundUnsqueeze)
    _bend_by_any_slope(operators.BoundLeakyRelu)
    _slice_in_steps(operators.BoundSlice)
    _pad_without_value(operators.BoundPad)
    _join_parts_of_a_box(operators.BoundConcat, operators.Interval)


def _keep_the_batch_open(reshape: Any) -> None:
    """Both reshape by the size of the example's batch where the model uses it.

    A reshape that kept the first dimension while it was traced keeps it for any batch.
    """
    original = reshape.forward

    def forward(self: Any, x: torch.Tensor, shape: Any) -> torch.Tensor:
        if not hasattr(self, "features"):
            result = original(self, x, shape)
            self.features = list(result.shape[1:]) if result.shape[:1] == x.shape[:1] else None
            return result
        return original(self, x, shape if self.features is None else [len(x), *self.features])

    reshape.forward = forward


def _bound_without_bias(product: Any) -> None:
    """0.3 refuses a specification behind ``Linear(bias=False)``: unexpected keyword 'C'."""
    original = product.interval_propagate
    if "C" in inspect.signature(original).parameters:
        return
    product.interval_propagate = product.__base__.interval_propagate


def _keep_activations() -> None:
    """0.7 merges activations of one value, also two LeakyReLUs or max poolings that differ.

    It also merges pairs of ReLUs into new weights, which training does not reach, and fails there
    on a ``Linear(bias=False)`` between ReLUs: TypeError.
    """
    if importlib.util.find_spec("auto_LiRPA.optimize_graph") is not None:
        optimiser = importlib.import_module("auto_LiRPA.optimize_graph")
        for name in ("merge_identical_act", "optimize_relu_relation"):
            vars(optimiser)[name] = lambda _: None


def _pool_as_written(pool: Any, function: Any) -> None:
    """Both overlook a pooling's dilation, ceil_mode and count_include_pad.

    This mends values and intervals, not linear bounds.
    """
    original = pool.__init__

    def __init__(self: Any, attr: Any = None, *args: Any, **options: Any) -> None:
        original(self, attr, *args, **options)
        self.dilation = list(attr.get("dilations", [1] * len(self.kernel_size)))
        self.ceil_mode = bool(attr.get("ceil_mode", 0))
        self.count_include_pad = bool(attr.get("count_include_pad", 0))

    pool.__init__, pool.forward = __init__, function


def _max_pool(self: Any, x: torch.Tensor) -> torch.Tensor:
    sizes = self.kernel_size, self.stride, self.padding, self.dilation
    return F.max_pool2d(x, *sizes, ceil_mode=self.ceil_mode)


def _average_pool(self: Any, x: torch.Tensor) -> torch.Tensor:
    sizes = self.kernel_size, self.stride, self.padding
    return F.avg_pool2d(x, *sizes, self.ceil_mode, self.count_include_pad)


def _unsqueeze_several_axes(unsqueeze: Any) -> None:
    """Both refuse more than one axis, as the slopes of PReLU have: AssertionError."""
    original, forward_one = unsqueeze.__init__, unsqueeze.forward

    def __init__(self: Any, attr: Any = None, *args: Any, **options: Any) -> None:
        axes = (attr or {}).get("axes", [0])
        self_axes = [] if len(axes) == 1 else sorted(axes)
        original(self, {**(attr or {}), "axes": axes[:1]} if self_axes else attr, *args, **options)
        self.several = self_axes

    def forward(self: Any, x: torch.Tensor, *axes: Any) -> torch.Tensor:
        several = self.several or (sorted(axes[0].tolist()) if axes and axes[0].numel() > 1 else [])
        if not several:
            return forward_one(self, x, *axes)
        for axis in several:
            x = x.unsqueeze(axis)
        return x

    unsqueeze.__init__, unsqueeze.forward = __init__, forward


def leaky_slope(node: Any) -> float:
    """Return the slope of a LeakyReLU, which the two versions call by different names."""
    return float(node.leaky_alpha if hasattr(node, "leaky_alpha") else node.alpha)


def _bend_by_any_slope(leaky: Any) -> None:
    """0.7 takes a negative slope for zero."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, leaky_slope(self))

    leaky.forward = forward


def _slice_in_steps(slicing: Any) -> None:
    """Both refuse steps beyond one: AssertionError.

    This mends values and intervals, not linear bounds.
    """
    original = slicing.forward

    def forward(self: Any, x: Any, *limits: Any) -> Any:
        if len(limits) < 4 or int(limits[3]) <= 1:
            return original(self, x, *limits)
        start, end, axis, step = (int(limit) for limit in limits)
        return x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]

    slicing.forward = forward


def _pad_without_value(padding: Any) -> None:
    """Both fail on ``F.pad(x, widths)``, whose value is an empty tensor: TypeError."""
    original = padding.forward

    def forward(self: Any, x: torch.Tensor, widths: Any, value: Any = 0.0) -> torch.Tensor:
        empty = isinstance(value, torch.Tensor) and not value.numel()
        return original(self, x, widths, 0.0 if empty else value)

    padding.forward = forward


def _join_parts_of_a_box(concat: Any, interval: Any) -> None:
    """0.7 cannot join parts of a box whose ends are tensors: ValueError, inhomogeneous shape."""
    original = concat.interval_propagate

    def interval_propagate(self: Any, *parts: Any) -> Any:
        moving = (part for i, part in enumerate(parts) if self.is_input_perturbed(i))
        if not all(interval.get_perturbation(part)[0] == torch.inf for part in moving):
            return original(self, *parts)
        return tuple(self.forward(*ends) for ends in zip(*parts, strict=True))

    concat.interval_propagate = interval_propagate


def pool_in_order(pool: Any) -> None:
    """0.3's CROWN through AvgPool fails behind Tanh and the like: view size is not compatible."""
    original = pool.bound_backward

    def in_order(a: Any) -> Any:
        if isinstance(a, torch.Tensor):
            return a.contiguous()
        patches = getattr(a, "patches", None)
        return a if patches is None else a.create_similar(patches.contiguous())

    def bound_backward(self: Any, last_lA: Any, last_uA: Any, x: Any) -> Any:
        return original(self, in_order(last_lA), in_order(last_uA), x)

    pool.bound_backward = bound_backward


def keep_known_intervals(module: Any) -> None:
    """0.3 writes the interval of a ReLU's output to the ReLU's input: CROWN is unsound (CReLU).

    Whatever else takes that input would be bounded by the wrong interval.
    """

    def check_IBP_intermediate(self: Any, node: Any) -> bool:
        chain = []
        while not (hasattr(node, "lower") and hasattr(node, "upper")):
            if type(node) not in self.ibp_intermediate:
                return False
            chain.append(node)
            node = node.inputs[0]
        for link in reversed(chain):
            self.IBP_general(link)
        return True

    module.check_IBP_intermediate = check_IBP_intermediate


def keep_overflow_apart(operators: Any, module: Any) -> None:
    """Both take a bias for zero, in all boxes, if that of any box is NaN: unsound.

    0 · inf is 0, and a bound that is NaN all the same is infinite, in its box alone. Layers behind
    a bound that is NaN would take none of their cases, and be bounded by zero.
    """
    node, reciprocal = operators.Bound, operators.BoundReciprocal
    get_bias, backward_general = node.get_bias, module.backward_general

    def bias_of_each(self: Any, a: Any, bias: torch.Tensor) -> Any:
        if not isinstance(a, torch.Tensor):
            return get_bias(self, a, bias)
        box = "b" if self.batch_dim != -1 else ""
        found = torch.einsum(f"sb...,{box}...->sb", a, bias)
        if not found.isnan().any():
            return found
        return torch.einsum("sb...->sb", torch.where(a == 0, 0, a * bias))

    def bounds(self: Any, *args: Any, **options: Any) -> Any:
        lower, upper, *rest = backward_general(self, *args, **options)
        lower, upper = (
            None if end is None else end.nan_to_num(beyond, torch.inf, -torch.inf)
            for end, beyond in ((lower, -torch.inf), (upper, torch.inf))
        )
        return (lower, upper, *rest)

    node.get_bias, module.backward_general = bias_of_each, bounds
    if "bound_backward" in vars(reciprocal):  # 0.7's takes a lower bias for zero by itself
        del reciprocal.bound_backward
