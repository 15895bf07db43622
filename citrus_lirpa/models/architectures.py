"""The networks of the papers, each a flat ``nn.Sequential`` that begins with normalisation.

The pixels that a model takes lie in [0, 1], and its first layer normalises them, so the radius
of an attack or a bound is always in pixels. A new architecture is one function and one line in
``MODELS``. Each function returns a network from normalised images (B, C, H, W) to logits
(B, classes). It raises InputError where it cannot use the shape or the classes, and ConfigError for
another argument.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError, expect, expect_known, require
from .layers import Shape, leading_normalise
from .users import own

#: The largest size of a layer; the product of larger ones may overflow.
_LARGEST = 2**20


def cnn7(
    shape: Shape, classes: int, *, width: float = 64, linear: int = 512, last_stride: int = 1
) -> nn.Sequential:
    """Build the seven-layer network of Shi et al. 2021, which the CITRUS paper trains.

    Five 3x3 convolutions (padding 1, strides 1, 1, 2, 1, ``last_stride``) and two linear layers,
    with BatchNorm and ReLU after all but the last one.

    Args:
        shape: (C, H, W) of the images.
        classes: The number of logits.
        width: The channels of the first two convolutions; the other three have twice as many.
            A number below 1 is a share of 64 channels, and of ``linear``.
        linear: The width of the first linear layer.
        last_stride: The stride of the last convolution; 2 keeps the first linear layer of 64x64
            images as small as that of 32x32 images.
    """
    _check_sizes("cnn7", shape, classes, linear=linear, last_stride=last_stride)
    channels, linear = _widths("cnn7", width, 64, linear)
    return _cnn7(shape, classes, channels, linear, last_stride)


def cnn7_narrow(
    shape: Shape, classes: int, *, width: float = 32, linear: int = 216
) -> nn.Sequential:
    """Build the narrow network of seven layers of Balauca et al. 2024.

    It has the layers of :func:`cnn7`, half as many channels, and a smaller linear layer.

    Args:
        shape: (C, H, W) of the images.
        classes: The number of logits.
        width: As of :func:`cnn7`; a number below 1 is a share of 32 channels, and of ``linear``.
        linear: The width of the first linear layer.
    """
    _check_sizes("cnn7-narrow", shape, classes, linear=linear)
    channels, linear = _widths("cnn7-narrow", width, 32, linear)
    return _cnn7(shape, classes, channels, linear, 1)


def cnn5(shape: Shape, classes: int, *, width: float = 64, linear: int = 512) -> nn.Sequential:
    """Build the five-layer network of Mao et al. 2024.

    A 3x3 convolution of stride 1, two 4x4 convolutions of stride 2 (padding 1), and two linear
    layers, with BatchNorm and ReLU after all but the last one.

    Args:
        shape: (C, H, W) of the images, at least 4x4 pixels.
        classes: The number of logits.
        width: The channels of the first two convolutions; the third has twice as many. A number
            below 1 is a share of 64 channels, and of ``linear``.
        linear: The width of the first linear layer.
    """
    _check_sizes("cnn5", shape, classes, linear=linear)
    require(
        min(shape[1:]) >= 4,
        f"cnn5 needs images of at least 4x4 pixels, not {shape[1]}x{shape[2]}; use mlp for "
        "smaller ones",
    )
    channels, linear = _widths("cnn5", width, 64, linear)
    convolutions = ((channels, 3, 1), (channels, 4, 2), (2 * channels, 4, 2))
    return _convolutional(shape, classes, convolutions, linear)


def _cnn7(shape: Shape, classes: int, width: int, linear: int, last_stride: int) -> nn.Sequential:
    convolutions = (
        *((width, 3, 1), (width, 3, 1), (2 * width, 3, 2)),
        *((2 * width, 3, 1), (2 * width, 3, last_stride)),
    )
    return _convolutional(shape, classes, convolutions, linear)


def _convolutional(
    shape: Shape,
    classes: int,
    convolutions: Sequence[tuple[int, int, int]],
    linear: int,
    *,
    padding: int = 1,
    batchnorm: bool = True,
) -> nn.Sequential:
    """Stack convolutions (channels, kernel, stride) and two linear layers."""
    channels, height, breadth = shape
    layers: list[nn.Module] = []
    for out, kernel, stride in convolutions:
        layers += [nn.Conv2d(channels, out, kernel, stride, padding)]
        layers += [nn.BatchNorm2d(out), nn.ReLU()] if batchnorm else [nn.ReLU()]
        channels = out
        height, breadth = (_conv_size(side, kernel, stride, padding) for side in (height, breadth))
    layers += [nn.Flatten(), nn.Linear(channels * height * breadth, linear)]
    layers += [nn.BatchNorm1d(linear), nn.ReLU()] if batchnorm else [nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(linear, classes))


def _widths(model: str, width: float, usual: int, linear: int) -> tuple[int, int]:
    """Return the channels and the linear width; a ``width`` below 1 is a share of both."""
    number = isinstance(width, (int, float)) and not isinstance(width, bool)
    if number and 0 < width < 1:
        return max(1, round(width * usual)), max(1, round(width * linear))
    whole = number and 1 <= width <= _LARGEST and width == int(width)
    share = f"a share of {usual} between 0 and 1"
    expected = f"a whole number of channels, at most {_LARGEST}, or {share}"
    expect(whole, f"{model}: width", width, expected, ConfigError)
    return int(width), linear


def convsmall(
    shape: Shape,
    classes: int,
    *,
    width: float = 16,
    linear: int = 100,
    batchnorm: bool = False,
) -> nn.Sequential:
    """Build a network of two 4x4 convolutions and two linear layers.

    The convolutions have stride 2 and no padding.

    Args:
        shape: (C, H, W) of the images, at least 10x10 pixels.
        classes: The number of logits.
        width: The channels of the first convolution; the second has twice as many. A number
            below 1 is a share of 16 channels, and of ``linear``.
        linear: The width of the first linear layer.
        batchnorm: Whether BatchNorm follows all layers but the last one. The paper's has none.
    """
    _check_sizes("convsmall", shape, classes, linear=linear)
    expect(
        isinstance(batchnorm, bool), "convsmall: batchnorm", batchnorm, "true or false", ConfigError
    )
    channels, linear = _widths("convsmall", width, 16, linear)
    require(
        min(shape[1:]) >= 10,
        f"convsmall needs images of at least 10x10 pixels, not {shape[1]}x{shape[2]}; "
        "use mlp or cnn7 for smaller ones",
    )
    convolutions = ((channels, 4, 2), (2 * channels, 4, 2))
    return _convolutional(shape, classes, convolutions, linear, padding=0, batchnorm=batchnorm)


def mlp(shape: Shape, classes: int, *, hidden: Sequence[int] = (100, 100)) -> nn.Sequential:
    """Build a fully connected network, small enough for the digits on a CPU.

    Args:
        shape: (C, H, W) of the images.
        classes: The number of logits.
        hidden: The widths of the hidden layers, each a Linear and a ReLU.
    """
    is_list = isinstance(hidden, Sequence) and not isinstance(hidden, str)
    expected = "a list of widths, such as [100, 100]"
    expect(is_list, "mlp: hidden", hidden, expected, ConfigError)
    widths = {f"hidden[{i}]": width for i, width in enumerate(hidden)}
    _check_sizes("mlp", shape, classes, **widths)
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = math.prod(shape)
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class _Denoiser(nn.Module):
    """Adds to an image what takes off the noise that convolutions find in it."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        widths = (channels, width, width, width, channels)
        layers: list[nn.Module] = []
        for before, behind in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, behind, 3, padding=1), nn.ReLU()]
        self.correction = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.correction(x)


