"""The images that a training uses, and its batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import distributed
from ..data.augmentation import augment_as, batches, draw_augmentation
from ..data.types import Split, divide
from ..errors import InputError, require
from . import checkpoint
from .config import RunConfig


def training_part(data: Split, config: RunConfig) -> Split:
    """Select the images to train on: those not held out, or the first ``data.limit`` of them."""
    part, _ = divide(data, config.data.held_out)
    limit = config.data.limit or len(part)
    return Split(part.images[:limit], part.labels[:limit])


def check_batches(loss: nn.Module, data: Split, config: RunConfig) -> None:
    """Check, before anything is trained or written, that batches can be made and paired.

    Args:
        loss: The loss; its ``check_batch_size``, if it has one, refuses batches.
        data: The images to train on.
        config: The configuration of the training.

    Raises:
        InputError: There are fewer images than a batch has, or the loss refuses the batches.
    """
    size = config.train.batch_size
    require(
        len(data) >= size,
        f"train.batch_size is {size}, but there are only {len(data)} training images; "
        "use a smaller batch",
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


class Batches:
    """The batches of a training; each is a function of its step alone, so runs can resume.

    Args:
        data: The images to train on.
        config: The configuration of the training.
        device: Where the batches are to be.
    """

    def __init__(self, data: Split, config: RunConfig, device: torch.device):
        self.data = Split(data.images.to(device), data.labels.to(device))
        self.spec = checkpoint.data_spec(config)
        self.size, self.seed = config.train.batch_size, config.train.seed
        self.an_epoch = len(data) // self.size
        self._rows = distributed.rank_slice(self.size, "train.batch_size")
        self._device, self._epoch = device, -1
        self._order, self._draws = torch.empty(0), torch.empty(0)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs (B, C, H, W), augmented, and labels (B,) of a step.

        Processes that share the batch augment all of it and take their own rows, so that these
        do not depend on the number of processes.
        """
        epoch, number = divmod(step, self.an_epoch)
        if epoch != self._epoch:
            self._begin(epoch)
        index = self._order[number]
        x = self.data.pixels(index)
        if len(self._draws):
            x = augment_as(x, self.spec, self._draws[number])
        return x[self._rows], self.data.labels[index[self._rows]]

    def _begin(self, epoch: int) -> None:
        """Draw all that is random in the batches of an epoch, and move it to the device at once."""
        order = batches(len(self.data), self.size, seed=self.seed, epoch=epoch)
        shape = torch.Size([self.size, *self.data.images.shape[1:]])
        first, generator = self.seed * 1_000_003 + epoch * self.an_epoch, torch.Generator()
        draws = [
            draw_augmentation(shape, self.spec, generator.manual_seed(first + number))
            for number in range(self.an_epoch)
        ]
        self._epoch, self._order = epoch, order.to(self._device)
        drawn = [part for part in draws if part is not None]
        self._draws = torch.stack(drawn).to(self._device) if drawn else torch.empty(0)
