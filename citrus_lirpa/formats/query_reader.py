"""Reads VNN-LIB queries: 2.0 by the ``vnnlib`` package, 1.0 as the 2.0 query that it means."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import InputError, reason, require
from ..imports import import_optional
from .query import Atom, Declaration, Every, Formula, Linear, Query, QueryNetwork, Some
from .vnnlib import plain

INSTALL_HINT = "pip install 'citrus-lirpa[vnnlib]'"

#: Longest text in bytes; brackets within brackets, beyond which parsers run out of stack.
_MOST_BYTES = 2**28
_DEEPEST = 100
_VERSION = re.compile(r"^\s*(;[^\n]*\n\s*)*\(\s*vnnlib-version\s*<")
#: Of a 1.0 file: comments, brackets, and everything else.
_TOKENS = re.compile(r";[^\n]*|[()]|[^\s();]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_NAME = re.compile(r"([XY])_(\d{1,9})")

#: Element types by the parser's name of them.
_TYPES = {
    "Real": "real", "F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "Bool": "bool",
}  # fmt: skip
#: a REL b as left REL 0: the relation, and whether the sides change places.
_RELATIONS = {
    "LessEqual": ("<=", False),
    "LessThan": ("<", False),
    "GreaterEqual": ("<=", True),
    "GreaterThan": ("<", True),
    "Equal": ("==", False),
}


def read_query(path: Path) -> Query:
    """Read a query file, perhaps compressed (``.gz``).

    A 1.0 file asks about one network N with the input X and the output Y, float32.

    Args:
        path: The file.

    Returns:
        The query; constants are the decimals that the file states, exactly.

    Raises:
        InputError: The file cannot be read, is no query, or has arithmetic that is not linear.
        DependencyError: The vnnlib package is missing.
    """
    text = _text(Path(path))
    try:
        if not _VERSION.match(text):
            text = _as_version_2(text)
        text, isomorphic = _without_isomorphisms(text)
        return _query(_parsed(text), isomorphic)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


def _text(path: Path) -> str:
    require(path.is_file(), f"{path} is not a file; expected a VNN-LIB query")
    try:
        opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
        with opened as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error
    require(len(data) <= _MOST_BYTES, f"{path} has more than {_MOST_BYTES} bytes")
    depth = deepest = 0
    for bracket in re.findall(r"[()]", re.sub(r";[^\n]*", "", text)):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    require(deepest <= _DEEPEST, f"{path} has {deepest} brackets in each other; at most {_DEEPEST}")
    require("\0" not in text, f"{path} holds a zero byte; expected text")
    return text


def _parsed(text: str) -> Any:
    package = import_optional("vnnlib", INSTALL_HINT)
    try:
        return package.parse_query_string(text)
    except package.VNNLibException as error:
        raise InputError(_first_error(str(error))) from None
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise InputError(f"no VNN-LIB query: {reason(error)}") from None


def _first_error(report: str) -> str:
    """Return what the parser says, which is a text or a list of errors in JSON."""
    try:
        first = json.loads(report)["errors"][0]
        return f"line {first.get('line', '?')}: {first.get('message', '')}: {first.get('hint', '')}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return " ".join(report.split())[:200]


# -- version 2.0 ----------------------------------------------------------------------


def _without_isomorphisms(text: str) -> tuple[str, dict[str, str]]:
    """Return a query without ``(isomorphic-to ...)``, and what these clauses say.

    They only say that two files share a structure, as of retraining and quantisation; the parser
    refuses them where the element types differ, which the standard allows.
    """
    clause = r"(\(\s*declare-network\s+([^\s()]+)\s*)\(\s*isomorphic-to\s+([^\s()]+)\s*\)"
    text = re.sub(r";[^\n]*", "", text)
    found = {match[2]: match[3] for match in re.finditer(clause, text)}
    return re.sub(clause, r"\1", text), found


def _query(parsed: Any, isomorphic: dict[str, str]) -> Query:
    networks = tuple(_network(network, isomorphic) for network in parsed.networks)
    _check_isomorphic(networks)
    names = [d.name for n in networks for d in (*n.inputs, *n.outputs)]
    require(len(set(names)) == len(names), "a name is declared twice; expected different names")
    hidden = {h.name for network in parsed.networks for h in network.hidden}
    shapes = {d.name: d.shape for n in networks for d in (*n.inputs, *n.outputs)}
    reader = _Expressions(shapes, hidden)
    return Query(networks, Every(tuple(reader.formula(a.expr) for a in parsed.assertions)))


def _check_isomorphic(networks: tuple[QueryNetwork, ...]) -> None:
    """Refuse networks of another structure than an earlier one that they are isomorphic to."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for network in networks:
        shapes[network.name] = [d.shape for d in (*network.inputs, *network.outputs)]
        base = network.isomorphic_to
        require(
            not base or shapes.get(base) == shapes[network.name],
            f"network '{network.name}' is isomorphic to '{base}', which is no network before it "
            "with inputs and outputs of the same shapes",
        )


