"""The evaluation of a trained network on a test set, as one value."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..bounds import BoundedNet
from ..boxes import Range, clamp
from ..data import DatasetSpec, Split, centre_crop
from ..errors import InputError
from .cascade import Certificates, certify
from .uap import UapBounds, certify_uap, check_soundness

#: Group perturbations tried on the whole test set, to show the strongest.
_CANDIDATES = 20


@dataclass(frozen=True)
class Evaluation:
    """Certificates and UAP bounds of N test images, and the strongest perturbation found.

    strongest: (C, H, W), the group perturbation with the highest fooling rate on all N
    images, the share of the correctly classified ones that it breaks; predictions: (N,)
    classes without and with it.
    """

    x: Tensor
    y: Tensor
    eps: float
    group_size: int
    clip: Range | None
    certificates: Certificates
    uap: UapBounds
    strongest: Tensor
    fooling_rate: float
    predictions: tuple[Tensor, Tensor]
    seconds: float

    def record(self) -> dict[str, Any]:
        """Plain numbers for JSON; accuracies are shares of all N images."""
        c = self.certificates
        return {
            "images": len(self.y),
            "eps": self.eps,
            "group_size": self.group_size,
            "clip": list(self.clip) if self.clip else None,
            "standard_accuracy": _share(c.correct),
            "certified_accuracy": {m: _share(c.certified_by(m)) for m in c.methods},
            "uap_accuracy": {
                "certified": self.uap.certified_accuracy,
                "attacked": self.uap.attacked_accuracy,
            },
            "strongest_fooling_rate": self.fooling_rate,
            "seconds": {**c.seconds, "total": self.seconds},
            "not_fitting": c.not_fitting,
            "unsupported": c.unsupported,
            "groups": {
                "safe_at_least": self.uap.lower.tolist(),
                "safe_at_most": self.uap.upper.tolist(),
            },
            "decided_by": [c.methods[i] if i >= 0 else None for i in c.decided_by.tolist()],
        }


def evaluate(
    net: BoundedNet,
    data: Split,
    spec: DatasetSpec,
    *,
    eps: float,
    method: str = "alpha-crown",
    group_size: int = 5,
    limit: int | None = None,
    clip: Range | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> Evaluation:
    """Certify the first ``limit`` images of ``data`` (all by default), alone and in groups."""
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    count = len(data) if limit is None else min(limit, len(data))
    if not 2 <= group_size <= count:
        raise InputError(f"group size is {group_size}; expected 2 to {count}, the number of images")
    begin = time.perf_counter()
    device = net.parameters()[0].device
    x = centre_crop(data.pixels(slice(0, count)), spec).to(device)
    y = data.labels[:count].to(device)
    shared = dict(clip=clip, batch_size=batch_size, progress=progress)
    certificates = certify(net, x, y, eps, method=method, **shared)
    uap = certify_uap(net, x, y, eps, group_size=group_size, certificates=certificates, **shared)
    candidates = (uap.size - uap.upper).topk(min(_CANDIDATES, len(uap.size))).indices
    with net.evaluating():
        clean = _predictions(net, x, batch_size)
        moved = [_predictions(net, clamp(x + u, clip), batch_size) for u in uap.u[candidates]]
    wrong = torch.stack([p != y for p in moved])
    check_soundness(certificates, wrong.any(dim=0))
    fooled = (wrong & certificates.correct).sum(dim=1)
    best = int(fooled.argmax())
    return Evaluation(
        x,
        y,
        eps,
        group_size,
        clip,
        certificates,
        uap,
        strongest=uap.u[candidates[best]],
        fooling_rate=float(fooled[best]) / max(1, int(certificates.correct.sum())),
        predictions=(clean, moved[best]),
        seconds=time.perf_counter() - begin,
    )


@torch.no_grad()
def _predictions(net: BoundedNet, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([net(part).argmax(1) for part in x.split(batch_size)])


def _share(mask: Tensor) -> float:
    return int(mask.sum()) / len(mask)
