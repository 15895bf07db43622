"""The fronts of tuned methods side by side: who reaches what, and which values decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError, require
from ..runs.tuning import study
from ..runs.tuning.points import Point, front_of, hypervolume, judged_points, points_of
from ..runs.tuning.storage import Storage, Trial
from ..training.config import RunConfig
from ..verify import Protocol
from .compare import name_in_papers
from .tables import clipping, count_images, percent, radius, table

#: What two evaluations must share for their figures to be comparable, beside data and ε.
_SHARED = (
    "method",
    "relational",
    "time_limit",
    "total_time",
    "group_size",
    "limit",
    "clip",
    "held_out",
)
Reference = tuple[float, float]


@dataclass(frozen=True)
class Tuned:
    """A study and what it found.

    Attributes:
        study: What was tuned.
        trials: All of its trials.
        points: The figures of its trials while searching.
        judged: The figures of the networks of its front; empty until all are judged.
        importance: Share of each value of the space in standard accuracy, and in UCert.
    """

    study: study.Study
    trials: Sequence[Trial]
    points: Sequence[Point]
    judged: Sequence[Point]
    importance: tuple[Mapping[str, float], Mapping[str, float]]

    @property
    def title(self) -> str:
        """Name of the training method in papers."""
        return name_in_papers(self.study.config({}).loss)[0]

    @property
    def seconds(self) -> float:
        """Time of the trainings that came to their end."""
        return sum(trial.notes.get("seconds", 0.0) for trial in self.trials)

    def count(self, state: str) -> int:
        """Count the trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    def config(self, point: Point) -> RunConfig:
        """Return the configuration of a point."""
        return self.study.config(point.values)


@dataclass(frozen=True)
class Fronts:
    """The fronts of several studies.

    Attributes:
        tuned: The studies.
        judged: Whether the figures are those of the judged networks, rather than of the search.
        protocol: How they were evaluated.
        reference: The point above which hypervolumes are taken.
    """

    tuned: Sequence[Tuned]
    judged: bool
    protocol: Protocol
    reference: Reference

    def points(self, tuned: Tuned) -> Sequence[Point]:
        """Return the points of a study that are compared."""
        return tuned.judged if self.judged else tuned.points

    def front(self, tuned: Tuned) -> list[Point]:
        """Return the front of a study."""
        return front_of(self.points(tuned))

    @property
    def combined(self) -> list[Point]:
        """The front of all studies together."""
        return front_of([point for tuned in self.tuned for point in self.points(tuned)])

    def volume(self, tuned: Tuned) -> float:
        """Return the hypervolume of a study."""
        return hypervolume(self.points(tuned), self.reference)

    def alone(self, tuned: Tuned) -> float:
        """Return the hypervolume that no other study reaches."""
        others = [p for other in self.tuned if other is not tuned for p in self.points(other)]
        return hypervolume(self.combined, self.reference) - hypervolume(others, self.reference)

    def setting(self) -> str:
        """Say what the figures are of."""
        data, protocol = self.tuned[0].study.config({}).data.name, self.protocol
        kind = "held-out" if protocol.held_out else "test"
        images = f"all {kind} images"
        if protocol.limit is not None:
            images = count_images(protocol.limit, kind)
        what = "judged networks" if self.judged else "trials while searching"
        size = radius(protocol.eps, norm=protocol.norm)
        return (
            f"{data}, ε = {size}, {images}, groups of {protocol.group_size}, "
            f"{clipping(protocol.clip)}, up to {protocol.method}: {what}"
        )


def read_fronts(files: Sequence[Path], reference: Reference) -> Fronts:
    """Read studies, and compare their judged networks, or else their trials.

    Hypervolumes are taken above ``reference``, a standard accuracy and a UCert.

    Raises:
        InputError: The studies cannot be compared, or the reference point lies inside a front.
        CheckpointError: A storage cannot be reached, or a study has no finished trial.
    """
    inside = all(0 <= share <= 1 for share in reference)
    require(inside, f"reference is {reference}; expected two shares from 0 to 1, as 0.9,0.5")
    tuned = [_read(study.read(file)) for file in files]
    names = [one.study.name for one in tuned]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"two studies are named {twice}; give one of them another name")
    judged = all(one.judged for one in tuned)
    fronts = Fronts(tuned, judged, _protocol(tuned[0], judged), reference)
    for one in tuned:
        _check_alike(fronts, one)
        for point in fronts.front(one):
            _check_reference(point, reference)
    return fronts


def _read(plan: study.Study) -> Tuned:
    with closing(Storage(plan, create=False)) as storage:
        trials, notes = storage.trials(), storage.notes()
        importance = (storage.importance(0), storage.importance(1))
    points = points_of(plan, trials)
    if not points:
        raise CheckpointError(
            f"study '{plan.name}' has no finished trial that reaches what it asks; continue it "
            "with: citrus-lirpa tune FILE"
        )
    return Tuned(plan, trials, points, judged_points(plan, trials, notes), importance)


def _protocol(tuned: Tuned, judged: bool) -> Protocol:
    front = tuned.study.front
    return front.protocol if judged and front is not None else tuned.study.protocol


