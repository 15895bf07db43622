"""Which values of an ONNX file are curves of others, by one operation or several together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import curves
from .network import require

#: Of GELU by tanh; its places of inflection are known for these.
_TANH_GELU = (math.sqrt(2 / math.pi), 0.044715)


class Found(NamedTuple):
    """A value that is ``factor`` times a curve of the value ``x``."""

    x: str
    curve: curves.Curve
    factor: float = 1


def _elu(given: dict[str, Any]) -> curves.Curve:
    return curves.elu(given.get("alpha", 1.0))


def _celu(given: dict[str, Any]) -> curves.Curve:
    alpha = given.get("alpha", 1.0)
    require(alpha > 0, f"Celu with alpha {alpha} is not read")
    return curves.elu(alpha, width=alpha)


def _selu(given: dict[str, Any]) -> curves.Curve:
    default = 1.67326319217681884765625, 1.05070102214813232421875
    return curves.elu(given.get("alpha", default[0]), given.get("gamma", default[1]))


#: By operation, the curve that it is, from its attributes.
_ALONE: dict[str, Callable[[dict[str, Any]], curves.Curve]] = {
    "Celu": _celu,
    "Elu": _elu,
    "Exp": lambda given: curves.EXP,
    "Log": lambda given: curves.LOG,
    "Reciprocal": lambda given: curves.power_of(-1.0),
    "Selu": _selu,
    "Sigmoid": lambda given: curves.SIGMOID,
    "Softplus": lambda given: curves.softplus_of(1.0),
    "Softsign": lambda given: curves.SOFTSIGN,
    "Sqrt": lambda given: curves.power_of(0.5),
    "Tanh": lambda given: curves.TANH,
}


class Origins(dict[str, tuple[str, list[str], dict[str, Any]]]):
    """What each value is computed by: an operation, its inputs, and its attributes."""

    def __init__(self, constants: dict[str, Any]):
        super().__init__()
        self.constants = constants

    def curve(self, result: str) -> Found | None:
        """Return what curve of which value a value is; None where it is none."""
        kind, names, given = self[result]
        inner = self.get(names[0], ("", [""], {}))
        for x in dict.fromkeys([inner[1][0], *names] if kind in ("Log", "Softplus") else names):
            found = self._match(self._tree(result, x)) if x and x not in self.constants else None
            if found is not None:
                return Found(x, *found)
        if kind in _ALONE:
            return Found(names[0], _ALONE[kind](given))
        return None

    @staticmethod
    def _match(tree: Any) -> tuple[Any, ...] | None:
        """Return curve and factor of what is computed of x; None where it is no curve."""
        match tree:
            case ("Mul", "x", "x"):
                return (curves.power_of(2.0),)
            case ("Pow", "x", float(p)):
                return (curves.power_of(p),)
            case ("Softplus", ("Mul", "x", float(b))) if 0.1 <= b <= 100:
                return curves.softplus_of(b), b
            case ("Log", ("Sigmoid", "x")):
                return (curves.LOG_SIGMOID,)
            case ("Mul", "x", ("Sigmoid", "x")) | ("Mul", ("Sigmoid", "x"), "x"):
                return (curves.SILU,)
            case ("Mul", "x", ("Tanh", ("Softplus", "x"))):
                return (curves.MISH,)
            case ("Mul", ("Tanh", ("Softplus", "x")), "x"):
                return (curves.MISH,)
            case ("Mul", "x", (("HardSigmoid", float(a), 0.5), "x")) if a > 0:
                return (curves.hard_swish(a),)
            case ("Mul", (("HardSigmoid", float(a), 0.5), "x"), "x") if a > 0:
                return (curves.hard_swish(a),)
            case ("Div", "x", ("Add", ("Abs", "x"), 1.0) | ("Add", 1.0, ("Abs", "x"))):
                return (curves.SOFTSIGN,)
            case ("Mul", "x", ("Add", ("Erf", ("Div", "x", float(c))), 1.0)) if 0.1 < c < 10:
                return curves.gelu(math.sqrt(2) / c), 2
            case (
                "Mul", "x", ("Add", 1.0, ("Tanh", ("Mul", float(a), ("Add", "x", ("Mul", float(b),
                ("Mul", "x", ("Mul", "x", "x"))))))),
            ) if np.allclose((a, b), _TANH_GELU, 1e-7, 1e-8):  # fmt: skip
                return curves.tanh_gelu(a, b), 2
        return None

    def _tree(self, name: str, x: str, depth: int = 9) -> Any:
        """Return how a value is computed of x, as nested tuples."""
        if name == x:
            return "x"
        constant = self.constants.get(name)
        if constant is not None and constant.size == 1:
            return float(constant.reshape(()))
        if name not in self or not depth:
            return None
        kind, names, given = self[name]
        what = (kind, given.get("alpha", 0.2), given.get("beta", 0.5))
        inner = [self._tree(each, x, depth - 1) for each in names]
        return (what if kind == "HardSigmoid" else kind, *inner)
