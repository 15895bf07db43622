"""The record of an evaluation: what ``eval-METHOD.json`` holds, written and read here alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..errors import CheckpointError
from ..formats import schema
from ..formats.schema import Count, Flag, NonNegative, Number, Share, Size, Text, Word


@dataclass(frozen=True)
class UapAccuracy:
    """Bounds on the average accuracy that the worst perturbation of each group leaves.

    Args:
        certified: Lower bound, proved (UCert), as a share of all images.
        attacked: Upper bound, by attacks.
    """

    certified: Share
    attacked: Share

    @property
    def gap(self) -> float:
        """Share of the images between the two bounds."""
        return self.attacked - self.certified


@dataclass(frozen=True)
class GroupFigures:
    """Figures of each group, in their order.

    Args:
        safe_at_least: Images of the group that are proved to survive any perturbation.
        safe_at_most: Images that survive the perturbations found.
        stage: The stage that settled the group.
        seconds: Time that the group took.
    """

    safe_at_least: tuple[Count, ...]
    safe_at_most: tuple[Count, ...]
    stage: tuple[Text, ...]
    seconds: tuple[NonNegative, ...] = ()


@dataclass(frozen=True)
class ProofFigures:
    """How many certificates have proofs, and how many proofs were checked.

    Args:
        images: Certified images with a proof.
        groups: Groups whose number of safe images is proved.
        checked_images: Of these images, those whose proof the checker found to hold.
        checked_groups: Likewise.
        refused: What the checker refused.
        checker: What checked them; None before.
    """

    images: Count
    groups: Count
    checked_images: Count = 0
    checked_groups: Count = 0
    refused: Count = 0
    checker: Text | None = None

    def words(self) -> str:
        """Return these figures as a phrase."""
        written = f"of {self.images} images and {self.groups} groups"
        if self.checker is None:
            return f"{written}, not checked"
        return (
            f"{written}; {self.checked_images} and {self.checked_groups} hold, "
            f"{self.refused} refusals, by {self.checker}"
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """The figures of an evaluation and the settings they depend on.

    Accuracies are shares of all images. Entries of images and groups are None where a record was
    shortened, or where the version that wrote it did not know them.

    Args:
        run: The network that was evaluated, as it was given.
        options: What a command needs beside the network: the code and the normalisation of a file
            of another program, or the permission to run a run's code.
        data: Name of the data set.
        images: Number of images.
        eps: Radius in pixels; with a map of ε, its largest value.
        eps_map: SHA-256 of the map of ε, float64 in row-major order; None without one.
        method: Last stage tried on single images.
        relational: Group stage.
        group_size: Consecutive images that share a perturbation.
        time_limit: Seconds for each group.
        total_time: Seconds for the whole evaluation; None for no limit.
        solver: Solver of the mixed-integer programs.
        clip: Range that perturbed images are cut to.
        batch_size: Images that go through the stages together.
        seed: Seed of the attacks.
        held_out: Whether the images are those held out from training.
        standard_accuracy: Accuracy without a perturbation.
        certified_accuracy: Certified accuracy of single images, up to each stage, in order.
        accuracy_under_single_attacks: Accuracy where each image is attacked by itself.
        uap_accuracy: Bounds on the accuracy under one perturbation for each group.
        strongest_fooling_rate: Share of the correct images that the strongest perturbation breaks.
        seconds: Time of each stage, and "total".
        shares: Number of images that each stage settled.
        not_fitting: Number of images that a stage could not bound for lack of memory.
        late: Number of images that a stage left open for lack of time; None for none.
        unsupported: Why a stage was not possible.
        claimed: Number of images that are safe by a solver's word alone, and not certified.
        verdicts: For each image, the stage that certified it, or how it is left.
        image_seconds: Time of each image.
        groups: Figures of each group.
        proofs: How many certificates have proofs, and how many of them were checked.
        weights: Fingerprint of the network.
        imported: Number of images with verdicts of another verifier.
        identity: SHA-256 of all settings.
        versions: Of the packages that the figures were made with.
        bounds: Whose bounds counted, if not this package's own.
        norm: That perturbations were measured in, if not inf.
        arithmetic: That certificates hold in, if not real numbers: float32, as on a device.
    """

    run: Text | None = None
    options: Text | None = None
    data: Word
    images: Size
    eps: NonNegative
    eps_map: Word | None = None
    method: Word
    relational: Word
    group_size: Size
    time_limit: NonNegative
    total_time: NonNegative | None = None
    solver: Word | None = None
    clip: tuple[Number, Number] | None
    batch_size: Count | None = None
    seed: Count | None = None
    held_out: Flag = False
    standard_accuracy: Share
    certified_accuracy: Annotated[dict[str, Share], Field(min_length=1)]
    accuracy_under_single_attacks: Share | None = None
    uap_accuracy: UapAccuracy
    strongest_fooling_rate: Share | None = None
    seconds: dict[str, NonNegative] = field(default_factory=dict)
    shares: dict[str, Count] = field(default_factory=dict)
    not_fitting: dict[str, Count] = field(default_factory=dict)
    late: dict[str, Count] | None = None
    unsupported: dict[str, Text] = field(default_factory=dict)
    claimed: Count | None = None
    verdicts: tuple[Text, ...] | None = None
    image_seconds: tuple[NonNegative, ...] | None = None
    groups: GroupFigures | None = None
    proofs: ProofFigures | None = None
    weights: Text | None = None
    imported: Count | None = None
    identity: Text | None = None
    versions: dict[str, Text] | None = None
    bounds: Word | None = None
    norm: Number | None = None
    arithmetic: Word | None = None

    @property
    def strongest_stage(self) -> str:
        """The last stage that single images went through."""
        return list(self.certified_accuracy)[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain values for JSON, without entries that are not known."""
        values = asdict(self)
        for table in (values, values["groups"] or {}):
            table.update({k: list(v) for k, v in table.items() if isinstance(v, tuple)})
        values["uap_accuracy"]["gap"] = self.uap_accuracy.gap
        optional = [f.name for f in fields(self) if f.default is None]
        return {k: v for k, v in values.items() if v is not None or k not in optional}

    @staticmethod
    def from_json(values: dict[str, Any], file: Path, remedy: str) -> EvaluationRecord:
        """Make a record of plain values, which ``to_json`` gave in this version or an earlier one.

        Raises:
            CheckpointError: An entry of the file is missing or wrong; the ``remedy`` ends the line.
        """
        record = schema.read(EvaluationRecord, values, file, remedy)
        if problem := record._contradiction():
            raise CheckpointError(f"{file}: {problem}; {remedy}")
        return record

    @staticmethod
    def load(file: Path, remedy: str) -> EvaluationRecord:
        """Read a record; the CheckpointError where that fails ends in the ``remedy``."""
        text = schema.read_text(file, remedy)
        return EvaluationRecord.from_json(
            schema.parse(text, json.loads, file, remedy), file, remedy
        )

    def _contradiction(self) -> str | None:
        """What does not fit together, in words."""
        if self.group_size > self.images:
            return f"group_size is {self.group_size}, of {self.images} images"
        count = -(-self.images // self.group_size)
        for key in ("safe_at_least", "safe_at_most", "stage"):
            if self.groups is not None and len(found := getattr(self.groups, key)) != count:
                return f"groups.{key} has {len(found)} entries; expected {count}"
        return None
