"""Trained and evaluated runs side by side: what their files say."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..bounds.arithmetic import arithmetic_words
from ..bounds.checks import check_name
from ..errors import CheckpointError, InputError
from ..formats import schema
from ..formats.onnx import SUFFIX
from ..formats.schema import Count, Word
from ..losses import TRAINING_METHODS
from ..runs.folder import RunFolder
from ..runs.networks import results_folder
from ..training import checkpoint, zoo
from ..training.epochs import read_epochs
from ..training.toml import parse_toml
from ..training.weights import SUFFIXES
from ..verify import STAGES, EvaluationRecord, fingerprint
from .tables import clipping, count_images, radius

#: The training method, and its source, of a network that is judged without its training.
ELSEWHERE = ("-", "-")
_RESTORE = "restore the file, or train again"


@dataclass(frozen=True)
class Setting:
    """What two evaluations must share for their figures to be comparable.

    Attributes:
        data: Name of the data set.
        eps: Radius evaluated, in pixels.
        images: Number of images, the first ones of the test set or of those held out.
        group_size: Consecutive images that share a perturbation.
        clip: Range that perturbed images are cut to, or None.
        held_out: Whether the images are those held out from training.
        eps_map: SHA-256 of the map of ε, whose largest value ``eps`` is then.
        norm: The norm of ε; None for inf.
        arithmetic: That certificates hold in; None for real numbers.
    """

    data: str
    eps: float
    images: int
    group_size: int
    clip: tuple[float, float] | None
    held_out: bool = False
    eps_map: str | None = None
    norm: float | None = None
    arithmetic: str | None = None

    def __str__(self) -> str:
        images = count_images(self.images, "held-out" if self.held_out else "test")
        return (
            f"{self.data}, ε = {radius(self.eps, self.eps_map, self.norm)}, {images}, "
            f"groups of {self.group_size}, {clipping(self.clip)}{arithmetic_words(self.arithmetic)}"
        )


@dataclass(frozen=True)
class Run:
    """One trained network with one evaluation of it; accuracies are shares of all images.

    Attributes:
        run: Path of the run below the folder that all runs have in common.
        method: Name of the training method in papers.
        source: The paper that the method is from, or "-".
        setting: What was evaluated.
        standard_accuracy: Without a perturbation.
        certified_accuracy: Of single images, by the last stage tried, ``stage``.
        certified_uap_accuracy: Proved lower bound on the UAP accuracy of groups (UCert).
        attacked_uap_accuracy: Upper bound, by attacks.
        training_seconds: Time of the training; None where it is not known.
        stage: Last stage tried on single images.
        relational: Group stage of the evaluation.
        time_limit: Seconds of the evaluation for each group.
        seed: The seed of the training; None where it is not known.
        recipe: The configuration of the training but for the seed; empty where it is not known.
    """

    run: str
    method: str
    source: str
    setting: Setting
    standard_accuracy: float
    certified_accuracy: float
    certified_uap_accuracy: float
    attacked_uap_accuracy: float
    training_seconds: float | None
    stage: str
    relational: str
    time_limit: float
    seed: int | None = None
    recipe: str = field(default="", repr=False)


# -- reading --------------------------------------------------------------------------


def check_results(folder: Path) -> None:
    """Raise CheckpointError unless it is a run folder, or one that ``eval`` made for a file."""
    run_folder = RunFolder(folder)
    if run_folder.config.is_file() or run_folder.evaluated():
        return
    made = "expected a folder that citrus-lirpa train or eval made"
    neither = f"it holds neither {checkpoint.CONFIG_FILE} nor eval-METHOD.json"
    why = f"is not a run folder: {neither}; {made}"
    if zoo.is_name(folder) or folder.suffix.lower() in (SUFFIX, *SUFFIXES):
        why = (
            "is a network, not its results; evaluate it with citrus-lirpa eval, then give "
            f"{results_folder(folder)}"
        )
    elif not folder.is_dir():
        why = f"does not exist or is no folder; {made}"
    raise CheckpointError(f"{folder} {why}")


def read_runs(folders: Sequence[str | Path], stage: str | None = None) -> list[Run]:
    """Read runs, each with its evaluation by ``stage``, or by the strongest stage it has.

    Args:
        folders: Run folders, or those that ``eval`` made for networks from elsewhere.
        stage: Last stage tried on single images; None for the strongest.

    Returns:
        The runs, in the order of the folders.

    Raises:
        InputError: ``stage`` is unknown, or the same run is given twice.
        CheckpointError: A folder is no run, has no such evaluation, or a file is damaged.
    """
    if stage is not None:
        check_name(stage, "method", STAGES)
    if isinstance(folders, (str, os.PathLike)):
        raise InputError(f"folders is '{folders}'; expected a list of run folders")
    paths = [Path(folder) for folder in folders]
    names = short_names(paths)
    return [_read_run(*run, stage) for run in zip(paths, names, strict=True)]


def short_names(folders: Sequence[Path]) -> list[str]:
    """Shorten each folder to its path below what all have in common.

    Raises:
        InputError: A folder is given twice.
    """
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError(f"{folder} is given twice; name each run once")
        seen.add(folder.resolve())
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).as_posix() for path in paths]


def _read_run(folder: Path, name: str, stage: str | None) -> Run:
    trained = RunFolder(folder).config.is_file()
    check_results(folder)
    record = read_evaluation(folder, stage)
    if not trained:
        return run_of(name, ELSEWHERE, None, record)
    run = run_of(name, training_method(folder), training_seconds(folder), record)
    tables = read_config(folder)
    seed = _training(folder, tables).train.seed
    tables.get("train", {}).pop("seed", None)
    return replace(run, seed=seed, recipe=json.dumps(tables, sort_keys=True, default=str))


def run_of(
    name: str, training: tuple[str, str], seconds: float | None, record: EvaluationRecord
) -> Run:
    """Make a run of the record of its evaluation; ``training`` is its method, and the source."""
    return Run(
        run=name,
        method=training[0],
        source=training[1],
        setting=Setting(**{f.name: getattr(record, f.name) for f in fields(Setting)}),
        standard_accuracy=record.standard_accuracy,
        certified_accuracy=record.certified_accuracy[record.strongest_stage],
        certified_uap_accuracy=record.uap_accuracy.certified,
        attacked_uap_accuracy=record.uap_accuracy.attacked,
        training_seconds=seconds,
        stage=record.method,
        relational=record.relational,
        time_limit=record.time_limit,
    )


@dataclass(frozen=True)
class _Loss:
    name: Word
    method: Word = "ibp"


@dataclass(frozen=True)
class _Seed:
    seed: Count = 0


@dataclass(frozen=True)
class _Training:
    loss: _Loss
    train: _Seed = _Seed()


def training_method(folder: Path) -> tuple[str, str]:
    """Return the name in papers, and the source, of the training of a run folder."""
    tables = read_config(folder)
    _training(folder, tables)
    return name_in_papers(tables["loss"])


def _training(folder: Path, tables: dict[str, Any]) -> _Training:
    return schema.read(_Training, tables, RunFolder(folder).config, _RESTORE)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the tables of the configuration of a run folder."""
    file = RunFolder(folder).config
    text = schema.read_text(file, _RESTORE)
    return schema.parse(text, lambda text: parse_toml(text, "it"), file, _RESTORE)


