"""``citrus-lirpa export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ... import data
from ...bounds import lirpa
from ...bounds.box import PIXELS
from ...bounds.radius import radius_words
from ...errors import InputError, expect
from ...reports.tables import counted
from ...runs.export import FORMATS, save_network
from ...verify import uap_export, verdicts, vnnlib
from .common import open_network, require_boxes

#: Options that a network alone has no use for.
_OF_IMAGES = (
    "eps", "eps_map", "images", "undecided", "limit", "clip", "vnnlib_version", "timeout", "uap",
    "group_size", "at_least",
)  # fmt: skip


def run(
    path, own, out, dataset, eps, eps_map, clip, vnnlib_version, timeout, data_dir, download,
    groups, **which,
) -> None:  # fmt: skip
    """Do what ``citrus-lirpa export`` is for."""
    lirpa.load()
    if out.suffix.lower() in FORMATS:
        _check_alone(out)
        save_network(open_network(path, dataset, 0.0, own), out)
        click.echo(f"network: {out}")
        return
    _check_images(**which)
    network = open_network(path, dataset, eps, own, eps_map)
    require_boxes(network, eps)
    box: dict[str, Any] = dict(eps=network.radius, clip=PIXELS if clip else None)
    split = data.load(network.spec.name, train=False, data_dir=data_dir, download=download)
    images = _chosen(**which, available=len(split), dataset=network.spec.name, **box)
    if groups is not None:
        expect(vnnlib_version != "1.0", "--vnnlib-version", "1.0", "2.0, which --uap needs")
        record = uap_export.export_uap(
            network.model, split, network.spec, out, images=images, timeout=timeout, **groups, **box
        )
        click.echo(
            f"{counted(len(record['queries']), 'query', 'queries')} about "
            f"{counted(len(record['groups']), 'group')}, ε = {radius_words(network.radius, 4)}, in "
            f"{out}; decide one with: citrus-lirpa verify {out}/QUERY --network "
            f"N0={out / vnnlib.MODEL}"
        )
        return
    box |= {"timeout": timeout, "standard": vnnlib_version or "1.0"}
    record = vnnlib.export(network.model, split, network.spec, out, images=images, **box)
    click.echo(
        f"{counted(len(record['images']), 'property', 'properties')}, "
        f"ε = {radius_words(network.radius, 4)}, in {out}; "
        f"{counted(len(record['left_out']), 'misclassified image')} left out\n"
        f"run a verifier on {out / vnnlib.INSTANCES} and put its results into "
        f"{out / vnnlib.RESULTS}"
    )


def _check_alone(out: Path) -> None:
    """Refuse options of images where the network alone is written."""
    given = click.get_current_context().get_parameter_source
    for name in _OF_IMAGES:
        if given(name) is not ParameterSource.DEFAULT:
            raise InputError(
                f"--out {out} is a file, for the network alone; --{name.replace('_', '-')} is of "
                "images, which need a folder"
            )


def _check_images(**which: object) -> None:
    """Refuse anything but one choice of images."""
    if sum(choice is not None for choice in which.values()) != 1:
        raise InputError(
            "say which images: one of --images 0,5,7, --undecided FILE and --limit N; or give a "
            f"file as --out ({', '.join(FORMATS)}) for the network alone"
        )


def _chosen(*, images, undecided, limit, available, **box) -> Sequence[int]:
    """Numbers of the images to export."""
    if undecided is not None:
        return verdicts.undecided_images(undecided, **box)
    return images or range(min(limit, available))