def _check_alike(fronts: Fronts, tuned: Tuned) -> None:
    """Refuse a study whose figures mean something else than those of the first one."""
    mine, first = _facts(tuned, fronts), _facts(fronts.tuned[0], fronts)
    for key, value in first.items():
        require(
            mine[key] == value,
            f"studies {fronts.tuned[0].study.name} and {tuned.study.name} are not evaluated alike "
            f"({key}: {value}, {mine[key]}); compare studies of one setting",
        )


def _facts(tuned: Tuned, fronts: Fronts) -> dict[str, Any]:
    protocol, data = _protocol(tuned, fronts.judged).settings(), tuned.study.config({}).data
    facts = {"data": data.name, "ε": protocol["eps"], **{key: protocol[key] for key in _SHARED}}
    return facts | ({"held-out images": data.held_out} if protocol["held_out"] else {})


def _check_reference(point: Point, reference: Reference) -> None:
    if point.standard < reference[0] or point.ucert < reference[1]:
        raise InputError(
            f"the reference point {reference[0]:g},{reference[1]:g} lies inside the front: trial "
            f"{point.number} of {point.study} has {point.standard:.4f},{point.ucert:.4f}; give "
            "--reference a point that all of the front is above"
        )


# -- as text and JSON -----------------------------------------------------------------


def to_json(fronts: Fronts) -> dict[str, Any]:
    """Turn fronts into plain values; accuracies are shares of all images."""
    combined = fronts.combined
    return {
        "setting": fronts.setting(),
        "judged": fronts.judged,
        "reference": list(fronts.reference),
        "hypervolume": hypervolume(combined, fronts.reference),
        "studies": [
            {
                "name": one.study.name,
                "method": one.title,
                "trials": {s: one.count(s) for s in ("complete", "pruned", "fail", "running")},
                "training_seconds": one.seconds,
                "hypervolume": fronts.volume(one),
                "hypervolume_alone": fronts.alone(one),
                "importance": {
                    "standard": dict(one.importance[0]),
                    "ucert": dict(one.importance[1]),
                },
                "points": [
                    {
                        "trial": point.number,
                        "standard": point.standard,
                        "ucert": point.ucert,
                        "spread": None if point.spread is None else list(point.spread),
                        "networks": len(point.judged),
                        "on_front": point in fronts.front(one),
                        "on_combined_front": point in combined,
                        "values": dict(point.values),
                    }
                    for point in fronts.points(one)
                ],
            }
            for one in fronts.tuned
        ],
    }


def format_fronts(fronts: Fronts, *, markdown: bool = False) -> str:
    """Tabulate the studies, the parts of the combined front, and what decides."""
    blocks = [
        (fronts.setting(), summary_rows(fronts), ("<", "<", *7 * ">")),
        ("the front of all", front_rows(fronts), ("<", "<", *4 * ">")),
    ]
    if any(one.importance[0] for one in fronts.tuned):
        title = "what decides: share in standard accuracy and in UCert, %"
        blocks.append((title, importance_rows(fronts), ("<", "<", ">", ">")))
    form = "markdown" if markdown else "text"
    sign = "### " if markdown else ""
    gap = "\n\n" if markdown else "\n"
    return "\n\n".join(
        f"{sign}{title}{gap}{table(rows, sides, form)}" for title, rows, sides in blocks
    )


def summary_rows(fronts: Fronts) -> list[tuple[str, ...]]:
    """A row for each study, below the titles."""
    titles = ("study", "method", "complete", "ended early", "failed", "on front", "hours",
              "hypervolume", "alone")  # fmt: skip
    rows = [
        (
            one.study.name,
            one.title,
            *(str(one.count(state)) for state in ("complete", "pruned", "fail")),
            str(len(fronts.front(one))),
            f"{one.seconds / 3600:.2f}",
            f"{fronts.volume(one):.4f}",
            f"{fronts.alone(one):.4f}",
        )
        for one in fronts.tuned
    ]
    return [titles, *rows]


def front_rows(fronts: Fronts) -> list[tuple[str, ...]]:
    """A row for each part of the combined front: who owns it, from where to where."""
    titles = ("study", "trial", "standard from", "to", "UCert", "networks")
    rows, start = [], fronts.reference[0]
    for point in fronts.combined:
        to, ucert = percent(point.standard), percent(point.ucert)
        if point.spread is not None:
            to += f" ± {percent(point.spread[0])}"
            ucert += f" ± {percent(point.spread[1])}"
        rows.append(
            (point.study, str(point.number), percent(start), to, ucert, str(len(point.judged)))
        )
        start = point.standard
    return [titles, *rows]


def importance_rows(fronts: Fronts) -> list[tuple[str, ...]]:
    """A row for each value of each study, the most important one first."""
    titles = ("study", "value", "standard", "UCert")
    rows = []
    for one in fronts.tuned:
        standard, ucert = one.importance
        for key in sorted(ucert, key=lambda key: -ucert[key]):
            shares = (percent(standard.get(key)), percent(ucert[key]))
            rows.append((one.study.name, key, *shares))
    return [titles, *rows]
