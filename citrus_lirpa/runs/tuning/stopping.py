"""The rule that ends trainings early which cannot reach the front."""

from __future__ import annotations

from collections.abc import Sequence

Scores = tuple[float, float]  # standard accuracy and UCert

#: Finished trainings that must be known before one is ended.
ENOUGH = 5


def is_hopeless(
    now: Scores, finished: Sequence[tuple[Scores, Scores]], least: Scores = (0.0, 0.0)
) -> bool:
    """Tell whether a training that is still going on cannot reach the front.

    It gets the largest gains, from here to its end, that any finished training had: ``finished``
    has the figures of each at this share of its epochs, and at its end. If a finished one is no
    worse in both figures even then, or the figures miss what is asked at ``least``, it is hopeless.
    """
    if len(finished) < ENOUGH:
        return False
    standard, ucert = (
        now[i] + max(0.0, *(end[i] - there[i] for there, end in finished)) for i in range(2)
    )
    if standard < least[0] or ucert < least[1]:
        return True
    return any(
        end[0] >= standard and end[1] >= ucert
        for _, end in finished
        if end[0] >= least[0] and end[1] >= least[1]
    )
