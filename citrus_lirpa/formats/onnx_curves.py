"""Operators of ONNX that are curves, as layers, and those that files have in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import ModelError
from .onnx_graph import Affine, Reader, kind
from .onnx_pieces import Limited

if TYPE_CHECKING:
    import onnx

Options = dict[str, Any]


def elu(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Elu."""
    reader.add(node, nn.ELU(options.get("alpha", 1.0)), node.input[0])


def gelu(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Gelu, in either form."""
    form = options.get("approximate", b"none").decode()
    reader.add(node, nn.GELU(approximate=form), node.input[0])


def swish(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Swish, which is SiLU for a factor of one."""
    if options.get("alpha", 1.0) != 1.0:
        raise ModelError(
            f"{kind(node)} '{node.output[0]}' has alpha {options['alpha']}; expected 1"
        )
    reader.add(node, nn.SiLU(), node.input[0])


def hard_sigmoid(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read HardSigmoid, a line between 0 and 1."""
    scale, shift = (torch.tensor(options.get(n, d)) for n, d in (("alpha", 0.2), ("beta", 0.5)))
    line = Affine(scale.reshape(1), shift.reshape(1))
    reader.add(node, nn.Sequential(line, Limited(0.0, 1.0)), node.input[0])


def erf(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Refuse Erf, which is read as a part of Gelu alone."""
    raise ModelError(
        f"{kind(node)} '{node.output[0]}' is not part of a GELU, x (1 + erf(x / √2)) / 2 in this "
        "order; nothing else with it is read"
    )


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
    """Return the nodes with x sigmoid(x) as Swish and x (1 + erf(x / √2)) / 2 as Gelu.

    Exporters write SiLU and GELU so. Whether a layer computes the same is checked later.
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


#: What parts are, of what value, and which nodes they are.
Parts = tuple[str, str, Sequence["onnx.NodeProto"]]


def _silu(nodes: _Nodes, sigmoid: onnx.NodeProto) -> Parts | None:
    product = nodes.only_user(sigmoid, "Mul")
    if product is None or nodes.other(product, sigmoid.output[0]) != sigmoid.input[0]:
        return None
    return "Swish", sigmoid.input[0], [sigmoid, product]


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


_MATCHES: dict[str, Callable[[_Nodes, Any], Parts | None]] = {"Erf": _gelu, "Sigmoid": _silu}
