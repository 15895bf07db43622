"""The runs of a sweep on disk: what is done, what is left to do, and by which command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import data
from ..bounds.checks import Scalar
from ..errors import CheckpointError, require
from ..training import checkpoint
from ..training.batches import check_batches, training_part
from ..training.config import make_loss
from ..training.setup import judged_radius
from ..verify import EvaluationRecord, Protocol, fingerprint
from .folder import ResultFiles, RunFolder
from .jobs import Job, Step
from .sweep import Run

PROGRAM = (sys.executable, "-m", "citrus_lirpa")


@dataclass(frozen=True)
class Source:
    """Where data sets are read, and whether they may be downloaded."""

    data_dir: Path
    download: bool


@dataclass(frozen=True)
class Work:
    """A run of a sweep, its folder, and how it is evaluated.

    Attributes:
        run: The run.
        folder: Its run folder.
        protocol: How it is evaluated.
        eval_arguments: ``protocol`` as arguments of ``citrus-lirpa eval``.
        shared: Arguments of both ``train`` and ``eval``.
        source: Where the data is.
    """

    run: Run
    folder: Path
    protocol: Protocol
    eval_arguments: tuple[str, ...]
    shared: tuple[str, ...]
    source: Source

    def job(self) -> Job:
        """Return the run as a job that continues from what its folder holds."""
        return Job(self.run.name, self._place.log, lambda: next(iter(self.pending()), None))

    def pending(self) -> list[Step]:
        """Return the steps that the folder says are left."""
        steps = []
        trained = self._place.is_trained()
        if not trained or not self._place.curves.is_file():  # which a training writes last
            steps.append(Step("trained", (*PROGRAM, "train", *self._train_arguments())))
        if not trained or not self._evaluated():
            steps.append(Step("evaluated", (*PROGRAM, "eval", *self._eval_arguments())))
        return steps

    def check_folder(self) -> None:
        """Raise CheckpointError where the folder holds something else than this run."""
        self._place.is_begun(self.run.config, f"{self.run.name} of this sweep")

    def check_images(self) -> None:
        """Raise InputError where the images cannot be evaluated as ``protocol`` says."""
        require(
            self.run.config.data.held_out or not self.protocol.held_out,
            '[eval] says held-out, but data.held_out is 0; set "data.held_out" = 5000, say, '
            "under [set]",
        )
        self.protocol.images(self._available())

    def _train_arguments(self) -> list[str]:
        if self._place.config.is_file():
            return ["--resume", str(self.folder), *self.shared]
        return [*self.run.arguments(), "--out", str(self.folder), *self.shared]

    def _eval_arguments(self) -> list[str]:
        resume = ["--resume"] if self._begun() else []
        return [str(self.folder), *self.eval_arguments, *resume, *self.shared]

    def _evaluated(self) -> bool:
        """Return whether there are results of this evaluation, and no unfinished one."""
        try:
            record = EvaluationRecord.load(self._files.record, "")
        except CheckpointError:  # absent or damaged: it is evaluated again
            return False
        settings = self._settings | {"images": self.protocol.images(self._available())}
        del settings["limit"]  # which a record has as its number of images
        same = all(getattr(record, key) == value for key, value in settings.items())
        return same and not record.imported and self._is_of(record.weights) and not self._begun()

    def _begun(self) -> bool:
        """Return whether this evaluation was begun and is to be continued."""
        try:
            found = dict(json.loads((self._files.partial / "settings.json").read_text("utf-8")))
        except (OSError, TypeError, ValueError):
            return False
        settings = json.loads(json.dumps(self._settings))
        same = all(found.get(key) == value for key, value in settings.items())
        return same and not found.get("imported") and self._is_of(found.get("weights"))

    @property
    def _settings(self) -> dict[str, Any]:
        """The protocol as plain values, which say where there is no map of ε."""
        return {"eps_map": None, "norm": None, **self.protocol.settings()}

    @property
    def _place(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def _files(self) -> ResultFiles:
        return self._place.evaluation(self.protocol.method)

    def _is_of(self, weights: str | None) -> bool:
        """Return whether ``weights`` identify the network as it is trained now."""
        try:
            model, _, _ = checkpoint.load_model(self.folder)
        except CheckpointError:  # absent or damaged: it is trained again
            return False
        return weights == fingerprint(model)

    def _available(self) -> int:
        """Return the number of images that can be evaluated."""
        config = self.run.config
        if self.protocol.held_out:
            return config.data.held_out
        return _test_images(config.data.name, self.source)


def plan(
    runs: Iterable[Run],
    out: Path,
    *,
    protocol: Callable[[Scalar, float], Protocol],
    eval_arguments: Iterable[str],
    shared: Iterable[str],
    source: Source,
) -> list[Work]:
    """Plan a sweep, and check it as far as that needs no data.

    Args:
        runs: The runs.
        out: The folder of their run folders.
        protocol: How a run of this radius and norm is evaluated.
        eval_arguments: ``protocol`` as arguments of ``citrus-lirpa eval``.
        shared: Arguments of both ``train`` and ``eval``.
        source: Where the data is.

    Raises:
        InputError: A model does not fit its data, or a setting is not usable.
        CheckpointError: A folder holds something else than its run.
    """
    works, models = [], []
    for run in runs:
        how = protocol(judged_radius(run.config), run.config.train.norm)
        work = Work(run, out / run.name, how, tuple(eval_arguments), tuple(shared), source)
        work.check_folder()
        if (run.config.data, run.config.model) not in models:
            models.append((run.config.data, run.config.model))
            checkpoint.make_model(run.config)
        works.append(work)
    return works


def check_data(works: Iterable[Work]) -> None:
    """Read each data set once, downloaded where it is missing, and check that it makes batches.

    Raises:
        DataError: A data set is not usable.
        InputError: Batches or groups of the wanted size cannot be made.
    """
    works = list(works)
    for name in dict.fromkeys(work.run.config.data.name for work in works):
        of_name = [work for work in works if work.run.config.data.name == name]
        source = of_name[0].source
        images = data.load(name, train=True, data_dir=source.data_dir, download=source.download)
        for work in of_name:
            config = work.run.config
            loss = make_loss(config.loss, config.train)
            check_batches(loss, training_part(images, config), config)
            work.check_images()


@lru_cache
def _test_images(name: str, source: Source) -> int:
    return len(data.load(name, train=False, data_dir=source.data_dir, download=source.download))
