"""A recipe for a user's own data and network, which fits a given time."""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import nn

from ..bounds.net import BoundedNet
from ..data.datasets import find_spec, load
from ..data.types import DatasetSpec, Split
from ..errors import expect
from ..training.advice import SHORT_RAMP, short_ramp
from ..training.batches import Batches, training_part
from ..training.config import RunConfig, named, resolve
from ..training.setup import build, choose_threads, use_threads

#: Steps of the papers' shortest training (MNIST, 70 epochs), and epochs that few images get.
_STEPS, _EPOCHS = 65_000, 300
#: The highest learning rate. Papers' rates are for their steps, and do little in a hundredth of
#: them: the digits' networks certified 59 % of the boxes after 420 steps with 5e-4, 87 % with 5e-3.
_FASTEST = 0.01
#: Steps of an epoch that the batch leaves, where there are few images.
_STEPS_AN_EPOCH = 20
_LEAST_BATCH = 8
#: Steps and seconds of the measurement, after two steps that warm up.
_MEASURED, _SECONDS = 10, 20.0


@dataclass(frozen=True)
class Suggestion:
    """A configuration, and why it is so.

    Attributes:
        config: What to train.
        preset: The preset that its recipe is from.
        images: Number of training images.
        step: Seconds of a step at the full ε.
        warning: What speaks against it; None for nothing.
    """

    config: RunConfig
    preset: str
    images: int
    step: float
    warning: str | None

    @property
    def seconds(self) -> float:
        """What the training takes."""
        train = self.config.train
        return self.step * train.epochs * (self.images // train.batch_size)


def suggest(
    dataset: str,
    source: str | None,
    *,
    eps: float | None,
    method: str,
    minutes: float,
    device: torch.device,
    data_dir: Path,
    download: bool,
) -> Suggestion:
    """Look at data and a network, measure a step, and choose how to train.

    The recipe is that of the preset whose images and ε are nearest. The training gets as many
    epochs as fit, at most as many steps as in the papers; ramp and milestones keep their shares of
    it, and the ramp gets at least ``SHORT_RAMP`` steps where these fit. The learning rate grows as
    the root of the number of steps falls.

    Args:
        dataset: Name of the data set, or where the user's own is.
        source: The user's own network, FILE.py:NAME; None for one that suits the images.
        eps: ε in pixels; None for what is usual for such images.
        method: How to train.
        minutes: How long the training may take.
        device: Where it will run.
        data_dir: Folder of the data sets.
        download: Whether to fetch a missing one.

    Raises:
        InputError: A value, the network or the data cannot be used.
        DataError: The data is missing or damaged.
    """
    expect(minutes > 0, "minutes", minutes, "a number > 0")
    spec = find_spec(dataset)
    images = load(dataset, train=True, data_dir=data_dir, download=download)
    eps = _usual(spec) if eps is None else eps
    preset = _nearest(spec, eps)
    values = [f"data.name={json.dumps(dataset)}", f"train.eps={eps!r}", *_network(spec, source)]
    config = named(resolve(preset=preset, method=method, overrides=values))
    batch = config.train.batch_size
    while batch > _LEAST_BATCH and len(images) // batch < _STEPS_AN_EPOCH:
        batch //= 2
    values.append(f"train.batch_size={min(batch, len(images))}")
    config = named(resolve(preset=preset, method=method, overrides=values))
    net, loss = build(config, device)
    use_threads(choose_threads(net, config.train.threads))
    step = _measured(net, loss, images, config)
    an_epoch = len(images) // config.train.batch_size
    values += _schedule(config, an_epoch, 60 * minutes / step)
    config = named(resolve(preset=preset, method=method, overrides=values))
    return Suggestion(config, preset, len(images), step, short_ramp(loss, config, len(images)))


def _usual(spec: DatasetSpec) -> float:
    """Return the ε that is usual for such images."""
    if spec.shape[:2] == (1, 1):  # a table
        return 0.02
    return 0.1 if spec.shape[0] == 1 else 2 / 255


def _nearest(spec: DatasetSpec, eps: float) -> str:
    """Return the preset of the nearest images and ε."""
    if spec.shape[0] == 1:
        return "mnist-0.1" if eps < 0.2 else "mnist-0.3"
    if eps < 1.5 / 255:
        return "tinyimagenet-1-255"
    return "cifar10-2-255" if eps < 5 / 255 else "cifar10-8-255"


def _network(spec: DatasetSpec, source: str | None) -> list[str]:
    """Return overrides that name the network."""
    if source is not None:
        return ["model.name=own", f"model.source={json.dumps(source)}", "data.crop=0"]
    return [f"model.name={'convsmall' if min(spec.shape[1:]) >= 16 else 'mlp'}", "data.crop=0"]


def _measured(net: BoundedNet, loss: nn.Module, images: Split, config: RunConfig) -> float:
    """Return the median of the seconds of some steps at the full ε."""
    device = net.parameters()[0].device
    batches = Batches(training_part(images, config), config, device)
    begin_step = getattr(loss, "begin_step", lambda *_: None)
    net.train()
    times: list[float] = []
    for number in range(2 + _MEASURED):
        x, y = batches[number % batches.an_epoch]
        begin = time.perf_counter()
        begin_step(net, 0.5, config.train.max_eps)
        loss(net, x, y, config.train.max_eps).backward()
        net.module.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
        if len(times) > 2 and sum(times) > _SECONDS:
            break
    return statistics.median(times[2:])


def _schedule(config: RunConfig, an_epoch: int, steps: float) -> list[str]:
    """Return overrides of epochs, ramp and learning rate for at most ``steps`` steps."""
    train = config.train
    share = train.ramp_length / train.epochs
    enough = math.ceil(2 * SHORT_RAMP / max(share, 0.1) / an_epoch)
    most = min(steps, _STEPS) / an_epoch
    epochs = max(1, math.floor(min(most, max(_EPOCHS, enough))))
    ramp = max(share * epochs, min(SHORT_RAMP / an_epoch, 0.6 * epochs))
    ramp = float(Fraction(math.ceil(1000 * ramp), 1000))
    start = min(train.ramp_start, max(1.0, 1 + epochs - ramp))
    rate = min(_FASTEST, train.lr * math.sqrt(max(1.0, _STEPS / (epochs * an_epoch))))
    return [
        f"train.epochs={epochs}",
        f"train.ramp_length={ramp}",
        f"train.ramp_start={start:g}",
        f"train.lr={rate:.2g}",
    ]
