"""Time for several problems, as one value."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from ..bounds.deadline import deadline


@dataclass(frozen=True)
class Budget:
    """Time for several problems: together until ``deadline``, each at most ``limit``.

    Args:
        deadline: A time of ``time.perf_counter``, in seconds.
        limit: Seconds of work on any one problem.
    """

    deadline: float = math.inf
    limit: float = math.inf

    @staticmethod
    def of(limit: float, problems: int) -> Budget:
        """Return a budget that begins now, of ``limit`` seconds for each of the problems.

        It ends no later than the deadline that is set (:mod:`..bounds.deadline`).
        """
        return Budget(min(time.perf_counter() + limit * problems, deadline()), limit)

    def part(self, share: float) -> Budget:
        """Return a budget that ends after this share of the time that is left."""
        now = time.perf_counter()
        return replace(self, deadline=now + share * max(0.0, self.deadline - now))

    @property
    def left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - time.perf_counter())

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return time.perf_counter() > self.deadline
