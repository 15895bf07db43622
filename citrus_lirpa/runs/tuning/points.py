"""The points of a study: figures of networks, and those of them that no other beats."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .storage import Trial
from .study import Study


@dataclass(frozen=True)
class Judged:
    """The figures of one network, as shares of all images.

    Args:
        standard: Standard accuracy.
        ucert: Certified average UAP accuracy.
    """

    standard: float
    ucert: float

    def __str__(self) -> str:
        return f"standard {100 * self.standard:.2f} %, UCert {100 * self.ucert:.2f} %"

    def to_json(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures with the settings of the evaluation, as JSON can hold them."""
        return {"standard": self.standard, "ucert": self.ucert, "settings": _plain(settings)}

    @staticmethod
    def read(values: Any, settings: Mapping[str, Any]) -> Judged | None:
        """Read what ``to_json`` made; None where it is of other settings."""
        if values is None or values["settings"] != _plain(settings):
            return None
        return Judged(values["standard"], values["ucert"])


@dataclass(frozen=True)
class Point:
    """A configuration and its figures, which are means where several seeds were trained.

    Attributes:
        study: Name of the study.
        method: Training method.
        number: The number of the trial.
        values: The values of the search space.
        seed: The seed of the trial's training.
        judged: The figures of each network.
    """

    study: str
    method: str
    number: int
    values: Mapping[str, Any]
    seed: int
    judged: tuple[Judged, ...]

    @property
    def standard(self) -> float:
        """Mean standard accuracy."""
        return statistics.fmean(one.standard for one in self.judged)

    @property
    def ucert(self) -> float:
        """Mean UCert."""
        return statistics.fmean(one.ucert for one in self.judged)

    @property
    def spread(self) -> tuple[float, float] | None:
        """Standard deviations of both over the seeds; None for one seed."""
        if len(self.judged) < 2:
            return None
        return (
            statistics.stdev(one.standard for one in self.judged),
            statistics.stdev(one.ucert for one in self.judged),
        )


def points_of(study: Study, trials: Sequence[Trial]) -> list[Point]:
    """Return the trials that came to their end and reach what the study asks."""
    least, seed = study.least, study.config({}).train.seed
    return [
        Point(study.name, study.fixed["method"], t.number, t.values, seed, (Judged(*t.scores),))
        for t in trials
        if t.scores is not None and t.scores[0] >= least.standard and t.scores[1] >= least.ucert
    ]


def judged_points(study: Study, trials: Sequence[Trial], notes: Mapping[str, Any]) -> list[Point]:
    """Return the points of the search's front with the figures of their judged networks.

    The list is empty until every network is judged.
    """
    if study.front is None:
        return []
    found, settings = [], study.front.protocol.settings()
    for point in front_of(points_of(study, trials)):
        keys = [judged_key(point.number, seed) for seed in study.front.seeds]
        judged = [Judged.read(notes.get(key), settings) for key in keys]
        known = tuple(one for one in judged if one is not None)
        if len(known) < len(judged):
            return []
        found.append(replace(point, judged=known))
    return found


def judged_key(number: int, seed: int) -> str:
    """Name the note of a judged network."""
    return f"judged {number} {seed}"


def front_of(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats, from the lowest standard accuracy on.

    Of points with equal figures the first one is kept.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.standard, -p.ucert, p.study, p.number)):
        if not best or point.ucert > best[-1].ucert:
            best.append(point)
    return best[::-1]


def hypervolume(points: Sequence[Point], reference: tuple[float, float]) -> float:
    """Return the area that the points dominate above a reference point."""
    area, below = 0.0, reference[1]
    for point in reversed(front_of(points)):  # from the highest standard accuracy on
        area += (point.standard - reference[0]) * (point.ucert - below)
        below = point.ucert
    return area


def _plain(settings: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(settings))
