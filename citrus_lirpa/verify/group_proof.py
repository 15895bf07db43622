"""What is proved of a group, and what the group stages work with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..errors import SoundnessError
from .budget import Budget
from .crown.engine import DualEngine
from .crown.linear import Group
from .crown.reduced_images import ReducedImages
from .crown.relaxation import Images
from .crown.tree import BROKEN, GIVEN_UP, PROVED

#: Groups with at most this many open images are settled by enumerating their subsets.
ENUMERATED = 8


class GroupProof:
    """What is proved of one group: at most ``most`` of its open images break together.

    Args:
        group: The open images, and which sets of them may still break together.
        broken: Those that a known perturbation breaks together.

    Attributes:
        most: An upper bound on how many break together.
        least: How many are known to.
        stuck: The size of a set that branch and bound has given up; no other one helps then.
        u: A perturbation that breaks ``least`` images, more than ``broken``; None if none was met.
        stage: What lowered ``most`` last.
    """

    def __init__(self, group: Group, broken: set[int]):
        self.group, self.broken = group, broken
        self.most, self.least = len(group.rows), len(broken)
        self.stuck = 0
        self.u: Tensor | None = None
        self.stage = "single"

    @property
    def settled(self) -> bool:
        """Whether ``most`` is reached."""
        return self.most <= self.least

    @property
    def hopeful(self) -> bool:
        """Whether branch and bound may lower ``most``: it has not given up a set of this size."""
        return not self.settled and self.stuck != self.most

    @property
    def hopeless(self) -> bool:
        """Whether lines cannot lower ``most``: one u breaks all of them, and no set is proved."""
        return not self.group.blocked and self.group.may_all_break

    @property
    def small(self) -> bool:
        """Whether the group's subsets can be enumerated."""
        return len(self.group.rows) <= ENUMERATED

    def lower(self, most: int, stage: str) -> None:
        """Take an upper bound that a stage has proved, if it is a better one."""
        if most < self.most:
            self.most, self.stage = most, stage

    def enumerate_sets(self, stage: str) -> None:
        """Look for the largest set that may still break together, by what a stage has refuted."""
        self.lower(self.group.largest(self.least), stage)

    def take(self, members: tuple[int, ...], state: int, u: Tensor | None) -> bool:
        """Take what branch and bound found of a set; return whether it is new."""
        if state == PROVED:
            self.group.blocked.add(frozenset(members))
            return True
        if state == BROKEN and self.least < len(members):
            self.least, self.u = len(members), u
            return True
        if state == GIVEN_UP:
            self.stuck = len(members)
        return False

    def check(self) -> None:
        """Raise SoundnessError where what is proved contradicts a known perturbation."""
        if not self.group.may_break(self.broken):
            raise SoundnessError(
                f"an attack breaks {len(self.broken)} inputs together that were proved not "
                "to break together; the bounds of this model are not sound: please report it "
                "with the model"
            )


@dataclass(frozen=True)
class Search:
    """What the group stages work with.

    Args:
        engine: Gives the bounds.
        images: The open images of all groups.
        split: Whether sets of images are proved by branch and bound, or by their roots alone.
        budget: For all groups together; its limit holds for each set.
        iterations: Steps of α-CROWN for the fixed linear bounds of margins; 0 for CROWN.
        solver: Of mixed-integer programs, one of ``SOLVERS``.
    """

    engine: DualEngine
    images: Images
    split: bool
    budget: Budget
    iterations: int
    solver: str = "highs"

    @cached_property
    def reduced(self) -> ReducedImages:
        """The images, with their reduced networks."""
        return ReducedImages(self.engine, self.images)
