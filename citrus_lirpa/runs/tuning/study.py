"""A study: the TOML file that says what is tuned, how it is judged, and where its trials are."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ...bounds.box import PIXELS
from ...errors import ConfigError, InputError, expect_known, require
from ...formats.numbers import parse_number
from ...formats.schema import Count, Share, Size, Word, checked
from ...training.config import MAX_SEED, RunConfig
from ...training.layers import REGISTRIES
from ...training.toml import read_toml
from ...verify import Protocol
from .. import choice
from . import space
from .space import Parameter, Range

_TABLES = ("set", "space", "search", "least", "front")
Seed = Annotated[Count, Field(le=MAX_SEED)]


@checked("")
class _Head:
    """The keys above all tables.

    Args:
        preset: Name of the preset.
        method: Name of the training method.
        trials: Number of trainings.
        seed: The seed of the search, and of the trainings.
        name: The name of the study; the name of the file by default.
        folder: The folder of the trainings; runs/NAME by default.
        storage: URL of a database, or a journal file; a journal in the folder by default.
        stop_at: Shares of the epochs at which a training that cannot reach the front is ended.
    """

    preset: Word
    trials: Size
    method: Word = "citrus"
    seed: Seed = 0
    name: Word | None = None
    folder: Word | None = None
    storage: Word | None = None
    stop_at: tuple[Share, ...] = (0.5, 0.75)


@checked("least")
class Least:
    """What a network must reach to count; shares of all images.

    Args:
        standard: Least standard accuracy.
        ucert: Least UCert.
    """

    standard: Share = 0.0
    ucert: Share = 0.0


@checked("front")
class _Seeds:
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None


@dataclass(frozen=True)
class Front:
    """How the networks of the front are judged.

    Args:
        protocol: How they are evaluated.
        seeds: The seeds of the trainings that are judged for each point of the front.
    """

    protocol: Protocol
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """What is tuned, how, and where.

    Attributes:
        name: The name of the study in its storage.
        trials: Number of trainings.
        seed: The seed of the search.
        folder: The folder of the trainings.
        storage: URL of a database, or path of a journal file.
        fixed: The values that all trainings share: preset, method and TABLE.KEY.
        space: What is varied.
        stop_at: Shares of the epochs at which a training that cannot reach the front is ended.
        protocol: How trials are judged while searching.
        least: What a network must reach to count.
        front: How the networks of the front are judged; None where they are not.
    """

    name: str
    trials: int
    seed: int
    folder: Path
    storage: str
    fixed: choice.Choice
    space: Mapping[str, Parameter]
    stop_at: tuple[float, ...]
    protocol: Protocol
    least: Least
    front: Front | None

    def config(self, values: Mapping[str, Any], seed: int | None = None) -> RunConfig:
        """Return the configuration of a training.

        Args:
            values: A value for each key of the space.
            seed: The seed of the training, where it is not the study's.

        Raises:
            InputError: The values do not fit together.
        """
        chosen = {**self.fixed, **values}
        if seed is not None:
            chosen["train.seed"] = seed
        shares = [key for key, of in self.space.items() if isinstance(of, Range) and
                  of.share_of_epochs and key in values]  # fmt: skip
        if shares:
            rest = {key: value for key, value in chosen.items() if key not in shares}
            epochs = choice.configure(rest).train.epochs
            chosen |= {key: round(chosen[key] * epochs, 3) for key in shares}
        return choice.configure(chosen)

    def recipe(self) -> dict[str, Any]:
        """Return the values of the preset's recipe, moved into the space where they lie outside."""
        config = asdict(choice.configure(self.fixed))
        found: dict[str, Any] = {}
        for key, parameter in self.space.items():
            table, _, option = key.partition(".")
            value = config[table].get(option, _default(table, config[table], option))
            if isinstance(parameter, Range) and parameter.share_of_epochs and value is not None:
                value /= config["train"]["epochs"]
            if (near := parameter.near(value)) is not None:
                found[key] = near
        return found

    def definition(self) -> dict[str, Any]:
        """Return all that two workers on one study must agree on, as JSON can hold it."""
        values = {
            "method": self.fixed["method"],
            "seed": self.seed,
            "config": choice.configure(self.fixed).tables(),
            "space": {key: asdict(parameter) for key, parameter in self.space.items()},
            "stop_at": self.stop_at,
            "search": self.protocol.settings(),
            "least": asdict(self.least),
        }
        return json.loads(json.dumps(values))


def read(path: Path) -> Study:
    """Read the TOML file of a study, and check every value that it may try.

    Raises:
        ConfigError: The file cannot be read, or a key or value in it is not usable.
    """
    tables = read_toml(path, "study")
    try:
        return _study(tables, path.stem)
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from None


