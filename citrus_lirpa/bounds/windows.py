"""Affine maps passed back on windows: a neuron of a map has coefficients in its window only.

A neuron of a convolution depends on few places of the map before it. Seen from all neurons of a map
these windows have one size, and begin where a neuron's own place times a step says. Coefficients
are kept on windows through convolutions, sums, average pooling and strided slices. Before all other
operations, and where windows grow larger than the map, they are laid on the whole map.

Values of shape (C, H, W) are maps; all others count as maps of one place, with all their numbers as
channels. Coefficients are (P, Q, h, w, C): of P places, Q rows for each, channels last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]
Pair = tuple[int, int]


class Place(NamedTuple):
    """Where windows are in a map: at row ``step * p + start`` for neurons at row p; so columns.

    Attributes:
        step: 0 where the window is the same for all neurons.
        start: Where the window of the neuron at (0, 0) begins.
        size: Of the windows.
    """

    step: Pair
    start: Pair
    size: Pair

    @property
    def fixed(self) -> bool:
        """Whether the window is the same for all neurons."""
        return self.step == (0, 0)


@dataclass(frozen=True)
class Window:
    """Coefficients on windows of a map.

    Attributes:
        values: (P, Q, h, w, C).
        at: (P, 2) the places of the neurons in their own map.
        place: Where the windows are.
        clean: Whether the coefficients are zero outside the map.
    """

    values: Tensor
    at: Tensor
    place: Place
    clean: bool

    def lines(self) -> list[Tensor]:
        """Return which rows (P, h) and columns (P, w) of the map the windows have."""
        step, start, size = self.place
        return [
            (self.at[:, k] * step[k] + start[k]).unsqueeze(1)
            + torch.arange(size[k], device=self.at.device)
            for k in (0, 1)
        ]

    def places(self, shape: Shape) -> Tensor:
        """Return the numbers (P, h·w) of the places in a map, -1 outside."""
        height, width, _ = layout(shape)
        y, x = (line.unsqueeze(k) for line, k in zip(self.lines(), (2, 1), strict=True))
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return torch.where(inside, y * width + x, -1).flatten(1)

    def cleaned(self, shape: Shape) -> Window:
        """Return it with zeros outside a map of a shape."""
        if self.clean:
            return self
        inside = (self.places(shape) >= 0).view(len(self.at), 1, *self.place.size, 1)
        return replace(self, values=self.values * inside, clean=True)

    def whole(self, shape: Shape) -> Window:
        """Return the same coefficients on a whole map of a shape."""
        height, width, _ = layout(shape)
        place = Place((0, 0), (0, 0), (height, width))
        if self.place == place:
            return self
        if self.place.fixed:
            return replace(self.extended(place), clean=True)
        values = F.pad(self.values, (0, 0, 0, 1, 0, 1))  # what is in no window is in the last line
        index = []
        for line, sides, end in zip(self.lines(), (height, width), self.place.size, strict=True):
            to = torch.arange(sides, device=line.device) - line[:, :1]
            index.append(torch.where((to >= 0) & (to < end), to, end))
        p = torch.arange(len(values), device=values.device).view(-1, 1, 1)
        places = p, index[0].unsqueeze(2), index[1].unsqueeze(1)
        found = values.permute(0, 2, 3, 1, 4)[places].permute(0, 3, 1, 2, 4).contiguous()
        return Window(found, self.at, place, True)

    def fitted(self, shape: Shape) -> Window:
        """Return it on the whole map of a shape where windows are no smaller than that."""
        height, width, _ = layout(shape)
        return self.whole(shape) if math.prod(self.place.size) >= height * width else self

    def extended(self, place: Place) -> Window:
        """Return it with zeros around it, so that it is at a place of the same step."""
        sides = [0, 0]
        for k in (1, 0):
            before = self.place.start[k] - place.start[k]
            sides += [before, place.size[k] - self.place.size[k] - before]
        return replace(self, values=F.pad(self.values, sides), place=place)

    def plus(self, other: Window, shape: Shape) -> Window:
        """Return the sum of two, on windows around both, of a map of a shape."""
        mine, its = self, other
        if mine.place.step != its.place.step:
            mine, its = mine.whole(shape), its.whole(shape)
        if mine.place != its.place:
            step, begin, size = mine.place
            others, sizes = its.place.start, its.place.size
            start = min(begin[0], others[0]), min(begin[1], others[1])
            ends = [max(begin[k] + size[k], others[k] + sizes[k]) - start[k] for k in (0, 1)]
            place = Place(step, start, (ends[0], ends[1]))
            mine, its = mine.extended(place), its.extended(place)
        return Window(mine.values + its.values, self.at, mine.place, mine.clean and its.clean)

    def moved(self, scale: Pair, shift: Pair, size: Pair, values: Tensor) -> Window:
        """Return other values on windows at ``scale`` times the start, plus ``shift``."""
        step, start, _ = self.place
        place = Place(
            (step[0] * scale[0], step[1] * scale[1]),
            (start[0] * scale[0] + shift[0], start[1] * scale[1] + shift[1]),
            size,
        )
        return Window(values, self.at, place, False)


def layout(shape: Shape) -> tuple[int, int, int]:
    """Return height, width and channels of values of a shape."""
    if len(shape) == 3:
        return shape[1], shape[2], shape[0]
    return 1, 1, math.prod(shape)


def place_of(shape: Shape) -> Place:
    """Return where neurons themselves are in their own map, of a shape."""
    step = 0 if math.prod(layout(shape)[:2]) == 1 else 1
    return Place((step, step), (0, 0), (1, 1))


def channels_last(values: Tensor) -> Tensor:
    """Return (n, ...) values as (n, height, width, channels)."""
    if values.ndim == 4:
        return values.permute(0, 2, 3, 1)
    return values.reshape(len(values), 1, 1, -1)
