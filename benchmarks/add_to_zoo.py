"""Puts an evaluated run into the model zoo: weights alone, their checksum, what was certified.

    python benchmarks/add_to_zoo.py runs/mnist mnist-0.1-convsmall

The run must hold eval-bab.json of the whole test set.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import click

from citrus_lirpa import data
from citrus_lirpa.training import checkpoint, zoo

LARGEST = 1_000_000  # bytes


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
def main(run, name, data_dir) -> None:
    config, state = checkpoint.load(run)
    evaluation = json.loads((run / "eval-bab.json").read_text("utf-8"))
    images = len(data.load(config.data.name, train=False, data_dir=data_dir))
    if evaluation["images"] != images or evaluation.get("held_out"):
        raise click.ClickException(
            f"{run} was evaluated on {evaluation['images']} images; expected all {images} of the "
            "test set"
        )
    file = zoo.FOLDER / f"{name}.pt"
    config = replace(config, train=replace(config.train, init_from=""))  # a path of one machine
    checkpoint.save(file, config, {"model": state["model"]})
    if file.stat().st_size > LARGEST:
        file.unlink()
        raise click.ClickException(f"{run} is too large for the package; see {LARGEST} bytes")
    for of_single_images in ("verdicts", "image_seconds", "groups"):
        del evaluation[of_single_images]
    evaluation["run"] = f"{zoo.PREFIX}{name}"
    (zoo.FOLDER / f"{name}.json").write_text(json.dumps(evaluation, indent=2) + "\n", "utf-8")
    index = zoo.FOLDER / zoo.INDEX
    sums = json.loads(index.read_text("utf-8")) if index.exists() else {}
    sums[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    index.write_text(json.dumps(dict(sorted(sums.items())), indent=2) + "\n", "utf-8")
    click.echo(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
