"""The operations of a network in one order, to compute each of them once for all segments.

Segments overlap where values go around a ReLU: those behind a LeakyReLU or a maximum begin with the
operations of earlier ones. What an operation passes back is linear in what it is given, so that
coefficients from all segments are added up before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...bounds.passing_back import Back, Passed, added, back_of
from ...bounds.segments import INPUT, Segment
from ...bounds.windows import Shape, Window, layout, place_of

#: Roundings that each operation is counted for in vain.
_COUNTED = 3


class Step(NamedTuple):
    """An operation.

    Attributes:
        operation: What it computes.
        constants: What it takes beside computed values, by name.
        back: Passes coefficients on its value back to its sources.
    """

    operation: Any
    constants: Mapping[str, Any]
    back: Back


class Sweep:
    """What passes through a network need, of which nothing depends on images.

    Args:
        segments: The network's affine maps between ReLUs and curves.
        shapes: By number, those of the values of layers and of the input.
        like: A tensor of the type and on the device to compute with.

    Attributes:
        steps: For each segment, the operations that no segment before it has, in order.
        ends: Names of the segments' results.
        sources: By number, the names of the values of layers, and of the input.
        constants: Values (1, ...) of the segments at zero.
        additions: For each segment, how many numbers are added to its coefficients on their way
            back, beyond those that the terms of its operations count.
    """

    def __init__(self, segments: Sequence[Segment], shapes: Mapping[int, Shape], like: Tensor):
        self.ends = [segment.end for segment in segments]
        self.sources: dict[int, str] = {}
        for segment in segments:
            self.sources |= dict(zip(segment.sources, segment.names, strict=True))
        self.shapes = {name: shapes[source] for source, name in self.sources.items()}
        self.steps: list[list[Step]] = []
        takers = Counter(self.ends)
        for segment in segments:
            new = [op for op in segment.operations if op.name not in self.shapes]
            self.shapes |= {op.name: tuple(op.shape) for op in new}
            takers.update(name for op in new for name in op.sources)
            self.steps.append(
                [
                    Step(op, segment.constants, back_of(op, segment.constants, self.shapes))
                    for op in new
                ]
            )
        more = {name: max(0, count - 1 - _COUNTED) for name, count in takers.items()}
        self.additions = [
            sum(more[name] for name in {*segment.names, *(op.name for op in segment.operations)})
            for segment in segments
        ]
        self.constants = [
            segment(*(like.new_zeros(1, *shapes[source]) for source in segment.sources))
            for segment in segments
        ]
        self._widest: dict[int, int] = {}

    def inputs_of_layers(self, segments: Sequence[Segment], x: Tensor) -> list[Tensor]:
        """Return the inputs (n, ...) of all ReLUs and curves, from inputs of the network."""
        normalise = segments[0].normalise
        values = {self.sources[INPUT]: x if normalise is None else normalise(x)}
        found = []
        for k, segment in enumerate(segments[:-1]):
            for operation, constants, _ in self.steps[k]:
                given = (values.get(a, constants.get(a)) for a in operation.arguments)
                values[operation.name] = operation.forward(*given)
            z, curve = values[segment.end], segment.curve
            found.append(z)
            if k in self.sources:
                values[self.sources[k]] = z.relu() if curve is None else curve.function(z)
        return found

    def passed_back(
        self, k: int, window: Window, through: Callable[[int, Window], Window]
    ) -> Window:
        """Pass coefficients on the result of segment k back to the network's input.

        Args:
            k: The number of the segment.
            window: The coefficients.
            through: Returns those on the input of a layer, from its number and those on its value.
        """
        pending: dict[str, list[Passed]] = {self.ends[k]: [window]}

        def pass_on(name: str, part: Passed) -> None:
            pending.setdefault(name, []).append(part)

        def taken(name: str) -> Window | None:
            parts = pending.pop(name, None)
            return added(parts, self.shapes[name]) if parts else None

        for j in reversed(range(k + 1)):
            if j < k and (value := taken(self.sources.get(j, ""))) is not None:
                pass_on(self.ends[j], through(j, value))
            for operation, _, back in reversed(self.steps[j]):
                value = taken(operation.name)
                if value is not None:
                    for name, part in zip(operation.sources, back(value), strict=True):
                        pass_on(name, part)
        return added(pending[self.sources[INPUT]], self.shapes[self.sources[INPUT]])

    def widest(self, k: int) -> int:
        """Return how many coefficients a row of segment k has at most on its way back."""
        if k not in self._widest:
            found = []

            def through(j: int, window: Window) -> Window:
                found.append(window.values.numel())
                return window.fitted(self.shapes[self.sources[j]])

            channels = layout(self.shapes[self.ends[k]])[2]
            values = self.constants[k].new_zeros(1, 1, 1, 1, channels)
            at = torch.zeros(1, 2, dtype=torch.long, device=values.device)
            window = Window(values, at, place_of(self.shapes[self.ends[k]]), True)
            found += [channels, self.passed_back(k, window, through).values.numel()]
            self._widest[k] = max(found)
        return self._widest[k]


#: The sweep of each network, by its last segment.
_SWEEPS: WeakKeyDictionary[Segment, Sweep] = WeakKeyDictionary()


def sweep_of(segments: Sequence[Segment], shapes: Mapping[int, Shape], like: Tensor) -> Sweep:
    """Return the sweep of a network, which is made once."""
    sweep = _SWEEPS.get(segments[-1])
    if sweep is None:
        with torch.no_grad():
            sweep = _SWEEPS[segments[-1]] = Sweep(segments, shapes, like)
    return sweep
