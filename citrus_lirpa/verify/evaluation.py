"""The evaluation of a trained network on a test set, as one value."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import distributed
from ..bounds.arithmetic import arithmetic_words
from ..bounds.box import Ball, clamp
from ..bounds.deadline import ending_by, time_is_over
from ..bounds.inputs import outside_inference
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.norms import norm_words
from ..bounds.precision import full_precision
from ..bounds.radius import radius_words
from ..data.arrays import as_split
from ..data.augmentation import centre_crop
from ..data.types import DatasetSpec, Split
from ..imports import to_frame
from .batches import Batches
from .certificates import Certificates, check_soundness
from .groups import UapBounds
from .proof_files import ProofFolder
from .protocol import Protocol
from .record import EvaluationRecord, GroupFigures, ProofFigures, UapAccuracy
from .resume import Saved, from_plain
from .second_opinion import confirmed

if TYPE_CHECKING:
    from pandas import DataFrame

#: Group perturbations tried on the whole test set, to show the strongest.
_CANDIDATES = 20


@dataclass(frozen=True)
class Evaluation:
    """Certificates and UAP bounds of N test images, and the strongest perturbation found.

    Args:
        x: Images (N, C, H, W).
        y: Labels (N,).
        protocol: How they were evaluated.
        certificates: What was proved of each image alone.
        uap: Bounds of each group.
        strongest: The group perturbation (C, H, W) with the highest fooling rate on all images.
        fooling_rate: Share of the correctly classified images that it breaks.
        predictions: Classes (N,) without and with it.
        seconds: Time of the whole, with that of an interrupted first part, added up over the
            processes that shared it.
        proofs: How many certificates have proofs; None where none were asked for.
    """

    x: Tensor
    y: Tensor
    protocol: Protocol
    certificates: Certificates
    uap: UapBounds
    strongest: Tensor
    fooling_rate: float
    predictions: tuple[Tensor, Tensor]
    seconds: float
    proofs: ProofFigures | None = None

    def __repr__(self) -> str:
        c, uap = self.certificates, self.uap
        figures = {
            "standard": _share(c.correct),
            "certified alone": _share(c.certified),
            "UCert": uap.certified_accuracy,
            "under attack": uap.attacked_accuracy,
        }
        percents = ", ".join(f"{name} {100 * share:.2f} %" for name, share in figures.items())
        how = self.protocol
        return (
            f"Evaluation({len(self.y)} images, ε = {radius_words(how.eps, 4)}"
            f"{norm_words(how.norm)}{arithmetic_words(how.arithmetic)}, groups of "
            f"{how.group_size}: {percents})"
        )

    def to_frame(self) -> DataFrame:
        """Make a pandas frame with a row for each image; ``uap.to_frame()`` has the groups.

        Columns are its label, its group, the classes without and with the strongest
        perturbation, and those of its certificate.

        Raises:
            DependencyError: pandas is not installed.
        """
        clean, perturbed = self.predictions
        images = torch.arange(len(self.y))
        frame = to_frame(
            {
                "image": images,
                "group": images // self.protocol.group_size,
                "label": self.y,
                "predicted": clean,
                "with_strongest": perturbed,
            }
        )
        return frame.join(self.certificates.to_frame())

    def shares(self) -> dict[str, int]:
        """Count the images that each stage settled; the values add up to N."""
        c, uap = self.certificates, self.uap
        stages = {m: int((c.decided_by == i).sum()) for i, m in enumerate(c.methods)}
        proved, possible = int(uap.lower.sum()), int(uap.upper.sum())
        return {
            **stages,
            "group stage": proved - int(c.certified.sum()),
            "undecided": possible - proved,
            "broken": int(c.correct.sum()) - possible,
            "wrong": int((~c.correct).sum()),
        }

    def record(self) -> dict[str, Any]:
        """Return plain numbers for JSON; accuracies are shares of all N images."""
        record = self.as_record(data="").to_json()
        del record["data"]  # which the evaluation does not know
        return record

    def as_record(self, *, data: str, **entries: Any) -> EvaluationRecord:
        """Make the record of this evaluation.

        Args:
            data: Name of the data set.
            entries: What else the record is to say, such as ``run`` or ``weights``.
        """
        c, uap = self.certificates, self.uap
        settings = {**self.protocol.settings(), "images": len(self.y)}
        del settings["limit"]
        return EvaluationRecord(
            **settings,
            data=data,
            standard_accuracy=_share(c.correct),
            certified_accuracy={m: _share(c.certified_by(m)) for m in c.methods},
            accuracy_under_single_attacks=_share(c.correct & ~c.attacked),
            uap_accuracy=UapAccuracy(uap.certified_accuracy, uap.attacked_accuracy),
            strongest_fooling_rate=self.fooling_rate,
            seconds={**c.seconds, **uap.seconds, "total": self.seconds},
            shares=self.shares(),
            not_fitting=c.not_fitting,
            late={stage: count for stage, count in c.late.items() if count} or None,
            unsupported=c.unsupported,
            claimed=c.claimed or None,
            verdicts=tuple(c.verdicts()),
            image_seconds=_rounded(c.took),
            proofs=self.proofs,
            groups=GroupFigures(
                tuple(uap.lower.tolist()), tuple(uap.upper.tolist()), uap.stage, _rounded(uap.took)
            ),
            **entries,
        )


@outside_inference
def evaluate(
    net: BoundedNet,
    data: Any,
    spec: DatasetSpec | None,
    protocol: Protocol,
    *,
    saved: Saved | None = None,
    imported: Mapping[int, str] | None = None,
    proofs: ProofFolder | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Certify the first images of a data set, alone and in groups, a batch of groups at a time.

    Processes that came together (:mod:`.distributed`) share the batches, and all get the whole.
    It is what one process finds, since each batch has a seed of its own, unless a time limit ends
    a proof earlier on one machine than on another.

    Args:
        net: The network.
        data: The images: a Split, (images, labels) as arrays or tensors, a Dataset or a DataLoader;
            see :func:`~citrus_lirpa.data.as_split`.
        spec: Their data set; None for data without names of classes.
        protocol: How to evaluate.
        saved: Keeps each finished batch on disk, and gives those that are there already.
        imported: Verdicts of another verifier by image number, ``certified`` or ``attacked``,
            which are taken as they are.
        proofs: Receives the proofs of each batch.
        progress: Whether to show a bar; None for yes in terminals and notebooks.

    Raises:
        InputError: The protocol does not fit the images, or ``data`` is no data set.
        SoundnessError: An attack contradicts a certificate.
    """
    data, net = as_split(data), as_bounded_net(net)
    spec = spec or _unnamed(data, net.classes)
    count = protocol.images(len(data))
    device = net.parameters()[0].device
    x = centre_crop(data.pixels(slice(0, count)), spec).to(device)
    if net.input_shape == x.shape[3:] and x.shape[1:3] == (1, 1):  # a table
        x = x.flatten(1)
    y = data.labels[:count].to(device)
    known = None if imported is None else _known(imported, count).to(device)
    hidden = not distributed.draws_bar(progress)
    with tqdm(total=count, desc="certifying", unit="image", disable=hidden) as bar:
        batches = Batches(net, x, y, protocol, known, saved, proofs, bar)
        parts = distributed.share(batches.bounded, len(batches.rows), device, batches.elsewhere)
    certificates, bounds, seconds = zip(*map(from_plain, parts), strict=True)
    found, uap = Certificates.cat(certificates), UapBounds.cat(bounds)
    begin = time.perf_counter()
    with ending_by(batches.clock.end):
        strongest, rate, predictions = _strongest(net, x, y, protocol, found, uap)
    total = sum(seconds) + time.perf_counter() - begin
    figures = None if proofs is None else proofs.figures(uap)
    return Evaluation(x, y, protocol, found, uap, strongest, rate, predictions, total, figures)


