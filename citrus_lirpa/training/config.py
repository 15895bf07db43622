"""Configuration: presets, TOML files and ``key=value`` overrides, resolved once.

A table with a ``name`` (``[model]``, ``[loss]``) holds the keyword arguments of the
registered function of that name; the others are dataclasses. Unknown keys are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from ..bounds.precision import PRECISIONS
from ..data.datasets import DATASETS
from ..errors import ConfigError, unknown
from ..losses import LOSSES, Loss
from ..models import MODELS
from .schedules import SCHEDULES
from .toml import knows, options_of, parse_override, parse_toml, to_dataclass, to_options

INITIALISATIONS = ("shi", "default")
#: Larger ones overflow where they are mixed with the step.
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class DataConfig:
    """name: of the data set; crop: side to crop to, 0 for none; pad: edge pixels around an
    image before a random crop to its size, -1 for what the data set has; held_out: keep the
    last so many training images from training, for ``eval --held-out``; limit: of the
    others, use only the first so many, 0 for all."""

    name: str
    crop: int = 0
    pad: int = -1
    held_out: int = 0
    limit: int = 0

    def __post_init__(self) -> None:
        for key in ("crop", "held_out", "limit"):
            if getattr(self, key) < 0:
                raise ConfigError(f"data.{key} is {getattr(self, key)}; expected a number >= 0")
        if self.pad < -1:
            raise ConfigError(f"data.pad is {self.pad}; expected pixels >= 0, or -1")
        if self.crop and self.pad > 0:
            raise ConfigError(
                f"data.crop is {self.crop} and data.pad {self.pad}; crops are taken of images "
                "that are not padded: set one of the two"
            )


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Epochs are counted from 1 and may be fractions in the schedules.

    eps: ε in pixels, which the network is judged by; eps_factor: training ends with
    eps_factor·ε; milestones: epochs after which the learning rate is multiplied by lr_factor;
    ramp_start, ramp_length: first epoch and length of the ε ramp; l1: weight of Σ|w|; shi: λ₀
    of Shi et al.'s regularisers; grad_clip: largest gradient norm; init_from: a run or
    checkpoint whose weights to begin with; precise_bn: recompute BatchNorm statistics over the
    training set at the end; threads: CPU threads, 0 to choose by the model; precision: one of
    ``PRECISIONS``; compile: whether torch.compile makes the kernels.
    """

    eps: float
    epochs: int
    batch_size: int = 256
    lr: float = 5e-4
    lr_factor: float = 0.2
    milestones: tuple[float, ...] = ()
    schedule: str = "smoothed"
    ramp_start: float = 1.0
    ramp_length: float = 0.0
    l1: float = 0.0
    shi: float = 0.5
    grad_clip: float = 10.0
    eps_factor: float = 1.0
    init_from: str = ""
    initialisation: str = "shi"
    precise_bn: bool = False
    seed: int = 0
    threads: int = 0
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        positive = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "lr_factor": self.lr_factor,
            "grad_clip": self.grad_clip,
            "eps_factor": self.eps_factor,
        }
        for key, value in positive.items():
            if not value > 0:
                raise ConfigError(f"train.{key} is {value}; expected a number > 0")
        for key in ("ramp_length", "l1", "shi", "threads", "seed"):
            if not getattr(self, key) >= 0:
                raise ConfigError(f"train.{key} is {getattr(self, key)}; expected a number >= 0")
        if self.seed > MAX_SEED:
            raise ConfigError(f"train.seed is {self.seed}; expected at most {MAX_SEED}")
        if not 0 <= self.eps <= 1:
            raise ConfigError(
                f"train.eps is {self.eps}; expected 0 to 1, in pixels (8 grey levels are 8/255)"
            )
        if not self.max_eps <= 1:
            raise ConfigError(
                f"train.eps_factor is {self.eps_factor}; training would end with "
                f"{self.eps_factor:.4g}·ε = {self.max_eps:.4g}, but pixels lie in [0, 1]"
            )
        if not self.ramp_start >= 1:
            raise ConfigError(f"train.ramp_start is {self.ramp_start}; epochs count from 1")
        names = {"schedule": SCHEDULES, "initialisation": INITIALISATIONS, "precision": PRECISIONS}
        for key, known in names.items():
            if getattr(self, key) not in known:
                raise ConfigError(unknown(f"train.{key}", getattr(self, key), known))

    @property
    def max_eps(self) -> float:
        """The ε that training ends with, in pixels."""
        return self.eps * self.eps_factor


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run; ``model`` and ``loss`` are name plus options."""

    data: DataConfig
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    train: TrainConfig

    def to_toml(self) -> str:
        return tomli_w.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_toml(text: str, source: str = "configuration") -> RunConfig:
        return _resolved(parse_toml(text, source))


#: Rescaled epochs are rounded.
_ROUNDING = 0.01

_REGISTRIES: dict[str, Mapping[str, Any]] = {"model": MODELS, "loss": LOSSES}

#: What ``--mode`` sets: the batch (large keeps the preset's) and, for losses that pair, how.
MODES = {
    "paper": {"train.batch_size": 5, "train.precise_bn": True, "loss.pairing": "groups"},
    "large": {"train.precise_bn": False, "loss.pairing": "shifts"},
}


def presets() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files(__package__) / "presets"
    return sorted(p.name[: -len(".toml")] for p in folder.iterdir() if p.name.endswith(".toml"))


def methods() -> list[str]:
    """Names of the training methods."""
    return list(dict.fromkeys([*LOSSES, *_package_toml("methods.toml")]))


def resolve(
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    method: str | None = None,
    mode: str | None = None,
    overrides: Iterable[str] = (),
) -> RunConfig:
    """A complete configuration from a preset or TOML file, a method, a mode and overrides.

    A preset is completed by its recipe for the method: ``method``, else that of the loss named
    in the overrides, else the file's, else CITRUS. A file may build on a ``preset`` and a
    ``method``, and what it says itself goes before both; only a ``method`` given here replaces
    what a file without a preset says, and in any file its loss.
    Where ``train.epochs`` is overridden, milestones and ramp keep their place as shares of the
    training, those aside that are overridden too. Raises ConfigError, naming the key and its
    nearest match, and InputError for a value that its loss or model refuses.
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
    tables = _layered(preset, file, method, changes.get("loss.name"))
    if mode is not None:
        changes = {
            **_mode(mode, changes.get("loss.name", tables.get("loss", {}).get("name"))),
            **changes,
        }
    epochs_before = tables.get("train", {}).get("epochs")
    for key, value in changes.items():
        table, _, field = key.partition(".")
        if field == "name" and table in _REGISTRIES:
            tables = _merged(tables, {table: {"name": value}})
    for key, value in changes.items():
        table, _, field = key.partition(".")
        tables.setdefault(table, {})[field] = value
    config = _resolved(tables)
    if "train.epochs" in changes and isinstance(epochs_before, int):
        scaled = _rescaled(config.train, config.train.epochs / epochs_before)
        kept = {key: value for key, value in scaled.items() if f"train.{key}" not in changes}
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, **kept))
    _check_schedule(config.train)
    return config


def make_loss(loss: Mapping[str, Any], train: TrainConfig) -> Loss:
    """The loss of the ``[loss]`` table."""
    options = {k: v for k, v in loss.items() if k != "name"}
    return LOSSES[loss["name"]](train.max_eps, **options)


# -- reading ------------------------------------------------------------------------


def _layered(
    preset: str | None, file: Path | None, method: str | None, loss: object
) -> dict[str, Any]:
    """What preset, method and file say, before any override; ``loss``: the overrides' name."""
    own = {} if file is None else _file(file)
    preset, said = own.pop("preset", preset), own.pop("method", None)
    own = _tables(own)
    if preset is None:
        tables = own if said is None else _merged(_own_recipe(said, own, {}), own)
        return tables if method is None else _merged(tables, _recipe(method, {}))
    base = _preset(preset)
    recipes = base.pop("methods")
    recipe = _own_recipe(said, own, recipes)
    if method is not None or loss is not None:
        name = recipe["loss"]["name"]
        recipe = _recipe(method, recipes) if method is not None else _of_loss(loss, recipes)
        options = {**own.get("loss", {}), "name": name}
        own = {**own, "loss": _renamed(options, recipe["loss"]["name"], LOSSES)}
    return _merged(_merged(base, recipe), own)


def _own_recipe(said: object, own: dict[str, Any], recipes: dict[str, Any]) -> dict[str, Any]:
    """Tables of the method that a file is about: as it says, of the loss it names, or CITRUS."""
    name = own.get("loss", {}).get("name")
    if said is None:
        return _of_loss("citrus" if name is None else name, recipes)
    recipe = _recipe(said, recipes)
    if name not in (None, recipe["loss"]["name"]):
        raise ConfigError(
            f"the file names the method '{said}', but loss.name '{name}'; give one of the two"
        )
    return recipe


