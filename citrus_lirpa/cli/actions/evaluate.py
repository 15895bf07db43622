"""``citrus-lirpa eval``."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import click

from ...bounds import lirpa
from ...reports import pictures, tables
from ...runs.evaluating import evaluate_run, import_verdicts
from ...runs.folder import Outcome, ResultFiles
from ...runs.launch import Launch, Observer
from ...runs.networks import Network, evaluation_images, is_trained, results_folder
from ...training.setup import join_processes
from ...verify import Evaluation, Protocol
from ..output import Results, echo_set_aside, highlight
from .common import echo_once, open_network, protocol_of, show_bars, warn

#: The lines of the table that matter most.
_COLOURS = {"UCert": "green", "UAP accuracy": "red"}
#: Entries of the record with a value for each image or group.
_LONG = ("verdicts", "image_seconds", "groups")


def run(
    path, own, dataset, out, resume, bounds, verdicts, proofs, eps_map, log, data_dir, download,
    device, quiet, requeue, **options,
) -> Results:  # fmt: skip
    """Do what ``citrus-lirpa eval`` is for."""
    lirpa.load()
    where = join_processes(device, share_gpus=True)
    if requeue and not is_trained(path):
        echo_once(f"the training of {path} is not finished: nothing is evaluated", err=True)
        return None
    network = open_network(path, dataset, options["eps"], own, eps_map, options["norm"])
    protocol = protocol_of(options, network.radius, network.norm)
    images = evaluation_images(network, data_dir, held_out=protocol.held_out, download=download)
    launch = Launch(
        device=where, resume=resume, requeue=requeue, observer=_observer(network, quiet)
    )
    outcome = evaluate_run(
        network,
        images,
        protocol,
        out or results_folder(path),
        launch,
        imported=_imported(verdicts, network, protocol),
        bounds=bounds,
        proofs=proofs,
        log=log,
    )
    if outcome is None:
        return None
    warn(network.doubt(outcome.record["standard_accuracy"]))
    return _answer(outcome)


def _imported(folder: Path | None, network: Network, protocol: Protocol) -> dict[int, str] | None:
    if folder is None:
        return None
    verdicts = import_verdicts(folder, network, protocol)
    counts = ", ".join(f"{n} {name}" for name, n in sorted(Counter(verdicts.values()).items()))
    echo_once(f"imported from {folder}: {counts}")
    return verdicts


def _observer(network: Network, quiet: bool) -> Observer:
    def draw(result: Evaluation, files: ResultFiles) -> None:
        pictures.plot_stages(result, files.paths["stages"])
        pictures.plot_uap(result, network.spec, files.paths["picture"])

    return Observer(
        progress=show_bars(quiet),
        on_set_aside=echo_set_aside,
        on_result=lambda result: click.echo(highlight(tables.evaluation_table(result), _COLOURS)),
        draw=draw,
    )


def _proofs(outcome: Outcome) -> str:
    found = outcome.record.get("proofs")
    if found is None:
        return ""
    folder = shlex.quote(str(outcome.files.folder))
    return f"\nproofs: {outcome.files.proofs}\ncheck them: citrus-lirpa check {folder}"


def _answer(outcome: Outcome) -> Results:
    """Print what was written where, and return the record without its long entries."""
    files = outcome.files
    if not outcome.new:
        click.echo(f"results: {files.record}, finished before")
    else:
        picture = files.written().get("picture")
        click.echo(
            f"results: {files.record}\nstages: {files.paths['stages']}\n"
            + (f"picture: {picture}" if picture else "no perturbation broke an image: no picture")
            + _proofs(outcome)
            + f"\nas a page: citrus-lirpa report {shlex.quote(str(files.folder))}"
        )
    short = {key: value for key, value in outcome.record.items() if key not in _LONG}
    return {**short, "files": files.written()}
