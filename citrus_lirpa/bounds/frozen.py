"""A network as it is now, for the many steps of an attack.

On the CPU logits and their gradients in the inputs are computed by hand, without autograd and
without gradients in the weights. Attacks may work in the coordinates of the first layer: with
pixels normalised, and with blocks of pixels as channels, so that a convolution with a stride over
one or three channels, which is slow, becomes one without over many.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import Scalar
from .interval import IntervalNetwork, Weights
from .steps import Convolution, laid_out


@dataclass(frozen=True)
class Coordinates:
    """Where an attack works: pixels, or what the first layer makes its sums of.

    Args:
        normalise: A Normalise, or None.
        block: Side of the blocks of pixels that are channels here.
        padding: Zeros around normalised images: left, right, top, bottom.
    """

    normalise: Any = None
    block: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    def enter(self, x: Tensor) -> Tensor:
        """Return pixels (N, ...) in these coordinates."""
        return self._in_blocks(x if self.normalise is None else self.normalise(x))

    def leave(self, z: Tensor) -> Tensor:
        """Return the pixels of what ``enter`` gave, up to rounding."""
        if self.block > 1:
            z = self._out_of_blocks(z)
            left, right, top, bottom = self.padding
            z = F.pad(z, (-left, -right, -top, -bottom))
        return z if self.normalise is None else z * self.normalise.std + self.normalise.mean

    def radius(self, r: Scalar, x: Tensor) -> Scalar:
        """Return a radius ``r`` of pixels that broadcasts to ``x``, in these coordinates."""
        if self.normalise is None and self.block == 1:
            return r
        wide = torch.zeros_like(x[:1]) + r
        return self._in_blocks(wide if self.normalise is None else wide / self.normalise.std)

    def _in_blocks(self, x: Tensor) -> Tensor:
        if self.block == 1:
            return laid_out(x)
        # as F.pixel_unshuffle, but faster
        x = F.pad(x, self.padding) if any(self.padding) else x
        x = x.unflatten(3, (-1, self.block)).unflatten(2, (-1, self.block))
        return laid_out(x.permute(0, 1, 3, 5, 2, 4).flatten(1, 3))

    def _out_of_blocks(self, z: Tensor) -> Tensor:
        # as F.pixel_shuffle, but faster channels last
        count, channels, *sides = z.shape
        shape = count, channels // self.block**2, *(side * self.block for side in sides)
        x = z.new_empty(shape)
        for i, (row, column) in enumerate(itertools.product(range(self.block), repeat=2)):
            x[..., row :: self.block, column :: self.block] = z[:, i :: self.block**2]
        return x


#: Inputs as they are.
PIXEL_COORDINATES = Coordinates()


class Frozen:
    """A network as it is now: logits (N, K) of inputs (N, ...), differentiable in them alone.

    Args:
        logits: Computes them, of their inputs' type, from inputs in ``coordinates``.
        coordinates: Where an attack may work, to save what ``enter`` costs at every step.
    """

    def __init__(
        self, logits: Callable[[Tensor], Tensor], coordinates: Coordinates = PIXEL_COORDINATES
    ):
        self.logits, self.coordinates = logits, coordinates

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of pixels."""
        return self.logits(self.coordinates.enter(x))

    def gradient(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the gradient of the summed cross-entropy in ``z`` (N, ...), in ``coordinates``."""
        return gradient_of(lambda z: F.cross_entropy(self.logits(z), y, reduction="sum"))(z)


def gradient_of(objective: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function that computes the gradient of a scalar ``objective`` by autograd."""

    def gradient(v: Tensor) -> Tensor:
        v = v.detach().requires_grad_(True)
        with torch.enable_grad():
            return torch.autograd.grad(objective(v), v)[0]

    return gradient


def freeze(
    network: IntervalNetwork, normalise: Any, shape: tuple[int, ...], dtype: torch.dtype | None
) -> Frozen:
    """Return a network, behind its normalisation, as it is now, for inputs of a shape.

    It computes in ``dtype``; None is the type of the inputs.
    """
    weights, coordinates = network.frozen_weights(dtype), Coordinates(normalise)
    if weights[-1][0].device.type != "cpu":

        def logits(z: Tensor) -> Tensor:
            return network.logits(weights, z.to(dtype or z.dtype)).to(z.dtype)

        return Frozen(logits, coordinates)
    padding = _padding(network, shape)
    if padding is not None:
        first: Any = network.steps[0]
        network, coordinates = _by_blocks(network), Coordinates(normalise, first.stride[0], padding)
        weights[0] = _by_block(weights[0][0], coordinates.block), weights[0][1]
    return _ByHand(network, weights, dtype, coordinates)


def _padding(network: IntervalNetwork, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Zeros around images that make whole blocks of them; None where blocks are of no use."""
    first = network.steps[0]
    uses = sum(step.sources.count(0) for step in network.steps)
    if not isinstance(first, Convolution) or uses > 1:
        return None
    stride, plain = first.stride[0], first.dilation == (1, 1) and first.groups == 1
    if stride == 1 or first.stride[1] != stride or not plain:
        return None

    kernel = first.weights()[0].shape[2:]

    def around(axis: int) -> tuple[int, int]:
        side, before = shape[1 + axis], first.padding[axis]
        outputs = (side + 2 * before - kernel[axis]) // stride + 1
        blocks = outputs - 1 + math.ceil(kernel[axis] / stride)
        return before, stride * blocks - side - before

    padding = (*around(1), *around(0))
    return padding if min(padding) >= 0 else None  # else the last pixels are in no block


def _by_blocks(network: IntervalNetwork) -> IntervalNetwork:
    """The network for images in blocks, which its first convolution has a stride of one over."""
    first: Any = copy.copy(network.steps[0])
    first.stride, first.padding = (1, 1), (0, 0)
    return IntervalNetwork([first, *network.steps[1:]], network.relus)


def _by_block(weight: Tensor, block: int) -> Tensor:
    """A weight (O, C, k, k) for images in blocks."""
    missing = [side for size in reversed(weight.shape[2:]) for side in (0, -size % block)]
    return laid_out(F.pixel_unshuffle(F.pad(weight, missing), block))


class _ByHand(Frozen):
    """A network whose gradients in the inputs are computed without autograd."""

    def __init__(
        self,
        network: IntervalNetwork,
        weights: Weights,
        dtype: torch.dtype | None,
        coordinates: Coordinates,
    ):
        super().__init__(lambda z: _Logits.apply(z, self), coordinates)
        self.network, self.weights, self.dtype = network, weights, dtype

    def taped(self, z: Tensor) -> tuple[Tensor, list[Any]]:
        """Return the logits, and what ``pullback`` needs."""
        with torch.autocast(z.device.type, enabled=False):
            logits, tape = self.network.taped(self.weights, z.to(self.dtype or z.dtype))
        return logits.to(z.dtype), tape

    def pullback(self, g: Tensor, tape: list[Any]) -> Tensor:
        """Return the gradient in the inputs of a gradient ``g`` in the logits."""
        with torch.autocast(g.device.type, enabled=False):
            found = self.network.pullback(self.weights, tape, g.to(self.dtype or g.dtype))
        return found.to(g.dtype)

    @torch.no_grad()
    def gradient(self, z: Tensor, y: Tensor) -> Tensor:
        logits, tape = self.taped(z)
        labels = y.unsqueeze(1)
        slopes = logits.softmax(1).scatter_add_(1, labels, logits.new_full(labels.shape, -1.0))
        return self.pullback(slopes, tape)


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, network: _ByHand) -> Tensor:
        logits, tape = network.taped(z)
        ctx.network, ctx.tape = network, tape
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.network.pullback(g, ctx.tape), None
