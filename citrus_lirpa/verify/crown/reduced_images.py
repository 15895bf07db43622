"""The reduced networks of images, made when they are needed and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from .engine import DualEngine
from .reduced import ReducedNetwork, reduce_network
from .reduced_tuple import ReducedTuple
from .relaxation import Images

#: Programs decide tuples of images with at most so many unstable ReLUs each.
_FEW = 160


class ReducedImages:
    """Images and their reduced networks.

    Args:
        engine: Of the network.
        images: The images.
    """

    #: Numbers of reduced networks that may be kept, and of tuples.
    limit = 1 << 29

    def __init__(self, engine: DualEngine, images: Images):
        self.engine, self.images = engine, images
        self._networks: OrderedDict[int, ReducedNetwork] = OrderedDict()
        self._tuples: OrderedDict[tuple[int, ...], tuple[ReducedTuple, ReducedTuple]]
        self._tuples = OrderedDict()

    @cached_property
    def _unstable(self) -> list[int]:
        """How many unstable ReLUs each image has."""
        return (self.images.relaxation.upper > 0).sum(1).tolist()

    def size(self, number: int) -> int:
        """Return how many numbers an image's network holds at most, or its share of a tuple."""
        unstable = self._unstable[number]
        return 8 * unstable * (unstable + self.images.x[number].numel())

    def suit_programs(self, members: Sequence[int]) -> bool:
        """Return whether programs can decide tuples of some images: few ReLUs are unstable."""
        ball = self.engine.ball
        if not self.engine.splits or ball.norm == 2 or ball.clip is not None:
            return False
        return all(self._unstable[i] <= _FEW for i in members)

    def unfolded(self, members: Sequence[int]) -> int:
        """Return how many unstable ReLUs are to be folded for the networks of some images."""
        return sum(self._unstable[i] for i in members if i not in self._networks)

    def network(self, number: int) -> ReducedNetwork:
        """Return the network of an image, in float64."""
        if number not in self._networks:
            self._networks[number] = reduce_network(
                *(self.engine.exact_segments, self.images, number, self.engine.ball),
                at_once=self.engine.rows_at_once,
            )
            self._make_room(self._networks, self.size)
        return self._networks[number]

    def joined(self, members: Sequence[int]) -> tuple[ReducedTuple, ReducedTuple]:
        """Return the networks of images as one, in float64 and in the precision of the images."""
        key = (*members,)
        if key not in self._tuples:
            exact = ReducedTuple.of(
                [self.network(number) for number in members],
                clipped=self.engine.ball.clip is not None,
                width=self.images.relaxation.lower.shape[1],
            )
            self._tuples[key] = exact, exact.to(self.images.x.dtype)
            self._make_room(self._tuples, lambda key: sum(map(self.size, key)))
        return self._tuples[key]

    def _make_room(self, kept: OrderedDict[Any, Any], size: Callable[[Any], int]) -> None:
        """Forget what was made first, as far as the sizes of all that is kept are too large."""
        while sum(map(size, kept)) > self.limit and len(kept) > 1:
            kept.popitem(last=False)
