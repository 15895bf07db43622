"""What proofs of whole evaluations cost, and whether each of them holds.

    python benchmarks/proofs.py --data-dir DATA [--images 1000] [--time-limit 2]

For each network of the zoo: `eval` without and with `--proofs`, then the checker, each in a process
of its own, whose CPU time counts, with what the program needs to start.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from citrus_lirpa.training import zoo


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--images", default=1000)
@click.option("--time-limit", default=2.0, help="Seconds for each group that is open.")
@click.option("--row", "names", multiple=True, help="Networks whose names hold this.")
def main(data_dir: Path, images: int, time_limit: float, names: tuple[str, ...]) -> None:
    """Print a row of a table for each network."""
    click.echo(
        "| network | certified | with proofs | groups | with proofs | refused | MB "
        "| evaluation, CPU s | with proofs | checker |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    for name in zoo.names():
        if not any(part in name for part in names or [""]):
            continue
        with TemporaryDirectory() as folder:
            command = ["eval", f"zoo:{name}", "--limit", images, "--time-limit", time_limit]
            command += ["--data-dir", data_dir, "--quiet", "--out"]
            plain = run(*command, Path(folder) / "plain")
            proved = run(*command, folder, "--proofs")
            checked = run("check", folder)
            record = json.loads((Path(folder) / "eval-bab.json").read_text())
            size = sum(file.stat().st_size for file in Path(folder, "proofs-bab").glob("*.npz"))
        found, groups = record["proofs"], record["groups"]["safe_at_least"]
        certified = round(images * list(record["certified_accuracy"].values())[-1])
        click.echo(
            f"| {name} | {certified} | {found['checked_images']} | {len(groups)} "
            f"| {found['checked_groups']} | {found['refused']} | {size / 1e6:.2f} "
            f"| {plain:.1f} | {proved:.1f} | {checked:.1f} |"
        )


def run(*arguments: object) -> float:
    """Run a command of this package in a process of its own; return its CPU seconds."""
    begin = _seconds()
    subprocess.run(
        [sys.executable, "-m", "citrus_lirpa", *map(str, arguments)],
        check=arguments[0] == "eval", stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return _seconds() - begin


def _seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
