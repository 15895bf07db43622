"""The certification of one smoothed network in a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..data import centre_crop
from ..data.types import Split
from ..training.setup import use_threads
from ..verify import Saved, Smoothed, Smoothing, fingerprint, fingerprint_of_images, smooth
from ..verify.smoothing import ABSTAIN
from .batches import run_batches
from .denoisers import with_denoiser
from .doctor import versions
from .folder import Outcome, RunFolder
from .launch import Launch
from .networks import Network

#: ℓ2 radii of the table.
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
#: What a reader of the figures must know.
GUARANTEE = "probabilistic, of the smoothed network: each image's with probability 1 - alpha"


def smooth_run(
    network: Network,
    images: Split,
    smoothing: Smoothing,
    folder: Path,
    launch: Launch,
    denoiser: Path | None = None,
) -> Outcome | None:
    """Certify a smoothed network and write everything into a folder; see :func:`.run_batches`.

    Args:
        network: What to smooth.
        images: What to certify.
        smoothing: How.
        folder: Where to write.
        launch: How. The observer's ``on_result`` gets the ``Smoothed``, ``draw`` also the
            ``ResultFiles``.
        denoiser: What to put in front of the network (Salman et al. 2020, Denoised Smoothing: A
            Provable Defense for Pretrained Classifiers); see :func:`with_denoiser`.
    """
    use_threads(network.threads)
    if denoiser is not None:
        network = with_denoiser(network, denoiser, smoothing.sigma)
    settings = {
        **asdict(smoothing),
        "data": network.spec.name,
        "weights": fingerprint(network.model),
        "pixels": fingerprint_of_images(images),
    }

    def compute(batches: Saved) -> Smoothed:
        model, labels = network.model.to(launch.device), images.labels
        x = centre_crop(images.pixels(slice(None)), network.spec).to(launch.device)
        progress = launch.observer.progress
        return smooth(model, x, labels, smoothing, saved=batches, progress=progress)

    def finish(found: Smoothed, identity: str) -> dict[str, Any]:
        return {
            "run": network.name,
            "data": network.spec.name,
            **asdict(smoothing),
            "denoiser": None if denoiser is None else str(denoiser),
            **_figures(found, network),
            "weights": settings["weights"],
            "versions": versions(),
            "identity": identity,
        }

    files = RunFolder(folder).smoothing(smoothing.sigma, denoiser is not None)
    return run_batches(files, settings, compute, finish, launch)


def _figures(found: Smoothed, network: Network) -> dict[str, Any]:
    """Return what was found as plain values."""
    pixels = torch.Size(network.spec.shape).numel()
    return {
        "guarantee": GUARANTEE,
        "images": len(found.y),
        "abstained": int((found.predicted == ABSTAIN).sum()),
        "accuracy_at": {f"{radius:g}": found.accuracy(radius) for radius in RADII},
        "eps": network.eps,
        "covered": found.covered(network.eps, pixels),
        "predicted": found.predicted.tolist(),
        "radius": found.radius.tolist(),
    }