def _unnamed(data: Split, classes: int) -> DatasetSpec:
    """Describe data of which only the arrays are known."""
    channels, height, width = data.images.shape[1:]
    names = tuple(map(str, range(classes)))
    return DatasetSpec(
        name="",
        shape=(channels, height, width),
        class_names=names,
        loader=lambda *_: (data.images, data.labels),
    )


def _known(imported: Mapping[int, str], count: int) -> Tensor:
    """(N,) 1 for certified, -1 for attacked, 0 for all else; images beyond N are left out."""
    known = torch.zeros(count, dtype=torch.long)
    for image, verdict in imported.items():
        if image < count:
            known[image] = {"certified": 1, "attacked": -1}.get(verdict, 0)
    return known


def _strongest(
    net: BoundedNet,
    x: Tensor,
    y: Tensor,
    protocol: Protocol,
    certificates: Certificates,
    uap: UapBounds,
) -> tuple[Tensor, float, tuple[Tensor, Tensor]]:
    """The group perturbation that fools most on all images, its rate, and predictions."""
    candidates = (uap.size - uap.upper).topk(min(_CANDIDATES, len(uap.size))).indices
    size = protocol.batch_size

    def predicted(i: int) -> Tensor | None:
        if i and time_is_over():
            return None
        return _predictions(net, clamp(x + uap.u[candidates[i]], protocol.clip), size)

    with net.evaluating(), full_precision(x.device):
        clean = _predictions(net, x, size)
        found = distributed.share(predicted, len(candidates), x.device)
        moved = [one for one in found if one is not None]
        tried = candidates[[i for i, one in enumerate(found) if one is not None]]
        ball = Ball(protocol.eps, protocol.clip, protocol.norm)
        proved = certificates.certified
        wrong = torch.stack(
            [
                confirmed(net, ball, x, y, u, p != y, proved, certificates.arithmetic)
                for u, p in zip(uap.u[tried], moved, strict=True)
            ]
        )
    check_soundness(certificates, wrong.any(dim=0))
    fooled = (wrong & certificates.correct).sum(dim=1)
    best = int(fooled.argmax())
    rate = float(fooled[best]) / max(1, int(certificates.correct.sum()))
    return uap.u[tried[best]], rate, (clean, moved[best])


@torch.no_grad()
def _predictions(net: BoundedNet, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([net(part).argmax(1) for part in x.split(batch_size)])


def _share(mask: Tensor) -> float:
    return int(mask.sum()) / len(mask)


def _rounded(seconds: Tensor) -> tuple[float, ...]:
    return tuple(round(time, 4) for time in seconds.tolist())
