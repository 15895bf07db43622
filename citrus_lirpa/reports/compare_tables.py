"""Rows of the tables of ``compare``, as in papers: of runs, or of runs with several seeds."""

from __future__ import annotations

import csv
import io
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import require
from .compare import Run, Setting, by_setting, differences, pareto_front
from .tables import percent, table

_TITLES = ("method", "source", "run", "Std", "certified", "UCert", "under attack", "minutes")
_SHARES = (
    "standard_accuracy",
    "certified_accuracy",
    "certified_uap_accuracy",
    "attacked_uap_accuracy",
)


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed only: one, or several.

    Args:
        runs: The runs, at least one.
    """

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Names of the runs as a pattern, such as ibp-seed*."""
        names = [run.run for run in self.runs]
        start = os.path.commonprefix(names)
        if len(names) == 1:
            return start
        end = os.path.commonprefix([name[len(start) :][::-1] for name in names])[::-1]
        return f"{start}*{end}"

    def mean(self, share: str) -> float:
        """Mean of an accuracy, by the name of the field."""
        return statistics.mean(getattr(run, share) for run in self.runs)

    def std(self, share: str) -> float | None:
        """Standard deviation of an accuracy, of a sample (n - 1); None of one run."""
        values = [getattr(run, share) for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def seconds(self) -> float | None:
        """Mean time of the training; None where one is not known."""
        known = [run.training_seconds for run in self.runs if run.training_seconds is not None]
        return statistics.mean(known) if len(known) == len(self.runs) else None


def by_seeds(runs: Sequence[Run]) -> list[Row]:
    """Put runs of one setting together that differ in their seed only; highest UCert first.

    Raises:
        InputError: Two of them are of the same seed too.
    """
    groups: dict[tuple[Any, ...], dict[int | None, Run]] = {}
    for run in runs:
        key = (run.method, run.recipe or run.run, run.stage, run.relational, run.time_limit)
        same = groups.setdefault(key, {})
        first = same.setdefault(run.seed, run)
        require(
            first is run,
            f"{first.run} and {run.run} are one training, with seed {run.seed}, twice; name one "
            "of them",
        )
    rows = [Row(tuple(same[seed] for seed in sorted(same, key=str))) for same in groups.values()]
    return sorted(rows, key=lambda row: -row.mean("certified_uap_accuracy"))


def _tables(runs: Sequence[Run], seeds: bool) -> dict[Setting, list[Row]]:
    return {
        setting: by_seeds(members) if seeds else [Row((run,)) for run in members]
        for setting, members in by_setting(runs).items()
    }


# -- for people -----------------------------------------------------------------------


def format_tables(runs: Sequence[Run], form: str = "text", *, seeds: bool = False) -> str:
    """Tabulate the runs of each setting below a line that names it; accuracies in percent.

    Args:
        runs: Of ``compare.read_runs``.
        form: ``text``, ``markdown``, ``latex`` or ``csv``, which is one table of shares of 1.
        seeds: Whether runs that differ in their seed only become one row, of mean ± std.
    """
    if form == "csv":
        return _csv(runs, seeds)
    blocks = []
    for setting, rows in _tables(runs, seeds).items():
        titles = (*_TITLES[:3], "seeds", *_TITLES[3:]) if seeds else _TITLES
        cells = [titles, *(_cells(row, seeds) for row in rows)]
        lines = table(cells, ("<",) * (4 if seeds else 3) + (">",) * 5, form)
        note = differences([run for row in rows for run in row.runs])
        notes = [] if note is None else [{"markdown": "\n", "latex": "% "}.get(form, "") + note]
        heading = {"markdown": f"### {setting}\n", "latex": f"% {setting}"}.get(form, str(setting))
        blocks.append("\n".join([heading, lines, *notes]))
    return "\n\n".join(blocks)


def _cells(row: Row, seeds: bool) -> tuple[str, ...]:
    first = row.runs[0]
    named = [", ".join("-" if run.seed is None else str(run.seed) for run in row.runs)]
    shares = []
    for share in _SHARES:
        spread = row.std(share)
        shares.append(
            percent(row.mean(share)) + ("" if spread is None else f" ± {percent(spread)}")
        )
    minutes = "-" if row.seconds is None else f"{row.seconds / 60:.1f}"
    return (first.method, first.source, row.name, *(named if seeds else []), *shares, minutes)


# -- for programs ---------------------------------------------------------------------


def to_json(runs: Sequence[Run], *, seeds: bool = False) -> dict[str, Any]:
    """Turn the tables into plain values; accuracies are shares of all images.

    With ``seeds`` there are also means over runs that differ in their seed only.
    """
    tables = []
    for setting, rows in by_setting(runs).items():
        front = pareto_front(rows)
        records = [asdict(run) | {"on_pareto_front": run in front} for run in rows]
        for record in records:
            del record["setting"], record["recipe"]
        means = {"seeds": [_summary(row) for row in by_seeds(rows)]} if seeds else {}
        tables.append(
            {**asdict(setting), "differences": differences(rows), "runs": records, **means}
        )
    return {"tables": tables}


def _summary(row: Row) -> dict[str, Any]:
    return {
        "runs": [run.run for run in row.runs],
        "seeds": [run.seed for run in row.runs],
        "method": row.runs[0].method,
        "source": row.runs[0].source,
        **{share: {"mean": row.mean(share), "std": row.std(share)} for share in _SHARES},
        "training_seconds": row.seconds,
    }


def _csv(runs: Sequence[Run], seeds: bool) -> str:
    """All tables as one, with the setting in every line; shares rather than percent."""
    lines = []
    for part in to_json(runs, seeds=seeds)["tables"]:
        setting = {key: part[key] for key in asdict(runs[0].setting)}
        setting["clip"] = "" if setting["clip"] is None else "{:g} to {:g}".format(*setting["clip"])
        lines += [setting | _flat(row) for row in part["seeds" if seeds else "runs"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().rstrip("\n")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """One level: an accuracy with its std becomes two columns, a list words with spaces."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{name}": number for name, number in value.items()}
        else:
            flat[key] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat
