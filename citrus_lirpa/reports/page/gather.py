"""Reads what a page shows from a run folder; names what is missing, refuses what is damaged."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...data.datasets import class_names
from ...errors import CheckpointError, InputError, require
from ...imports import trust_option
from ...runs.folder import RunFolder
from ...runs.perturbations import PerturbationRecord
from ...training.epochs import read_epochs
from ...verify import EvaluationRecord
from .. import compare
from ..tables import exact_radius


@dataclass(frozen=True, eq=False)
class Material:
    """The files of one run, as values; each is None where the folder has no such file.

    Attributes:
        name: The name of the run, on the page.
        folder: Where the files are.
        config: Tables of config.toml.
        epochs: Lines of metrics.jsonl.
        record: The evaluation.
        run: What ``compare`` makes of it.
        found: The perturbations that the evaluation found.
        crafted: Those of ``citrus-lirpa attack``.
        missing: What is missing, and the command that makes it, each.
    """

    name: str
    folder: Path
    config: dict[str, Any] | None
    epochs: list[dict[str, Any]] | None
    record: EvaluationRecord | None
    run: compare.Run | None
    found: PerturbationRecord | None
    crafted: PerturbationRecord | None
    missing: tuple[tuple[str, str], ...]

    @property
    def data(self) -> str | None:
        """Name of the data set."""
        if self.record is not None:
            return self.record.data
        return None if self.config is None else self.config.get("data", {}).get("name")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; () where the data set is not known, or not there."""
        try:
            return class_names(self.data or "")
        except InputError:
            return ()


def gather(folder: Path, name: str, stage: str | None) -> Material:
    """Read the files of a run folder, or of one that ``eval`` made for an ONNX file.

    The evaluation is that by ``stage``; None for the strongest one. ``name`` is for the page.

    Raises:
        CheckpointError: It is no such folder, has no evaluation by the ``stage`` asked for, or
            holds a damaged file.
    """
    run_folder = RunFolder(folder)
    trained, evaluated = run_folder.config.is_file(), bool(run_folder.evaluated())
    compare.check_results(folder)
    missing: list[tuple[str, str]] = []
    config, epochs = _training(folder, missing) if trained else (None, None)
    if not trained:
        missing.append(("training: the network comes from elsewhere", ""))
    record = run = found = crafted = None
    if evaluated or stage is not None:
        record = compare.read_evaluation(folder, stage)
        _check_tables(record, folder)
        training = compare.training_method(folder) if trained else compare.ELSEWHERE
        seconds = None if epochs is None else sum(epoch["seconds"] for epoch in epochs)
        run = compare.run_of(name, training, seconds, record)
        network = network_arguments(folder, record, config)
        given = f"{network} {radius_argument(folder, record, config)}"
        found = _found(folder, record, given, missing)
        crafted = _crafted(folder, record, given, missing)
    else:
        missing.append(_not_evaluated(folder, config or {}))
    return Material(name, folder, config, epochs, record, run, found, crafted, tuple(missing))


