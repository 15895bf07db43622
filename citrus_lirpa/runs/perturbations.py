"""What universal perturbations do to a test set, and files that hold some.

``citrus-lirpa eval`` writes plain arrays as uap-METHOD.npz, ``citrus-lirpa attack`` as uap.npz, for
the report. NumPy reads them without this package.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..attacks import UapResult
from ..bounds.box import clamp
from ..bounds.checks import Range, Scalar
from ..bounds.net import BoundedNet
from ..bounds.precision import full_precision
from ..bounds.radius import map_hash
from ..data.types import DatasetSpec
from ..errors import CheckpointError, InputError, reason, require
from ..formats import tensors
from ..formats.atomic import write_atomically
from ..verify import Evaluation

#: Worst groups, their images, and images broken by the strongest perturbation that are kept.
GROUPS, MEMBERS, EXAMPLES = 6, 10, 8

#: Kind of number and axes of each array; an axis is as long in all of them.
_ARRAYS = {
    "u": ("f", "KCHW"),
    "eps": ("f", ""),
    "clip": ("b", ""),
    "labels": ("i", "N"),
    "clean": ("i", "N"),
    "perturbed": ("i", "N"),
    "groups": ("i", "G"),
    "group_u": ("f", "GCHW"),
    "members": ("i", "GM"),
    "member_classes": ("i", "GM"),
    "shown": ("i", "S"),
    "images": ("u", "SCHW"),
    "norm": ("f", ""),
}


@dataclass(frozen=True, eq=False)
class PerturbationRecord:
    """What u does to N test images, and what the worst groups' own perturbations do to them.

    Args:
        u: (1, C, H, W) for all images, or (K, C, H, W), one for each class.
        eps: Radius in pixels, () or (C, H, W) with one for every pixel.
        clip: Whether images are cut to [0, 1].
        labels: True classes (N,).
        clean: Classes (N,) predicted without u.
        perturbed: Classes (N,) predicted with u.
        groups: Numbers (G,) of the groups of which the fewest images survive, worst first, without
            those whose correct images are all proved safe.
        group_u: Their perturbations (G, C, H, W).
        members: Numbers (G, M) of their images, -1 behind a group that has fewer.
        member_classes: Classes (G, M) predicted with the perturbation of the group.
        shown: Numbers (S,) of the images whose pixels are kept, ascending.
        images: These pixels (S, C, H, W), uint8.
        norm: The norm of ε, (); files of earlier versions, whose norm is inf, lack it.
    """

    u: np.ndarray
    eps: np.ndarray
    clip: np.ndarray
    labels: np.ndarray
    clean: np.ndarray
    perturbed: np.ndarray
    groups: np.ndarray
    group_u: np.ndarray
    members: np.ndarray
    member_classes: np.ndarray
    shown: np.ndarray
    images: np.ndarray
    norm: np.ndarray = field(default_factory=lambda: np.array(math.inf))

    @property
    def eps_map(self) -> str | None:
        """The SHA-256 of the map of ε; None where ε is one number."""
        return map_hash(torch.from_numpy(self.eps)) if self.eps.ndim else None

    @property
    def shade(self) -> float | None:
        """The largest change of a pixel that ε allows; None for ℓ2, whose ε is of all pixels."""
        return None if float(self.norm) == 2 else float(self.eps.max())

    @property
    def correct(self) -> np.ndarray:
        """Images (N,) that are classified correctly without u."""
        return self.clean == self.labels

    @property
    def broken(self) -> np.ndarray:
        """Images (N,) that are classified correctly without u, and no longer with it."""
        return self.correct & (self.perturbed != self.labels)

    @property
    def fooling_rate(self) -> float:
        """Share of the correctly classified images that u breaks; 0 where there are none."""
        return int(self.broken.sum()) / max(1, int(self.correct.sum()))

    def examples(self) -> list[int]:
        """Choose images that u breaks and whose pixels are kept, at most EXAMPLES."""
        kept = set(self.shown.tolist())
        broken = np.flatnonzero(self.broken).tolist()
        return _examples([i for i in broken if i in kept], self.labels)

    def image(self, number: int) -> np.ndarray:
        """Return the pixels (C, H, W) of one of ``shown``, uint8."""
        return self.images[int(np.searchsorted(self.shown, number))]

    def save(self, path: Path) -> None:
        """Write the arrays, which NumPy reads."""
        write_atomically(path, lambda file: np.savez_compressed(file, **vars(self)))

    @staticmethod
    def load(path: Path) -> PerturbationRecord:
        """Read what ``save`` wrote; raise CheckpointError where the file holds something else."""
        remedy = "repeat the command that wrote it"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                effect = PerturbationRecord(
                    **{name: arrays[name] for name in _ARRAYS if name != "norm" or name in arrays}
                )
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path} is damaged: {error}; {remedy}") from error
        if problem := _problem(effect):
            raise CheckpointError(f"{path} is damaged: {problem}; {remedy}")
        return effect


def read_perturbations(path: Path, spec: DatasetSpec) -> torch.Tensor:
    """Read perturbations that this package or others have made.

    Args:
        path: An .npy file of them, or an .npz or torch file with the entry ``u``, as ``attack``
            and ``eval`` write them: (C, H, W), (1, C, H, W), or (K, C, H, W) for each class.
        spec: The data set.

    Returns:
        (1, C, H, W) or (K, C, H, W), in pixels.

    Raises:
        CheckpointError: The file is damaged or is something else.
        InputError: The perturbations do not fit the images.
    """
    found: Any
    require(path.is_file(), f"{path} is not a file; expected FILE.npy, FILE.npz or uap.pt")
    if path.suffix in (".npy", ".npz"):
        try:
            with path.open("rb") as file:
                found = np.load(file, allow_pickle=False)
                found = found["u"] if path.suffix == ".npz" else found
            found = torch.from_numpy(np.asarray(found, np.float32))
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path} holds no perturbation: {reason(error)}") from error
    else:
        found = tensors.load(path)
        found = found.get("u") if isinstance(found, dict) else found
    expected = f"one of shape {spec.shape}, or {spec.classes}, of finite numbers"
    if not isinstance(found, torch.Tensor) or found.ndim not in (3, 4):
        raise InputError(f"{path} holds no perturbation; expected {expected}")
    u = found.float().reshape(-1, *found.shape[-3:])
    fits = len(u) in (1, spec.classes) and u.shape[1:] == spec.shape
    if not fits or not u.isfinite().all():
        raise InputError(f"the perturbation in {path} is {tuple(found.shape)}; expected {expected}")
    return u


def of_evaluation(net: BoundedNet, result: Evaluation) -> PerturbationRecord:
    """Record the strongest perturbation of an evaluation, and its worst groups."""
    uap, protocol = result.uap, result.protocol
    survivors = uap.upper / uap.size
    order = sorted(range(len(uap.size)), key=lambda g: (float(survivors[g]), int(uap.lower[g])))
    correct = result.certificates.correct
    proved = {g for g in order if uap.lower[g] == int(correct[_members(result, g)].sum())}
    groups = [g for g in order if g not in proved][:GROUPS]
    members = torch.full((len(groups), min(protocol.group_size, MEMBERS)), -1)
    classes = members.clone()
    for row, g in enumerate(groups):
        mine = _members(result, g)
        first = torch.argsort(~uap.broken[mine].cpu(), stable=True)[: members.shape[1]]
        mine = mine[first].sort().values
        with net.evaluating(), torch.no_grad(), full_precision(result.x.device):
            logits = net(clamp(result.x[mine] + uap.u[g], protocol.clip))
        members[row, : len(mine)], classes[row, : len(mine)] = mine, logits.argmax(1).cpu()
    clean, perturbed = result.predictions
    return _effect(
        result.x,
        result.strongest.unsqueeze(0),
        protocol.eps,
        protocol.clip,
        (result.y, clean, perturbed),
        (torch.tensor(groups, dtype=torch.long), uap.u[groups], members, classes),
        protocol.norm,
    )


def _members(result: Evaluation, group: int) -> torch.Tensor:
    begin = group * result.protocol.group_size
    return torch.arange(begin, begin + int(result.uap.size[group]))


def of_attack(
    result: UapResult, x: torch.Tensor, eps: Scalar, clip: Range | None, norm: float = math.inf
) -> PerturbationRecord:
    """Record the perturbations of an attack on test images ``x`` (N, C, H, W)."""
    none = torch.zeros(0, 1, dtype=torch.long)
    groups = (none[:, 0], torch.zeros(0, *x.shape[1:]), none, none)
    return _effect(x, result.u, eps, clip, (result.y, result.clean, result.moved), groups, norm)


def _effect(
    x: torch.Tensor,
    u: torch.Tensor,
    eps: Scalar,
    clip: Range | None,
    classes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    groups: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    norm: float,
) -> PerturbationRecord:
    labels, clean, perturbed = (part.cpu().numpy().astype(np.int16) for part in classes)
    numbers, group_u, members, member_classes = (part.detach().cpu().numpy() for part in groups)
    broken = np.flatnonzero((clean == labels) & (perturbed != labels))
    shown = {*_examples(broken.tolist(), labels), *members[members >= 0].tolist()}
    rows = torch.tensor(sorted(shown), dtype=torch.long)
    pixels = (x[rows.to(x.device)] * 255).round().to(torch.uint8)
    return PerturbationRecord(
        u=u.detach().cpu().numpy(),
        eps=np.array(eps) if isinstance(eps, float) else torch.as_tensor(eps).cpu().numpy(),
        clip=np.array(clip is not None),
        labels=labels,
        clean=clean,
        perturbed=perturbed,
        groups=numbers,
        group_u=group_u,
        members=members,
        member_classes=member_classes,
        shown=rows.numpy(),
        images=pixels.cpu().numpy(),
        norm=np.array(norm),
    )


def one_a_class_first(numbers: Sequence[int], labels: Sequence[int]) -> list[int]:
    """Order images so that one of each class comes before a second one of any."""
    first: dict[int, int] = {}
    for i in numbers:
        first.setdefault(int(labels[i]), i)
    chosen = set(first.values())
    return [*first.values(), *(i for i in numbers if i not in chosen)]


def _examples(numbers: list[int], labels: np.ndarray) -> list[int]:
    """At most EXAMPLES of the images, of as many classes as there are, ascending."""
    return sorted(one_a_class_first(numbers, labels.tolist())[:EXAMPLES])


def _problem(effect: PerturbationRecord) -> str | None:
    """What does not fit together, in words."""
    sizes: dict[str, int] = {}
    for name, (kind, axes) in _ARRAYS.items():
        array = getattr(effect, name)
        axes = "CHW" if name == "eps" and array.ndim else axes
        pairs = zip(axes, array.shape, strict=False)
        same = all(sizes.setdefault(axis, size) == size for axis, size in pairs)
        if array.dtype.kind != kind or array.ndim != len(axes) or not same:
            return f"{name} is {array.dtype} of shape {array.shape}"
    return None
