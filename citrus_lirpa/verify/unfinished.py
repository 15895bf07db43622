"""What is known of a batch that is still worked on, to be kept where that is stopped."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from ..bounds.box import Ball
from ..bounds.norms import norm_words
from ..bounds.radius import radius_words
from ..errors import expect, shown
from .certificates import Certificates, Proof


@dataclass
class GroupState:
    """What is known of G groups of N inputs; the group stage adds to it.

    Args:
        u: (G, ...) the worst perturbation met of each group.
        broken: (N,) inputs that it misclassifies.
        attacked: (G,) whether the group attack is done.
        most: (G,) how many open inputs may break together.
        proved_by: What has proved that, for each group.
        blocked: For each group, the sets of inputs proved not to break together, by number.
        took: (G,) seconds.
        seconds: Of the attack and of the group stage.
    """

    u: Tensor
    broken: Tensor
    attacked: Tensor
    most: Tensor
    proved_by: list[str]
    blocked: list[list[list[int]]]
    took: Tensor
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Unfinished:
    """What is known of a batch.

    Args:
        proof: Of its inputs, each alone; None before the first.
        certificates: The same once it is whole.
        groups: Of its groups; None before the first.
        seconds: What earlier runs have spent on it.
        about: The perturbations and the arithmetic, in words; empty before the first call.
    """

    proof: Proof | None = None
    certificates: Certificates | None = None
    groups: GroupState | None = None
    seconds: float = 0.0
    about: str = ""

    def keep_to(self, ball: Ball, arithmetic: str) -> None:
        """Note what it is about; raise InputError where that is something else already."""
        about = (
            f"ε = {radius_words(ball.eps, 17)}{norm_words(ball.norm)}, clip {shown(ball.clip)}, "
            f"{arithmetic} arithmetic"
        )
        expect(self.about in ("", about), "unfinished", self.about, f"of {about}")
        self.about = about

    def to_plain(self) -> dict[str, Any]:
        """Return it as tensors and plain values."""
        parts = {"proof": self.proof, "certificates": self.certificates, "groups": self.groups}
        plain = {
            name: part and {f.name: getattr(part, f.name) for f in fields(part)}
            for name, part in parts.items()
        }
        return {**plain, "seconds": self.seconds, "about": self.about}

    @staticmethod
    def from_plain(state: dict[str, Any]) -> Unfinished:
        """Make it of what ``to_plain`` gave."""
        kinds: dict[str, Any] = {"proof": Proof, "certificates": Certificates, "groups": GroupState}
        parts = {name: state[name] and kind(**state[name]) for name, kind in kinds.items()}
        return Unfinished(**parts, seconds=state["seconds"], about=state.get("about", ""))