def _not_evaluated(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """What is missing of a network without an evaluation, and the command that makes it."""
    name = shlex.quote(str(folder))
    if _value(config, "model", "name") == "denoiser":
        sigma = _value(config, "loss", "sigma")
        command = f"citrus-lirpa smooth RUN --sigma {sigma} --denoiser {name}"
        return "what it does in front of a network", command
    return "evaluation", f"citrus-lirpa eval {name}{_trust(config)}"


def _trust(config: Mapping[str, Any]) -> str:
    """The option that lets a command run the code that a run names."""
    return trust_option(_value(config, "model", "source"), _value(config, "data", "name"))


def _value(config: Mapping[str, Any], table: str, key: str) -> Any:
    """A value of a configuration, which may be of an earlier version; None where it has none."""
    values = config.get(table)
    return values.get(key) if isinstance(values, Mapping) else None


def _training(
    folder: Path, missing: list[tuple[str, str]]
) -> tuple[dict[str, Any], list[dict[str, Any]] | None]:
    """The configuration, and the epochs where they are there."""
    config = compare.read_config(folder)
    if not RunFolder(folder).metrics.is_file():
        command = f"citrus-lirpa train --resume {shlex.quote(str(folder))}{_trust(config)}"
        missing.append(("training curves", command))
        return config, None
    return config, [asdict(epoch) for epoch in read_epochs(folder)]


def _check_tables(record: EvaluationRecord, folder: Path) -> None:
    """Refuse a record that lacks what the page shows and ``compare`` does not read."""
    file = RunFolder(folder).evaluation(record.method).record
    for key in ("shares", "seconds", "groups"):
        command = f"citrus-lirpa eval {folder} --method {record.method}"
        missing = f"{file}: {key} is missing; evaluate with: {command}"
        require(getattr(record, key), missing, CheckpointError)


def network_arguments(
    folder: Path, record: EvaluationRecord, config: Mapping[str, Any] | None
) -> str:
    """Name the network of an evaluation as commands take it; ``config`` if it is in the folder."""
    if config is not None:
        return f"{shlex.quote(str(folder))}{_trust(config)}"
    words = [record.run or "FILE.onnx", "--dataset", record.data]
    options = f" {record.options}" if record.options else ""
    return f"{shlex.join(words)}{options} --out {shlex.quote(str(folder))}"


def radius_argument(
    folder: Path, record: EvaluationRecord, config: Mapping[str, Any] | None
) -> str:
    """Return ε and norm of an evaluation as ``eval`` and ``attack`` take them.

    They take the norm of the run's ``config`` unless another one is named.
    """
    norms = record.norm, _value(config or {}, "train", "norm")
    norm = "" if 2 not in norms else " --norm 2" if record.norm == 2 else " --norm inf"
    if record.eps_map is None:
        return f"--eps {exact_radius(record.eps)}{norm}"
    return f"--eps-map {shlex.quote(str(RunFolder(folder).eps_map(record.eps_map)))}{norm}"


def _found(
    folder: Path, record: EvaluationRecord, given: str, missing: list[tuple[str, str]]
) -> PerturbationRecord | None:
    """The evaluation's perturbations, where the file is there and of this evaluation."""
    file = RunFolder(folder).evaluation(record.method).paths["perturbations"]
    groups = -(-record.images // record.group_size)
    effect = PerturbationRecord.load(file) if file.is_file() else None
    if effect is None:
        lacking = f"the evaluation's perturbations and worst groups ({file.name})"
    else:
        fits = len(effect.labels) == record.images and bool((effect.groups < groups).all())
        if fits and _fits(effect, record):
            return effect
        lacking = f"perturbations of this evaluation: {file.name} is of another"
    arithmetic = f" --arithmetic {record.arithmetic}" if record.arithmetic else ""
    again = f"citrus-lirpa eval {given} --method {record.method}{arithmetic}"
    missing.append((lacking, again))
    return None


def _crafted(
    folder: Path, record: EvaluationRecord, given: str, missing: list[tuple[str, str]]
) -> PerturbationRecord | None:
    """The attack's perturbations, where they are of the evaluation's ε and clipping."""
    file = RunFolder(folder).attack().paths["effects"]
    lacking = "an attack with one perturbation for the whole data set"
    if file.is_file():
        effect = PerturbationRecord.load(file)
        if _fits(effect, record):
            return effect
        lacking = f"an attack of the evaluation's ε: {file.name} is of another"
    clip = " --clip" if record.clip else ""
    missing.append((lacking, f"citrus-lirpa attack {given}{clip}"))
    return None


def _fits(effect: PerturbationRecord, record: EvaluationRecord) -> bool:
    same_eps = abs(float(effect.eps.max()) - record.eps) < 1e-9
    same_map = effect.eps_map == record.eps_map and float(effect.norm) == (record.norm or math.inf)
    return same_eps and same_map and bool(effect.clip) == bool(record.clip)
