"""What is proved of single inputs, as one value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..bounds.box import same_range
from ..bounds.checks import Range, shown
from ..errors import InputError, SoundnessError
from ..optional import to_frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Certificates:
    """What was proved of N inputs, each alone, for perturbations of radius ``eps``.

    Args:
        eps: ε in pixels.
        clip: Range that perturbed inputs are cut to.
        methods: The stages, in the order in which they ran.
        correct: (N,) classified correctly without perturbation.
        attacked: (N,) broken by a perturbation of their own.
        v: (A, ...) these perturbations, in order; zero where another verifier has found one.
        margin: (N,) the best lower bound found of the smallest margin.
        rows: (N, K-1) margins proved positive.
        decided_by: (N,) index into ``methods`` of the first stage that proved the input, -1
            where none did.
        took: (N,) each one's share of the time of the stages it went through, in seconds.
        seconds: By stage, and of the attack.
        not_fitting: By stage, how many inputs it could not bound for lack of memory. They are
            left to the other stages.
        unsupported: The stages that this network's layers do not allow, and why.
    """

    eps: float
    clip: Range | None
    methods: tuple[str, ...]
    correct: Tensor
    attacked: Tensor
    v: Tensor
    margin: Tensor
    rows: Tensor
    decided_by: Tensor
    took: Tensor
    seconds: dict[str, float]
    not_fitting: dict[str, int]
    unsupported: dict[str, str] = field(default_factory=dict)

    def check_box(self, eps: float, clip: Range | None) -> None:
        """Raise InputError where these are certificates of other boxes."""
        if self.eps != eps or not same_range(self.clip, clip):
            raise InputError(
                f"the certificates are of ε = {self.eps:g} and clip {shown(self.clip)}, not of "
                f"{eps:g} and {shown(clip)}; certify the inputs for these boxes"
            )

    @property
    def certified(self) -> Tensor:
        """Whether an input is proved correct everywhere on its box; (N,)."""
        return self.decided_by >= 0

    @property
    def open(self) -> Tensor:
        """Whether it is correct but not certified, so that a perturbation may break it; (N,)."""
        return self.correct & ~self.certified

    def certified_by(self, method: str) -> Tensor:
        """Return whether ``method`` or a cheaper stage proved each input; (N,)."""
        return self.certified & (self.decided_by <= self.methods.index(method))

    def verdicts(self) -> list[str]:
        """Return for each input wrong, attacked, undecided, or the stage that proved it."""
        return [
            self.methods[by] if by >= 0 else "attacked" if hit else "undecided" if ok else "wrong"
            for by, hit, ok in zip(
                self.decided_by.tolist(), self.attacked.tolist(), self.correct.tolist(), strict=True
            )
        ]

    def __repr__(self) -> str:
        count = Counter(self.verdicts())
        order = [*self.methods, "attacked", "undecided", "wrong"]
        shares = ", ".join(f"{name} {count[name]}" for name in order if count[name])
        proved = f"{int(self.certified.sum())} of {len(self.correct)} inputs certified"
        return f"Certificates({proved}; {shares})"

    def to_frame(self) -> DataFrame:
        """Return a pandas frame with a row for each input.

        Columns: correct, attacked, certified, verdict, margin, seconds. margin is missing where
        nothing was bounded. Branch and bound proves the parts of a box, so its images keep the
        bound of the stage before, which is not positive.

        Raises:
            DependencyError: pandas is not installed.
        """
        return to_frame(
            {
                "correct": self.correct,
                "attacked": self.attacked,
                "certified": self.certified,
                "verdict": self.verdicts(),
                "margin": self.margin.masked_fill(self.margin.isneginf(), torch.nan),
                "seconds": self.took,
            }
        )

    @staticmethod
    def cat(parts: Sequence[Certificates]) -> Certificates:
        """Return the certificates of consecutive inputs as one value."""
        tensors: dict[str, Any] = {
            f.name: torch.cat([getattr(p, f.name) for p in parts])
            for f in fields(Certificates)
            if isinstance(getattr(parts[0], f.name), Tensor)
        }
        sums: dict[str, Any] = {
            name: {m: sum(getattr(p, name)[m] for p in parts) for m in getattr(parts[0], name)}
            for name in ("seconds", "not_fitting")
        }
        unsupported = {m: why for p in parts for m, why in p.unsupported.items()}
        same = {name: getattr(parts[0], name) for name in ("eps", "clip", "methods")}
        return Certificates(**same, **tensors, **sums, unsupported=unsupported)


def check_soundness(certificates: Certificates, broken: Tensor) -> None:
    """Raise SoundnessError where an attack broke (N,) inputs that were certified."""
    wrong = (certificates.certified & broken).nonzero().flatten().tolist()
    if wrong:
        raise SoundnessError(
            f"the attack breaks {len(wrong)} certified inputs (first: number {wrong[0]}); the "
            "bounds of this model are not sound: please report it with the model"
        )
