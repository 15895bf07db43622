"""The evaluation of one network in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..bounds.box import Ball
from ..bounds.net import BoundedNet
from ..data.types import Split
from ..errors import InputError
from ..verify import (
    Evaluation,
    Protocol,
    Saved,
    evaluate,
    fingerprint,
    fingerprint_of_images,
    vnnlib,
)
from ..verify.identity import identity
from ..verify.proof_files import ProofFolder
from . import perturbations
from .batches import run_batches
from .doctor import versions
from .folder import Outcome, ResultFiles, RunFolder
from .networks import Network
from .observer import Observer


def evaluate_run(
    network: Network,
    images: Split,
    protocol: Protocol,
    folder: Path,
    *,
    device: torch.device,
    imported: Mapping[int, str] | None = None,
    bounds: str = "own",
    proofs: bool = False,
    resume: bool = False,
    requeue: bool = False,
    observer: Observer | None = None,
) -> Outcome | None:
    """Evaluate a network and write everything into a folder.

    Finished batches are kept in the folder until the end. Results of other settings that are
    there are moved into earlier-N.

    Args:
        network: What to evaluate.
        images: On what; see ``evaluation_images``.
        protocol: How.
        folder: Where to write; see ``results_folder``.
        device: Where to compute.
        imported: Verdicts of another verifier by image number; see ``import_verdicts``.
        bounds: Whose bounds count; see :class:`BoundedNet`.
        proofs: Whether to write proofs of what is certified, beside the results.
        resume: Whether to continue an evaluation that was interrupted.
        requeue: Whether to begin, to continue or to take what is finished, as the folder is
            found.
        observer: What to call meanwhile; ``on_result`` gets the ``Evaluation``, ``draw`` also
            the ``ResultFiles``.

    Returns:
        The record and its files; None in a process that is not the first of its job.

    Raises:
        InputError: If the protocol does not fit the images.
        CheckpointError: If the folder is in use, cannot be written, or holds batches that do
            not fit.
        Interrupted: If Ctrl-C or, as Terminated, SIGTERM stopped it.
        SoundnessError: If an attack contradicts a certificate.
    """
    observer = observer or Observer()
    protocol.images(len(images))
    net = network.bounded(device, protocol.seed, bounds)
    settings = _settings(network, images, protocol, imported or {})
    other = {} if bounds == "own" else {"bounds": bounds}
    settings |= other
    if proofs:
        settings["proofs"] = True
    files = RunFolder(folder).evaluation(protocol.method)

    def compute(batches: Saved) -> Evaluation:
        return evaluate(
            net,
            images,
            network.spec,
            protocol,
            saved=batches,
            imported=imported,
            proofs=_proof_folder(files, net, protocol, settings) if proofs else None,
            progress=observer.progress,
        )

    def finish(result: Evaluation, known_by: str) -> dict[str, Any]:
        RunFolder(folder).keep_eps_map(protocol.eps)
        perturbations.of_evaluation(net, result).save(files.paths["perturbations"])
        return result.as_record(
            run=network.name,
            data=network.spec.name,
            weights=settings["weights"],
            imported=len(settings["imported"]),
            identity=known_by,
            versions=versions(),
            **other,
        ).to_json()

    return run_batches(
        files, settings, compute, finish, resume=resume, requeue=requeue, observer=observer
    )


def _proof_folder(
    files: ResultFiles, net: BoundedNet, protocol: Protocol, settings: dict[str, Any]
) -> ProofFolder:
    net.eval()
    return ProofFolder(files.proofs, net, Ball(protocol.eps, protocol.clip), identity(settings))


def import_verdicts(folder: Path, network: Network, protocol: Protocol) -> dict[int, str]:
    """Read another verifier's verdicts on this network and these boxes.

    Args:
        folder: What ``export`` wrote, with the results.csv of the verifier.
        network: What was exported.
        protocol: How it is evaluated.

    Returns:
        ``certified``, ``attacked`` or ``undecided`` by image number.

    Raises:
        InputError: If they are of another network, of other boxes, or cannot be read.
    """
    if protocol.held_out:
        raise InputError(
            "--import-verdicts are of test images, as `export` writes them; leave out --held-out"
        )
    return vnnlib.import_verdicts(
        folder, network.model, network.spec, eps=protocol.eps, clip=protocol.clip
    )


def _settings(
    network: Network, images: Split, protocol: Protocol, imported: Mapping[int, str]
) -> dict[str, Any]:
    """Collect all that the figures depend on."""
    return {
        **protocol.settings(),
        "data": network.spec.name,
        "weights": fingerprint(network.model),
        "pixels": fingerprint_of_images(images),
        "imported": sorted(imported.items()),
    }
