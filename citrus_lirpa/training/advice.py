"""Signs that a training will fail, or fails, each said in one line."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .config import RunConfig

#: Steps from ε = 0 to its target below which networks were seen to learn nothing, or little: on
#: the digits, IBP, CITRUS, SABR and TAPS stayed at chance with 25 and reached 90 % with 200.
SHORT_RAMP = 200


def short_ramp(loss: nn.Module, config: RunConfig, images: int) -> str | None:
    """Say that ε rises too fast for a loss that needs a ramp; None where it does not.

    Args:
        loss: The loss. Not all need a ramp, and training from trained weights needs none.
        config: The configuration of the training.
        images: Number of images to train on.
    """
    train = config.train
    steps = train.ramp_length * (images // train.batch_size)
    if train.init_from or not train.eps or not getattr(loss, "needs_ramp", True):
        return None
    if steps >= SHORT_RAMP:
        return None
    return (
        f"ε reaches its target within {steps:.0f} steps; below {SHORT_RAMP} networks often learn "
        f"little or nothing: raise train.epochs (now {train.epochs}) or train.ramp_length (now "
        f"{train.ramp_length:g} epochs)"
    )


class ChanceWatch:
    """Says once that the accuracy stays at chance: two epochs in a row, or the last one.

    Args:
        labels: Those of the training images, (N,). Chance is the share of the largest class.
        epochs: Length of the training.
    """

    def __init__(self, labels: Tensor, epochs: int):
        chance = float(labels.bincount().max()) / len(labels)
        self.limit = min(1.25 * chance, chance + 0.05 * (1 - chance))
        self.epochs, self.row, self.said = epochs, 0, False

    def __call__(self, record: dict[str, Any]) -> str | None:
        """Look at the record of an epoch; return the line, or None."""
        accuracy = record["accuracy"]
        self.row = self.row + 1 if accuracy is not None and accuracy <= self.limit else 0
        if self.said or not self.row or (self.row < 2 and record["epoch"] < self.epochs):
            return None
        self.said = True
        return (
            f"the accuracy is that of chance, {100 * accuracy:.1f} % in epoch {record['epoch']}: "
            "the network has learned nothing; more train.epochs, a longer train.ramp_length or "
            "another train.lr usually helps"
        )
