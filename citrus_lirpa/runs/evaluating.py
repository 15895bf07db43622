"""The evaluation of one network in a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import distributed
from ..bounds.box import Ball
from ..bounds.net import BoundedNet
from ..data.types import Split
from ..errors import InputError, ModelError, require
from ..training import loggers
from ..verify import (
    Evaluation,
    Protocol,
    Saved,
    evaluate,
    fingerprint,
    fingerprint_of_images,
    verdicts,
)
from ..verify.crown.engine import DualEngine
from ..verify.identity import identity
from ..verify.proof_files import ProofFolder
from . import perturbations
from .batches import run_batches
from .doctor import versions
from .folder import Outcome, ResultFiles, RunFolder
from .launch import Launch
from .networks import Network

Figures = Mapping[str, float]


def evaluate_run(
    network: Network,
    images: Split,
    protocol: Protocol,
    folder: Path,
    launch: Launch,
    *,
    imported: Mapping[int, str] | None = None,
    bounds: str = "own",
    proofs: bool = False,
    log: Iterable[str] = (),
) -> Outcome | None:
    """Evaluate a network and write everything into a folder; see :func:`.run_batches`.

    Args:
        network: What to evaluate.
        images: On what; see ``evaluation_images``.
        protocol: How.
        folder: Where to write; see ``results_folder``.
        launch: How. The observer's ``on_result`` gets the ``Evaluation``, ``draw`` also the
            ``ResultFiles``.
        imported: Verdicts of another verifier by image number; see ``import_verdicts``.
        bounds: Whose bounds count; see :class:`BoundedNet`.
        proofs: Whether to write proofs of what is certified, beside the results.
        log: Names of ``LOGGERS`` that get the figures too.

    Raises:
        InputError: The protocol does not fit the images.
        SoundnessError: An attack contradicts a certificate.
    """
    _check_norm(protocol.norm, bounds, proofs)
    own = bounds == "own" or protocol.arithmetic == "real"
    require(own, "--arithmetic float32 is not for --bounds auto-lirpa; drop one")
    protocol.images(len(images))
    net = network.bounded(launch.device, protocol.seed, bounds)
    _check_network(net, protocol, proofs)
    settings = _settings(network, images, protocol, imported or {}, bounds, proofs)
    run = RunFolder(folder)
    files = run.evaluation(protocol.method)

    def compute(batches: Saved) -> Evaluation:
        kept = _proof_folder(files, net, protocol, settings) if proofs else None
        given = net, images, network.spec, protocol
        more: dict[str, Any] = {"imported": imported, "progress": launch.observer.progress}
        return evaluate(*given, saved=batches, proofs=kept, **more)

    def finish(result: Evaluation, known_by: str) -> dict[str, Any]:
        run.keep_eps_map(protocol.eps)
        perturbations.of_evaluation(net, result).save(files.paths["perturbations"])
        return _record(result, network, settings, known_by)

    with _reporting(run, log) as report:
        outcome = run_batches(files, settings, compute, finish, launch)
        if outcome and outcome.new:
            report(loggers.figures_of(outcome.record))
    return outcome


def _record(
    result: Evaluation, network: Network, settings: dict[str, Any], known_by: str
) -> dict[str, Any]:
    """Return the figures, and what they depend on, as plain values."""
    return result.as_record(
        run=network.name,
        options=network.options or None,
        data=network.spec.name,
        weights=settings["weights"],
        imported=len(settings["imported"]),
        identity=known_by,
        versions=versions(),
        bounds=settings.get("bounds"),
    ).to_json()


@contextmanager
def _reporting(run: RunFolder, log: Iterable[str]) -> Iterator[Callable[[Figures], None]]:
    """Open loggers, and yield what reports figures to them."""
    config = run.begun_config() if run.config.is_file() else None
    with loggers.opened(log if distributed.leads() else (), run.path, config) as noting:

        def report(figures: Figures) -> None:
            for logger in noting:
                logger.conclude(figures)

        yield report


def _check_norm(norm: float, bounds: str, proofs: bool) -> None:
    boxes = norm == math.inf
    require(boxes or bounds == "own", "--norm 2 is not for --bounds auto-lirpa; drop one")
    require(boxes or not proofs, "--norm 2 is not for --proofs, which are of boxes; drop one")


def _check_network(net: BoundedNet, protocol: Protocol, proofs: bool) -> None:
    """Refuse float32 arithmetic, or proofs, of a network that the dual engine does not take."""
    real = protocol.arithmetic == "real"
    if real and not proofs:
        return
    try:
        DualEngine(net.eval(), Ball(protocol.eps), arithmetic=protocol.arithmetic)
    except ModelError as error:
        option = "--proofs" if real else f"--arithmetic {protocol.arithmetic}"
        raise ModelError(f"{error}; leave out {option}") from error


def _proof_folder(
    files: ResultFiles, net: BoundedNet, protocol: Protocol, settings: dict[str, Any]
) -> ProofFolder:
    ball, arithmetic = Ball(protocol.eps, protocol.clip), protocol.arithmetic
    return ProofFolder(files.proofs, net, ball, identity(settings), arithmetic)


def import_verdicts(folder: Path, network: Network, protocol: Protocol) -> dict[int, str]:
    """Read another verifier's verdicts from a folder of ``export``, by image number.

    Raises:
        InputError: They are of another network, of other boxes, or cannot be read.
    """
    require(protocol.norm == math.inf, "--import-verdicts are of boxes; leave out --norm 2")
    real = "--import-verdicts are of real numbers; leave out --arithmetic float32"
    require(protocol.arithmetic == "real", real)
    if protocol.held_out:
        raise InputError(
            "--import-verdicts are of test images, as `export` writes them; leave out --held-out"
        )
    return verdicts.import_verdicts(
        folder, network.model, network.spec, eps=protocol.eps, clip=protocol.clip
    )


def _settings(
    network: Network,
    images: Split,
    protocol: Protocol,
    imported: Mapping[int, str],
    bounds: str,
    proofs: bool,
) -> dict[str, Any]:
    """Collect all that the figures depend on."""
    return {
        **protocol.settings(),
        "data": network.spec.name,
        "weights": fingerprint(network.model),
        "pixels": fingerprint_of_images(images),
        "imported": sorted(imported.items()),
        **({} if bounds == "own" else {"bounds": bounds}),
        **({"proofs": True} if proofs else {}),
    }
