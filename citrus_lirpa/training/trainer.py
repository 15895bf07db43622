"""One training: its state, the steps that change it, and when it is saved."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import distributed
from ..bounds.box import Ball
from ..bounds.checks import Scalar, is_positive, values_known
from ..bounds.net import BoundedNet
from ..data.types import Split
from ..errors import NonFiniteLossError
from ..losses import LossTerms
from ..losses.base import Stage
from . import checkpoint
from .batches import Batches
from .batchnorm import precise_batchnorm, running_statistics
from .config import RunConfig
from .graphed import GraphedSteps, Inputs, Outputs
from .interrupts import interrupted_by
from .metrics import EpochMeans, FirstBadStep, broken_by_batch, measure
from .regularisers import l1_norm, shi_regulariser
from .schedules import ramp
from .setup import judged_radius
from .state import TrainingState
from .tables import TrainConfig

#: Gets the record of each epoch.
OnEpoch = Callable[[dict[str, Any]], object]

SAVE_EVERY_SECONDS = 300.0
#: Between two checkpoints lies at least so many times the time that one takes.
SAVING_APART = 50
#: Seconds between two looks of the progress bar at the metrics, for which a GPU is waited.
_SHOW_EVERY_SECONDS = 1.0


class Trainer:
    """One run: its state, and the steps that change it.

    Args:
        net: The network, whose weights that require gradients are trained.
        loss: The training method.
        data: The images to train on.
        config: The configuration.
        folder: Receives what is written of the run; None for nothing.
    """

    def __init__(
        self, net: BoundedNet, loss: nn.Module, data: Split, config: RunConfig, folder: Path | None
    ):
        self.net, self.loss = net, loss
        self.config, self.train, self.folder = config, config.train, folder
        self.weights = [p for p in net.parameters() if p.requires_grad]
        self.statistics = running_statistics(net.module)
        self.batches = Batches(data, config, self.weights[0].device)
        self._rate, cuda = self.train.lr, self.weights[0].is_cuda
        rate = torch.tensor(self._rate, device=self.weights[0].device) if cuda else self._rate
        optimiser: Any = torch.optim.Adam(self.weights, lr=rate, fused=True, capturable=cuda)
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
        graphed = cuda and self.train.graph and distributed.size() == 1
        self._graphed = GraphedSteps(self._change, net) if graphed else None

    def run(self, stop: Callable[[], int], progress: bool, on_epoch: OnEpoch) -> None:
        """Make the steps that are left, then the precise statistics of BatchNorm."""
        self.net.train()
        stream = self._graphed.own_stream() if self._graphed else contextlib.nullcontext()
        with stream, self._bar(progress) as bar:
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
                    if self._graphed:
                        self._graphed.forget()
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
        stage, step = self._stage(), self.state.step
        self._set_rate(learning_rate(self.train, step / self.batches.an_epoch) * stage.rate)
        shi = self.train.shi * (1 - self._ramp())
        inputs = Inputs(*self.batches[step], step, self._eps(), shi, stage)
        outputs = (self._graphed or self._change)(inputs)
        self.state.step += 1
        self.state.epoch.add(outputs.measured)
        if self._epoch_ended():
            self._check_finite()
            self._count_broken(inputs, outputs.perturbations)

    def _change(self, inputs: Inputs) -> Outputs:
        """Make the step, but for what the host counts; a CUDA graph may be captured of it."""
        x, y = inputs.x, inputs.y
        self.state.optimiser.zero_grad(set_to_none=True)  # those of large networks need memory
        with distributed.shared_batch():
            terms = self.loss(self.net, x, y, self._radius(inputs))
            penalty = self._penalty(terms, inputs)
            terms.bounds = None  # backward frees what it has used, if nothing else holds it
            self.state.optimiser.zero_grad(set_to_none=True)  # a user's attack may have left some
            (terms.total + penalty).backward()
        self._average_over_processes()
        norm = nn.utils.clip_grad_norm_(self.weights, self.train.grad_clip)
        measured = measure(terms, penalty, norm, y, bounded=is_positive(inputs.eps))
        self.first_bad.look(inputs.step, measured)
        if not measured.is_cuda:  # a GPU would be waited for: the epoch's end and saving ask it
            self._check_finite()
        self.state.optimiser.step()
        return Outputs(measured, terms.perturbations)

    def _set_rate(self, rate: float) -> None:
        self._rate = rate
        for group in self.state.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # in its place, where graphs read it
            else:
                group["lr"] = rate

    def _radius(self, inputs: Inputs) -> Scalar:
        """Return ε, of every pixel where there is a map of it; a number where it is 0."""
        return self.share * inputs.eps if is_positive(inputs.eps) else 0.0

    def _stage(self) -> Stage:
        """Tell the loss, unless it is a module of the user's that has no stages, how far it is."""
        begin = getattr(self.loss, "begin_step", None)
        total = self.train.epochs * self.batches.an_epoch
        done = self.state.step / total
        return begin(self.net, done, self._eps()) if callable(begin) else Stage()

    def _count_broken(self, inputs: Inputs, perturbations: Tensor | None) -> None:
        """Count the inputs that one perturbation breaks, and tell the loss at an epoch's end."""
        if perturbations is None:
            self.kappa = None
            return
        ball = Ball(self._radius(inputs), getattr(self.loss, "clip", None), self.train.norm)
        broken = broken_by_batch(self.net, perturbations, inputs.x, inputs.y, ball)
        self.kappa = int(distributed.highest(int(broken.sum(dim=1).max()))[0])
        end = getattr(self.loss, "end_epoch", None)
        if callable(end):
            end(broken)

    def _penalty(self, terms: LossTerms, inputs: Inputs) -> Tensor:
        penalty = terms.total.new_zeros(())
        if is_positive(inputs.shi):
            bounds = terms.bounds or self.net.bound_unchecked(terms.box)
            penalty = penalty + inputs.shi * shi_regulariser(bounds.inputs, bounds.preactivations)
        if self.train.l1 > 0:
            frozen = {id(weight) for weight in inputs.stage.frozen}
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
        last, begun = "no checkpoint was saved yet", self._begun()
        if begun is not None:
            last = f"the last good checkpoint is {begun / checkpoint.FILE_NAME}"
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
            "lr": self._rate,
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
        run = f"{shlex.quote(str(self.folder))}{self.config.trust}"
        return f"{where}, saved; continue with: citrus-lirpa train --resume {run}"

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

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, and metrics; return whether there is one."""
        begun = self._begun()
        if begun is not None:
            self.state.restore(begun, self.config)
            if distributed.leads():  # what was written of later epochs, or damaged, is not kept
                self.state.save_metrics(begun)
        return begun is not None

    def _begun(self) -> Path | None:
        """Return the folder, if it holds a checkpoint."""
        here = self.folder is not None and (self.folder / checkpoint.FILE_NAME).exists()
        return self.folder if here else None


def learning_rate(train: TrainConfig, epochs_done: float) -> float:
    """Return lr times lr_factor for each milestone (in epochs) that is passed already."""
    return train.lr * train.lr_factor ** sum(epochs_done >= m for m in train.milestones)
