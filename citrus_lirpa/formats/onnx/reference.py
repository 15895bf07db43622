"""ONNX's reference evaluator, without what it computes otherwise than the operators are defined."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .places import windows_along

if TYPE_CHECKING:
    import onnx


def evaluator_of(proto: onnx.ModelProto) -> Any:
    """Return the evaluator of a model, and give its BatchNormalization momentum 1.

    Momentum means nothing outside training, but below opset 14 the evaluator normalises by running
    statistics that it has moved towards those of the batch, at that rate. MaxPool is computed here:
    the evaluator takes the pads of one axis for those of another where all strides are 1, and
    counts too few windows with SAME_LOWER.
    """
    from onnx import helper
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class MaxPool(OpRun):
        op_domain = ""

        def _run(self, x: np.ndarray, **options: Any) -> tuple[np.ndarray]:
            return (_max_pool(x, options),)

    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            kept = [a for a in node.attribute if a.name != "momentum"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("momentum", 1.0)])
    return ReferenceEvaluator(proto, new_ops=[MaxPool])


def _max_pool(x: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    given = {name: value for name, value in options.items() if value is not None}
    given["auto_pad"] = given["auto_pad"].encode()
    windows = windows_along(given, x.shape[2:])
    around = [(0, 0), (0, 0), *((axis.before, axis.after) for axis in windows)]
    padded = np.pad(x, around, constant_values=-math.inf)
    axes = tuple(range(2, x.ndim))
    views = sliding_window_view(padded, [axis.reach for axis in windows], axes)
    strides = [axis.stride for axis in windows] + [axis.step for axis in windows]
    taken: Any = (..., *(slice(None, None, stride) for stride in strides))
    maxima: np.ndarray = views[taken].max(tuple(axis - x.ndim for axis in axes))
    return maxima
