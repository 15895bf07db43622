"""Affine operations: which ones they are, and what they add up.

Rounding is bounded by the sums of absolute values, and ellipsoids by those of squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arithmetic import FLUSHED
from .graph import BatchNorm, Operation, scaled
from .pieces import Joined, Piece, repeats

#: Operations that are affine in what varies, while all but one argument are constants, except
#: in sums and concatenations.
_AFFINE = {
    "BoundLinear", "BoundConv", "BoundBatchNormalization", "BoundFlatten", "BoundReshape",
    "BoundTranspose", "BoundSqueeze", "BoundUnsqueeze", "BoundIdentity", "BoundDropout",
    "BoundPad", "BoundAveragePool", "BoundGlobalAveragePool", "BoundReduceMean", "BoundReduceSum",
    "BoundAdd", "BoundSub", "BoundNeg", "BoundConcat", "BoundGather", "BoundSlice", "BoundSplit",
}  # fmt: skip
#: Affine as long as only one operand varies (the first, for a quotient).
_PRODUCTS = {"BoundMul", "BoundDiv", "BoundMatMul"}
_WEIGHTED = {
    "BoundLinear", "BoundConv", "BoundBatchNormalization", "BoundPad", "BoundGather", "BoundSlice",
}  # fmt: skip
#: Those that add up several numbers of one value.
_SUMS = {
    "BoundLinear", "BoundConv", "BoundMatMul", "BoundAveragePool", "BoundGlobalAveragePool",
    "BoundReduceMean", "BoundReduceSum",
}  # fmt: skip
#: Those that repeat the numbers of a smaller value.
_BROADCAST = {"BoundAdd", "BoundSub", "BoundMul", "BoundDiv"}

#: Those that add up different numbers, and those that move and scale single ones.
LAYERS = {"BoundLinear", "BoundConv"}
_MOVES = {
    "BoundBatchNormalization", "BoundFlatten", "BoundReshape", "BoundTranspose", "BoundSqueeze",
    "BoundUnsqueeze", "BoundIdentity", "BoundDropout", "BoundPad", "BoundAdd", "BoundSub",
    "BoundNeg", "BoundMul", "BoundDiv",
}  # fmt: skip


def is_affine(operation: Operation | Piece) -> bool:
    """Return whether an operation is affine in what varies, in a form that ``sizes`` knows."""
    if isinstance(operation, Piece):
        return True
    kind, varying = operation.kind, operation.varying
    product = kind in _PRODUCTS and sum(varying) == 1 and (kind != "BoundDiv" or varying[0])
    weights = kind in _WEIGHTED and any(varying[1:])
    return (kind in _AFFINE or product) and not weights and not _is_unusual(operation)


def sizes(operation: Operation, values: tuple[Any, ...], constant: bool) -> Tensor:
    """Return what an affine operation adds up, from its arguments' absolute values.

    ``constant`` says whether the operation's own bias counts too.
    """
    varying = operation.varying
    if isinstance(operation, Piece):
        return operation.sizes(values, constant)
    if isinstance(operation, BatchNorm):
        weight, bias, mean, variance = values[1:]
        scale, _ = operation.scale_and_shift(weight, bias, mean, variance)
        # the last term covers a scale that a device flushes to zero (:mod:`.arithmetic`)
        shift = bias.abs() + (mean * scale).abs() + mean.abs() * FLUSHED
        return scaled(values[0], scale.abs(), shift if constant else None)
    if operation.kind in ("BoundAdd", "BoundSub"):
        first, second = (
            v.abs() * (constant or varies) for v, varies in zip(values, varying, strict=True)
        )
        return first + second
    if operation.kind == "BoundNeg":
        return values[0]
    absolute = [v.abs() if is_real(v) else v for v in values]
    if not constant and operation.kind in ("BoundLinear", "BoundConv", "BoundPad"):
        absolute[2:] = [torch.zeros_like(bias) for bias in absolute[2:]]
    return operation.forward(*absolute)


def squares(operation: Operation, values: Sequence[Any]) -> Tensor:
    """Return the squared half axes behind an operation, from those before it."""
    if isinstance(operation, BatchNorm):
        return scaled(values[0], operation.scale_and_shift(*values[1:])[0].square(), None)
    each = zip(values, operation.varying, strict=True)
    squared = tuple(v.square() if is_real(v) and not varies else v for v, varies in each)
    return sizes(operation, squared, constant=False)


def terms(operation: Operation, constants: list[Any]) -> tuple[int, int]:
    """Return how many products a number adds up in an operation, forwards and backwards."""
    if isinstance(operation, Piece):
        return operation.terms
    if operation.kind in ("BoundLinear", "BoundMatMul", "BoundConv"):
        weight = next(c for c in constants if isinstance(c, Tensor) and c.ndim > 1)
        if operation.kind == "BoundConv":
            places = weight[0, 0].numel()
            steps = math.prod(
                -(-side // stride)
                for side, stride in zip(weight.shape[2:], operation.node.stride, strict=True)
            )
            return weight.shape[1] * places + 8, weight.shape[0] * steps + 8
        return max(weight.shape) + 8, max(weight.shape) + 8
    if operation.kind in _SUMS:
        inputs = math.prod(operation.node.inputs[0].output_shape[1:])
        return inputs + 8, inputs + 8
    if operation.kind == "BoundGather":  # backwards, as often as a place is taken
        return 8, 8 + next(c.numel() for c in constants if isinstance(c, Tensor))
    if operation.kind in _BROADCAST:  # backwards, as often as a number is repeated
        inputs = zip(operation.node.inputs, operation.varying, strict=True)
        parts = [node.output_shape[1:] for node, varies in inputs if varies]
        return 8, 8 + repeats(operation.shape, parts)
    return 8, 8


def keeps_apart(operation: Operation | Piece) -> bool:
    """Return whether an operation takes one value, and no number of it twice for one result."""
    known = operation.kind in _MOVES | LAYERS and sum(operation.varying) == 1
    return known and (operation.kind != "BoundLinear" or set(_factors(operation)) <= {1})


def adds_up(operation: Operation | Piece) -> bool:
    """Return whether an operation adds up several numbers of what varies."""
    joins = operation.kind == "BoundConcat" or isinstance(operation, Joined)
    return operation.kind in _SUMS or (sum(operation.varying) > 1 and not joins)


def _is_unusual(operation: Operation) -> bool:
    """Whether an affine operation is of a form that ``sizes`` does not know."""
    if operation.kind == "BoundLinear":
        return any(factor < 0 for factor in _factors(operation))
    return operation.kind == "BoundBatchNormalization" and not isinstance(operation, BatchNorm)


def _factors(operation: Any) -> list[float]:
    """What a linear layer's product and bias are scaled by, which has several names.

    In auto_LiRPA 0.7, ``alpha`` holds the slopes of α-CROWN.
    """
    names = ("alpha", "beta", "alpha_linear", "beta_linear")
    values = [getattr(operation.node, name, 1.0) for name in names]
    return [value for value in values if isinstance(value, (int, float))]


def is_real(value: Any) -> bool:
    """Return whether a value is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()
