"""Which operations of a graph are curves, alone or several of them together."""

from __future__ import annotations

from .curve_table import HARD_SWISH, LOG_SIGMOID, MISH, SILU, SOFTSIGN, curve_of, power
from .curves import Curve
from .graph import Graph, Operation

#: Curves that are a value x times a function of x: which operations compute that, last to first.
_GATED: list[tuple[tuple[str, ...], Curve]] = [
    (("BoundSigmoid",), SILU),
    (("BoundTanh", "BoundSoftplus"), MISH),
    (("BoundDiv", "BoundClip", "BoundAdd"), HARD_SWISH),
    (("BoundMul", "BoundHardTanh", "BoundAdd"), HARD_SWISH),  # as auto_LiRPA 0.7 has it
]


def whole_curve(operation: Operation) -> Curve | None:
    """Return the curve that an operation is of its first argument; None where it is none."""
    if operation.kind == "BoundMul" and len(set(operation.arguments)) == 1:
        return power(2.0)
    if operation.varying[:1] != [True] or any(operation.varying[1:]):
        return None
    constants = operation.constants()
    return curve_of(operation.node, *(constants[other] for other in operation.arguments[1:]))


def curves_in_parts(graph: Graph) -> tuple[dict[str, tuple[str, Curve]], set[str]]:
    """Return curves that are written as several operations, and the parts that nothing else uses.

    They are x sigmoid(x), which is SiLU, x tanh(softplus(x)), which is Mish, x hardsigmoid(x),
    which is Hardswish, log(sigmoid(x)), and x / (1 + |x|), which is Softsign.
    """
    whole: dict[str, tuple[str, Curve]] = {}
    inside: list[str] = []
    users: dict[str, list[str]] = {}
    for name, operation in graph.operations.items():
        for source in operation.sources:
            users.setdefault(source, []).append(name)
        found = _in_parts(graph, operation)
        if found is not None:
            whole[name] = found[:2]
            inside += found[2]
    gone: set[str] = set()
    for part in inside:
        if all(u in gone or (u in whole and whole[u][0] != part) for u in users[part]):
            gone.add(part)
    return whole, gone


def _in_parts(graph: Graph, operation: Operation) -> tuple[str, Curve, list[str]] | None:
    """Return the argument of a curve that an operation ends, the curve, and its other parts.

    The parts are from the last to the first. Return None where the operation ends no curve.
    """
    if operation.kind == "BoundLog":
        x, parts = _behind(graph, operation.arguments[0], ("BoundSigmoid",))
        return (x, LOG_SIGMOID, parts) if parts else None
    if not all(operation.varying) or operation.kind not in ("BoundMul", "BoundDiv"):
        return None
    orders = [operation.arguments, operation.arguments[::-1]]
    for x, gate in orders if operation.kind == "BoundMul" else orders[:1]:
        for kinds, curve in _GATED if operation.kind == "BoundMul" else ():
            source, parts = _behind(graph, gate, kinds)
            if parts and source == x and (curve is not HARD_SWISH or _is_hard(graph, parts)):
                return x, curve, parts
        inverse = graph.operations.get(gate)
        if inverse is None:
            continue
        reciprocal = operation.kind == "BoundMul" and inverse.kind == "BoundReciprocal"
        below = inverse.arguments[0] if reciprocal else gate
        size = _without_one(graph, below) if reciprocal or operation.kind == "BoundDiv" else None
        if size is not None and size.kind == "BoundAbs" and size.arguments == [x]:
            return x, SOFTSIGN, [*([gate] if reciprocal else []), below, size.name]
    return None


def _behind(graph: Graph, name: str, kinds: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the value from which operations of these kinds compute another, and their names.

    The kinds are from the last to the first; there are no names where the operations are others.
    """
    parts = []
    for kind in kinds:
        operation = graph.operations.get(name)
        if operation is None or operation.kind != kind:
            return "", []
        parts.append(name)
        name = operation.arguments[0]
    return name, parts


def _is_hard(graph: Graph, parts: list[str]) -> bool:
    """Return whether a clamp was traced as a part of a hardsigmoid."""
    return bool(graph.operations[parts[1]].node.attr.get("of") == "hardsigmoid")


def _without_one(graph: Graph, name: str) -> Operation | None:
    """Return the operation whose value plus 1 is another; None for a value that is no such sum."""
    more = graph.operations.get(name)
    if more is None or more.kind != "BoundAdd" or sum(more.varying) != 1:
        return None
    (one,) = more.constants().values()
    return graph.operations.get(more.sources[0]) if bool((one == 1).all()) else None
