"""Operators of ONNX that move a window over images, and their padding, as layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.utils import skip_init

from .graph import Reader, unusable
from .layers import with_weights
from .places import SAME, windows_along, windows_of

if TYPE_CHECKING:
    import onnx

Options = dict[str, Any]


def _check_pads(node: onnx.NodeProto, shape: tuple[int, ...], pads: tuple[int, ...]) -> None:
    """Refuse negative pads (top, left, bottom, right), and those larger than an image's sides."""
    top, left, bottom, right = pads
    if min(pads) < 0 or max(top, bottom) > shape[2] or max(left, right) > shape[3]:
        raise unusable(node, f"pads {shape} by {pads}; expected at most its sides")


def _images(reader: Reader, node: onnx.NodeProto) -> tuple[int, ...]:
    """Return the shape (N, C, H, W) of what a node takes."""
    shape = reader.shapes[node.input[0]]
    if len(shape) != 4:
        raise unusable(node, f"of {shape}; expected (N, C, H, W)")
    return shape


def _padding(
    reader: Reader, node: onnx.NodeProto, options: Options
) -> tuple[tuple[int, int], nn.Module | None]:
    """Return what a window layer pads itself, and a layer before it for uneven padding."""
    shape = _images(reader, node)
    pads = tuple(options.get("pads", (0, 0, 0, 0)))
    if options.get("auto_pad") in SAME:
        windows = windows_along(options, shape[2:])
        pads = (*(axis.before for axis in windows), *(axis.after for axis in windows))
    _check_pads(node, shape, pads)
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return (top, left), None
    return (0, 0), nn.ZeroPad2d((left, right, top, bottom))


def conv(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Conv of images."""
    weight = reader.constant(node, 1)
    bias = reader.constant(node, 2) if reader.given(node, 2) else None
    padding, pad = _padding(reader, node, options | {"kernel_shape": weight.shape[2:]})
    groups = options.get("group", 1)
    conv = skip_init(
        nn.Conv2d,
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(options.get("strides", (1, 1))),
        padding=padding,
        dilation=tuple(options.get("dilations", (1, 1))),
        groups=groups,
        bias=bias is not None,
    )
    with_weights(conv, weight, bias)
    reader.add(node, conv if pad is None else nn.Sequential(pad, conv), node.input[0])


def average_pool(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read AveragePool."""
    padding, pad = _padding(reader, node, options)
    counts, ceil = (bool(options.get(name, 0)) for name in ("count_include_pad", "ceil_mode"))
    if set(options.get("dilations", (1,))) != {1}:
        raise unusable(node, "has dilations; expected none")
    if pad is not None and ceil:
        raise unusable(node, "has uneven pads and ceil_mode; expected one of them")
    if pad is not None and not counts:
        expected = "expected even ones, or count_include_pad = 1"
        raise unusable(node, f"has uneven pads that it does not count; {expected}")
    pool = nn.AvgPool2d(
        tuple(options["kernel_shape"]), tuple(options.get("strides", (1, 1))), padding, ceil, counts
    )
    reader.add(node, pool if pad is None else nn.Sequential(pad, pool), node.input[0])


def max_pool(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read MaxPool; where it pads the far ends more, by the last windows of ``ceil_mode``."""
    sides = _images(reader, node)[2:]
    if len(node.output) > 1:
        raise unusable(node, "returns indices; expected none")
    wanted = windows_of(node, options, sides)
    before = tuple(axis.before for axis in wanted)
    pools = [
        nn.MaxPool2d(
            tuple(options["kernel_shape"]),
            tuple(axis.stride for axis in wanted),
            before,
            tuple(axis.step for axis in wanted),
            ceil_mode=ceil_mode,
        )
        for ceil_mode in (False, True)
        if _counts({**options, "pads": before * 2, "ceil_mode": ceil_mode}, sides)
        == [axis.count for axis in wanted]
    ]
    if not pools:
        pads = f"{before}, {tuple(axis.after for axis in wanted)}"
        expected = "expected even ones, or one more window at the far ends"
        raise unusable(node, f"has uneven pads {pads}; {expected}")
    reader.add(node, pools[0], node.input[0])


def _counts(options: Options, sides: Sequence[int]) -> list[int]:
    """Return how many windows there are along each axis with explicit pads."""
    explicit = options | {"auto_pad": b"NOTSET"}
    return [axis.count for axis in windows_along(explicit, sides)]


def global_average_pool(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read GlobalAveragePool."""
    height, width = _images(reader, node)[2:]
    reader.add(node, nn.AvgPool2d((height, width)), node.input[0])


def pad(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Pad by a constant."""
    shape = reader.shapes[node.input[0]]
    pads = tuple(reader.integers(node, 1) if reader.given(node, 1) else options.get("pads", ()))
    value = float(reader.constant(node, 2)) if reader.given(node, 2) else options.get("value", 0.0)
    mode = options.get("mode", b"constant").decode()
    usable = len(shape) == 4 and len(pads) == 8 and not reader.given(node, 3)
    if not usable or mode != "constant" or any(pads[i] for i in (0, 1, 4, 5)):
        expected = "expected a constant around the height and width of (N, C, H, W)"
        raise unusable(node, f"pads {shape} by {pads}, mode {mode}, value {value:g}; {expected}")
    top, left, bottom, right = around = (*pads[2:4], *pads[6:])
    _check_pads(node, shape, around)
    sides = (left, right, top, bottom)
    layer = nn.ConstantPad2d(sides, value) if value else nn.ZeroPad2d(sides)
    reader.add(node, layer, node.input[0])