def denoiser(shape: Shape, classes: int, *, width: int = 32) -> nn.Module:
    """Build four 3x3 convolutions from noisy pixels to pixels, for the method of this name.

    Args:
        shape: (C, H, W) of the images.
        classes: Not used.
        width: The channels between the convolutions.
    """
    _check_sizes("denoiser", shape, classes, width=width)
    return _Denoiser(shape[0], width)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn7": cnn7,
    "cnn7-narrow": cnn7_narrow,
    "cnn5": cnn5,
    "convsmall": convsmall,
    "mlp": mlp,
    "denoiser": denoiser,
    "own": own,
}
#: Those that take pixels as they are, rather than behind ``Normalise``.
PLAIN = ("denoiser", "own")


def build_model(
    name: str,
    *,
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    **options: object,
) -> nn.Sequential:
    """Build a network of ``MODELS``, not ``PLAIN``, behind ``Normalise``, as one flat Sequential.

    PyTorch's defaults draw the weights from the global generator.

    Args:
        name: The name of the network.
        shape: (C, H, W) of the images.
        classes: The number of logits.
        mean: C numbers for ``Normalise``.
        std: C numbers for ``Normalise``.
        **options: Keyword arguments of the network's function.

    Returns:
        A network from pixels in [0, 1], (B, C, H, W), to logits (B, classes).

    Raises:
        ConfigError: The name or an option is unknown, or the value of an option is not usable.
        InputError: ``shape``, ``classes``, ``mean`` or ``std`` is not usable.
    """
    expect_known("model", name, MODELS)
    known = [
        key
        for key, parameter in inspect.signature(MODELS[name]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for option in options:
        expect_known(f"option of {name}", option, known)
    network = MODELS[name](shape, classes, **options)
    return nn.Sequential(leading_normalise(mean, std, shape), *network.children())


def _conv_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the side length after a convolution."""
    return (size + 2 * padding - kernel) // stride + 1


def _check_sizes(model: str, shape: Shape, classes: int, **sizes: Any) -> None:
    """Refuse an unusable shape or number of classes, and a size that is not a positive integer."""
    sides = len(shape) == 3 and all(_is_positive_integer(side) for side in shape)
    expect(sides, f"{model}: shape", shape, "(C, H, W), three positive integers")
    several = _is_positive_integer(classes) and classes > 1
    expect(several, f"{model}: classes", classes, "an integer of at least 2")
    for name, size in sizes.items():
        usable = _is_positive_integer(size) and size <= _LARGEST
        expected = f"a positive integer, at most {_LARGEST}"
        expect(usable, f"{model}: {name}", size, expected, ConfigError)


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
