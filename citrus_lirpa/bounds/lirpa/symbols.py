"""How layers are traced for auto_LiRPA where torch's exporter would take them apart, or fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from .importing import onnx_globals

#: The opset in which auto_LiRPA 0.3 traces networks; 0.7 takes the exporter's default.
_OPSET = 12


def _softplus(graph: Any, x: Any, beta: float, threshold: float) -> Any:
    """Keep the threshold, beyond which torch takes x; its exporter leaves it out."""
    if (beta, threshold) == (1, 20):
        return graph.op("Softplus", x)
    return graph.op("SoftplusOf", x, beta_f=beta, threshold_f=threshold)


def _hard_tanh(graph: Any, x: Any, low: float, high: float) -> Any:
    """A clamp, with a note of its origin: its slope is 0 where x is at an end, not 1."""
    kind = x.type().dtype() or torch.float32
    ends = (graph.op("Constant", value_t=torch.tensor(end, dtype=kind)) for end in (low, high))
    return graph.op("Clip", x, *ends, of_s="hardtanh")


def _hard_sigmoid(graph: Any, x: Any) -> Any:
    """As torch computes it: ReLU6 of x + 3, by 6."""
    zero, three, six = (
        graph.op("Constant", value_t=torch.tensor(value, dtype=torch.float32))
        for value in (0.0, 3.0, 6.0)
    )
    clipped = graph.op("Clip", graph.op("Add", x, three), zero, six, of_s="hardsigmoid")
    return graph.op("Div", clipped, six)


def _glu(graph: Any, x: Any, axis: int) -> Any:
    """One half of x, times the sigmoid of the other."""
    linear, gate = _slices(graph, x, axis, 2)
    return graph.op("Mul", linear, graph.op("Sigmoid", gate))


def _chunk(graph: Any, x: Any, chunks: int, dim: int) -> list[Any]:
    """Slices with numbers for ends; the exporter's have products of a quotient."""
    return _slices(graph, x, dim, chunks)


def _slices(graph: Any, x: Any, axis: int, parts: int) -> list[Any]:
    """At most so many slices of x, as torch.chunk makes them."""
    sizes = graph.original_node.inputsAt(0).type().varyingSizes()  # those of x: all known but N
    axis = axis % len(sizes)
    size = sizes[axis] or 1
    step = -(-size // parts)

    def constant(value: int) -> Any:
        return graph.op("Constant", value_t=torch.tensor([value]))

    return [
        graph.op("Slice", x, *map(constant, (start, min(start + step, size), axis, 1)))
        for start in range(0, size, step)
    ]


def _one(name: str) -> Callable[..., Any]:
    def symbol(graph: Any, x: Any) -> Any:
        return graph.op(name, x)

    return symbol


#: By torch's name of an operation: kinds of its arguments, and the nodes it becomes.
_SYMBOLS: dict[str, tuple[str, Callable[..., Any]]] = {
    "celu": ("vf", lambda graph, x, alpha: graph.op("Celu", x, alpha_f=alpha)),
    "glu": ("vi", _glu),
    "hardsigmoid": ("v", _hard_sigmoid),
    "hardswish": ("v", _one("HardSwish")),
    "hardtanh": ("vff", _hard_tanh),
    "log_sigmoid": ("v", _one("LogSigmoid")),
    "mish": ("v", _one("Mish")),
    "relu6": ("v", lambda graph, x: _hard_tanh(graph, x, 0.0, 6.0)),
    "rsqrt": ("v", lambda graph, x: graph.op("Reciprocal", graph.op("Sqrt", x))),
    "selu": ("v", _one("Selu")),
    "softplus": ("vff", _softplus),
}


_GELU = ("vs", lambda graph, x, form: graph.op("Gelu", x, approximate_s=form))


@contextmanager
def whole_curves(gelu: bool) -> Iterator[None]:
    """Have curves traced as one node each inside the block; with ``gelu`` GELU too, as 0.7 does."""
    onnx: Any = torch.onnx
    symbols = {**_SYMBOLS, **({"gelu": _GELU} if gelu else {})}
    functions = {
        f"aten::{name}": onnx.symbolic_helper.parse_args(*kinds)(symbol)
        for name, (kinds, symbol) in symbols.items()
    }
    functions["prim::ConstantChunk"] = _chunk
    opsets = {_OPSET, onnx_globals().export_onnx_opset_version}
    with ExitStack() as stack:
        for (name, function), opset in itertools.product(functions.items(), opsets):
            onnx.register_custom_op_symbolic(name, function, opset)
            stack.callback(onnx.unregister_custom_op_symbolic, name, opset)
        yield