def name_in_papers(loss: Mapping[str, Any]) -> tuple[str, str]:
    """Name and source of a [loss] table; plain certified training is named after its bounds."""
    name = loss.get("method", "ibp") if loss["name"] == "ibp" else loss["name"]
    if name == "citrus":
        own = "+SI" if loss.get("include_self") is True else ""
        joint = f", k = {loss['k'] or 'κ'}" if loss.get("k", 2) != 2 else ""
        return f"CITRUS{own}{joint}", TRAINING_METHODS[name].source
    known = TRAINING_METHODS.get(name)
    return (name, "-") if known is None else (known.title, known.source)


def training_seconds(folder: Path) -> float:
    """Return the time of a training."""
    return sum(epoch.seconds for epoch in read_epochs(folder))


def read_evaluation(folder: Path, stage: str | None) -> EvaluationRecord:
    """Read the evaluation by ``stage``, or else by the strongest stage in the folder.

    Raises:
        CheckpointError: There is none, it cannot be read, or is of other weights than the run's.
    """
    found = RunFolder(folder).evaluated()
    chosen = stage or (found[-1] if found else None)
    option = f" --method {chosen}" if chosen else ""
    remedy = f"evaluate with: citrus-lirpa eval {folder}{option}"
    if chosen not in found:
        missing = f"evaluation by {chosen}" if found else "evaluation"
        there = f"only by {', '.join(found)}" if found else "no eval-METHOD.json"
        raise CheckpointError(f"{folder} has no {missing}, {there}; {remedy}")
    file = RunFolder(folder).evaluation(chosen).record
    record = EvaluationRecord.load(file, remedy)
    if record.weights is not None and record.weights != _fingerprint(folder, record.weights):
        raise CheckpointError(
            f"{file} is of other weights than {RunFolder(folder).checkpoint} holds now, as where a "
            f"training went on; {remedy}"
        )
    return record


def _fingerprint(folder: Path, otherwise: str) -> str:
    """Return that of the run's network; ``otherwise`` where it is not here, or made by code."""
    if not RunFolder(folder).checkpoint.is_file():
        return otherwise
    config, state = checkpoint.load(folder)
    try:
        return fingerprint(checkpoint.restored(config, state, folder)[0])
    except InputError:  # code that the user has not named, or data that is not here
        return otherwise


# -- comparing ------------------------------------------------------------------------


def by_setting(runs: Sequence[Run]) -> dict[Setting, list[Run]]:
    """Sort runs into their settings, highest UCert first."""
    settings = sorted({run.setting for run in runs}, key=lambda s: (s.data, s.eps, str(s)))
    best = sorted(runs, key=lambda r: (-r.certified_uap_accuracy, -r.standard_accuracy, r.run))
    return {setting: [run for run in best if run.setting == setting] for setting in settings}


def pareto_front(runs: Sequence[Run]) -> list[Run]:
    """Find the runs that no other beats in one accuracy without losing in the other.

    The accuracies are standard accuracy and UCert. The lowest standard accuracy comes first.
    """

    def beats(a: Run, b: Run) -> bool:
        x = (a.standard_accuracy, a.certified_uap_accuracy)
        y = (b.standard_accuracy, b.certified_uap_accuracy)
        return x != y and x[0] >= y[0] and x[1] >= y[1]

    front = [run for run in runs if not any(beats(other, run) for other in runs)]
    return sorted(front, key=lambda run: run.standard_accuracy)


def differences(runs: Sequence[Run]) -> str | None:
    """Say in one line how the evaluations of one setting differ; None where they do not."""
    parts = []
    for key, label in (
        ("stage", "method"),
        ("relational", "group stage"),
        ("time_limit", "seconds a group"),
    ):
        values = {run.run: getattr(run, key) for run in runs}
        usual, count = Counter(values.values()).most_common(1)[0]
        others = [f"{value} for {name}" for name, value in values.items() if value != usual]
        if count < len(runs):
            parts.append(f"{label} is {usual}, but {', '.join(others)}")
    return f"not evaluated alike: {'; '.join(parts)}" if parts else None
