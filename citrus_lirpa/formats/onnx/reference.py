"""ONNX's reference evaluator, without what it computes otherwise than the operators are defined."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .places import Windows, windows_along

if TYPE_CHECKING:
    import onnx


def evaluator_of(proto: onnx.ModelProto) -> Any:
    """Return the evaluator of a model, and give its BatchNormalization momentum 1.

    Momentum means nothing outside training, but below opset 14 the evaluator normalises by running
    statistics that it has moved towards those of the batch, at that rate. Pools are computed here:
    in MaxPool, the evaluator takes the pads of one axis for those of another where all strides are
    1, and counts too few windows with SAME_LOWER; in AveragePool, it moves all windows where the
    last one of ``ceil_mode`` lacks two numbers or more.
    """
    from onnx import helper
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class MaxPool(OpRun):
        op_domain = ""

        def _run(self, x: np.ndarray, **options: Any) -> tuple[np.ndarray]:
            return (_views(x, _windows(x, options), -math.inf).max(-1),)

    class AveragePool(OpRun):
        op_domain = ""

        def _run(self, x: np.ndarray, **options: Any) -> tuple[np.ndarray]:
            return (_average_pool(x, options),)

    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            kept = [a for a in node.attribute if a.name != "momentum"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("momentum", 1.0)])
    return ReferenceEvaluator(proto, new_ops=[MaxPool, AveragePool])


def _windows(x: np.ndarray, options: dict[str, Any]) -> list[Windows]:
    """Return the windows of a pool along each axis of its images."""
    given = {name: value for name, value in options.items() if value is not None}
    given["auto_pad"] = given["auto_pad"].encode()
    return windows_along(given, x.shape[2:])


def _views(x: np.ndarray, windows: list[Windows], fill: float) -> np.ndarray:
    """Return what each window sees, with the places in a window as one last axis."""
    around = [(0, 0), (0, 0), *((axis.before, axis.after) for axis in windows)]
    padded = np.pad(x, around, constant_values=fill)
    axes = tuple(range(2, x.ndim))
    views = sliding_window_view(padded, [axis.reach for axis in windows], axes)
    strides = [axis.stride for axis in windows] + [axis.step for axis in windows]
    taken: Any = (..., *(slice(None, None, stride) for stride in strides))
    seen = views[taken]
    return seen.reshape(*seen.shape[: x.ndim], -1)


def _average_pool(x: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    windows, numbers = _windows(x, options), []
    for axis, side in zip(windows, x.shape[2:], strict=True):
        image, asked = (axis.before, axis.before + side), (0, axis.end)
        begin, end = asked if options["count_include_pad"] else image
        starts = np.arange(axis.count) * axis.stride
        places = starts[:, None] + np.arange(0, axis.reach, axis.step)
        numbers.append(((begin <= places) & (places < end)).sum(1))
    counted = functools.reduce(np.multiply.outer, numbers)
    means: np.ndarray = _views(x, windows, 0.0).sum(-1) / counted
    return means.astype(x.dtype)
