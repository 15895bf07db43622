"""Which operations auto_LiRPA bounds soundly, by version and method: found by search, not proved.

``allowed.json`` has a row for each form of an operation and each version: the methods for which
``tests/allowed.py`` found no point outside the bounds. What has no row proves nothing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import lirpa
from .graph import Graph, computed
from .lirpa import operators
from .lirpa.nodes import leaky_slope
from .tracing import NOT_ENLARGED, OTHERS, place

TABLE = Path(__file__).with_name("allowed.json")


def _one(node: Any) -> bool:
    """Whether one input alone is computed from the network's input."""
    return [computed(source) for source in node.inputs].count(True) == 1


def _first(node: Any) -> bool:
    """Whether that is the first input."""
    return _one(node) and computed(node.inputs[0])


def _windows(node: Any) -> bool:
    """Whether the windows of a pooling lie side by side, without padding."""
    side_by_side = list(node.kernel_size) == list(node.stride) and list(node.padding) == [0, 0]
    return side_by_side and set(node.dilation) == {1} and not node.ceil_mode


def _averages_alike(node: Any) -> bool:
    """Whether all windows of an average pooling have the same divisor."""
    return not node.ceil_mode and (node.count_include_pad or list(node.padding) == [0, 0])


def _limits_both_sides(node: Any) -> bool:
    missing = (type(source).__name__ == "BoundPrimConstant" for source in node.inputs)
    return _first(node) and not any(missing)


def _steps_by_one(node: Any) -> bool:
    return _first(node) and (len(node.inputs) < 5 or abs(int(_value(node, 4))) == 1)


def _convolves(node: Any) -> bool:
    return len(node.stride) == 2 and _first(node)


def _value(node: Any, number: int) -> Any:
    """The constant that is an input of a node, as the last forward pass left it."""
    return torch.as_tensor(node.inputs[number].value)


def _power(exponent: int) -> Callable[[Any], bool]:
    return lambda node: _first(node) and bool((_value(node, 1) == exponent).all())


def _pads_by_zero(node: Any) -> bool:
    return _first(node) and float(node.value) == 0 and all(side >= 0 for side in node.padding)


def _selects(node: Any) -> bool:
    """Whether values are taken once, in their order."""
    index = _value(node, 1).flatten()
    return _first(node) and bool((index.diff() > 0).all())


@dataclass(frozen=True)
class Form:
    """An operation with attributes: what a row of the table is about.

    Args:
        name: What it is called in the table, in messages and in the documentation.
        kinds: Names of auto_LiRPA's classes of nodes.
        holds: Whether a node of such a class has these attributes.
    """

    name: str
    kinds: tuple[str, ...]
    holds: Callable[[Any], bool] = _first


def _any(node: Any) -> bool:
    return True


#: The forms; the first that a node has counts.
FORMS = (
    Form("Linear", ("BoundLinear",)),
    Form("Conv2d without groups or dilation", ("BoundConv",),
         lambda node: _convolves(node) and node.groups == 1 and set(node.dilation) == {1}),
    Form("Conv2d with groups or dilation, as matrices", ("BoundConv",),
         lambda node: _convolves(node) and node.mode == "matrix"),
    Form("Conv2d with groups or dilation, as patches", ("BoundConv",),
         _convolves),
    Form("BatchNorm in eval mode", ("BoundBatchNormalization",)),
    Form("flatten, reshape, squeeze", ("BoundFlatten", "BoundReshape", "BoundSqueeze",
         "BoundUnsqueeze", "BoundATenUnflatten", "BoundIdentity", "BoundDropout")),
    Form("permute, transpose", ("BoundTranspose",)),
    Form("cast to float32 or float64", ("BoundCast",),
         lambda node: node.to in (1, 11) and _first(node)),  # codes of ONNX
    Form("sum, difference, negative", ("BoundAdd", "BoundSub", "BoundNeg"), _any),
    Form("product with a constant", ("BoundMul", "BoundMatMul"), _one),
    Form("division by a constant", ("BoundDiv",)),
    Form("product of two computed values", ("BoundMul",), _any),
    Form("concatenation", ("BoundConcat",), _any),
    Form("slice", ("BoundSlice",), _steps_by_one),
    Form("split", ("BoundSplit",)),
    Form("selection in order, without repeats", ("BoundGather",), _selects),
    Form("padding by zero", ("BoundPad",), _pads_by_zero),
    Form("mean over axes", ("BoundReduceMean",)),
    Form("sum over axes", ("BoundReduceSum",)),
    Form("AdaptiveAvgPool2d(1)", ("BoundGlobalAveragePool",)),
    Form("AvgPool2d with stride = kernel and no padding", ("BoundAveragePool",), _windows),
    Form("AvgPool2d with another stride or padding", ("BoundAveragePool",), _averages_alike),
    Form("MaxPool2d with stride = kernel and no padding", ("BoundMaxPool",), _windows),
    Form("MaxPool2d with another stride or padding", ("BoundMaxPool",)),
    Form("ReLU", ("BoundRelu",)),
    Form("LeakyReLU with a slope from 0 to 1", ("BoundLeakyRelu",),
         lambda node: 0 <= leaky_slope(node) <= 1),
    Form("LeakyReLU with another slope", ("BoundLeakyRelu",)),
    Form("Tanh", ("BoundTanh",)),
    Form("Sigmoid", ("BoundSigmoid",)),
    Form("Softplus", ("BoundSoftplus",)),
    Form("GELU", ("BoundGelu",),
         lambda node: _first(node) and node.attr.get("approximate", "none") == "none"),
    Form("Hardtanh, ReLU6, clamp", ("BoundHardTanh",), _limits_both_sides),
    Form("abs", ("BoundAbs",)),
    Form("exp", ("BoundExp",)),
    Form("log", ("BoundLog",)),
    Form("sqrt", ("BoundSqrt",)),
    Form("reciprocal", ("BoundReciprocal",)),
    Form("quotient by a computed value", ("BoundDiv",), _any),
    Form("x ** 2", ("BoundPow",), _power(2)),
    Form("x ** 3", ("BoundPow",), _power(3)),
    Form("x ** 4", ("BoundPow",), _power(4)),
    Form("sin, cos", ("BoundSin", "BoundCos")),
    Form("atan", ("BoundAtan",)),
    Form("maximum and minimum of two values", ("BoundMax", "BoundMin"), _any),
    Form("maximum over an axis", ("BoundReduceMax",)),
    Form("Softmax", ("BoundSoftmax",)),
)  # fmt: skip

