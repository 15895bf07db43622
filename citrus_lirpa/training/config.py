"""Configuration: presets, TOML files and ``key=value`` overrides, resolved once.

A table with a ``name`` (``[model]``, ``[loss]``) holds the keyword arguments of the
registered function of that name; the others are dataclasses. Unknown keys are refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from ..data import own
from ..data.datasets import is_known
from ..data.eps_map import eps_map_hash, read_eps_map
from ..errors import ConfigError, InputError, expect_known, require
from ..formats.schema import (
    knows,
    options,
    options_of,
)
from ..imports import code_hash, permit_code, trust_option
from ..losses import LOSSES, Loss
from . import zoo
from .layers import REGISTRIES, Tables, check_tables, layered, nested, stacked
from .layers import methods as methods
from .layers import presets as presets
from .tables import MAX_SEED as MAX_SEED
from .tables import DataConfig, TrainConfig
from .toml import parse_override, parse_toml


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run.

    Args:
        data: The data set.
        model: Name of the network, and its options.
        loss: Name of the loss, and its options.
        train: How to train.
    """

    data: DataConfig
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    train: TrainConfig

    @property
    def names_code(self) -> bool:
        """Whether making its network or reading its data runs code of the user."""
        return bool(self.trust)

    @property
    def trust(self) -> str:
        """What commands on its run need where it names code: " --trust-code", else nothing."""
        return trust_option(self.model.get("source"), self.data.name)

    @property
    def denoises(self) -> bool:
        """Whether it trains a denoiser, from images to images, rather than a classifier."""
        return bool(self.model["name"] == "denoiser")

    def tables(self) -> dict[str, Any]:
        """Return it as tables of plain values, without what is only named where it is used."""
        tables = dataclasses.asdict(self)
        if not self.data.sha256:
            del tables["data"]["sha256"]
        if not self.train.eps_map:
            del tables["train"]["eps_map"], tables["train"]["eps_map_sha256"]
        if self.train.norm == math.inf:
            del tables["train"]["norm"]
        if self.train.graph:
            del tables["train"]["graph"]
        return tables

    def to_toml(self) -> str:
        """Write the configuration as TOML."""
        return tomli_w.dumps(self.tables())

    @staticmethod
    def from_toml(text: str, source: str = "configuration") -> RunConfig:
        """Read a complete configuration.

        Args:
            text: The TOML.
            source: Name of the file, for messages.

        Raises:
            ConfigError: A key is unknown or missing, or a value is malformed.
            InputError: A loss or model refuses a value.
        """
        return _resolved(parse_toml(text, source))


#: Rescaled epochs are rounded.
_ROUNDING = 0.01

#: What ``--mode`` sets: the batch (large and fast keep the preset's) and, for losses that pair,
#: how, and how they attack.
MODES = {
    "paper": {"train.batch_size": 5, "train.precise_bn": True, "loss.pairing": "groups"},
    "large": {"train.precise_bn": False, "loss.pairing": "shifts"},
    "fast": {
        "train.precise_bn": False,
        "loss.pairing": "shifts",
        "loss.partners": 2,
        "loss.sign_steps": 1.0,
    },
}


def resolve(
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    method: str | None = None,
    mode: str | None = None,
    overrides: Iterable[str] = (),
) -> RunConfig:
    """Complete a configuration from a preset or TOML file, a method, a mode and overrides.

    A preset is completed by its recipe for the method: ``method``, else that of the loss named
    in the overrides, else that of the file, else CITRUS. A file may build on a ``preset`` and a
    ``method``, and its own values go before both; only a ``method`` given here replaces what a
    file without a preset says, and the loss of any file.
    With ``train.eps_map``, ``train.eps`` is the largest ε of the map.
    Where ``train.epochs`` is overridden, milestones and ramp keep their place as shares of the
    training, except for those that are overridden too.

    Args:
        preset: Name of a preset, instead of a ``file``.
        file: A TOML file, instead of a ``preset``.
        method: Name of a training method.
        mode: A name in ``MODES``: the batch and, for losses that pair images, how they pair them
            and how long they attack.
        overrides: Values as ``table.key=value``, which go before everything else.

    Raises:
        ConfigError: A key or a name is unknown, or a value is malformed.
        InputError: A loss or model refuses a value.
    """
    if (preset is None) == (file is None):
        raise ConfigError(
            "give either a preset or a configuration file: --preset NAME (citrus-lirpa presets "
            "lists them) or --config FILE"
        )
    if isinstance(overrides, str):
        raise ConfigError(f"overrides is '{overrides}'; expected a list of them")
    changes = dict(parse_override(text) for text in overrides)
    file = None if file is None else Path(file)
    tables = layered(preset, file, method, changes.get("loss.name"))
    before = tables.get("train", {}).get("epochs")
    if mode is not None:
        loss = changes.get("loss.name", tables.get("loss", {}).get("name"))
        changes = {**_mode(mode, loss), **changes}
    config = _with_map(_resolved(stacked(tables, nested(changes))), "train.eps" in changes)
    if "train.epochs" in changes and isinstance(before, int) and before > 0:
        scaled = _rescaled(config.train, config.train.epochs / before)
        kept = {key: value for key, value in scaled.items() if f"train.{key}" not in changes}
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, **kept))
    _check_schedule(config.train)
    return config


