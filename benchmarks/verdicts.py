"""Is anything lost against an earlier version? The same evaluations by two checkouts, in turn.

    python benchmarks/verdicts.py --old CHECKOUT --nets NETS --data-dir DATA [--images 100]

For each network of the zoo, and the published ones in NETS, `eval` runs in a process of its own by
the earlier version and by this one. A verdict is lost where an image was certified, or a group's
image proved safe, and is no longer. Time is CPU time of the processes.
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
from engines import ROWS

HERE = Path(__file__).resolve().parents[1]
_OPEN = ("attacked", "wrong", "undecided")


@click.command()
@click.option("--old", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--nets", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--images", default=100)
@click.option("--time-limit", default=20.0, help="Seconds for each group that is open.")
@click.option("--row", "names", multiple=True, help="Networks whose names hold this.")
def main(
    old: Path, nets: Path, data_dir: Path, images: int, time_limit: float, names: tuple[str, ...]
) -> None:
    """Print a row of a table for each network."""
    click.echo(
        "| network | ε | certified, safe: before | now | lost | gained "
        "| CPU s, before | now | ratio |\n|---|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for name, dataset, eps in ROWS:
        if not any(part in name for part in names or [""]):
            continue
        path = name if name.startswith("zoo:") else str(nets.resolve() / name)
        options = ("--dataset", dataset, "--eps", eps, "--limit", str(images), "--quiet")
        options = (*options, "--data-dir", str(data_dir), "--time-limit", str(time_limit))
        (before, first), (now, second) = (
            evaluate(checkout.resolve(), path, options) for checkout in (old, HERE)
        )
        sides = [proved(before), proved(now)]
        lost, gained = (sum(map(len, pair)) for pair in difference(*sides))
        counts = [f"{len(side[0])}, {len(side[1])}" for side in sides]
        click.echo(
            f"| {name} | {eps} | {counts[0]} | {counts[1]} | {lost} | {gained} "
            f"| {first:.1f} | {second:.1f} | {second / first:.2f} |"
        )


def evaluate(checkout: Path, path: str, options: tuple[str, ...]) -> tuple[dict, float]:
    """Evaluate by the version in a checkout; return the record and the CPU seconds."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "citrus_lirpa", "eval", path, *options, "--out", folder]
        begin = _seconds()
        subprocess.run(
            command, check=True, cwd=folder, stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        spent = _seconds() - begin
        return json.loads((Path(folder) / "eval-bab.json").read_text()), spent


def _seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def proved(record: dict) -> tuple[set, set]:
    """Return the images that are certified, and a mark for each safe image of a group."""
    certified = {i for i, verdict in enumerate(record["verdicts"]) if verdict not in _OPEN}
    safe = {
        (group, k)
        for group, count in enumerate(record["groups"]["safe_at_least"])
        for k in range(count)
    }
    return certified, safe


def difference(before: tuple[set, set], now: tuple[set, set]) -> list[list[set]]:
    """Return what is lost and what is gained."""
    pairs = list(zip(before, now, strict=True))
    return [[a - b for a, b in pairs], [b - a for a, b in pairs]]


if __name__ == "__main__":
    main()
