"""Puts the queries of an exported folder to two solvers in turn: answers, contradictions, seconds.

    citrus-lirpa export RUN --vnnlib-version 2.0 --limit 100 --out queries
    python benchmarks/solvers.py queries citrus-lirpa vibecheck --seconds 30 --json pairs.json

A solver is a command that takes `verify QUERY --network NAME=FILE --timeout S`, as the VNN-LIB 2.0
standard has it. Both get one thread. Seconds are those of the processor, start of the program
included. FILE keeps each answer; the same command goes on from there.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import time
from collections import Counter
from pathlib import Path

import click
from tqdm import tqdm

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
SETTLED = {"sat", "unsat"}


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("solvers", nargs=2)
@click.option("--seconds", default=30.0, help="Time limit of a query.")
@click.option("--json", "record", type=click.Path(path_type=Path), required=True)
def main(folder: Path, solvers: tuple[str, str], seconds: float, record: Path) -> None:
    """Print a line for each solver, and what they say of the same queries."""
    found = json.loads(record.read_text()) if record.exists() else {}
    with (folder / "instances.csv").open(newline="") as file:
        instances = [row[:2] for row in csv.reader(file)]
    for number, (network, query) in enumerate(tqdm(instances, unit="query")):
        if query not in found:
            # Each solver comes first every other time.
            order = solvers if number % 2 else solvers[::-1]
            found[query] = {s: ask(s, folder / query, folder / network, seconds) for s in order}
            record.write_text(json.dumps(found, indent=1) + "\n")
    summarise([tuple(answers[solver] for solver in solvers) for answers in found.values()], solvers)


def ask(solver: str, query: Path, network: Path, seconds: float) -> tuple[str, float, float]:
    """Return the first word of the answer, and seconds of processor and of clock."""
    name = re.search(r"declare-network\s+(\w+)", query.read_text())
    if name is None:
        raise click.ClickException(f"{query} declares no network")
    command = [*shlex.split(solver), "verify", query, "--network", f"{name[1]}={network}"]
    begun, before = time.monotonic(), os.times()
    done = subprocess.run(
        [*map(str, command), "--timeout", f"{seconds:g}"],
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
    )
    after = os.times()
    used = sum(after[2:4]) - sum(before[2:4])
    words = done.stdout.split()
    return words[0] if words else f"status {done.returncode}", used, time.monotonic() - begun


def summarise(pairs: list[tuple[tuple, tuple]], solvers: tuple[str, str]) -> None:
    """Print counts, contradictions, and the ratio of seconds on what both settle."""
    for i, solver in enumerate(solvers):
        counts = Counter(pair[i][0] for pair in pairs)
        click.echo(f"{solver}: {dict(counts)}, {sum(pair[i][1] for pair in pairs):.0f} s")
    both = [pair for pair in pairs if {pair[0][0], pair[1][0]} <= SETTLED]
    contradictions = sum(pair[0][0] != pair[1][0] for pair in both)
    click.echo(f"{len(pairs)} queries, both settle {len(both)}, {contradictions} contradictions")
    if both:
        seconds = [sum(pair[i][1] for pair in both) for i in (0, 1)]
        click.echo(
            f"on those: {seconds[0]:.0f} s and {seconds[1]:.0f} s, ratio "
            f"{seconds[0] / seconds[1]:.2f}"
        )


if __name__ == "__main__":
    main()
