"""The tables [data] and [train] of a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, Strict

from ..bounds.norms import NORMS
from ..bounds.precision import PRECISIONS
from ..errors import ConfigError, expect, expect_known, require
from ..formats.schema import (
    Count,
    Flag,
    Fraction,
    NonNegativeFraction,
    PositiveFraction,
    Size,
    Text,
    Whole,
    checked,
)
from .schedules import SCHEDULES

INITIALISATIONS = ("shi", "default")
#: Larger seeds overflow where they are mixed with the step.
MAX_SEED = 2**32 - 1
#: The keys of [train] that are names, and the names.
NAMES: dict[str, Iterable[str]] = {
    "schedule": SCHEDULES,
    "initialisation": INITIALISATIONS,
    "precision": PRECISIONS,
}


@checked("data")
class DataConfig:
    """The data set and the part of it to train on.

    Args:
        name: Name of the data set, or where a user's own data is.
        sha256: SHA-256 of a user's own data; empty for others.
        crop: Side to crop the images to, 0 for none.
        pad: Edge pixels around an image before a random crop to its size, -1 for as many as the
            data set asks for.
        held_out: Number of training images, the last ones, that are kept from training for
            ``eval --held-out``.
        limit: Number of the other images to use, the first ones, 0 for all.
    """

    name: Text
    sha256: Text = ""
    crop: Count = 0
    pad: Annotated[Whole, Field(ge=-1)] = -1
    held_out: Count = 0
    limit: Count = 0

    def __post_init__(self) -> None:
        if self.crop and self.pad > 0:
            raise ConfigError(
                f"data.crop is {self.crop} and data.pad {self.pad}; crops are taken of images "
                "that are not padded: set one of the two"
            )


@checked("train")
class TrainConfig:
    """How to train. Epochs are counted from 1 and may be fractions in the schedules.

    Args:
        eps: ε that the network is judged by, in pixels; the largest one of ``eps_map``.
        eps_map: An ``.npy`` file with the ε of every pixel; empty for ``eps`` everywhere.
        eps_map_sha256: SHA-256 of the file of ``eps_map``; empty without one.
        norm: That ε is of: inf, or 2 for ‖u‖₂ <= ε, which ibp, sabr and citrus train for.
        epochs: Length of the training.
        batch_size: Images in a step.
        lr: Learning rate of Adam.
        lr_factor: Factor of the learning rate after each milestone.
        milestones: Epochs after which the learning rate is multiplied by ``lr_factor``.
        schedule: Shape of the ε ramp.
        ramp_start: First epoch of the ε ramp.
        ramp_length: Epochs that the ε ramp lasts.
        l1: Weight of Σ|w|, the sum of the absolute weights, in the loss.
        shi: λ₀ of the regularisers of Shi et al. 2021.
        grad_clip: Largest norm of a gradient.
        eps_factor: Training ends with ``eps_factor``·ε.
        init_from: A run or checkpoint whose weights to begin with, empty for none.
        initialisation: How the weights begin: as Shi et al. 2021 draw them, or as PyTorch does.
        precise_bn: Whether to recompute the BatchNorm statistics over the training set at the end.
        seed: Seed of everything random.
        threads: CPU threads, 0 to choose by the model.
        precision: What may be rounded below float32: nothing, attacks (bfloat16), or on a GPU also
            products of bounds (tf32).
        compile: Whether torch.compile makes the kernels.
        graph: Whether steps on a GPU become CUDA graphs, where they can.
    """

    eps: Fraction
    epochs: Size
    eps_map: Text = ""
    eps_map_sha256: Text = ""
    norm: Annotated[float, Strict()] = math.inf
    batch_size: Size = 256
    lr: PositiveFraction = 5e-4
    lr_factor: PositiveFraction = 0.2
    milestones: tuple[Fraction, ...] = ()
    schedule: Text = "smoothed"
    ramp_start: Fraction = 1.0
    ramp_length: NonNegativeFraction = 0.0
    l1: NonNegativeFraction = 0.0
    shi: NonNegativeFraction = 0.5
    grad_clip: PositiveFraction = 10.0
    eps_factor: PositiveFraction = 1.0
    init_from: Text = ""
    initialisation: Text = "shi"
    precise_bn: Flag = False
    seed: Annotated[Count, Field(le=MAX_SEED)] = 0
    threads: Count = 0
    precision: Text = "float32"
    compile: Flag = False
    graph: Flag = True

    def __post_init__(self) -> None:
        expect(self.norm in NORMS, "train.norm", self.norm, "inf or 2", ConfigError)
        one = self.norm == math.inf or not self.eps_map
        require(one, "train.eps_map is for norm inf; with train.norm=2 set train.eps", ConfigError)
        most, expected = 1.0, "0 to 1, in pixels (8 grey levels are 8/255)"
        if self.norm == 2:
            most, expected = math.inf, "0 or more"
        expect(0 <= self.eps <= most, "train.eps", self.eps, expected, ConfigError)
        if not self.max_eps <= most:
            raise ConfigError(
                f"train.eps_factor is {self.eps_factor}; training would end with "
                f"{self.eps_factor:.4g}·ε = {self.max_eps:.4g}, but pixels lie in [0, 1]"
            )
        if not self.ramp_start >= 1:
            raise ConfigError(f"train.ramp_start is {self.ramp_start}; epochs count from 1")
        for key, known in NAMES.items():
            expect_known(f"train.{key}", getattr(self, key), known)

    @property
    def max_eps(self) -> float:
        """The ε that training ends with, in pixels."""
        return self.eps * self.eps_factor
