"""The attack on a query: points with which it holds."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from torch import Tensor

from ...attacks import ascend
from ...bounds.frozen import gradient_of
from .joint import Joint
from .judge import Judge
from .tree import violation

#: It pushes no constraint further below 0 than this.
_OVERSHOOT = 1e-3
#: How far above 0 a constraint may be for a point to be replayed, relative to its size.
_NEAR = 1e-4


class Attack:
    """Looks for points z (N, n) in [-1, 1] of a joint network with which a query holds.

    Args:
        joint: The networks and what is asked.
        judge: Replays inputs.
    """

    def __init__(self, joint: Joint, judge: Judge):
        self.joint, self.judge = joint, judge

    def __call__(self, z: Tensor, steps: int) -> Tensor:
        """Return points (N, n) after some steps towards what is asked."""

        def objective(z: Tensor) -> Tensor:
            return -violation(self.joint.tree, self.joint(z)).clamp(min=-_OVERSHOOT).sum()

        return ascend(gradient_of(objective), lambda z: z.clamp(-1, 1), z, 0.25, steps)

    def values(self, z: Tensor) -> Mapping[str, list[Fraction]] | None:
        """Return all numbers of the query at one of some points (N, n) with which it holds."""
        off = violation(self.joint.tree, self.joint(z))
        for row in off.argsort().tolist():
            if off[row] > _NEAR * (1 + abs(float(off[row]))):
                return None
            free = self.joint.centre + self.joint.radius * z[row].double().numpy()
            values = self.judge.assignment(free)
            if values is not None:
                return values
        return None
