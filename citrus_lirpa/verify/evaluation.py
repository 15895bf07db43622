"""The evaluation of a trained network on a test set, as one value."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import distributed
from ..attacks import PGD
from ..bounds.box import Ball, clamp
from ..bounds.checks import (
    Range,
    Scalar,
    check_count,
    check_name,
    check_radius,
    check_range,
    check_seconds,
    is_count,
)
from ..bounds.deadline import ending_by, time_is_over
from ..bounds.inputs import outside_inference
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.norms import check_norm, norm_entries, norm_words
from ..bounds.precision import full_precision
from ..bounds.radius import radius_entries, radius_words
from ..data.arrays import as_split
from ..data.augmentation import centre_crop
from ..data.types import DatasetSpec, Split
from ..errors import expect
from ..imports import to_frame
from .certificates import Certificates, check_soundness
from .crown.proofs import Proofs
from .groups import UapBounds, certify_uap
from .milp import check_solver
from .proof_files import ProofFolder
from .record import EvaluationRecord, GroupFigures, ProofFigures, UapAccuracy
from .relational import RELATIONAL, group_stage_of
from .resume import Batch, Saved, from_plain, to_plain
from .second_opinion import confirmed
from .single import certify
from .stages import stages_up_to
from .unfinished import Unfinished

if TYPE_CHECKING:
    from pandas import DataFrame

_log = logging.getLogger(__name__)

#: Group perturbations tried on the whole test set, to show the strongest.
_CANDIDATES = 20
#: Of the total time, what the batches may take; the rest is for showing the strongest.
_BATCHES_SHARE = 0.95
#: The attack on single images that comes before their certification.
_STEPS, _RESTARTS = 30, 2


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

    def __post_init__(self) -> None:
        check_norm(self.norm, check_radius(self.eps, "ε"))
        if self.limit is not None:
            check_count(self.limit, "limit")
        check_count(self.batch_size, "batch size")
        check_count(self.seed, "seed", 0, 2**32 - 1)
        check_range(self.clip)
        check_solver(self.solver)
        methods = [stage.name for stage in stages_up_to(self.method)]
        if self.relational is None:
            object.__setattr__(self, "relational", group_stage_of(methods))
        check_name(self.relational, "relational stage", RELATIONAL)
        check_seconds(self.time_limit)
        if self.total_time is not None:
            check_seconds(self.total_time, "total time")

    def settings(self) -> dict[str, Any]:
        """Return it as plain values: of a map of ε, its largest value and its hash."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "norm"}
        return own | radius_entries(self.eps) | norm_entries(self.norm)

    def images(self, available: int) -> int:
        """Return how many of the ``available`` images are evaluated.

        Raises:
            InputError: There are too few for a group.
        """
        check_count(available, "number of images", 0)
        count = available if self.limit is None else min(self.limit, available)
        possible = is_count(self.group_size, 2, count)
        expect(possible, "group size", self.group_size, f"2 to {count}, the number of images")
        return count


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
        return (
            f"Evaluation({len(self.y)} images, ε = {radius_words(self.protocol.eps, 4)}"
            f"{norm_words(self.protocol.norm)}, groups of {self.protocol.group_size}: {percents})"
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
            unsupported=c.unsupported,
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
        InputError: The protocol does not fit the images, or the data is none.
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
        batches = _Batches(net, x, y, protocol, known, saved, proofs, bar)
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
    """Describe data of which only its arrays are known."""
    channels, height, width = data.images.shape[1:]
    names = tuple(map(str, range(classes)))
    return DatasetSpec(
        name="",
        shape=(channels, height, width),
        class_names=names,
        loader=lambda *_: (data.images, data.labels),
    )


class _Clock:
    """The time of a whole evaluation, and what of it each batch may take.

    Args:
        seconds: For the whole; None for no limit.
        batches: How many there are; processes that came together take them in turn.

    Attributes:
        end: When the evaluation is to end, a time of ``time.perf_counter``.
    """

    def __init__(self, seconds: float | None, batches: int):
        self.end = time.perf_counter() + (math.inf if seconds is None else seconds)
        self.batches = batches

    def batch(self, number: int) -> AbstractContextManager[None]:
        """Return the context in which a batch ends in time."""
        now = time.perf_counter()
        turns = -(-(self.batches - number) // distributed.size())
        return ending_by(now + _BATCHES_SHARE * max(0.0, self.end - now) / turns)

    def take(self, seconds: float) -> None:
        """Count the time that earlier runs have spent on a batch."""
        self.end -= seconds / distributed.size()


def _known(imported: Mapping[int, str], count: int) -> Tensor:
    """(N,) 1 for certified, -1 for attacked, 0 for all else; images beyond N are left out."""
    known = torch.zeros(count, dtype=torch.long)
    for image, verdict in imported.items():
        if image < count:
            known[image] = {"certified": 1, "attacked": -1}.get(verdict, 0)
    return known


def _batches(count: int, protocol: Protocol) -> list[slice]:
    """Whole groups, about ``batch_size`` images at a time; a rest below a group joins the last."""
    step = max(1, protocol.batch_size // protocol.group_size) * protocol.group_size
    ends = list(range(step, count, step))
    if ends and count - ends[-1] < protocol.group_size:
        ends.pop()
    return [slice(a, b) for a, b in zip([0, *ends], [*ends, count], strict=True)]


class _Batches:
    """The batches of an evaluation.

    Args:
        net: The network.
        x: (N, ...) images.
        y: (N,) labels.
        protocol: How they are evaluated.
        known: (N,) verdicts from elsewhere, as of :func:`certify`.
        saved: Keeps finished batches.
        proofs: Receives the proofs of each batch.
        bar: Shows how many images are done.

    Attributes:
        rows: The images of each batch.
        clock: Until when it works.
    """

    def __init__(
        self,
        net: BoundedNet,
        x: Tensor,
        y: Tensor,
        protocol: Protocol,
        known: Tensor | None,
        saved: Saved | None,
        proofs: ProofFolder | None,
        bar: tqdm,
    ):
        self.net, self.x, self.y, self.protocol, self.known = net, x, y, protocol, known
        self.saved, self.proofs, self.bar = saved, proofs, bar
        self.rows = _batches(len(x), protocol)
        self.clock = _Clock(protocol.total_time, len(self.rows))

    def bounded(self, number: int) -> dict[str, Any]:
        """Return a batch as plain values: the one that was saved, or a new one."""
        rows = self.rows[number]
        part = None if self.saved is None else self.saved.load(number, self.x.device, from_plain)
        if part is None or (self.proofs is not None and not self.proofs.has(number)):
            part = self._new(number, rows)
        else:
            self.clock.take(part[2])
        _log.debug("images %d to %d: %.1f s", rows.start, rows.stop - 1, part[2])
        self.bar.update(rows.stop - rows.start)
        return to_plain(*part)

    def elsewhere(self, more: int) -> None:
        """Show that other processes have finished so many more batches."""
        images = more * (self.rows[0].stop - self.rows[0].start)
        self.bar.update(min(images, len(self.x) - self.bar.n))

    def _new(self, number: int, rows: slice) -> Batch:
        """Bound a batch, and keep it and its proofs."""
        torch.manual_seed(self.protocol.seed + number)
        kept = None if self.proofs is None else Proofs(self.x[rows], self.y[rows])
        with self._unfinished(number) as unfinished:
            self.clock.take(unfinished.seconds)
            with self.clock.batch(number):
                part = self._certified(rows, unfinished, kept)
        if self.proofs is not None and kept is not None:
            self.proofs.store(number, kept, rows.start, self.protocol.group_size, *part[:2])
        if self.saved is not None:
            self.saved.store(number, to_plain(*part))
        return part

    @contextmanager
    def _unfinished(self, number: int) -> Iterator[Unfinished]:
        """Yield what is known of a batch, and keep what is added to it where that is stopped."""
        saved = self.saved if self.proofs is None else None  # without its proofs it is found again
        known = Unfinished() if saved is None else saved.load_unfinished(number, self.x.device)
        begin = time.perf_counter()
        try:
            yield known
        except KeyboardInterrupt:
            if saved is not None:
                known.seconds += time.perf_counter() - begin
                saved.store_unfinished(number, known)
            raise

    def _certified(self, rows: slice, unfinished: Unfinished, proofs: Proofs | None) -> Batch:
        """Certify the images of a batch, alone and in groups."""
        begin, protocol = time.perf_counter(), self.protocol
        images = self.net, self.x[rows], self.y[rows], protocol.eps
        shared: dict[str, Any] = dict(
            clip=protocol.clip,
            batch_size=max(protocol.batch_size, len(images[1])),  # the last may have more
            unfinished=unfinished,
            group_size=protocol.group_size,
            time_limit=protocol.time_limit / 2,
            progress=False,
            proofs=proofs,
            norm=protocol.norm,
        )
        if unfinished.certificates is None:
            unfinished.certificates = certify(
                *images,
                method=protocol.method,
                attack=PGD(_STEPS, restarts=_RESTARTS, clip=protocol.clip, norm=protocol.norm),
                known=None if self.known is None else self.known[rows],
                announce=self.bar.set_description,
                **shared,
            )
        certificates = unfinished.certificates
        self.bar.set_description("groups")
        uap = certify_uap(
            *images,
            certificates=certificates,
            relational=protocol.relational,
            solver=protocol.solver,
            **shared,
        )
        return certificates, uap, unfinished.seconds + time.perf_counter() - begin


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
                confirmed(net, ball, x, y, u, p != y, proved)
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
