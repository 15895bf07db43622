"""What queries are decided, in the words of the VNN-LIB 2.0 standard, section 5.4."""

from __future__ import annotations

from ...formats.onnx.flat import OPERATORS

#: Operators that give shapes, whose results are no numbers that a query could be about.
_OF_SHAPES = {"Shape"}

#: The lines of the answer about each capability.
CAPABILITIES: dict[str, tuple[str, ...]] = {
    "onnx-opset-versions": ("9", "21"),
    "onnx-element-types": ("float32", "real"),
    "onnx-operators": tuple(name for name in OPERATORS if name not in _OF_SHAPES),
    "vnnlib-versions": ("1.0", "2.0"),
    "hidden-node-theories": ("NH",),
    "multiple-input-output-theories": ("SIO", "MIO"),
    "multiple-network-theories": ("SNET", "MENET", "MINET", "MNET"),
    "multiple-node-comparison-theories": ("SNC", "MNC"),
    "arithmetic-complexity-theories": ("BND", "OUTC", "LIN"),
    "optimised-disjunctive-reasoning": ("true",),
    "serialise-assignments": ("true",),
}
