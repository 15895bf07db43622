"""A worker: takes one trial after the other, then judges the front."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ... import data
from ...bounds.net import BoundedNet
from ...data.types import DatasetSpec, Split, divide
from ...errors import CitrusError, InputError, NonFiniteLossError
from ...formats.locks import in_turn, try_claim
from ...training.checkpoint import data_spec
from ...training.config import RunConfig
from ...training.epochs import read_epochs
from ...verify import Protocol, evaluate
from ..evaluating import evaluate_run
from ..launch import Launch, Observer
from ..networks import evaluation_images, load_network
from ..training import train_run
from .points import Judged, Point, front_of, judged_key, points_of
from .stopping import Scores, is_hopeless
from .storage import Storage, Trial
from .study import Front, Study

_POLL_SECONDS = 1.0


class _HopelessError(CitrusError):
    """A training was ended early."""


@dataclass(frozen=True)
class Worker:
    """One of any number of processes that work on a study.

    Args:
        study: The study.
        storage: Its trials.
        device: Where to compute.
        data_dir: Folder of the data sets.
        download: Whether to fetch a missing data set.
        say: Gets a line for each event.
    """

    study: Study
    storage: Storage
    device: torch.device
    data_dir: Path
    download: bool
    say: Callable[[str], object]

    def run(self) -> None:
        """Work until all trials are finished and the front is judged.

        A trial whose worker was killed is continued from its checkpoint, where its folder is here.

        Raises:
            Interrupted: If Ctrl-C or, as Terminated, SIGTERM stopped it after saving.
            CitrusError: If a trial cannot be run here; it is left to be continued.
        """
        wanted = self.study.config({}).data
        images = data.load(wanted.name, train=True, data_dir=self.data_dir, download=self.download)
        divide(images, wanted.held_out)  # refused here, not in every trial
        waits = False
        while True:
            with self._next_trial() as trial:
                if trial is not None:
                    self._run_trial(trial, images)
                    continue
            if not self._others_run():
                break
            if not waits:
                self.say("waiting for the trials of other workers")
            waits = True
            time.sleep(_POLL_SECONDS)
        if self.study.front is not None:
            self._judge(self.study.front, images)

    # -- trials --

    @contextlib.contextmanager
    def _next_trial(self) -> Iterator[Trial | None]:
        """Claim a trial whose worker was killed, or a new one; None where there is none."""
        with contextlib.ExitStack() as stack:
            with in_turn(self.study.folder / ".next.lock"):
                self.storage.check()
                trials = self.storage.trials()
                chosen = next((t for t in trials if self._is_left(t, stack)), None)
                begun = [t for t in trials if t.finished or t.state == "running" and t.values]
                if chosen is None and len(begun) < self.study.trials:
                    chosen = self.storage.begin()
                    claim = try_claim(self._folder(chosen), "trial")
                    if claim is not None:
                        stack.enter_context(claim)
                    self.storage.values(chosen)  # by which other workers count it
            yield chosen

    def _is_left(self, trial: Trial, stack: contextlib.ExitStack) -> bool:
        """Tell whether a trial was left by a killed worker, and claim it."""
        if trial.state != "running" or not self._folder(trial).is_dir():
            return False
        claim = try_claim(self._folder(trial), "trial")
        if claim is None:
            return False
        stack.enter_context(claim)
        self.say(f"trial {trial.number}: continued")
        return True

    def _others_run(self) -> bool:
        """Tell whether other workers are at trials in this folder."""
        running = [t for t in self.storage.trials() if t.state == "running" and t.values]
        return any(self._folder(t).is_dir() for t in running)

    def _folder(self, trial: Trial | Point) -> Path:
        return self.study.folder / "trials" / f"{trial.number:04d}"

    def _launch(self, observer: Observer | None = None) -> Launch:
        return Launch(device=self.device, requeue=True, observer=observer or Observer())

    def _run_trial(self, trial: Trial, images: Split) -> None:
        folder = self._folder(trial)
        try:
            config = self.study.config(self.storage.values(trial))
            train_run(config, images, folder, self._launch(self._watch(trial, config, images)))
        except _HopelessError as end:
            self.storage.prune(trial)
            self.say(f"trial {trial.number}: {end}")
            return
        except (InputError, NonFiniteLossError) as error:
            self.storage.fail(trial, str(error))
            self.say(f"trial {trial.number} failed: {error}")
            return
        found = self._evaluate(folder, self.study.protocol)
        seconds = sum(epoch.seconds for epoch in read_epochs(folder))
        self.storage.note(trial, "seconds", round(seconds, 3))
        self.storage.complete(trial, found.standard, found.ucert)
        self.say(f"trial {trial.number}: {found}, {seconds:.0f} s of training")

    def _watch(self, trial: Trial, config: RunConfig, images: Split) -> Observer:
        """Measure the network at some epochs, and end the training where it is hopeless."""
        epochs = config.train.epochs
        stops = {math.ceil(at * epochs): f"at {at:g}" for at in self.study.stop_at}
        held_out, spec = divide(images, config.data.held_out)[1], data_spec(config)
        networks: list[BoundedNet] = []

        def on_epoch(record: dict[str, Any]) -> None:
            key = stops.get(record["epoch"])
            if key is None or record["epoch"] == epochs:
                return
            now = self._measure(networks[0], held_out, spec)
            self.storage.note(trial, key, now)
            finished = [
                ((t.notes[key][0], t.notes[key][1]), t.scores)
                for t in self.storage.trials()
                if t.scores is not None and key in t.notes
            ]
            least = (self.study.least.standard, self.study.least.ucert)
            if is_hopeless(now, finished, least):
                what = Judged(*now)
                raise _HopelessError(f"ended after epoch {record['epoch']} of {epochs} at {what}")

        return Observer(on_network=networks.append, on_epoch=on_epoch)

    def _measure(self, net: BoundedNet, held_out: Split, spec: DatasetSpec) -> Scores:
        """Judge a network as trials are judged; the training's random numbers are left alone."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            given = net, held_out, spec, self.study.protocol
            found = evaluate(*given, progress=False).as_record(data="")
        return found.standard_accuracy, found.uap_accuracy.certified

    def _evaluate(self, folder: Path, protocol: Protocol) -> Judged:
        network = load_network(folder)
        images = evaluation_images(
            network, self.data_dir, held_out=protocol.held_out, download=self.download
        )
        outcome = evaluate_run(network, images, protocol, folder, self._launch())
        if outcome is None:
            raise CitrusError("tune runs in one process; leave out torchrun")
        record = outcome.record
        return Judged(record["standard_accuracy"], record["uap_accuracy"]["certified"])

    # -- the front --

    def _judge(self, front: Front, images: Split) -> None:
        """Train and evaluate the networks of the front, those that no other worker is at."""
        points = front_of(points_of(self.study, self.storage.trials()))
        left = [(point, seed) for point in points for seed in front.seeds]
        while left:
            for point, seed in list(left):
                if self._judge_one(front, point, seed, images):
                    left.remove((point, seed))
            if left:
                time.sleep(_POLL_SECONDS)

    def _judge_one(self, front: Front, point: Point, seed: int, images: Split) -> bool:
        """Judge the network of a point and seed; False while another worker is at it."""
        key = judged_key(point.number, seed)
        settings = front.protocol.settings()
        if Judged.read(self.storage.notes().get(key), settings) is not None:
            return True
        config = self.study.config(point.values, seed)
        folder = self.study.folder / "front" / f"{point.number:04d}-seed{seed}"
        if seed == point.seed and self._folder(point).is_dir():
            folder = self._folder(point)
        claim = try_claim(folder, "trial")
        if claim is None:
            return False
        with claim:
            if Judged.read(self.storage.notes().get(key), settings) is not None:
                return True
            train_run(config, images, folder, self._launch())
            found = self._evaluate(folder, front.protocol)
            self.storage.note_of_study(key, found.to_json(settings))
        self.say(f"front, trial {point.number}, seed {seed}: {found}")
        return True
