"""Sweeps: a TOML file that describes a group of runs.

``read`` reads the file, ``expand`` makes the runs, each with a checked configuration and a name
that depends only on its own values.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, InputError, expect_known, require, unknown
from ..formats.schema import options_of
from ..training.config import RunConfig
from ..training.layers import REGISTRIES
from ..training.toml import read_toml
from ..verify import Protocol
from .choice import (
    SPECIAL,
    Choice,
    check_key,
    check_value,
    configure,
    dashed,
    evaluation,
    flat,
    overrides,
)
from .export import FORMATS

_TABLES = ("set", "grid", "eval")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        fixed: The values that all runs share.
        grids: Lists of values; each grid makes a run of every combination.
        evaluation: Options of ``citrus-lirpa eval``, by the names of the fields of ``Protocol``.
    """

    fixed: Choice
    grids: tuple[Mapping[str, list[Any]], ...]
    evaluation: Mapping[str, Any]

    def eval_arguments(self) -> list[str]:
        """Return ``evaluation`` as arguments of the command line."""
        flags = {True: "--", False: "--no-"}
        off = {field.name for field in fields(Protocol) if field.default is False}
        return [
            f"{flags[value]}{dashed(name)}"
            if isinstance(value, bool)
            else f"--{dashed(name)}={value}"
            for name, value in self.evaluation.items()
            if not (value is False and name in off)  # such an option has no --no- form
        ]


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: The name of its folder.
        choice: Its values.
        config: What they resolve to.
    """

    name: str
    choice: Choice
    config: RunConfig

    def arguments(self) -> list[str]:
        """Return ``choice`` as arguments of ``citrus-lirpa train``."""
        special = [
            f for key in SPECIAL if key in self.choice for f in (f"--{key}", self.choice[key])
        ]
        return special + [part for text in overrides(self.choice) for part in ("--set", text)]


def read(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        ConfigError: The file cannot be read, or a key or value in it is not usable.
    """
    tables = read_toml(path, "sweep file")
    try:
        return _sweep(tables)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def expand(sweep: Sweep) -> list[Run]:
    """Make the runs of a sweep.

    They come in the order of the file, each of them once. Options of a loss or a model are left
    out of the runs whose loss or model does not have them.

    Raises:
        ConfigError: No run has a key, or a configuration cannot be resolved.
    """
    combinations = [
        ({**sweep.fixed, **dict(zip(grid, values, strict=True))}, grid)
        for grid in sweep.grids
        for values in itertools.product(*grid.values())
    ]
    options = [_options(choice) for choice, _ in combinations]
    _check_options({key for choice, _ in combinations for key in choice}, options)
    runs: list[Run] = []
    for (choice, grid), known in zip(combinations, options, strict=True):
        choice = {key: value for key, value in choice.items() if _fits(key, known)}
        name = _name(choice, grid)
        try:
            run = Run(name, choice, configure(choice))
        except InputError as error:
            raise ConfigError(f"run {name}: {error}") from None
        if all(run.config != other.config for other in runs):
            runs.append(run)
    return _distinct(runs)


# -- the file -----------------------------------------------------------------------


def _sweep(tables: dict[str, Any]) -> Sweep:
    for key in tables:
        expect_known("key", key, (*SPECIAL, *_TABLES))
    grids = tables.get("grid", {})
    grids = grids if isinstance(grids, list) else [grids]
    given = [("set", tables.get("set", {})), ("eval", tables.get("eval", {}))]
    for name, table in [*given, *(("grid", grid) for grid in grids)]:
        require(isinstance(table, dict), f"'{name}' is not a table; write [{name}]", ConfigError)
    top = {key: tables[key] for key in SPECIAL if key in tables}
    fixed = flat(tables.get("set", {}))
    for key, value in top.items():
        expected = "expected one name (a list goes into [grid])"
        require(isinstance(value, str), f"{key} is {value!r}; {expected}", ConfigError)
    for key, value in fixed.items():
        check_key(key, "set")
        check_value(key, value)
    grids = tuple(_grid(flat(grid), {**top, **fixed}) for grid in grids)
    return Sweep({**top, **fixed}, grids, evaluation(tables.get("eval", {}), "eval"))


def _grid(grid: dict[str, Any], fixed: Choice) -> dict[str, list[Any]]:
    """Return ``grid``, once every key has a list of usable values and is not fixed."""
    for key, values in grid.items():
        if key not in SPECIAL:
            check_key(key, "grid")
        several = isinstance(values, list) and values
        require(several, f"{key} in [grid] is {values!r}; expected a list of values", ConfigError)
        twice = f"{key} is given for all runs and in [grid] too; remove one of them"
        require(key not in fixed, twice, ConfigError)
        for value in values:
            check_value(key, value)
    missing = 'preset is missing; give it first, as preset = "mnist-0.1"'
    require("preset" in fixed or "preset" in grid, missing, ConfigError)
    return grid


# -- options ------------------------------------------------------------------------


def _options(choice: Choice) -> dict[str, set[str]]:
    """Return the options of the run's model and loss."""
    names = (*SPECIAL, *(f"{table}.name" for table in REGISTRIES))
    config = configure({key: choice[key] for key in names if key in choice})
    return {
        table: {"name", *options_of(registry[getattr(config, table)["name"]])}
        for table, registry in REGISTRIES.items()
    }


def _fits(key: str, options: dict[str, set[str]]) -> bool:
    table, _, option = key.partition(".")
    return table not in options or option in options[table]


def _check_options(keys: set[str], options: list[dict[str, set[str]]]) -> None:
    for key in sorted(keys):
        if not any(_fits(key, known) for known in options):
            table, _, option = key.partition(".")
            every = sorted(set().union(*(known[table] for known in options)))
            raise ConfigError(unknown(f"key in {table}", option, every))


# -- names --------------------------------------------------------------------------


def _name(choice: Choice, grid: Mapping[str, list[Any]]) -> str:
    """Join preset, method, and key and value of what the grid varies, sorted by key."""
    times = Counter(_last(key) for key in grid)

    def label(key: str) -> str:
        short = _last(key) if times[_last(key)] == 1 else key.replace(".", "_")
        return ("" if _last(key) == "name" else short) + _safe(choice[key])

    special = [_safe(choice[key]) for key in SPECIAL if key in choice]
    varied = [key for key in choice if key in grid and key not in SPECIAL]
    return "-".join([*special, *map(label, sorted(varied, key=lambda key: (_last(key), key)))])


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _safe(value: Any) -> str:
    """Return ``value`` with letters, digits and ``_+.-`` only, for any file system."""
    if isinstance(value, list):
        return "_".join(map(_safe, value))
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^A-Za-z0-9+.-]+", "_", text)


def _distinct(runs: list[Run]) -> list[Run]:
    """Append a digest to names that are too long, equal, or like that of a network's file."""
    times = Counter(run.name.lower() for run in runs)

    def unique(run: Run) -> Run:
        alone = times[run.name.lower()] == 1 and len(run.name) <= _LONGEST_NAME
        if alone and Path(run.name).suffix.lower() not in FORMATS:
            return run
        digest = hashlib.sha256(run.config.to_toml().encode()).hexdigest()[:8]
        return replace(run, name=f"{run.name[:_LONGEST_NAME]}-{digest}")

    return [unique(run) for run in runs]
