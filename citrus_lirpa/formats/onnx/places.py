"""Where the windows of an operator lie on its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .graph import unusable

if TYPE_CHECKING:
    import onnx

#: Values of ``auto_pad`` with which there are as many windows as strides fit in.
SAME = (b"SAME_UPPER", b"SAME_LOWER")


class Windows:
    """The windows of a pooling or convolution along one axis.

    Args:
        options: The options of the operator.
        axis: The number of the axis, behind batch and channels.
        side: How long it is.

    Attributes:
        stride: How far the windows are from each other.
        step: How far the numbers of a window are from each other.
        reach: From the first number of a window to behind its last.
        before: Padding before the first place.
        after: Padding behind the last one, so that every window is whole.
        end: Behind the last place of the padding that the operator asks for.
        count: How many windows there are.
        padded: How long the axis is with its padding.
    """

    def __init__(self, options: Mapping[str, Any], axis: int, side: int):
        axes = len(options["kernel_shape"])
        self.stride = options.get("strides", [1] * axes)[axis]
        self.step = options.get("dilations", [1] * axes)[axis]
        self.reach = self.step * (options["kernel_shape"][axis] - 1) + 1
        pads = options.get("pads", [0] * (2 * axes))
        self.before, after = pads[axis], pads[axis + axes]
        auto = options.get("auto_pad", b"NOTSET")
        if auto in SAME:
            total = max((-(-side // self.stride) - 1) * self.stride + self.reach - side, 0)
            self.before = total // 2 if auto == b"SAME_UPPER" else -(-total // 2)
            after = total - self.before
        self.end = self.before + side + after
        rest = self.end - self.reach
        if options.get("ceil_mode"):
            rest = -(-rest // self.stride) * self.stride
            rest = min(rest, (side + self.before - 1) // self.stride * self.stride)
        self.count = rest // self.stride + 1
        self.after = max((self.count - 1) * self.stride + self.reach - side - self.before, 0)
        self.padded = self.before + side + self.after

    def every(self, number: int) -> slice:
        """Return where the windows have their number with this place in a window."""
        begin = number * self.step
        return slice(begin, begin + (self.count - 1) * self.stride + 1, self.stride)


def windows_along(options: Mapping[str, Any], sides: Sequence[int]) -> list[Windows]:
    """Return the windows of an operator along each axis."""
    return [Windows(options, axis, side) for axis, side in enumerate(sides)]


def windows_of(
    node: onnx.NodeProto, options: Mapping[str, Any], sides: Sequence[int]
) -> list[Windows]:
    """Return the windows of a pooling along each axis.

    Raises:
        ModelError: It is dilated and chooses its own pads, for which ONNX counts the dilation and
            onnxruntime 1.32 does not.
    """
    if set(options.get("dilations", (1,))) != {1} and options.get("auto_pad") in SAME:
        expected = "expected explicit pads, as onnxruntime pads it otherwise than ONNX says"
        raise unusable(node, f"has dilations and auto_pad; {expected}")
    return windows_along(options, sides)
