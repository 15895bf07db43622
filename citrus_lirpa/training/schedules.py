"""ε schedules as pure functions of the training step."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import expect_known

#: (step, first, last) -> share of ε_max in [0, 1]
Schedule = Callable[[int, float, float], float]


def linear(step: int, first: float, last: float) -> float:
    """Rise in a straight line from 0 at step ``first`` to 1 at step ``last``."""
    if step >= last:
        return 1.0
    if step <= first:
        return 0.0
    return (step - first) / (last - first)


def smoothed(step: int, first: float, last: float) -> float:
    """Rise from 0 to 1 as a quartic for a quarter of the ramp, then linearly.

    The slope is continuous. This is auto_LiRPA's SmoothedScheduler with β = 4 and mid = 0.25.

    Source: Shi et al. 2021, Fast Certified Robust Training with Short Warmup.

    Args:
        step: The step.
        first: Last step at 0.
        last: First step at 1.
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
    """Compute the share of ε_max at a step.

    Args:
        name: Name of the schedule.
        step: The step, from 0.
        batches: Steps of an epoch.
        start: The epoch that the ramp begins with, counted from 1; it may be a fraction.
        length: Epochs of the ramp; 0 for the full ε at once.

    Returns:
        A share in [0, 1].

    Raises:
        ConfigError: There is no such schedule.
    """
    expect_known("ε schedule", name, SCHEDULES)
    first = (start - 1) * batches
    return SCHEDULES[name](step, first, first + length * batches)
