"""What is proved of single inputs, as one value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..bounds.box import Ball, same_range
from ..bounds.checks import Range, Scalar
from ..bounds.norms import norm_words
from ..bounds.radius import radius_words, same_radius
from ..errors import InputError, SoundnessError, shown
from ..imports import to_frame
from .identity import subjects

if TYPE_CHECKING:
    from pandas import DataFrame


#: What the certificates of all batches have in common.
_SHARED = ("eps", "clip", "methods", "norm", "arithmetic")


@dataclass(frozen=True)
class Certificates:
    """What was proved of N inputs, each alone, for perturbations of radius ``eps``.

    Args:
        eps: ε in pixels, a number or a map of one input.
        clip: Range that perturbed inputs are cut to.
        methods: The stages, in the order in which they ran.
        correct: (N,) classified correctly without perturbation.
        attacked: (N,) broken by a perturbation of their own.
        v: (A, ...) these perturbations, in order; zero where another verifier has found one.
        margin: (N,) the best lower bound found of the smallest margin.
        rows: (N, K-1) margins proved positive.
        decided_by: (N,) index into ``methods`` of the first stage that proved the input, -1
            where none did.
        took: (N,) each one's share of the time of the attack and of the stages it went through,
            in seconds.
        seconds: By stage, and of the attack.
        not_fitting: By stage, how many inputs it could not bound for lack of memory. They are
            left to the other stages.
        late: By stage, how many inputs it left open that it was not done with: for lack of time
            here or in the first stage, or for as many domains as branch and bound keeps. Inputs
            that an earlier version has saved are not counted.
        unsupported: The stages that this network's layers do not allow, and why.
        subjects: (N,) a hash of each input, its label and the network; empty where an earlier
            version has saved them.
        norm: That perturbations are measured in, inf or 2.
        claimed: How many inputs the solver of branch and bound calls safe, of which no bound
            is positive in float64. They are not certified.
        arithmetic: That the network is computed in, of which they hold.
    """

    eps: Scalar
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
    subjects: tuple[str, ...] = ()
    norm: float = math.inf
    claimed: int = 0
    late: dict[str, int] = field(default_factory=dict)
    arithmetic: str = "real"

    def check_subjects(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Raise InputError where these are certificates of other inputs or another network."""
        if not self.subjects:
            return
        found = subjects(model, x, y)
        other = [i for i, (a, b) in enumerate(zip(found, self.subjects, strict=True)) if a != b]
        if other:
            raise InputError(
                f"{len(other)} of {len(x)} certificates are of other inputs, labels or weights "
                f"(first: number {other[0]}); certify these inputs with this network"
            )

    def check_box(self, ball: Ball, arithmetic: str) -> None:
        """Raise InputError where these are certificates of other perturbations or arithmetic."""
        if self.arithmetic != arithmetic:
            raise InputError(
                f"the certificates are of {self.arithmetic} arithmetic, not of {arithmetic}; "
                "certify the inputs in it"
            )
        same = same_radius(self.eps, ball.eps) and self.norm == ball.norm
        if not same or not same_range(self.clip, ball.clip):
            mine, other = (
                f"ε = {radius_words(b.eps, 6)}{norm_words(b.norm)} and clip {shown(b.clip)}"
                for b in (self, ball)
            )
            raise InputError(
                f"the certificates are of {mine}, not of {other}; certify the inputs for these "
                "boxes"
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
            if f.name != "eps" and isinstance(getattr(parts[0], f.name), Tensor)
        }
        sums: dict[str, Any] = {
            name: {
                m: sum(getattr(p, name).get(m, 0) for p in parts)
                for m in dict.fromkeys(key for p in parts for key in getattr(p, name))
            }
            for name in ("seconds", "not_fitting", "late")
        }
        unsupported = {m: why for p in parts for m, why in p.unsupported.items()}
        same = {name: getattr(parts[0], name) for name in _SHARED}
        of = tuple(subject for p in parts for subject in p.subjects)
        of = of if all(p.subjects for p in parts) else ()
        claimed = sum(p.claimed for p in parts)
        return Certificates(
            **same, **tensors, **sums, unsupported=unsupported, subjects=of, claimed=claimed
        )


