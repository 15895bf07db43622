"""The bounds of images that proofs rest on, each kept once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .proof_arrays import Array, ProofArrays
from .relaxation import Images, Relaxation


@dataclass(frozen=True)
class Context:
    """Bounds of one image that entries rest on.

    Attributes:
        number: Of these bounds, in the order in which they are kept.
        image: The number of the image in its batch.
        free: Numbers of its unstable neurons that ReLU follows, all layers in one row.
        crown: Their slopes by CROWN's rule.
    """

    number: int
    image: int
    free: Array
    crown: Array


@dataclass(frozen=True)
class Columns:
    """Which columns of a dual bound are unstable neurons that ReLU follows, and which neurons.

    Attributes:
        mine: (M,) whether a column is one.
        neuron: Its number, all layers in one row, of those that are.
    """

    mine: Array
    neuron: Array

    @staticmethod
    def of(images: Images, i: int) -> Columns:
        """Return those of one of the images."""
        relaxation = images.relaxation
        mine = ((relaxation.lower[i] < 0) & (relaxation.upper[i] > 0)).cpu().numpy()
        mine &= ~_of_curves(relaxation, relaxation.widths)
        sizes = [layer[0][0].numel() for layer in images.bounds]
        starts = np.cumsum([0, *sizes[:-1]])
        index = [at[i].cpu().numpy() + k for at, k in zip(relaxation.index, starts, strict=True)]
        return Columns(mine, np.concatenate(index)[mine])


class Contexts:
    """The bounds of the images of a batch that entries rest on.

    Args:
        numbers: By :func:`image_key`, the number in the batch of the image that stands for one.
        arrays: Receives the bounds.
    """

    def __init__(self, numbers: Mapping[bytes, int], arrays: ProofArrays):
        self._numbers, self._arrays = numbers, arrays
        self._doubtful: dict[int, Array] = {}
        self._found: dict[tuple[int, bytes], Context] = {}

    def begin(self, images: Images) -> None:
        """Note which neurons are unstable by intervals: all bounds of an image are of these."""
        for i, lower, upper in _ends(images, range(len(images))):
            self._doubtful.setdefault(self._image(images, i), (lower < 0) & (upper > 0))

    def of(self, images: Images, which: Collection[int]) -> dict[int, Context]:
        """Return the bounds of images, by their numbers in ``images``."""
        curved = _of_curves(images.relaxation, [one[0][0].numel() for one in images.bounds])
        ends = _ends(images, which)
        return {i: self._context(images, i, low, up, curved) for i, low, up in ends}

    def _context(
        self, images: Images, i: int, lower: Array, upper: Array, curved: Array
    ) -> Context:
        """Return the bounds of an image, which are kept once."""
        number = self._image(images, i)
        neuron = (self._doubtful[number] | ((lower < 0) & (upper > 0)) | curved).nonzero()[0]
        lower, upper, curved = lower[neuron], upper[neuron], curved[neuron]
        key = hashlib.sha256(neuron.tobytes() + lower.tobytes() + upper.tobytes()).digest()
        found = self._found.get((number, key))
        if found is None:
            free = (lower < 0) & (upper > 0) & ~curved
            crown = (upper > -lower)[free].astype(lower.dtype)
            found = Context(len(self._found), number, neuron[free], crown)
            self._found[number, key] = found
            self._arrays.keep(
                context_image=np.array([number]),
                claim_end=np.array([len(neuron)]),
                claim_neuron=neuron,
                claim_lower=lower,
                claim_upper=upper,
                line_context=lines_of(images.relaxation, torch.tensor([i])),
            )
        return found

    def _image(self, images: Images, i: int) -> int:
        """Return the number in the batch of the image that stands for one."""
        return self._numbers[image_key(images.x[i].cpu().numpy(), int(images.y[i]))]


def _ends(images: Images, which: Collection[int]) -> Iterator[tuple[int, Array, Array]]:
    """Yield images, and their lower and upper bounds of all inputs of ReLUs and curves in a row."""
    rows = sorted(which)
    at = torch.tensor(rows, device=images.x.device)
    ends = (
        torch.cat([e[at].flatten(1) for e in side], 1) for side in zip(*images.bounds, strict=True)
    )
    return zip(rows, *(side.cpu().numpy() for side in ends), strict=True)


def _of_curves(relaxation: Relaxation, sizes: Sequence[int]) -> Array:
    """Return which neurons, or columns, are of curves: as many of each layer as ``sizes`` say."""
    return np.repeat([curved is not None for curved in relaxation.curved], sizes)


def lines_of(relaxation: Relaxation, images: Tensor, parameter: Tensor | None = None) -> Array:
    """Return (R, values of curves and products, 4) what the checker needs of their lines.

    That is slope and touch of a line below and of one above, or both slopes of such planes.

    Args:
        relaxation: Of the images.
        images: (R,) which image each row is of.
        parameter: (R, M) as of a dual bound; CROWN's if None.
    """
    if not any(curved is not None for curved in relaxation.curved):
        return np.zeros((len(images), 0, 4))
    p = torch.full_like(relaxation.lower[images], 0.5) if parameter is None else parameter
    found = []
    for part, bent in zip(p.split(relaxation.widths, 1), relaxation.curved, strict=True):
        if bent is not None:
            found.append(bent.rows(images).stated(part))
    return torch.cat(found, 1).cpu().numpy()


def image_key(pixels: Array, label: int) -> bytes:
    """Return what tells whether images, with their labels, are equal."""
    return pixels.tobytes() + int(label).to_bytes(8, "little")