def named(settings: RunConfig) -> RunConfig:
    """Take a configuration that the user has named: its code may run from now on.

    Args:
        settings: The configuration.

    Returns:
        It with whole paths, and with hashes of the user's own network, data and map of ε.

    Raises:
        InputError: A file that it names is not there.
    """
    model, data = dict(settings.model), settings.data
    if model.get("source"):
        model["source"] = permit_code(model["source"])
        model["sha256"] = code_hash(model["source"])
    if not is_known(data.name):
        name = own.named(data.name)
        data = dataclasses.replace(data, name=name, sha256=own.source_hash(name))
    loss, train = dict(settings.loss), settings.train
    if (judge := loss.get("classifier")) and not zoo.is_name(Path(judge)):
        loss["classifier"] = str(Path(judge).expanduser().resolve())
    if train.eps_map:
        path = Path(train.eps_map).expanduser().resolve()
        hashed = eps_map_hash(path)
        train = dataclasses.replace(train, eps_map=str(path), eps_map_sha256=hashed)
    return dataclasses.replace(settings, model=model, data=data, loss=loss, train=train)


def make_loss(loss: Mapping[str, Any], train: TrainConfig) -> Loss:
    """Make the loss of a ``[loss]`` table.

    Args:
        loss: Name and options.
        train: How to train.

    Raises:
        InputError: The loss refuses an option.
    """
    given = {key: value for key, value in loss.items() if key != "name"}
    norm = {} if train.norm == math.inf else {"norm": train.norm}
    return LOSSES[loss["name"]](train.max_eps, **given, **norm)


def _mode(mode: str, loss: Any) -> dict[str, Any]:
    expect_known("mode", mode, MODES)
    pairs = knows(LOSSES, loss) and "pairing" in options_of(LOSSES[loss])
    return {k: v for k, v in MODES[mode].items() if pairs or not k.startswith("loss.")}


def _with_map(config: RunConfig, eps_given: bool) -> RunConfig:
    """Take the largest ε of a map of ε as the ε of the run."""
    train = config.train
    if not train.eps_map:
        return config
    top = float(read_eps_map(Path(train.eps_map).expanduser()).max())
    nothing = f"{train.eps_map} has ε 0 everywhere; expected a pixel that may move"
    require(top > 0, f"{nothing}: give a map with one, or train.eps=0 instead", ConfigError)
    if eps_given and train.eps != top:
        raise ConfigError(
            f"train.eps is {train.eps:g}, but the largest ε of {train.eps_map} is {top:g}; leave "
            "out train.eps"
        )
    return dataclasses.replace(config, train=dataclasses.replace(train, eps=top))


def _check_schedule(train: TrainConfig) -> None:
    """Refuse a new run whose ε ends below its target, or whose rate falls before it begins."""
    last = train.ramp_start - 1 + train.ramp_length
    if train.eps > 0 and last > train.epochs + _ROUNDING:
        raise ConfigError(
            f"ε would not reach its target in train.epochs = {train.epochs}: it rises until epoch "
            f"{last:g}; shorten train.ramp_length (now {train.ramp_length:g}) or begin before "
            f"train.ramp_start = {train.ramp_start:g}"
        )
    if any(m <= 0 for m in train.milestones):
        raise ConfigError(f"train.milestones is {list(train.milestones)}; expected epochs > 0")


def _rescaled(train: TrainConfig, share: float) -> dict[str, Any]:
    """The schedule of a training ``share`` times as long."""
    return {
        "milestones": tuple(round(m * share, 3) for m in train.milestones),
        "ramp_start": round(1 + (train.ramp_start - 1) * share, 3),
        "ramp_length": round(train.ramp_length * share, 3),
    }


def _resolved(tables: dict[str, Any]) -> RunConfig:
    check_tables(tables)
    config = RunConfig(
        data=DataConfig(**tables.get("data", {})),
        model=_chosen("model", tables),
        loss=_chosen("loss", tables),
        train=TrainConfig(**tables.get("train", {})),
    )
    is_known(config.data.name)
    if config.denoises != (config.loss["name"] == "denoiser"):
        raise ConfigError(
            f"model.name is '{config.model['name']}' and the method '{config.loss['name']}'; "
            "expected denoiser for both or for neither"
        )
    try:
        make_loss(config.loss, config.train)
    except InputError as error:
        raise ConfigError(f"[loss] {error}") from error
    return config


def _chosen(table: str, tables: Tables) -> dict[str, Any]:
    """The name and the options of a table for a registered function."""
    values = tables.get(table, {})
    given = {key: value for key, value in values.items() if key != "name"}
    name = values.get("name")
    return {"name": name, **options(name, REGISTRIES[table], given, table)}
