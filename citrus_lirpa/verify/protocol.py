"""How images are evaluated: all that the figures of an evaluation depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from ..bounds.arithmetic import arithmetic_entries, check_arithmetic
from ..bounds.checks import (
    Range,
    Scalar,
    check_count,
    check_name,
    check_radius,
    check_range,
    check_seconds,
)
from ..bounds.norms import check_norm, norm_entries
from ..bounds.radius import radius_entries
from .milp import check_solver
from .relational import RELATIONAL, check_group_arithmetic, group_stage_of
from .stages import stages_up_to


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How images are evaluated: all that the figures depend on.

    Args:
        eps: Radius in pixels, a number or a tensor that broadcasts to one image.
        method: Last stage tried on single images.
        relational: Group stage; None for that of the method, see ``group_stage_of``.
        group_size: Consecutive images that share a perturbation.
        time_limit: Seconds for each group that is not settled before, half of them for its
            images alone, half for the group.
        total_time: Seconds for the whole evaluation; None for no limit. Each batch gets its
            share of what is left, and what is open by then stays open. Clean predictions are
            always made.
        solver: Solver of the mixed-integer programs of groups.
        limit: Number of images, the first ones; None for all.
        clip: Range that perturbed images are cut to; None for no cut.
        batch_size: Images that go through the stages together.
        seed: Seed of the attacks.
        held_out: Whether the images are those held out from training, rather than the test set.
        norm: That perturbations are measured in, inf or 2.
        arithmetic: What certificates are about: the network in real numbers, or as a device
            computes it in float32.

    Raises:
        InputError: A value cannot be used.
    """

    eps: Scalar
    method: str = "bab"
    relational: str | None = None
    group_size: int = 5
    time_limit: float = 10.0
    total_time: float | None = None
    solver: str = "highs"
    limit: int | None = None
    clip: Range | None = None
    batch_size: int = 256
    seed: int = 0
    held_out: bool = False
    norm: float = math.inf
    arithmetic: str = "real"

    def __post_init__(self) -> None:
        check_norm(self.norm, check_radius(self.eps, "ε"))
        if self.limit is not None:
            check_count(self.limit, "limit", 2)
        check_count(self.batch_size, "batch size")
        check_count(self.seed, "seed", 0, 2**32 - 1)
        check_range(self.clip)
        check_solver(self.solver)
        methods = [stage.name for stage in stages_up_to(self.method)]
        if self.relational is None:
            object.__setattr__(self, "relational", group_stage_of(methods))
        check_name(self.relational, "relational stage", RELATIONAL)
        check_arithmetic(self.arithmetic)
        check_group_arithmetic(self.arithmetic, self.relational)
        check_seconds(self.time_limit)
        if self.total_time is not None:
            check_seconds(self.total_time, "total time")

    def settings(self) -> dict[str, Any]:
        """Return it as plain values: of a map of ε, its largest value and its hash."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        del own["norm"], own["arithmetic"]
        usual = radius_entries(self.eps) | norm_entries(self.norm)
        return own | usual | arithmetic_entries(self.arithmetic)

    def images(self, available: int) -> int:
        """Return how many of the ``available`` images are evaluated.

        Raises:
            InputError: There are too few for a group.
        """
        check_count(available, "number of images", 2)
        count = available if self.limit is None else min(self.limit, available)
        check_count(self.group_size, f"group size of {count} images", 2, count)
        return count
