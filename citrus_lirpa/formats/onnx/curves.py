"""Operators of ONNX that are curves, as layers, and those that files have in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .graph import Reader, unusable
from .layers import Affine
from .pieces import Limited

if TYPE_CHECKING:
    import onnx

Options = dict[str, Any]
#: ONNX's default factors of Selu, of which torch's are more digits.
_SELU = 1.67326319217681884765625, 1.05070102214813232421875


def gelu(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Gelu, in either form."""
    form = options.get("approximate", b"none").decode()
    reader.add(node, nn.GELU(approximate=form), node.input[0])


def swish(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Swish, which is SiLU for a factor of one."""
    if options.get("alpha", 1.0) != 1.0:
        raise unusable(node, f"has alpha {options['alpha']}; expected 1")
    reader.add(node, nn.SiLU(), node.input[0])


def hard_sigmoid(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read HardSigmoid, a line between 0 and 1."""
    scale, shift = (torch.tensor(options.get(n, d)) for n, d in (("alpha", 0.2), ("beta", 0.5)))
    line = Affine(scale.reshape(1), shift.reshape(1))
    reader.add(node, nn.Sequential(line, Limited(0.0, 1.0)), node.input[0])


def selu(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Selu, a multiple of ELU."""
    if not options:
        return reader.add(node, nn.SELU(), node.input[0])
    alpha, gamma = options.get("alpha", _SELU[0]), options.get("gamma", _SELU[1])
    scale = Affine(torch.tensor([gamma]), None)
    reader.add(node, nn.Sequential(nn.ELU(alpha), scale), node.input[0])


def power(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Pow with one number as the exponent."""
    exponent = reader.constants.get(node.input[1])
    if exponent is None or exponent.size != 1:
        raise unusable(node, "has an exponent that is not one number of the file")
    reader.add(node, Power(float(exponent.item())), node.input[0])


class Power(nn.Module):
    """A power of values."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def extra_repr(self) -> str:
        """Return what the layer's repr shows."""
        return f"{self.exponent:g}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the power."""
        return x**self.exponent


class Applied(nn.Module):
    """A function of torch by its name, of one value or of two."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def extra_repr(self) -> str:
        """Return what the layer's repr shows."""
        return self.name

    def forward(self, *values: Tensor) -> Tensor:
        """Return the function's value."""
        return getattr(torch, self.name)(*values)


def erf(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Refuse Erf, which is read as a part of Gelu alone."""
    form = "x (1 + erf(x / √2)) / 2 in this order"
    raise unusable(node, f"is not part of a GELU, {form}; nothing else with it is read")


class _Nodes:
    """The nodes of a graph, by what they compute and by what they take."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.by_output = {node.output[0]: node for node in reader.nodes}

    def only_user(self, node: onnx.NodeProto, operator: str) -> onnx.NodeProto | None:
        """Return the node that alone takes the value of another, if it is such an operator."""
        name = node.output[0]
        users = [other for other in self.reader.nodes if name in other.input]
        alone = len(users) == 1 and self.reader.uses[name] == 1
        return users[0] if alone and users[0].op_type == operator else None

    def is_number(self, name: str, value: float) -> bool:
        """Return whether a name is that of a number of the file, close to ``value``."""
        array = self.reader.constants.get(name)
        return (
            array is not None
            and array.size == 1
            and math.isclose(array.item(), value, rel_tol=1e-6)
        )

    def other(self, node: onnx.NodeProto, name: str) -> str:
        """Return the input of a node of two that is not ``name``."""
        first, second = node.input
        return first if second == name else second


def joined(reader: Reader) -> list[onnx.NodeProto]:
    """Return the nodes, with one in place of several where exporters write a curve in parts.

    The curves are x sigmoid(x), Swish; x (1 + erf(x / √2)) / 2, Gelu; x tanh(softplus(x)), Mish; x
    times HardSigmoid with ONNX's own factors for it, HardSwish; x / (1 + |x|), Softsign; and
    log(sigmoid(x)) or -softplus(-x), which ONNX has no name for. Whether a layer computes the same
    is checked later.
    """
    from onnx import helper

    found: dict[int, onnx.NodeProto] = {}
    nodes = _Nodes(reader)
    gone: list[onnx.NodeProto] = []
    for node in reader.nodes:
        match = _MATCHES.get(node.op_type)
        parts = match(nodes, node) if match else None
        if parts is not None:
            operator, x, inner = parts
            last = inner[-1]
            found[id(last)] = helper.make_node(operator, [x], [last.output[0]])
            gone += inner[:-1]
    without = {id(node) for node in gone}
    return [found.get(id(node), node) for node in reader.nodes if id(node) not in without]


#: A curve in parts: its operator, its argument, and its nodes.
Parts = tuple[str, str, Sequence["onnx.NodeProto"]]


def _silu(nodes: _Nodes, sigmoid: onnx.NodeProto) -> Parts | None:
    product = nodes.only_user(sigmoid, "Mul")
    logarithm = nodes.only_user(sigmoid, "Log")
    if logarithm is not None:
        return "LogSigmoid", sigmoid.input[0], [sigmoid, logarithm]
    if product is None or nodes.other(product, sigmoid.output[0]) != sigmoid.input[0]:
        return None
    return "Swish", sigmoid.input[0], [sigmoid, product]


def _softplus(nodes: _Nodes, softplus: onnx.NodeProto) -> Parts | None:
    before, after = nodes.by_output.get(softplus.input[0]), nodes.only_user(softplus, "Neg")
    if before and after and before.op_type == "Neg" and nodes.only_user(before, "Softplus"):
        return "LogSigmoid", before.input[0], [before, softplus, after]
    tanh = nodes.only_user(softplus, "Tanh")
    product = tanh and nodes.only_user(tanh, "Mul")
    if not (tanh and product) or nodes.other(product, tanh.output[0]) != softplus.input[0]:
        return None
    return "Mish", softplus.input[0], [softplus, tanh, product]


def _hard_swish(nodes: _Nodes, gate: onnx.NodeProto) -> Parts | None:
    product = nodes.only_user(gate, "Mul")
    if product is None or nodes.other(product, gate.output[0]) != gate.input[0]:
        return None
    factors = {attribute.name: attribute.f for attribute in gate.attribute}
    usual = math.isclose(factors.get("alpha", 0.2), 1 / 6, rel_tol=1e-6)
    if not usual or factors.get("beta", 0.5) != 0.5:
        return None
    return "HardSwish", gate.input[0], [gate, product]


def _softsign(nodes: _Nodes, size: onnx.NodeProto) -> Parts | None:
    more = nodes.only_user(size, "Add")
    quotient = more and nodes.only_user(more, "Div")
    if not (more and quotient) or list(quotient.input) != [size.input[0], more.output[0]]:
        return None
    if not nodes.is_number(nodes.other(more, size.output[0]), 1.0):
        return None
    return "Softsign", size.input[0], [size, more, quotient]


def _gelu(nodes: _Nodes, erf: onnx.NodeProto) -> Parts | None:
    scaled = nodes.by_output.get(erf.input[0])
    more = nodes.only_user(erf, "Add")
    product = more and nodes.only_user(more, "Mul")
    half = product and nodes.only_user(product, "Mul")
    if scaled is None or not (more and product and half) or scaled.op_type != "Div":
        return None
    x = scaled.input[0]
    same = (
        nodes.is_number(scaled.input[1], math.sqrt(2))
        and nodes.is_number(nodes.other(more, erf.output[0]), 1.0)
        and nodes.other(product, more.output[0]) == x
        and nodes.is_number(nodes.other(half, product.output[0]), 0.5)
    )
    return ("Gelu", x, [scaled, erf, more, product, half]) if same else None


_MATCHES: dict[str, Callable[[_Nodes, Any], Parts | None]] = {
    "Abs": _softsign,
    "Erf": _gelu,
    "HardSigmoid": _hard_swish,
    "Sigmoid": _silu,
    "Softplus": _softplus,
}