def _network(network: Any, isomorphic: dict[str, str]) -> QueryNetwork:
    return QueryNetwork(
        network.name,
        tuple(_declaration(d) for d in network.inputs),
        tuple(_declaration(d) for d in network.outputs),
        network.equal_to or "",
        isomorphic.get(network.name, ""),
        len(network.hidden),
    )


def _declaration(declared: Any) -> Declaration:
    kind = _TYPES.get(declared.dtype.name)
    if kind is None:
        known = ", ".join(_TYPES.values())
        raise InputError(f"'{declared.name}' has an unknown element type; expected one of {known}")
    shape = tuple(int(side) for side in declared.shape)
    require(all(side > 0 for side in shape), f"'{declared.name}' is {shape}; expected sides > 0")
    return Declaration(declared.name, kind, shape)


class _Expressions:
    """Reads expressions about tensors of known shapes."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], hidden: set[str]):
        self.shapes, self.hidden = shapes, hidden

    def formula(self, node: Any) -> Formula:
        """Return a formula; an inequality of two sides is a choice of two strict ones."""
        kind = type(node).__name__
        if kind in ("And", "Or"):
            parts = tuple(self.formula(part) for part in node.args)
            return Every(parts) if kind == "And" else Some(parts)
        difference = self.linear(node.lhs).plus(self.linear(node.rhs), Fraction(-1))
        turned = difference.times(Fraction(-1))
        if kind == "NotEqual":
            return Some((Atom(difference, "<"), Atom(turned, "<")))
        relation, swapped = _RELATIONS[kind]
        return Atom(turned if swapped else difference, relation)

    def linear(self, node: Any) -> Linear:
        """Return an arithmetic expression as a linear one."""
        kind = type(node).__name__
        if kind == "Var":
            return Linear({(node.name, self._place(node)): Fraction(1)}, Fraction(0))
        if kind == "Negate":
            return self.linear(node.expr).times(Fraction(-1))
        if kind in ("Plus", "Minus"):
            first, *rest = node.args if kind == "Plus" else (node.head, *node.rest)
            result, factor = self.linear(first), Fraction(1 if kind == "Plus" else -1)
            for part in rest:
                result = result.plus(self.linear(part), factor)
            return result
        if kind == "Multiply":
            return self._product([self.linear(part) for part in node.args])
        return Linear({}, Fraction(node.lexeme))

    def _product(self, factors: list[Linear]) -> Linear:
        varying = [factor for factor in factors if factor.terms]
        if len(varying) > 1:
            raise NonLinearError("it multiplies variables; only linear arithmetic is decided")
        fixed = math.prod((f.constant for f in factors if not f.terms), start=Fraction(1))
        return (varying[0] if varying else Linear({}, Fraction(1))).times(fixed)

    def _place(self, node: Any) -> int:
        if node.name in self.hidden:
            raise NonLinearError(
                f"'{node.name}' is within a network; only inputs and outputs are decided"
            )
        place = 0
        for index, side in zip(node.indices, self.shapes[node.name], strict=True):
            place = place * side + int(index)
        return place


class NonLinearError(InputError):
    """A query is well-formed, but beyond linear arithmetic of inputs and outputs."""


# -- version 1.0 ----------------------------------------------------------------------


def _as_version_2(text: str) -> str:
    """Return a 1.0 query about X_0, X_1, ... and Y_0, Y_1, ... as a 2.0 query."""
    sizes = {"X": 0, "Y": 0}
    tokens = [token for token in _TOKENS.findall(text) if not token.startswith(";")]
    for name in tokens:
        if match := _NAME.fullmatch(name):
            sizes[match[1]] = max(sizes[match[1]], int(match[2]) + 1)
    require(
        sizes["X"] and sizes["Y"] and sum(sizes.values()) <= len(tokens),
        "neither (vnnlib-version <2.0>) nor variables X_0, ... and Y_0, ...: no VNN-LIB query",
    )
    asserts = " ".join(_translated(token) for token in _without_declarations(tokens))
    asserts = asserts.replace("( ", "(")
    return (
        f"(vnnlib-version <2.0>)\n(declare-network N (declare-input X float32 [{sizes['X']}]) "
        f"(declare-output Y float32 [{sizes['Y']}]))\n{asserts}\n"
    )


def _without_declarations(tokens: list[str]) -> list[str]:
    """Leave out (declare-const NAME Real) and the like."""
    kept: list[str] = []
    place = 0
    while place < len(tokens):
        if tokens[place : place + 2] in (["(", "declare-const"], ["(", "declare-fun"]):
            close = tokens.index(")", place) if ")" in tokens[place:] else len(tokens)
            place = close + 1
        else:
            kept.append(tokens[place])
            place += 1
    return kept


def _translated(token: str) -> str:
    if match := _NAME.fullmatch(token):
        return f"{match[1]}[{match[2]}]"
    if _NUMBER.fullmatch(token):
        return plain(Decimal(token))
    return {"=": "=="}.get(token, token)
