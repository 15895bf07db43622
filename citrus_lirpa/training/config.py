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
from typing import Annotated, Any

import tomli_w
from pydantic import Field, Strict

from ..bounds.norms import NORMS
from ..bounds.precision import PRECISIONS
from ..data import own
from ..data.datasets import is_known
from ..data.eps_map import eps_map_hash, read_eps_map
from ..errors import ConfigError, InputError, expect, expect_known, require
from ..formats.schema import (
    Count,
    Flag,
    Fraction,
    NonNegativeFraction,
    PositiveFraction,
    Size,
    Text,
    Whole,
    checked,
    knows,
    options,
    options_of,
)
from ..imports import code_hash, is_code, permit_code
from ..losses import LOSSES, Loss
from .layers import REGISTRIES, Tables, check_tables, layered, nested, stacked
from .layers import methods as methods
from .layers import presets as presets
from .schedules import SCHEDULES
from .toml import parse_override, parse_toml

INITIALISATIONS = ("shi", "default")
#: Larger seeds overflow where they are mixed with the step.
MAX_SEED = 2**32 - 1
#: The keys of [train] that are names, and the names.
NAMES: dict[str, Iterable[str]] = {
    "schedule": SCHEDULES,
    "initialisation": INITIALISATIONS,
    "precision": PRECISIONS,
}


@checked("data")
class DataConfig:
    """The data set and the part of it to train on.

    Args:
        name: Name of the data set, or where a user's own data is.
        sha256: SHA-256 of a user's own data; empty for others.
        crop: Side to crop the images to, 0 for none.
        pad: Edge pixels around an image before a random crop to its size, -1 for as many as the
            data set asks for.
        held_out: Number of training images, the last ones, that are kept from training for
            ``eval --held-out``.
        limit: Number of the other images to use, the first ones, 0 for all.
    """

    name: Text
    sha256: Text = ""
    crop: Count = 0
    pad: Annotated[Whole, Field(ge=-1)] = -1
    held_out: Count = 0
    limit: Count = 0

    def __post_init__(self) -> None:
        if self.crop and self.pad > 0:
            raise ConfigError(
                f"data.crop is {self.crop} and data.pad {self.pad}; crops are taken of images "
                "that are not padded: set one of the two"
            )


@checked("train")
class TrainConfig:
    """How to train. Epochs are counted from 1 and may be fractions in the schedules.

    Args:
        eps: ε that the network is judged by, in pixels; the largest one of ``eps_map``.
        eps_map: An ``.npy`` file with the ε of every pixel; empty for ``eps`` everywhere.
        eps_map_sha256: SHA-256 of the file of ``eps_map``; empty without one.
        norm: That ε is of: inf, or 2 for ‖u‖₂ <= ε, which ibp, sabr and citrus train for.
        epochs: Length of the training.
        batch_size: Images in a step.
        lr: Learning rate of Adam.
        lr_factor: Factor of the learning rate after each milestone.
        milestones: Epochs after which the learning rate is multiplied by ``lr_factor``.
        schedule: Shape of the ε ramp.
        ramp_start: First epoch of the ε ramp.
        ramp_length: Epochs that the ε ramp lasts.
        l1: Weight of Σ|w|, the sum of the absolute weights, in the loss.
        shi: λ₀ of the regularisers of Shi et al. 2021.
        grad_clip: Largest norm of a gradient.
        eps_factor: Training ends with ``eps_factor``·ε.
        init_from: A run or checkpoint whose weights to begin with, empty for none.
        initialisation: How the weights begin: as Shi et al. 2021 draw them, or as PyTorch does.
        precise_bn: Whether to recompute the BatchNorm statistics over the training set at the end.
        seed: Seed of everything random.
        threads: CPU threads, 0 to choose by the model.
        precision: What may be rounded below float32: nothing, attacks (bfloat16), or on a GPU also
            products of bounds (tf32).
        compile: Whether torch.compile makes the kernels.
    """

    eps: Fraction
    epochs: Size
    eps_map: Text = ""
    eps_map_sha256: Text = ""
    norm: Annotated[float, Strict()] = math.inf
    batch_size: Size = 256
    lr: PositiveFraction = 5e-4
    lr_factor: PositiveFraction = 0.2
    milestones: tuple[Fraction, ...] = ()
    schedule: Text = "smoothed"
    ramp_start: Fraction = 1.0
    ramp_length: NonNegativeFraction = 0.0
    l1: NonNegativeFraction = 0.0
    shi: NonNegativeFraction = 0.5
    grad_clip: PositiveFraction = 10.0
    eps_factor: PositiveFraction = 1.0
    init_from: Text = ""
    initialisation: Text = "shi"
    precise_bn: Flag = False
    seed: Annotated[Count, Field(le=MAX_SEED)] = 0
    threads: Count = 0
    precision: Text = "float32"
    compile: Flag = False

    def __post_init__(self) -> None:
        expect(self.norm in NORMS, "train.norm", self.norm, "inf or 2", ConfigError)
        one = self.norm == math.inf or not self.eps_map
        require(one, "train.eps_map is for norm inf; with train.norm=2 set train.eps", ConfigError)
        most, expected = 1.0, "0 to 1, in pixels (8 grey levels are 8/255)"
        if self.norm == 2:
            most, expected = math.inf, "0 or more"
        expect(0 <= self.eps <= most, "train.eps", self.eps, expected, ConfigError)
        if not self.max_eps <= most:
            raise ConfigError(
                f"train.eps_factor is {self.eps_factor}; training would end with "
                f"{self.eps_factor:.4g}·ε = {self.max_eps:.4g}, but pixels lie in [0, 1]"
            )
        if not self.ramp_start >= 1:
            raise ConfigError(f"train.ramp_start is {self.ramp_start}; epochs count from 1")
        for key, known in NAMES.items():
            expect_known(f"train.{key}", getattr(self, key), known)

    @property
    def max_eps(self) -> float:
        """The ε that training ends with, in pixels."""
        return self.eps * self.eps_factor


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
        return bool(self.model.get("source")) or is_code(self.data.name)

    def to_toml(self) -> str:
        """Write the configuration as TOML."""
        tables = dataclasses.asdict(self)
        if not self.data.sha256:
            del tables["data"]["sha256"]
        if not self.train.eps_map:
            del tables["train"]["eps_map"], tables["train"]["eps_map_sha256"]
        if self.train.norm == math.inf:
            del tables["train"]["norm"]
        return tomli_w.dumps(tables)

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
        It with whole paths and the hashes of the user's own network, data and map of ε.

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
    train = settings.train
    if train.eps_map:
        path = Path(train.eps_map).expanduser().resolve()
        hashed = eps_map_hash(path)
        train = dataclasses.replace(train, eps_map=str(path), eps_map_sha256=hashed)
    return dataclasses.replace(settings, model=model, data=data, train=train)


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
