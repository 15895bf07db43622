"""Operations of ONNX that move numbers, found by moving the numbers of their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .network import Array

#: The operations of one value.
MOVES = (
    "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip


def moved(kind: str, given: dict[str, Any], ints: Sequence[Array], index: Array) -> Array | None:
    """Return places as an operation moves them, -1 where it pads; None where it is not read.

    ``given`` are its attributes, ``ints`` its constant inputs behind the value; ``index`` has the
    places of the value's numbers, in its shape, with the first axis.
    """
    found: Array | None = index
    if kind == "Flatten":
        found = index.reshape(1, -1) if given.get("axis", [1]) == [1] else None
    elif kind == "Reshape":
        found = index.reshape(ints[0])
    elif kind == "Slice":
        found = _sliced(index, *(i.tolist() for i in ints))
    elif kind == "Gather":
        axis = given.get("axis", [0])[0]
        found = np.take(index, ints[0], axis) if axis % index.ndim else None
    elif kind == "Transpose":
        found = index.transpose(given["perm"]) if given["perm"][0] == 0 else None
    elif kind == "Pad":
        sides = ints[0].reshape(2, -1)
        plain = given.get("mode", b"constant") == b"constant" and len(ints) < 3
        fits = plain and (sides >= 0).all() and not sides[:, 0].any()
        found = np.pad(index, sides.T, constant_values=-1) if fits else None
    elif kind != "Identity":
        axes = tuple(given["axes"] if "axes" in given else ints[0].tolist())
        found = np.squeeze(index, axes) if kind == "Squeeze" else np.expand_dims(index, axes)
    return found


def _sliced(
    index: Array, starts: list[int], ends: list[int], axes: Any = None, steps: Any = None
) -> Array:
    cut = [slice(None)] * index.ndim
    axes, steps = axes or range(len(starts)), steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        whole = step < 0 and end < -index.shape[axis]
        cut[axis] = slice(start, None if whole else end, step)
    return index[tuple(cut)]


def parts(
    index: Array, given: dict[str, Any], sizes: Sequence[int] | None, count: int
) -> list[Array]:
    """Return places in as many parts along an axis as a Split makes; none where it is not read.

    Without sizes all parts are as large, but for the last, which may be smaller.
    """
    axis = given.get("axis", [0])[0] % index.ndim
    if sizes is None:
        step = -(-index.shape[axis] // count)
        sizes = [step] * (count - 1) + [index.shape[axis] - step * (count - 1)]
    fits = axis > 0 and len(sizes) == count and min(sizes) > 0
    if not fits or sum(sizes) != index.shape[axis]:
        return []
    return np.split(index, np.cumsum(sizes)[:-1], axis)


def windows_over(index: Array, sizes: Sequence[int], given: dict[str, Any]) -> Array:
    """Return the places in windows over images: channels, rows, columns, heights, widths.

    -1 is padding; -2 is beyond it, where the last windows of ``ceil_mode`` reach.
    """
    strides, pads = given.get("strides", [1, 1]), given.get("pads", [0] * 4)
    steps, ceil = given.get("dilations", [1, 1]), given.get("ceil_mode", [0])[0]
    reaches = [step * (size - 1) + 1 for size, step in zip(sizes, steps, strict=True)]
    padded = np.pad(index, [(0, 0), *zip(pads[:2], pads[2:], strict=True)], constant_values=-1)
    beyond = [0, 0]
    for k, (reach, stride) in enumerate(zip(reaches, strides, strict=True)):
        more = -(padded.shape[k + 1] - reach) % stride if ceil else 0
        if padded.shape[k + 1] - reach + more < pads[k] + index.shape[k + 1]:
            beyond[k] = more  # no window begins in the padding at the end
    padded = np.pad(padded, [(0, 0), *((0, more) for more in beyond)], constant_values=-2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reaches, (1, 2))
    return windows[:, :: strides[0], :: strides[1], :: steps[0], :: steps[1]]