def _study(tables: dict[str, Any], stem: str) -> Study:
    for name in _TABLES:
        table = isinstance(tables.get(name, {}), dict)
        require(table, f"'{name}' is not a table; write [{name}]", ConfigError)
    known = [*_Head.__dataclass_fields__, *_TABLES]
    for key in tables:
        expect_known("key", key, known)
    head = _Head(**{key: value for key, value in tables.items() if key not in _TABLES})
    fixed = choice.flat(tables.get("set", {}))
    for key, value in fixed.items():
        choice.check_key(key, "set")
        choice.check_value(key, value)
    fixed = {"preset": head.preset, "method": head.method, "train.seed": head.seed, **fixed}
    own = space.parse(tables.get("space", {}))
    for key in own:
        twice = f"{key} stands in [set] and in [space] too; remove one of them"
        require(key not in fixed, twice, ConfigError)
    varied = {**space.shipped(head.method), **own}
    config = choice.configure(fixed)
    name = head.name or stem
    plain = re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name)
    expected = "expected letters, digits and . _ + - only, as files are named by it"
    require(plain, f"name is '{name}'; {expected}", ConfigError)
    folder = Path(head.folder or f"runs/{name}")
    study = Study(
        name=name,
        trials=head.trials,
        seed=head.seed,
        folder=folder,
        storage=head.storage or str(folder / "study.journal"),
        fixed=fixed,
        space={key: parameter for key, parameter in varied.items() if key not in fixed},
        stop_at=head.stop_at,
        protocol=_search(tables.get("search", {}), config),
        least=Least(**tables.get("least", {})),
        front=_front(tables["front"], config) if "front" in tables else None,
    )
    _check(study)
    return study


def _search(table: dict[str, Any], config: RunConfig) -> Protocol:
    usual = {"method": "crown-ibp", "relational": "none", "held_out": True}
    protocol = _protocol(table, config, "search", usual)
    require(
        protocol.held_out,
        "held-out is false in [search]; a search on test images would fit them",
        ConfigError,
    )
    return protocol


def _front(table: dict[str, Any], config: RunConfig) -> Front:
    options = {key: value for key, value in table.items() if key != "seeds"}
    given = _Seeds(**{key: table[key] for key in table if key == "seeds"})
    seeds = (config.train.seed,) if given.seeds is None else given.seeds
    twice = f"seeds is {list(seeds)} in [front]; expected each seed once"
    require(len(set(seeds)) == len(seeds), twice, ConfigError)
    return Front(_protocol(options, config, "front", {}), seeds)


def _protocol(
    table: dict[str, Any], config: RunConfig, name: str, usual: Mapping[str, Any]
) -> Protocol:
    """Read the options of ``eval`` in a table."""
    given = {**usual, **choice.evaluation(table, name)}
    for key in ("clip", "held_out"):
        value = given.setdefault(key, False)
        expected = f"{choice.dashed(key)} is {value!r} in [{name}]; expected true or false"
        require(isinstance(value, bool), expected, ConfigError)
    given["clip"] = PIXELS if given["clip"] else None
    require(not config.train.eps_map, "train.eps_map is a map of ε; studies take one ε, train.eps",
            ConfigError)  # fmt: skip
    given.setdefault("norm", config.train.norm)
    given["eps"] = parse_number(given.get("eps", config.train.eps))
    try:
        protocol = Protocol(**given)
        if protocol.held_out:
            missing = '"data.held_out" is 0; set "data.held_out" = 5000, say, under [set]'
            require(config.data.held_out, missing, ConfigError)
            protocol.images(config.data.held_out)
    except InputError as error:
        raise ConfigError(f"[{name}]: {error}") from None
    return protocol


def _check(study: Study) -> None:
    """Refuse a space without values, and values that no training takes."""
    require(study.space, "nothing is varied; give [space] a range", ConfigError)
    share = all(0 < at < 1 for at in study.stop_at)
    expected = "expected shares of the epochs between 0 and 1"
    require(share, f"stop_at is {list(study.stop_at)}; {expected}", ConfigError)
    start = {key: parameter.ends()[0] for key, parameter in study.space.items()} | study.recipe()
    try:
        study.config(start)
    except InputError as error:
        raise ConfigError(f"[space]: {error}") from None
    for key, parameter in study.space.items():
        for value in parameter.ends():
            try:
                study.config({**start, key: value})
            except InputError as error:
                raise ConfigError(f"{key} = {value} of the search space: {error}") from None


def _default(table: str, values: Mapping[str, Any], option: str) -> Any:
    """Return what an option of a model or loss is where a configuration does not give it."""
    if table not in REGISTRIES:
        return None
    parameter = inspect.signature(REGISTRIES[table][values["name"]]).parameters.get(option)
    return None if parameter is None else parameter.default
