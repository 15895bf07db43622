"""The training loop.

``build`` seeds torch's global generator and ``fit`` draws from it, so that the two, called
one after the other, are a function of configuration and data alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import distributed
from ..attacks import kappa
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.precision import check_device, float32_products
from ..data.augmentation import augment, batches
from ..data.types import Split, check_split, divide
from ..errors import CheckpointError, InputError, NonFiniteLossError
from ..formats import atomic as files
from ..formats.records import Record
from ..losses import LossTerms
from ..optional import to_frame
from . import checkpoint
from .batchnorm import precise_batchnorm, running_statistics
from .config import RunConfig, TrainConfig
from .interrupts import interrupted_by, stop_requests
from .regularisers import l1_norm, shi_regulariser
from .resuming import restore_adam, restore_generator
from .schedules import ramp
from .setup import METRICS_FILE

if TYPE_CHECKING:
    from pandas import DataFrame

_SAVE_EVERY_SECONDS = 300.0
#: Perturbations of an epoch's last batch that are tried on all its inputs.
_KAPPA_PERTURBATIONS = 64


@dataclass
class History:
    """One record per epoch: means over the epoch of what the loss reports.

    Keys: epoch, step, eps (in pixels, at the end), lr, loss, accuracy and certified
    (shares of the training batches; certified: of the boxes bounded), regulariser, kappa
    (:func:`attacks.kappa` of the last batch and the perturbations found for it, within ε; the
    highest of its parts where processes share it), seconds. None stands for what the loss does
    not have.
    """

    records: list[dict[str, Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        if not self.records:
            return "History(no epochs)"
        last = self.records[-1]
        shares = [
            f"{key} {100 * last[key]:.2f} %"
            for key in ("accuracy", "certified")
            if last[key] is not None
        ]
        numbers = [f"ε = {last['eps']:.4g}", f"loss {last['loss']:.4g}", *shares]
        epochs = f"{len(self.records)} epoch{'' if len(self.records) == 1 else 's'}"
        return f"History({epochs}; the last: {', '.join(numbers)})"

    def to_frame(self) -> DataFrame:
        """A pandas frame with a row for each epoch and a column for each key; what the loss
        does not have is missing. Raises DependencyError without pandas."""
        keys = self.records[0] if self.records else {}
        return to_frame({key: [record.get(key) for record in self.records] for key in keys})


@dataclass
class _Progress:
    """Where a run stands: everything but weights, optimiser and random numbers."""

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def training_part(data: Split, config: RunConfig) -> Split:
    """The images to train on: those not held out, or the first ``data.limit`` of them."""
    part, _ = divide(data, config.data.held_out)
    limit = config.data.limit or len(part)
    return Split(part.images[:limit], part.labels[:limit])


def check_batches(loss: nn.Module, data: Split, config: RunConfig) -> None:
    """Refuse, before anything is trained or written, batches that cannot be made or paired."""
    size = config.train.batch_size
    if len(data) < size:
        raise InputError(
            f"train.batch_size is {size}, but there are only {len(data)} "
            "training images; use a smaller batch"
        )
    part = distributed.rank_slice(size, "train.batch_size")
    if callable(check := getattr(loss, "check_batch_size", None)):
        try:
            check(part.stop - part.start)
        except InputError as error:
            if distributed.size() == 1:
                raise
            raise InputError(
                f"train.batch_size is {size}, so each of {distributed.size()} processes takes "
                f"{part.stop - part.start} inputs a step: {error}"
            ) from error


def warm_start(net: BoundedNet, config: RunConfig) -> None:
    """Give ``net`` the weights of ``train.init_from``, if there is one."""
    if config.train.init_from:
        source = Path(config.train.init_from)
        weights = checkpoint.load(source)[1]["model"]
        checkpoint.restore(net.module, weights, source, "the network to be trained")


def fit(
    net: BoundedNet,
    loss: nn.Module,
    data: Split,
    config: RunConfig,
    *,
    folder: Path | None = None,
    progress: bool = False,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
) -> History:
    """Train ``net`` in place to the end of ``config``, resuming ``folder`` if it was begun.

    Saves a checkpoint after every epoch and every five minutes, and one JSON line of
    metrics an epoch. On the CPU a run that was interrupted and resumed ends with the
    very weights of one that was not. Raises Interrupted on Ctrl-C, and Terminated on
    SIGTERM, after saving, and NonFiniteLossError, keeping the last good checkpoint.
    ``on_epoch`` gets each record as it is made.

    Processes that came together (:mod:`.distributed`) share each batch: every one takes its
    rows, pairs inputs among them and has BatchNorm statistics of its own; gradients, running
    statistics and metrics are averaged every step. Where the loss is a mean over inputs and
    partners lie within the rows, and without BatchNorm, the weights are those of one process
    up to rounding. The first one alone writes and calls ``on_epoch``.
    """
    check_split(data)
    net = as_bounded_net(net)
    data = training_part(data, config)
    check_batches(loss, data, config)
    trainer = _Trainer(net, loss, data, config, folder)
    trainer.resume()
    distributed.copy_from_leader([*net.parameters(), *net.module.buffers()])
    with stop_requests() as stop, trainer.precision():
        trainer.run(stop, progress, on_epoch or (lambda record: None))
    return trainer.history


class _Trainer:
    """The state of one run and the steps that change it."""

    def __init__(
        self, net: BoundedNet, loss: nn.Module, data: Split, config: RunConfig, folder: Path | None
    ):
        self.net, self.loss = net, loss
        self.spec = checkpoint.data_spec(config)
        self.config, self.train, self.folder = config, config.train, folder
        self.weights = [p for p in net.parameters() if p.requires_grad]
        self.statistics = running_statistics(net.module)
        self.device = self.weights[0].device
        self.data = Split(data.images.to(self.device), data.labels.to(self.device))
        self.optimiser = torch.optim.Adam(self.weights, lr=self.train.lr, fused=True)
        self.per_epoch = len(data) // self.train.batch_size
        self.rows = distributed.rank_slice(self.train.batch_size, "train.batch_size")
        self.order: Tensor | None = None  # this epoch's batches
        self.at = _Progress()
        self.kappa: int | None = None
        self.history = History()
        self.finished = False

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Training's precision inside the block."""
        name = self.train.precision
        check_device(name, self.device)
        before = self.net.attack_dtype
        self.net.attack_dtype = None if name == "float32" else torch.bfloat16
        try:
            with float32_products(tf32=name == "tf32"):
                yield
        finally:
            self.net.attack_dtype = before

    # -- the loop --

    def run(
        self, stop: Callable[[], int], progress: bool, on_epoch: Callable[[dict[str, Any]], object]
    ) -> None:
        total = self.train.epochs * self.per_epoch
        self.net.train()
        saved = time.monotonic()
        bar = tqdm(
            total=total,
            initial=self.at.step,
            disable=not (progress and distributed.leads()),
            unit="step",
            desc=self.config.loss["name"],
            dynamic_ncols=True,
        )
        with bar:
            while self.at.step < total:
                begin = time.monotonic()
                self._step()
                self.at.seconds += time.monotonic() - begin
                bar.update()
                bar.set_postfix_str(self._summary(), refresh=False)
                ended = self.at.step % self.per_epoch == 0
                if ended:
                    record = self._end_epoch()
                    if distributed.leads():
                        on_epoch(record)
                (asked,) = distributed.highest(stop())
                if ended or asked or time.monotonic() - saved > _SAVE_EVERY_SECONDS:
                    self.save()
                    saved = time.monotonic()
                if asked:
                    raise interrupted_by(int(asked), self._resume_hint())
        if not self.finished:
            if self.train.precise_bn:
                precise_batchnorm(self.net, self.data, self.spec)
            self.finished = True
            self.save()

    def _step(self) -> None:
        epoch, batch = divmod(self.at.step, self.per_epoch)
        if batch == 0 or self.order is None:
            self.order = batches(
                len(self.data), self.train.batch_size, seed=self.train.seed, epoch=epoch
            )
        x, y = self._batch(self.order[batch])
        eps = self.train.max_eps * self._ramp()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.train, self.at.step / self.per_epoch)
        with distributed.shared_batch():
            terms = self.loss(self.net, x, y, eps)
            penalty = self._penalty(terms)
            self.optimiser.zero_grad(set_to_none=True)
            (terms.total + penalty).backward()
        distributed.average([p.grad for p in self.weights if p.grad is not None])
        distributed.average(self.statistics)
        norm = nn.utils.clip_grad_norm_(self.weights, self.train.grad_clip)
        values = distributed.means(_measure(terms, penalty, norm, y))
        self._check_finite(values["loss"] + values["regulariser"], "loss")
        self._check_finite(values.pop("gradient"), "gradient")
        self.optimiser.step()
        self.at.step += 1
        self._note(values)
        if self.at.step % self.per_epoch == 0:
            self.kappa = self._kappa(terms, x, y, eps)

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        # seeded by the step, so that a resumed run draws what the whole run draws
        generator = torch.Generator().manual_seed(self.train.seed * 1_000_003 + self.at.step)
        index = index.to(self.device)
        x = augment(self.data.pixels(index), self.spec, generator)  # as for one process
        return x[self.rows], self.data.labels[index[self.rows]]

    def _ramp(self) -> float:
        return ramp(
            self.train.schedule,
            self.at.step,
            batches=self.per_epoch,
            start=self.train.ramp_start,
            length=self.train.ramp_length,
        )

    def _penalty(self, terms: LossTerms) -> Tensor:
        penalty = terms.total.new_zeros(())
        weight = self.train.shi * (1 - self._ramp())
        if weight > 0:
            bounds = self.net.preactivation_intervals(terms.box)
            inputs = self.net.input_interval(terms.box)
            penalty = penalty + weight * shi_regulariser(inputs, bounds)
        if self.train.l1 > 0:
            penalty = penalty + self.train.l1 * l1_norm(self.weights)
        return penalty

    def _check_finite(self, value: float, what: str) -> None:
        if math.isfinite(value):
            return
        last = "no checkpoint was saved yet"
        if self.folder is not None and (self.folder / checkpoint.FILE_NAME).exists():
            last = f"the last good checkpoint is {self.folder / checkpoint.FILE_NAME}"
        raise NonFiniteLossError(
            f"the {what} became {value} at step {self.at.step} (epoch "
            f"{self.at.step // self.per_epoch + 1}); {last}; a lower train.lr, a longer "
            "train.ramp_length or a smaller train.eps usually helps"
        )

    # -- metrics --

    def _note(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            if math.isfinite(value):
                for name, more in ((key, value), (f"{key} count", 1.0)):
                    self.at.sums[name] = self.at.sums.get(name, 0.0) + more

    def _kappa(self, terms: LossTerms, x: Tensor, y: Tensor, eps: float) -> int | None:
        if terms.perturbations is None:
            return None
        v = terms.perturbations[:_KAPPA_PERTURBATIONS].clamp(-eps, eps)  # attacks may reach further
        own = kappa(self.net, x, y, v, getattr(self.loss, "clip", None))
        return int(distributed.highest(own)[0])

    def _means(self) -> dict[str, float | None]:
        sums = self.at.sums
        keys = ("loss", "regulariser", "accuracy", "certified")
        return {k: sums[k] / sums[f"{k} count"] if k in sums else None for k in keys}

    def _summary(self) -> str:
        means = self._means()
        certified = "-" if means["certified"] is None else f"{means['certified']:.1%}"
        return (
            f"epoch {math.ceil(self.at.step / self.per_epoch)}/{self.train.epochs} "
            f"ε {self.train.max_eps * self._ramp():.4f} loss {means['loss']:.3f} "
            f"clean {means['accuracy']:.1%} robust {certified}"
        )

    def _end_epoch(self) -> dict[str, Any]:
        epoch = self.at.step // self.per_epoch
        record = {
            "epoch": epoch,
            "step": self.at.step,
            "eps": self.train.max_eps * self._ramp(),
            "lr": self.optimiser.param_groups[0]["lr"],
            **self._means(),
            "kappa": self.kappa,
            "seconds": round(self.at.seconds, 3),
        }
        self.history.records.append(record)
        self.at.sums, self.at.seconds = {}, 0.0
        return record

    # -- saving and resuming --

    def save(self) -> None:
        if self.folder is None or not distributed.leads():
            return
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save(
            self.folder / checkpoint.FILE_NAME,
            self.config,
            {
                "model": self.net.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "loss": self.loss.state_dict(),
                "rng": rng,
                "step": self.at.step,
                "sums": self.at.sums,
                "seconds": self.at.seconds,
                "history": self.history.records,
                "finished": self.finished,
            },
        )
        lines = "".join(json.dumps(record) + "\n" for record in self.history.records)
        files.write_text(self.folder / METRICS_FILE, lines)

    def resume(self) -> None:
        """Continue from the folder's checkpoint, or begin with the weights of init_from."""
        if self.folder is None or not (self.folder / checkpoint.FILE_NAME).exists():
            warm_start(self.net, self.config)
            return
        begun, state = checkpoint.load(self.folder)
        name, wanted = begun.loss["name"], self.config.loss["name"]
        if name != wanted:
            raise CheckpointError(
                f"{self.folder} was begun with loss.name '{name}', not '{wanted}'"
            )
        checkpoint.restore(self.net.module, state["model"], self.folder)
        record = Record(self.folder / checkpoint.FILE_NAME, state, "train again")
        loss = record.entry("loss", expected="a table or {}")
        checkpoint.restore(self.loss, loss, self.folder, "the loss of the run")
        averages = record.entry("optimiser", "state", expected="a table or {}")
        restore_adam(self.optimiser, averages, self.folder)
        rng = record.entry("rng", expected="a table")
        restore_generator(torch.device("cpu"), rng.get("cpu"), self.folder)
        if self.device.type == "cuda" and "cuda" in rng:
            restore_generator(self.device, rng["cuda"], self.folder)
        self.at = _Progress(
            record.entry("step", expected="a whole number >= 0"),
            record.entry("sums", expected="a table of numbers"),
            record.entry("seconds", expected="a number >= 0"),
        )
        self.history.records = record.entry("history", expected="a list of epochs")
        self.finished = record.entry("finished", expected="true or false")

    def _resume_hint(self) -> str:
        epoch = -(-self.at.step // self.per_epoch)
        where = f"stopped in epoch {epoch} of {self.train.epochs}"
        if self.folder is None:
            return where
        folder = shlex.quote(str(self.folder))
        return f"{where}, saved; continue with: citrus-lirpa train --resume {folder}"


def _measure(terms: LossTerms, penalty: Tensor, norm: Tensor, y: Tensor) -> dict[str, float]:
    """What a step reports, in one transfer from the device; NaN where the loss has none."""
    values = {
        "loss": terms.total,
        "regulariser": penalty,
        "gradient": norm,
        "accuracy": (terms.logits.argmax(1) == y).float().mean(),
        "certified": terms.certified(),
    }
    stacked = torch.stack([value.detach().to(y.device, torch.float64) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


def learning_rate(train: TrainConfig, epochs_done: float) -> float:
    """lr times lr_factor for each milestone (in epochs) already passed."""
    return train.lr * train.lr_factor ** sum(epochs_done >= m for m in train.milestones)
