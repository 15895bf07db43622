"""The training loop.

``build`` seeds torch's global generator and ``fit`` draws from it, so that the two, called
one after the other, are a function of configuration and data alone.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import distributed
from ..bounds.checks import Scalar, check_labels, check_within, values_known
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.precision import check_device, float32_products
from ..data.arrays import as_split
from ..data.types import Split
from ..errors import NonFiniteLossError, require
from ..losses import LossTerms
from ..losses.base import Stage
from ..models import core_of
from . import checkpoint, zoo
from .batches import Batches, check_batches, training_part
from .batchnorm import precise_batchnorm, running_statistics
from .config import RunConfig
from .interrupts import interrupted_by, stop_requests
from .metrics import EpochMeans, FirstBadStep, History, broken_by_batch, measure
from .regularisers import l1_norm, shi_regulariser
from .schedules import ramp
from .setup import judged_radius
from .state import TrainingState
from .tables import TrainConfig
from .weights import fit_weights, is_foreign, read_weights

__all__ = ["History", "check_batches", "fit", "learning_rate", "training_part", "warm_start"]

#: Gets the record of each epoch.
OnEpoch = Callable[[dict[str, Any]], object]

SAVE_EVERY_SECONDS = 300.0
#: Between two checkpoints lies at least so many times the time that one takes.
SAVING_APART = 50
#: Seconds between two looks of the progress bar at the metrics, for which a GPU is waited.
_SHOW_EVERY_SECONDS = 1.0


def warm_start(net: BoundedNet, config: RunConfig) -> None:
    """Give ``net`` the weights of ``train.init_from``, if there is one.

    Raises:
        InputError: It does not exist, or its weights do not fit.
        CheckpointError: It holds no weights of this network.
    """
    if config.train.init_from:
        source = Path(config.train.init_from)
        require(source.exists() or zoo.is_name(source), f"{source} does not exist; expected a run, "
                "a checkpoint, weights or zoo:NAME")  # fmt: skip
        if is_foreign(source):
            fit_weights(core_of(net.module), read_weights(source), source)
            return
        weights = checkpoint.load(source)[1]["model"]
        checkpoint.restore(net.module, weights, source, "the network to be trained")


def fit(
    net: BoundedNet,
    loss: nn.Module,
    data: Any,
    config: RunConfig,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
    on_epoch: OnEpoch | None = None,
) -> History:
    """Train ``net`` in place to the end of ``config``, resuming ``folder`` if it was begun.

    It saves a JSON line of metrics for each epoch, and a checkpoint after every epoch and every
    five minutes; where epochs are so short that this would take more than 2 % of the time, several
    share one. On the CPU, a run that was interrupted and resumed ends with the very weights of one
    that was not.

    Processes that came together (:mod:`.distributed`) share each batch: each takes its rows,
    pairs inputs among them and has BatchNorm statistics of its own. Gradients, running
    statistics and metrics are averaged every step. Where the loss is a mean over inputs and
    partners lie within the rows, and without BatchNorm, the weights are those of one process up
    to rounding. Only the first process writes and calls ``on_epoch``.

    Args:
        net: The network.
        loss: ``loss(net, x, y, eps)`` returns :class:`LossTerms`.
        data: Images of the training set: a Split, (images, labels) as arrays or tensors, a Dataset
            or a DataLoader; see :func:`~citrus_lirpa.data.as_split`.
        config: The configuration of the training.
        folder: The run folder to save to and to resume from; None to save nothing.
        progress: Show a progress bar.
        on_epoch: Function that gets the record of each epoch when it ends.

    Returns:
        The record of each epoch.

    Raises:
        InputError: The data or the batches cannot be used, or ``folder`` would name another
            network than this one.
        CheckpointError: ``folder`` holds something else than this training.
        Interrupted: Ctrl-C stopped the training, or, as Terminated, SIGTERM; it was saved.
        NonFiniteLossError: The loss or its gradient became infinite or NaN; the last good
            checkpoint is kept.
    """
    net = as_bounded_net(net)
    data = training_part(as_split(data), config)
    if folder is not None:
        folder = Path(folder)
        _check_described(net, config)
    check_batches(loss, data, config)
    if net.parameters()[0].is_cuda:
        _check_values(net, loss, data)
    trainer = _Trainer(net, loss, data, config, folder)
    trainer.resume()
    distributed.copy_from_leader([*net.parameters(), *net.module.buffers()])
    with stop_requests() as stop, _precision(net, config.train.precision):
        trainer.run(stop, progress, on_epoch or (lambda record: None))
    return trainer.state.history


def _check_values(net: BoundedNet, loss: nn.Module, data: Split) -> None:
    """Check once what steps on a GPU do not look at: labels, and pixels that are no bytes."""
    check_labels(data.labels, net.classes)
    if data.images.is_floating_point():
        finite = bool(data.images.isfinite().all())
        require(finite, "images hold NaN or infinite values; expected finite inputs")
        check_within(data.images, getattr(loss, "clip", None))


def _check_described(net: BoundedNet, config: RunConfig) -> None:
    """Refuse a network that later commands would not make of the configuration in the folder."""
    with torch.random.fork_rng(devices=[]):
        described = checkpoint.make_model(config)[0].state_dict()
    mine = net.module.state_dict()
    same = described.keys() == mine.keys() and all(
        described[name].shape == weight.shape for name, weight in mine.items()
    )
    require(
        same,
        f"the network is not the model '{config.model['name']}' of its configuration, by which "
        "later commands find it; name it there: config.named(config.resolve(..., "
        "overrides=['model.name=own', 'model.source=FILE.py:NAME']))",
    )


class _Trainer:
    """One run: its state, and the steps that change it."""

    def __init__(
        self, net: BoundedNet, loss: nn.Module, data: Split, config: RunConfig, folder: Path | None
    ):
        self.net, self.loss = net, loss
        self.config, self.train, self.folder = config, config.train, folder
        self.weights = [p for p in net.parameters() if p.requires_grad]
        self.statistics = running_statistics(net.module)
        self.batches = Batches(data, config, self.weights[0].device)
        optimiser: Any = torch.optim.Adam(self.weights, lr=self.train.lr, fused=True)
        self.state = TrainingState(net, loss, optimiser)
        self.first_bad = FirstBadStep(self.state.device)
        optimiser.found_inf = self.first_bad.found
        self.kappa: int | None = None
        self.share: Scalar = 1.0
        if self.train.eps_map:
            radius = torch.as_tensor(judged_radius(config))
            self.share = (radius / radius.max().clamp(min=1e-12)).to(self.weights[0])
        self._saved, self._saving = time.monotonic(), 0.0
        self._shown = 0.0

    def run(self, stop: Callable[[], int], progress: bool, on_epoch: OnEpoch) -> None:
        """Make the steps that are left, then the precise statistics of BatchNorm."""
        self.net.train()
        with self._bar(progress) as bar:
            while self.state.step < self.train.epochs * self.batches.an_epoch:
                begin = time.monotonic()
                with values_known():
                    self._step()
                self.state.epoch.seconds += time.monotonic() - begin
                self._show(bar)
                if ended := self._epoch_ended():
                    record = self._end_epoch()
                    if distributed.leads():
                        on_epoch(record)
                    if self.folder is not None and distributed.leads():
                        self.state.save_metrics(self.folder)
                (asked,) = distributed.highest(stop())
                if asked or self._is_time_to_save(ended):
                    self._save()
                if asked:
                    raise interrupted_by(int(asked), self._resume_hint())
        if not self.state.finished:
            if self.train.precise_bn:
                precise_batchnorm(self.net, self.batches.data, self.batches.spec)
            self.state.finished = True
            self._save()

    def _step(self) -> None:
        x, y = self.batches[self.state.step]
        eps, stage = self.share * self._eps(), self._stage()
        rate = learning_rate(self.train, self.state.step / self.batches.an_epoch)
        for group in self.state.optimiser.param_groups:
            group["lr"] = rate * stage.rate
        with distributed.shared_batch():
            terms = self.loss(self.net, x, y, eps)
            penalty = self._penalty(terms, stage)
            self.state.optimiser.zero_grad(set_to_none=True)
            (terms.total + penalty).backward()
        self._average_over_processes()
        norm = nn.utils.clip_grad_norm_(self.weights, self.train.grad_clip)
        measured = measure(terms, penalty, norm, y, bounded=self._eps() > 0)
        self.first_bad.look(self.state.step, measured)
        if not measured.is_cuda:  # a GPU would be waited for: the epoch's end and saving ask it
            self._check_finite()
        self.state.optimiser.step()
        self.state.step += 1
        self.state.epoch.add(measured)
        if self._epoch_ended():
            self._check_finite()
            self._count_broken(terms, x, y, eps)

    def _stage(self) -> Stage:
        """Tell the loss, unless it is a module of the user's that has no stages, how far it is."""
        begin = getattr(self.loss, "begin_step", None)
        total = self.train.epochs * self.batches.an_epoch
        return begin(self.net, self.state.step / total) if callable(begin) else Stage()

    def _count_broken(self, terms: LossTerms, x: Tensor, y: Tensor, eps: Scalar) -> None:
        """Count the inputs that one perturbation breaks, and tell the loss at an epoch's end."""
        clip = getattr(self.loss, "clip", None)
        broken = broken_by_batch(self.net, terms, x, y, eps, clip, self.train.norm)
        if broken is None:
            self.kappa = None
            return
        self.kappa = int(distributed.highest(int(broken.sum(dim=1).max()))[0])
        end = getattr(self.loss, "end_epoch", None)
        if callable(end):
            end(broken)

    def _penalty(self, terms: LossTerms, stage: Stage) -> Tensor:
        penalty = terms.total.new_zeros(())
        weight = self.train.shi * (1 - self._ramp())
        if weight > 0:
            bounds = terms.bounds or self.net.bound_unchecked(terms.box)
            penalty = penalty + weight * shi_regulariser(bounds.inputs, bounds.preactivations)
        if self.train.l1 > 0:
            frozen = {id(weight) for weight in stage.frozen}
            trained = [weight for weight in self.weights if id(weight) not in frozen]
            penalty = penalty + self.train.l1 * l1_norm(trained)
        return penalty

    def _average_over_processes(self) -> None:
        distributed.average([p.grad for p in self.weights if p.grad is not None])
        distributed.average(self.statistics)

    def _check_finite(self) -> None:
        bad = self.first_bad.read()
        if bad is None:
            return
        step, what, value = bad
        last = "no checkpoint was saved yet"
        if self.folder is not None and (self.folder / checkpoint.FILE_NAME).exists():
            last = f"the last good checkpoint is {self.folder / checkpoint.FILE_NAME}"
        raise NonFiniteLossError(
            f"the {what} became {value} at step {step} (epoch "
            f"{step // self.batches.an_epoch + 1}); {last}; a lower train.lr, a longer "
            "train.ramp_length or a smaller train.eps usually helps"
        )

    def _epoch_ended(self) -> bool:
        return self.state.step % self.batches.an_epoch == 0

    def _ramp(self) -> float:
        return ramp(
            self.train.schedule,
            self.state.step,
            batches=self.batches.an_epoch,
            start=self.train.ramp_start,
            length=self.train.ramp_length,
        )

    def _eps(self) -> float:
        return self.train.max_eps * self._ramp()

    # -- what it reports and saves --

    def _end_epoch(self) -> dict[str, Any]:
        record = {
            "epoch": self.state.step // self.batches.an_epoch,
            "step": self.state.step,
            "eps": self._eps(),
            "lr": self.state.optimiser.param_groups[0]["lr"],
            **self.state.epoch.means(),
            "kappa": self.kappa,
            "seconds": round(self.state.epoch.seconds, 3),
        }
        self.state.history.records.append(record)
        self.state.epoch = EpochMeans(self.state.device)
        return record

    def _bar(self, progress: bool) -> tqdm:
        return tqdm(
            total=self.train.epochs * self.batches.an_epoch,
            initial=self.state.step,
            disable=not (progress and distributed.leads()),
            unit="step",
            desc=self.config.loss["name"],
            dynamic_ncols=True,
        )

    def _show(self, bar: tqdm) -> None:
        bar.update()
        now = time.monotonic()
        if not bar.disable and now - self._shown > _SHOW_EVERY_SECONDS:
            bar.set_postfix_str(self._summary(), refresh=False)
            self._shown = now

    def _summary(self) -> str:
        epoch = math.ceil(self.state.step / self.batches.an_epoch)
        return f"epoch {epoch}/{self.train.epochs} ε {self._eps():.4f} {self.state.epoch}"

    def _resume_hint(self) -> str:
        epoch = math.ceil(self.state.step / self.batches.an_epoch)
        where = f"stopped in epoch {epoch} of {self.train.epochs}"
        if self.folder is None:
            return where
        folder = shlex.quote(str(self.folder))
        return f"{where}, saved; continue with: citrus-lirpa train --resume {folder}"

    def _is_time_to_save(self, epoch_ended: bool) -> bool:
        since = time.monotonic() - self._saved
        enough = since >= SAVING_APART * self._saving
        return since > SAVE_EVERY_SECONDS or (epoch_ended and enough)

    def _save(self) -> None:
        self._check_finite()
        if self.folder is not None and distributed.leads():
            begin = time.monotonic()
            self.state.save(self.folder, self.config)
            self._saved = time.monotonic()
            self._saving = self._saved - begin

    def resume(self) -> None:
        """Continue from the folder's checkpoint, or begin with the weights of init_from."""
        if self.folder is not None and (self.folder / checkpoint.FILE_NAME).exists():
            self.state.restore(self.folder, self.config)
        else:
            warm_start(self.net, self.config)


@contextlib.contextmanager
def _precision(net: BoundedNet, name: str) -> Iterator[None]:
    """Compute in the precision ``name`` inside the block."""
    check_device(name, net.parameters()[0].device)
    before = net.attack_dtype
    net.attack_dtype = None if name == "float32" else torch.bfloat16
    try:
        with float32_products(tf32=name == "tf32"):
            yield
    finally:
        net.attack_dtype = before


def learning_rate(train: TrainConfig, epochs_done: float) -> float:
    """Return lr times lr_factor for each milestone (in epochs) that is passed already."""
    return train.lr * train.lr_factor ** sum(epochs_done >= m for m in train.milestones)
