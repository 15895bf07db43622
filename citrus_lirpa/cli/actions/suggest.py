"""``citrus-lirpa suggest``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ...bounds import lirpa
from ...errors import require
from ...formats.atomic import write_text
from ...reports.tables import radius, table
from ...runs.suggesting import Suggestion, suggest
from ...training.setup import choose_device
from ..output import Results
from .common import warn


def run(data, model, eps, method, minutes, out, data_dir, download, device) -> Results:
    """Do what ``citrus-lirpa suggest`` is for."""
    require(not out.exists(), f"{out} exists; choose another --out")
    lirpa.load()
    found = suggest(
        data,
        model,
        eps=eps,
        method=method,
        minutes=minutes,
        device=choose_device(device),
        data_dir=data_dir,
        download=download,
    )
    rows = _rows(found)
    comment = "".join(f"# {name}: {value}\n" for name, value in rows)
    write_text(out, f"{comment}\n{found.config.to_toml()}")
    click.echo(table(rows, ("<", "<")))
    warn(found.warning or "")
    click.echo(f"recipe: {out}\ntrain by it: citrus-lirpa train --config {shlex.quote(str(out))}")
    return _summary(found, out)


def _rows(found: Suggestion) -> list[tuple[str, str]]:
    config, train = found.config, found.config.train
    an_epoch = found.images // train.batch_size
    ratio = config.loss.get("tau_ratio")
    rows = [
        ("data", f"{config.data.name}, {found.images} training images"),
        ("network", str(config.model.get("source") or config.model["name"])),
        ("recipe", f"of {config.loss['name']} in the preset {found.preset}"),
        ("ε", radius(train.eps)),
        *([("τ/ε", f"{ratio:g}")] if ratio is not None else []),
        ("batch", f"{train.batch_size}, {an_epoch} steps an epoch"),
        ("epochs", f"{train.epochs}, ε rises for {train.ramp_length:.3g} of them, "
                   f"{train.ramp_length * an_epoch:.0f} steps"),
        ("learning rate", f"{train.lr:g}"),
        ("time", f"{found.step:.3g} s a step here, {found.seconds / 60:.1f} minutes in all"),
    ]  # fmt: skip
    return rows


def _summary(found: Suggestion, out: Path) -> dict[str, Any]:
    train = found.config.train
    return {
        "file": str(out),
        "preset": found.preset,
        "method": found.config.loss["name"],
        "eps": train.eps,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "step_seconds": round(found.step, 6),
        "minutes": round(found.seconds / 60, 3),
    }