@dataclass
class Proof:
    """What is known of n inputs, each alone; every stage adds to it.

    Args:
        correct: (n,) classified correctly without perturbation.
        attacked: (n,) correct, but broken by a perturbation.
        v: (n, ...) that perturbation, zero where there is none.
        lower: (n, K-1) the best lower bounds of the margins.
        rows: (n, K-1) margins proved positive.
        decided_by: (n,) number of the stage that proved the input, -1 for none.
        tried: (n,) number of the last stage that has bounded the input, -1 for none.
        attempted: (n,) whether it went through all attacks.
        took: (n,) seconds.
        seconds: By stage, and of the attack.
        late: By stage, (n,) for which inputs its time was over before it was done with them.
    """

    correct: Tensor
    attacked: Tensor
    v: Tensor
    lower: Tensor
    rows: Tensor
    decided_by: Tensor
    tried: Tensor
    attempted: Tensor
    took: Tensor
    seconds: dict[str, float]
    late: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(x: Tensor, y: Tensor, logits: Tensor) -> Proof:
        """Return what the logits (n, K) of inputs (n, ...) show of them."""
        correct = logits.argmax(1) == y
        shape = (len(x), logits.shape[1] - 1)
        return Proof(
            correct,
            attacked=torch.zeros_like(correct),
            v=torch.zeros_like(x),
            lower=torch.full(shape, -torch.inf, dtype=x.dtype, device=x.device),
            rows=torch.zeros(shape, dtype=torch.bool, device=x.device),
            decided_by=torch.full((len(x),), -1, device=x.device),
            tried=torch.full((len(x),), -1, device=x.device),
            attempted=torch.zeros_like(correct),
            took=torch.zeros(len(x), dtype=torch.float64, device=x.device),
            seconds={},
        )

    @property
    def open(self) -> Tensor:
        """Whether an input is correct, but neither proved nor broken; (n,)."""
        return self.correct & ~self.attacked & (self.decided_by < 0)

    def take(self, known: Tensor, stage: int) -> None:
        """Take verdicts (n,) from elsewhere: 1 proved, by the stage of that number, -1 attacked."""
        self.attacked |= (known < 0) & self.correct
        proved = (known > 0) & self.correct
        self.decided_by[proved], self.rows[proved] = stage, True

    def decide(self, stage: int) -> None:
        """Count open inputs as proved by ``stage`` where all their margins are proved."""
        self.decided_by[self.open & self.rows.all(1)] = stage

    def charge(self, name: str, effort: Tensor, seconds: float) -> None:
        """Share out the time of a stage, in proportion to the effort (n,) for each input."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.took += effort * (seconds / max(1.0, float(effort.sum())))

    def certificates(
        self,
        ball: Ball,
        not_fitting: dict[str, int],
        late: dict[str, int],
        unsupported: dict[str, str],
        claimed: int,
    ) -> Certificates:
        """Return what is known as certificates.

        ``not_fitting`` and ``late`` count, by stage, the inputs left out for lack of memory and
        of time; ``unsupported`` has the stages that the network does not allow, and why;
        ``claimed`` counts what a solver alone calls safe.
        """
        margin, v = self.lower.min(dim=1).values, self.v[self.attacked]
        return Certificates(
            *(ball.eps, ball.clip, tuple(not_fitting)),
            *(self.correct, self.attacked, v, margin, self.rows, self.decided_by, self.took),
            *(self.seconds, not_fitting, unsupported),
            norm=ball.norm,
            claimed=claimed,
            late=late,
        )


def check_soundness(certificates: Certificates, broken: Tensor) -> None:
    """Raise SoundnessError where an attack broke (N,) inputs that were certified."""
    wrong = (certificates.certified & broken).nonzero().flatten().tolist()
    if wrong:
        raise SoundnessError(
            f"the attack breaks {len(wrong)} certified inputs (first: number {wrong[0]}); the "
            "bounds of this model are not sound: please report it with the model"
        )