#: What to write instead of an operation, by its class; of others nothing can be said.
_INSTEAD = {
    "BoundConv": "use Conv2d without groups and dilation, or of at most 4,096 values",
    "BoundConvTranspose": NOT_ENLARGED,
    "BoundResize": NOT_ENLARGED,
    "BoundAveragePool": "use a stride equal to the kernel and no padding",
    "BoundMaxPool": "use a stride equal to the kernel and no padding, or AvgPool2d",
    "BoundPad": "pad by zero, or subtract the value, pad by zero and add it",
    "BoundLeakyRelu": "use a slope from 0 to 1",
    "BoundDiv": "divide by constants; of a softmax at the end, return the logits before it",
    "BoundSoftmax": "of a softmax at the end, return the logits before it",
    "BoundGather": "use an order without repeats, or a Linear layer of zeros and ones",
    "BoundCast": "scale or round the data outside the model",
    "BoundFloor": "scale or round the data outside the model",
    "BoundSign": "use Tanh",
}


def form_of(node: Any) -> Form | None:
    """Return the form of a node; None for operations that are no rows of the table."""
    if not type(node).__module__.startswith("auto_LiRPA."):  # a class of the user's
        return None
    fixed = (source for source in node.inputs if not computed(source))
    if any(getattr(source, "perturbation", None) is not None for source in fixed):
        return None
    kind = type(node).__name__
    return next((form for form in FORMS if kind in form.kinds and form.holds(node)), None)


def name_of(node: Any) -> str:
    """Return what an operation is called in messages."""
    form = form_of(node)
    return type(node).__name__.removeprefix("Bound") if form is None else form.name


def rows() -> list[dict[str, Any]]:
    """Return the rows of the table: operation, version, date, bounds tried, and methods."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


@functools.cache
def _methods() -> dict[str, list[str]]:
    """The methods that each form is allowed for, by the loaded version of auto_LiRPA."""
    here = "0.3" if lirpa.load().legacy else "0.7"
    return {r["operation"]: r["methods"] for r in rows() if r["version"].startswith(here)}


def refusal(graph: Graph, method: str) -> str | None:
    """Return why no bound of a network by a method proves anything; None where it does."""
    for operation in graph.path(graph.output, {graph.input})[0]:
        node = operation.node
        if method == "ibp" and type(node).interval_propagate.__module__ == operators.__name__:
            continue  # this package's own, also where auto_LiRPA's class has lines besides
        form = form_of(node)
        if form is None or method not in _methods().get(form.name, ()):
            return (
                f"no proof rests on auto_LiRPA {lirpa.load().version}'s {method} bounds of "
                f"'{name_of(node)}'{place(node)}: they are not known to be sound; "
                f"{_INSTEAD.get(operation.kind, OTHERS)} (docs/soundness.md lists what is)"
            )
    return None