def _of_loss(name: object, recipes: dict[str, Any]) -> dict[str, Any]:
    if not knows(LOSSES, name):
        raise ConfigError(unknown("loss.name", name, LOSSES))
    return _recipe(name, recipes)


def _recipe(method: object, recipes: dict[str, Any]) -> dict[str, Any]:
    """Tables of a method: what holds for it everywhere, then what the preset says."""
    if method not in methods():
        raise ConfigError(unknown("method", method, methods()))
    general = _package_toml("methods.toml").get(method, {})
    loss = {"loss": {"name": method}}
    return _merged(_merged(loss, general), recipes.get(method, {}))


def _merged(tables: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """``tables`` with the values of ``more``; another ``name`` loses the options that are not
    its own."""
    merged = {table: dict(values) for table, values in tables.items()}
    for table, values in more.items():
        base = merged.get(table, {})
        if table in _REGISTRIES and "name" in values:
            base = _renamed(base, values["name"], _REGISTRIES[table])
        merged[table] = {**base, **values}
    return merged


def _preset(name: object) -> dict[str, Any]:
    if name not in presets():
        raise ConfigError(unknown("preset", name, presets()))
    return _package_toml(f"presets/{name}.toml")


def _package_toml(name: str) -> dict[str, Any]:
    return parse_toml((resources.files(__package__) / name).read_text("utf-8"), name)


def _file(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from error


def _mode(mode: str, loss: Any) -> dict[str, Any]:
    if mode not in MODES:
        raise ConfigError(unknown("mode", mode, MODES))
    pairs = knows(LOSSES, loss) and "pairing" in options_of(LOSSES[loss])
    return {k: v for k, v in MODES[mode].items() if pairs or not k.startswith("loss.")}


def _renamed(table: dict[str, Any], name: Any, registry: Mapping[str, Any]) -> dict[str, Any]:
    """``table`` without the options of the function it names that ``name`` does not know.

    What neither of them knows stays, to be refused."""
    earlier: Any = table.get("name")
    if name == earlier or not knows(registry, name):
        return table
    left = set(options_of(registry[earlier])) if knows(registry, earlier) else set()
    left -= set(options_of(registry[name]))
    return {k: v for k, v in table.items() if k not in ("name", *left)}


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


# -- checking -----------------------------------------------------------------------


def _tables(tables: dict[str, Any]) -> dict[str, Any]:
    """``tables`` itself, once each of them is known and a table."""
    known = [field.name for field in dataclasses.fields(RunConfig)]
    for table, values in tables.items():
        if table not in known:
            raise ConfigError(unknown("table", table, known))
        if not isinstance(values, dict):
            raise ConfigError(f"'{table}' is not a table; write [{table}]")
    return tables


def _resolved(tables: dict[str, Any]) -> RunConfig:
    tables = _tables(tables)
    config = RunConfig(
        data=to_dataclass(DataConfig, tables.get("data", {}), "data"),
        model=to_options(tables.get("model", {}), "model", MODELS),
        loss=to_options(tables.get("loss", {}), "loss", LOSSES),
        train=to_dataclass(TrainConfig, tables.get("train", {}), "train"),
    )
    if config.data.name not in DATASETS:
        raise ConfigError(unknown("data set", config.data.name, DATASETS))
    make_loss(config.loss, config.train)
    return config
