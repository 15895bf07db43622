"""``citrus-lirpa attack``."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from ...bounds import lirpa
from ...bounds.box import PIXELS
from ...bounds.norms import longest
from ...data.types import DatasetSpec
from ...errors import InputError, expect_known
from ...reports import pictures, tables
from ...runs.attacking import Attack, AttackProtocol, attack_images, attack_run
from ...runs.folder import Outcome, ResultFiles
from ...runs.launch import Launch, Observer
from ...runs.networks import Network, results_folder
from ...runs.perturbations import read_perturbations
from ...training.setup import join_processes
from ..output import Results, echo_set_aside
from .common import open_network, show_bars, warn


def run(
    path, own, dataset, out, data_dir, download, device, quiet, eps, eps_map, norm, clip,
    target, perturbation, **options,
) -> Results:  # fmt: skip
    """Do what ``citrus-lirpa attack`` is for."""
    if perturbation is not None:
        _check_given(perturbation)
    lirpa.load()
    where = join_processes(device, share_gpus=True)
    network = open_network(path, dataset, eps, own, eps_map, norm)
    given, radius = None, network.radius
    if perturbation is not None:
        given = read_perturbations(perturbation, network.spec)
        radius, options["split"] = longest(given, network.norm), "test"
    protocol = AttackProtocol(
        eps=radius,
        clip=PIXELS if clip else None,
        target=_label(target, network.spec),
        norm=network.norm,
        **options,
    )
    images = attack_images(network, protocol.split, data_dir, download=download)
    outcome = attack_run(
        network,
        images,
        protocol,
        out or results_folder(path),
        Launch(device=where, observer=_observer(network, quiet)),
        given=given,
    )
    if outcome is None:
        return None
    warn(network.doubt(outcome.record["accuracy"]["clean"]))
    return _answer(outcome)


def _check_given(perturbation: Path) -> None:
    """Refuse options of crafting where a perturbation is given."""
    given = click.get_current_context().get_parameter_source
    for name in ("eps", "eps_map", "class_wise", "split", "limit", "epochs", "seed"):
        if given(name) is not ParameterSource.DEFAULT:
            raise InputError(
                f"--perturbation {perturbation} is tried as it is; leave out "
                f"--{name.replace('_', '-')}, which is for crafting"
            )


def _label(target: str | None, spec: DatasetSpec) -> int | None:
    """Return the number of a class."""
    if target is None:
        return None
    expect_known("class", target, spec.class_names, InputError)
    return spec.class_names.index(target)


def _observer(network: Network, quiet: bool) -> Observer:
    def show(attack: Attack) -> None:
        protocol = attack.protocol
        threat = protocol.eps, protocol.clip, network.spec, protocol.norm
        click.echo(tables.uap_table(attack.result, *threat))

    def draw(attack: Attack, files: ResultFiles) -> None:
        protocol, picture = attack.protocol, files.paths["picture"]
        threat = protocol.eps, protocol.clip, network.spec, picture, protocol.norm
        pictures.plot_try(attack.result, attack.x, *threat)

    return Observer(
        progress=show_bars(quiet), on_set_aside=echo_set_aside, on_result=show, draw=draw
    )


def _answer(outcome: Outcome) -> Results:
    """Print what was written where, and return the record with the files."""
    files = outcome.files.written()
    click.echo(
        f"perturbation: {files['perturbation']}\nresults: {files['results']}\n"
        + (
            f"picture: {files['picture']}"
            if "picture" in files
            else "no image was broken: no picture"
        )
    )
    return {**outcome.record, "files": files}
