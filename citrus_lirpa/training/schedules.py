"""ε schedules as pure functions of the training step."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigError, unknown

#: (step, first, last) -> share of ε_max in [0, 1]
Schedule = Callable[[int, float, float], float]


def linear(step: int, first: float, last: float) -> float:
    """0 up to step ``first``, 1 from step ``last``, a straight line between."""
    if step >= last:
        return 1.0
    if step <= first:
        return 0.0
    return (step - first) / (last - first)


def smoothed(step: int, first: float, last: float) -> float:
    """Quartic for the first quarter of the ramp, then linear, with a continuous slope.

    The schedule of Shi et al. 2021 (auto_LiRPA's SmoothedScheduler, β = 4, mid 0.25).
    """
    if step >= last:
        return 1.0
    if step <= first:
        return 0.0
    turn = int(0.25 * (last - first))
    if turn == 0:
        return linear(step, first, last)
    slope = 4 * turn**3
    scale = 1 / ((last - first - turn) * slope + turn**4)
    since = step - first
    if since < turn:
        return scale * since**4
    return scale * (turn**4 + (since - turn) * slope)


SCHEDULES: dict[str, Schedule] = {"smoothed": smoothed, "linear": linear}


def ramp(name: str, step: int, *, batches: int, start: float, length: float) -> float:
    """Share of ε_max at ``step``: the ramp begins with epoch ``start`` (counted from 1)
    and takes ``length`` epochs of ``batches`` steps each; length 0 is full ε at once."""
    if name not in SCHEDULES:
        raise ConfigError(unknown("ε schedule", name, SCHEDULES))
    first = (start - 1) * batches
    return SCHEDULES[name](step, first, first + length * batches)
