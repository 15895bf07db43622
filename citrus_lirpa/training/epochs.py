"""Records of epochs: what a training wrote into ``metrics.jsonl``, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..formats import schema
from ..formats.schema import Count, NonNegative, Number
from .checkpoint import METRICS_FILE

_REMEDY = "citrus-lirpa train --resume writes it again, from the checkpoint"


@dataclass(frozen=True)
class Epoch:
    """What every version has recorded of an epoch.

    Args:
        epoch: Its number, from 1.
        eps: ε at its end, in pixels.
        loss: Mean loss.
        accuracy: Share of the training images that were classified correctly.
        certified: Share of the bounded boxes that were certified.
        seconds: Duration.
        kappa: Images that one perturbation broke; None also where the version did not count them.
    """

    epoch: Count
    eps: NonNegative
    loss: Number
    accuracy: NonNegative | None
    certified: NonNegative | None
    seconds: NonNegative
    kappa: Count | None = None


def read_epochs(folder: Path) -> list[Epoch]:
    """Read what training wrote of each epoch.

    Raises:
        CheckpointError: The file is missing, empty or damaged.
    """
    file = folder / METRICS_FILE
    lines = schema.read_text(file, _REMEDY).splitlines()
    texts = ["\n" * n + line for n, line in enumerate(lines) if line.strip()]  # so errors count n
    if not texts:
        raise CheckpointError(f"{file} is empty; expected a line for each epoch; {_REMEDY}")
    values = [schema.parse(text, json.loads, file, _REMEDY) for text in texts]
    return [schema.read(Epoch, epoch, file, _REMEDY) for epoch in values]
