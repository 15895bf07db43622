"""Folders of runs: the name of every file, who may write there, and what has been done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import distributed
from ..bounds.checks import Scalar
from ..bounds.radius import map_hash
from ..errors import CheckpointError, InputError, OccupiedError, differences
from ..formats import atomic
from ..formats.locks import is_vacant, locked
from ..training import checkpoint, zoo
from ..training.config import RunConfig, resolve
from ..verify import STAGES
from ..verify.identity import identity_of, results_of
from ..verify.proof_files import identity_of_proofs
from ..verify.resume import is_saved, saved_identity
from .launch import Observer

CURVES_FILE = "curves.png"


@dataclass(frozen=True)
class RunFolder:
    """A folder that trainings, evaluations and attacks write to; it need not exist."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration, which is written first."""
        return self.path / checkpoint.CONFIG_FILE

    def eps_map(self, hashed: str) -> Path:
        """The map of ε with this hash, which an evaluation or attack was made with."""
        return self.path / f"eps-map-{hashed[:8]}.npy"

    def keep_eps_map(self, eps: Scalar) -> None:
        """Write a map of ε beside the results, for later commands; do nothing for a number."""
        if isinstance(eps, Tensor) and distributed.leads():
            file = self.eps_map(map_hash(eps))
            atomic.write_atomically(file, lambda out: np.save(out, eps.cpu().numpy()))

    @property
    def checkpoint(self) -> Path:
        """Weights and state of the training."""
        return self.path / checkpoint.FILE_NAME

    @property
    def metrics(self) -> Path:
        """A JSON line for each epoch."""
        return self.path / checkpoint.METRICS_FILE

    @property
    def curves(self) -> Path:
        """The picture of the epochs, which a training writes last."""
        return self.path / CURVES_FILE

    @property
    def report(self) -> Path:
        """The HTML page of the run."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What the commands of a sweep print, beside the folder."""
        return self.path.parent / "logs" / f"{self.path.name}.log"

    # -- training --

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Lock the folder for one training, and clear what killed ones left half-written.

        Of several processes of a job, the first holds the lock for all.
        """
        with _held(self.path, "train", (self.config, self.checkpoint, self.metrics, self.curves)):
            yield

    def begin(self, config: RunConfig) -> None:
        """Make the folder and write the configuration; OccupiedError if the folder is in use."""
        if not is_vacant(self.path):
            raise OccupiedError(
                f"{self.path} exists and is not empty; resume it with --resume, or choose "
                "another --out"
            )
        checkpoint.describe(self.path, config)

    def begun_config(self) -> RunConfig:
        """Read the configuration of a training that was begun, with or without a checkpoint.

        Raises:
            CheckpointError: If none was begun, or a file is damaged.
            ConfigError: If the configuration cannot be used.
        """
        if self.checkpoint.is_file():
            return checkpoint.load(self.path)[0]
        self.check_begun()
        return resolve(file=self.config)

    def check_begun(self) -> None:
        """Raise CheckpointError unless a training was begun in the folder."""
        if not self.config.is_file():
            named = zoo.is_name(self.path)
            why = "a network of the zoo" if named else f"it holds no {checkpoint.CONFIG_FILE}"
            raise CheckpointError(
                f"{self.path} is not a run folder: {why}; expected a folder that citrus-lirpa "
                "train made"
            )

    def is_begun(self, config: RunConfig, owner: str) -> bool:
        """Tell whether the training of a configuration was begun; False for an empty folder.

        ``owner`` says in the message whose configuration that is.

        Raises:
            OccupiedError: The folder holds something else.
        """
        if is_vacant(self.path):
            return False
        fix = "choose another --out, or remove the folder"
        try:
            found = RunConfig.from_toml(self.config.read_text("utf-8"), str(self.config))
        except (OSError, UnicodeDecodeError, InputError) as error:
            raise OccupiedError(f"{self.path} is not a run folder: {error}; {fix}") from error
        if found != config:
            raise OccupiedError(
                f"{self.path} is of another configuration than {owner} "
                f"({differences(asdict(found), asdict(config), most=4)}); {fix}"
            )
        return True

    def is_trained(self) -> bool:
        """Tell whether the training came to its end; False where its checkpoint is damaged."""
        try:
            return bool(checkpoint.load(self.path)[1].get("finished"))
        except CheckpointError:
            return False

    # -- evaluations and attacks --

    def evaluation(self, method: str) -> ResultFiles:
        """Name the files of the evaluation by ``method``."""
        return self._results(
            f"eval-{method}",
            results=f"eval-{method}.json",
            stages=f"stages-{method}.png",
            picture=f"uap-{method}.png",
            perturbations=f"uap-{method}.npz",
        )

    def evaluated(self) -> list[str]:
        """List the methods of the evaluations that came to their end, the weakest first."""
        return [method for method in STAGES if self.evaluation(method).record.is_file()]

    def attack(self) -> ResultFiles:
        """Name the files of the attack with universal perturbations."""
        return self._results(
            "uap", perturbation="uap.pt", results="uap.json", picture="uap.png", effects="uap.npz"
        )

    def smoothing(self, sigma: float, denoised: bool = False) -> ResultFiles:
        """Name the files of the certification under Gaussian noise."""
        name = f"smooth-{sigma:.10g}{'-denoised' if denoised else ''}"
        return self._results(name, results=f"{name}.json", curve=f"{name}.png")

    def _results(self, work: str, **names: str) -> ResultFiles:
        paths = {kind: self.path / name for kind, name in names.items()}
        return ResultFiles(self.path, work, paths)


@dataclass(frozen=True)
class ResultFiles:
    """The files of one evaluation or one attack in a folder.

    Attributes:
        folder: Where they are.
        work: Name of the lock and of the record.
        paths: The files by what they hold, as in the results of a command.
    """

    folder: Path
    work: str
    paths: Mapping[str, Path]

    @property
    def record(self) -> Path:
        """The figures, as JSON."""
        return self.paths["results"]

    @property
    def partial(self) -> Path:
        """Folder of the finished batches of an evaluation that has not come to its end."""
        return self.folder / f"{self.work}.partial"

    @property
    def proofs(self) -> Path:
        """Folder of the proofs of an evaluation."""
        return self.folder / self.work.replace("eval-", "proofs-", 1)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock these files, and clear what killed processes left half-written.

        Of several processes of a job, the first holds the lock for all.
        """
        with _held(self.folder, self.work, self.paths.values()):
            yield

    def finished(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Read the record of the work with these very settings, where it came to its end."""
        return None if is_saved(self.partial, settings) else results_of(self.record, settings)

    def set_aside_batches(self, settings: dict[str, Any], observer: Observer) -> None:
        """Keep the finished batches of other settings, which new ones would replace."""
        if not is_saved(self.partial, settings) and any(self.partial.glob("*.pt")):
            mine = saved_identity(self.partial)
            shared = mine == identity_of(self.record)  # whose proofs go with the results
            _set_aside(observer, self.partial, *([] if shared else self._proofs_of(mine)))

    def set_aside_results(self, settings: dict[str, Any], observer: Observer) -> None:
        """Keep the results of other settings, which nobody is to take for the new ones."""
        if results_of(self.record, settings) is None:
            proofs = self._proofs_of(identity_of(self.record))
            _set_aside(observer, *self.paths.values(), *proofs)

    def _proofs_of(self, identity: str | None) -> list[Path]:
        """Return the folder of proofs if it is of the evaluation with this identity."""
        mine = identity is not None and identity_of_proofs(self.proofs) == identity
        return [self.proofs] if mine else []

    def write_record(self, record: dict[str, Any]) -> None:
        """Write the figures."""
        atomic.write_json(self.record, record)

    def written(self) -> dict[str, str]:
        """List the files that there are."""
        return {kind: str(path) for kind, path in self.paths.items() if path.is_file()}


@dataclass(frozen=True)
class Outcome:
    """What an evaluation or an attack came to.

    Attributes:
        record: Its figures, as they are written.
        files: Where they are written.
        new: Whether this call computed them, rather than one before it.
    """

    record: dict[str, Any]
    files: ResultFiles
    new: bool = True


@contextlib.contextmanager
def _held(folder: Path, work: str, files: Iterable[Path]) -> Iterator[None]:
    """Hold the lock of some work, for all processes of a job, and clear half-written ``files``."""
    if not distributed.leads():
        yield
        return
    with locked(folder, work):
        atomic.remove_leftovers(folder, *(file.name for file in files))
        yield


def _set_aside(observer: Observer, *paths: Path) -> None:
    folder = atomic.set_aside(*paths)
    if folder is not None:
        observer.on_set_aside(folder)
