"""Certified average UAP accuracy of groups of inputs that share one perturbation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..attacks import GroupAttack
from ..bounds import as_bounded_net
from ..boxes import Range, Scalar
from ..errors import InputError, SoundnessError
from .incomplete import Certificates, certify, full_precision
from .memory import allocations_fail_cleanly, in_batches


@dataclass(frozen=True)
class UapBounds:
    """How many inputs of each group survive the worst shared perturbation |u| <= ε.

    lower, upper: (G,) proved and attacked numbers of inputs safe in each group, with
    lower <= truth <= upper; size: (G,) inputs per group, the last may be smaller;
    u: (G, ...) the perturbation found for each group; broken: (N,) inputs that the
    perturbation of their group misclassifies, those wrong without it included.
    """

    lower: Tensor
    upper: Tensor
    size: Tensor
    u: Tensor
    broken: Tensor

    @property
    def certified_accuracy(self) -> float:
        """Certified average UAP accuracy (UCert): proved share of all inputs."""
        return int(self.lower.sum()) / int(self.size.sum())

    @property
    def attacked_accuracy(self) -> float:
        """Share of all inputs that survive the attack: no proof can exceed it."""
        return int(self.upper.sum()) / int(self.size.sum())


def certify_uap(
    net: object,
    x: Tensor,
    y: Tensor,
    eps: Scalar,
    *,
    group_size: int = 5,
    certificates: Certificates | None = None,
    attack: GroupAttack | None = None,
    clip: Range | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> UapBounds:
    """Bounds on the UAP accuracy over consecutive groups of ``group_size`` inputs.

    x: (N, ...); y: (N,). The lower bound counts the inputs certified alone: no shared
    perturbation can break them (Xu & Singh, Appendix B). The upper bound is a joint
    attack on each group. ``certificates`` of these inputs are computed if not given, by
    the default of :func:`certify`. Raises SoundnessError if the attack breaks a
    certified input.
    """
    net = as_bounded_net(net)
    if not 2 <= group_size <= len(x):
        raise InputError(
            f"group size is {group_size}; expected 2 to {len(x)}, the number of inputs"
        )
    if certificates is None:
        certificates = certify(net, x, y, eps, clip=clip, batch_size=batch_size, progress=progress)
    if not len(x) == len(y) == len(certificates.correct):
        raise InputError(
            f"{len(x)} inputs, {len(y)} labels and certificates of {len(certificates.correct)}; "
            "expected as many of each"
        )
    attack = GroupAttack(clip=clip) if attack is None else attack
    groups = _Groups(len(x), group_size, x.device)
    open_ = certificates.correct & ~certificates.certified
    u = torch.zeros((len(groups.rows), *x.shape[1:]), dtype=x.dtype, device=x.device)
    broken = ~certificates.correct

    def attacked(now: Tensor) -> tuple[Tensor, Tensor]:
        rows = groups.rows[now]
        return attack(net, x[rows], y[rows], eps, open_[rows] & groups.real[now])

    worth = groups.count(open_).nonzero().squeeze(1)
    at_once = max(1, batch_size // group_size)
    with tqdm(total=len(worth), desc="group attack", unit="group", disable=not progress) as bar:
        with full_precision(), allocations_fail_cleanly(x.device):
            for now, result in in_batches(attacked, worth, at_once, bar.update):
                if result is not None:  # a group that does not fit stays unattacked
                    real = groups.real[now]
                    u[now] = result.u.squeeze(1)
                    broken[groups.rows[now][real]] |= result.broken[real]
    check_soundness(certificates, broken)
    size = groups.count(torch.ones_like(broken))
    return UapBounds(groups.count(certificates.certified), groups.count(~broken), size, u, broken)


class _Groups:
    """Consecutive groups as rows (G, size); a shorter last one repeats its last input.

    real: (G, size) False where an input stands only to fill up.
    """

    def __init__(self, count: int, size: int, device: torch.device):
        rows = torch.arange(-(-count // size) * size, device=device).view(-1, size)
        self.real = rows < count
        self.rows = rows.clamp(max=count - 1)

    def count(self, mask: Tensor) -> Tensor:
        """(G,): how many of each group's inputs ``mask`` (N,) holds for."""
        return (mask[self.rows] & self.real).sum(dim=1)


def check_soundness(certificates: Certificates, broken: Tensor) -> None:
    """Raise SoundnessError where an attack broke (N,) inputs that were certified."""
    wrong = (certificates.certified & broken).nonzero().flatten().tolist()
    if wrong:
        raise SoundnessError(
            f"the attack breaks {len(wrong)} certified inputs (first: number {wrong[0]}); the "
            "bounds of this model are not sound: please report it with the model"
        )
