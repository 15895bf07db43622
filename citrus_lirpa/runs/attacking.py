"""The attack on one network with universal perturbations, and its files in a folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import distributed
from ..attacks import SgdUap, UapResult, try_uap
from ..bounds.checks import Range, Scalar, check_count
from ..bounds.norms import norm_entries
from ..bounds.radius import radius_entries
from ..data import centre_crop, load
from ..data.types import Split
from ..formats import tensors
from ..verify import fingerprint, fingerprint_of_images
from ..verify.identity import identity
from . import perturbations
from .folder import Outcome, RunFolder
from .launch import Launch
from .networks import Network


@dataclass(frozen=True, kw_only=True)
class AttackProtocol:
    """How universal perturbations are crafted: all that they depend on.

    Attributes:
        eps: Radius in pixels, a number or the map of one image.
        class_wise: Whether each class gets a perturbation of its own.
        target: Class that images of all others are to be taken for; None for any wrong one.
        split: Images that they are crafted on, train or test.
        limit: How many of these images, from the first; None for all.
        epochs: Passes over the images, a restart.
        clip: Range that perturbed images are cut to.
        seed: The seed of the random starts and of the batches.
        norm: The norm of the perturbations, inf or 2.
    """

    eps: Scalar
    class_wise: bool = False
    target: int | None = None
    split: str = "train"
    limit: int | None = None
    epochs: int = SgdUap.epochs
    clip: Range | None = None
    seed: int = 0
    norm: float = math.inf

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_count(self.limit, "limit")

    def settings(self) -> dict[str, Any]:
        """Return it as plain values: of a map of ε, its largest value and its hash."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "norm"}
        return own | radius_entries(self.eps) | norm_entries(self.norm)

    def attack(self) -> SgdUap:
        """Make the attack."""
        return SgdUap(
            epochs=self.epochs,
            clip=self.clip,
            per_class=self.class_wise,
            target=self.target,
            norm=self.norm,
        )


@dataclass(frozen=True, eq=False)
class Attack:
    """Perturbations, tried on the test images.

    Attributes:
        x: (N, C, H, W), the test images.
        result: What the perturbations do to them.
        crafted: What they do to the images that they were crafted on; None if they were given.
        protocol: How they were crafted.
    """

    x: Tensor
    result: UapResult
    crafted: UapResult | None
    protocol: AttackProtocol


def attack_images(
    network: Network, split: str, data_dir: Path, *, download: bool
) -> tuple[Split, Split]:
    """Read the images to craft on and the test images; the first process of a job reads first."""
    with distributed.leader_first():
        test, crafted_on = (
            load(network.spec.name, train=train, data_dir=data_dir, download=download)
            for train in (False, split == "train")
        )
    return crafted_on, test


def attack_run(
    network: Network,
    images: tuple[Split, Split],
    protocol: AttackProtocol,
    folder: Path,
    launch: Launch,
    *,
    given: Tensor | None = None,
) -> Outcome | None:
    """Craft universal perturbations of a network, or try given ones, and write everything.

    Results of other settings that are there are moved into earlier-N.

    Args:
        network: What to attack.
        images: To craft on, and to try on; see ``attack_images``.
        protocol: How.
        folder: Where to write; see ``results_folder``.
        launch: Where, and what to call meanwhile; an attack always begins anew. The observer's
            ``on_result`` gets the ``Attack``, ``draw`` also the ``ResultFiles``.
        given: Perturbations (1, C, H, W) or (K, C, H, W) to try, in place of crafting some.

    Returns:
        The record and its files; None in a process that is not the first of its job.

    Raises:
        InputError: If the protocol cannot be.
        CheckpointError: If the folder is in use or cannot be written.
    """
    observer, craft = launch.observer, protocol.attack()
    crafted_on, test = images
    files = RunFolder(folder).attack()
    with files.locked():
        net = network.bounded(launch.device, protocol.seed)
        settings = _settings(network, images, protocol, given)
        crafted, u = None, given
        if u is None:
            x = centre_crop(crafted_on.pixels(slice(0, protocol.limit)), network.spec)
            y = crafted_on.labels[: protocol.limit]
            crafted = craft(net, x, y, protocol.eps, progress=observer.progress)
            u = crafted.u
        if not distributed.leads():
            return None
        x = centre_crop(test.pixels(slice(None)), network.spec)
        result = try_uap(net, x, test.labels, u, clip=protocol.clip)
        result = replace(result, target=protocol.target)
        attack = Attack(x, result, crafted, protocol)
        observer.on_result(attack)
        record = {**_record(attack, network), "identity": identity(settings)}
        files.set_aside_results(settings, observer)
        shared = {key: record[key] for key in ("eps", "clip", "dataset", "fooling_rate")}
        tensors.save(files.paths["perturbation"], {"u": result.u.cpu(), **shared})
        RunFolder(folder).keep_eps_map(protocol.eps)
        files.write_record(record)
        effects = perturbations.of_attack(result, x, protocol.eps, protocol.clip, protocol.norm)
        effects.save(files.paths["effects"])
        observer.draw(attack, files)
    return Outcome(record, files)


def _settings(
    network: Network, images: tuple[Split, Split], protocol: AttackProtocol, given: Tensor | None
) -> dict[str, Any]:
    """Collect all that the figures depend on."""
    settings = protocol.settings()
    del settings["split"]  # whose pixels say it
    if protocol.target is None:  # as before there were targets
        del settings["target"]
    if given is not None:
        settings["given"] = hashlib.sha256(given.numpy().tobytes()).hexdigest()
    pixels = [fingerprint_of_images(part) for part in images]
    return {**settings, "weights": fingerprint(network.model), "pixels": pixels}


def _record(attack: Attack, network: Network) -> dict[str, Any]:
    """Plain numbers for JSON; accuracies and rates are shares of images."""
    protocol, result, crafted = attack.protocol, attack.result, attack.crafted
    names = network.spec.class_names
    classes: Sequence[str] | None = names if len(result.u) > 1 else None
    return {
        "run": network.name,
        **radius_entries(protocol.eps),
        **norm_entries(protocol.norm),
        "clip": list(protocol.clip) if protocol.clip else None,
        "dataset": network.spec.name,
        "fooling_rate": result.fooling_rate,
        "target": None if protocol.target is None else names[protocol.target],
        "target_rate": None if protocol.target is None else result.target_rate,
        "crafted_on": crafted
        and {
            "split": protocol.split,
            "images": len(crafted.y),
            "fooling_rate": crafted.fooling_rate,
        },
        "test_images": len(result.y),
        "accuracy": {
            "clean": int(result.correct.sum()) / len(result.y),
            "perturbed": int((result.moved == result.y).sum()) / len(result.y),
        },
        "classes": classes
        and {name: result.of_class(k).fooling_rate for k, name in enumerate(classes)},
        "epochs": protocol.epochs,
        "seed": protocol.seed,
    }
