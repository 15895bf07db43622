"""MNIST, ε = 0.1, ConvSmall: what CITRUS buys over plain IBP, and a longer CITRUS run.

    python benchmarks/mnist_convsmall.py --data-dir DATA --out runs/mnist [--only citrus-5]

Trains each run that is not finished yet (an interrupted one is resumed), evaluates it on
the full test set with the whole cascade in groups of 5, and prints a Markdown table. About an
hour and a half on one CPU core; --only lets two processes share the runs.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from commands import citrus_lirpa

RUNS = {
    "citrus-25": ["--set", "train.epochs=25"],
    "citrus-5": ["--set", "train.epochs=5"],
    "ibp-5": [
        *("--method", "ibp", "--set", "train.epochs=5"),
        *("--set", "train.batch_size=64", "--set", "train.l1=1e-5"),  # as CITRUS
    ],
}
METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown", "bab")


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="runs/mnist", show_default=True)
@click.option("--only", type=click.Choice(list(RUNS)), multiple=True)
def main(data_dir: Path, out: Path, only: tuple[str, ...]) -> None:
    for name in only or RUNS:
        folder = out / name
        result = folder / "eval-bab.json"
        if not result.exists():
            begin = (
                ["--resume", str(folder)]
                if folder.exists()
                else [
                    "--preset",
                    "mnist-0.1",
                    "--set",
                    "model.name=convsmall",
                    *RUNS[name],
                    "--out",
                    str(folder),
                ]
            )
            citrus_lirpa("train", *begin, "--data-dir", str(data_dir))
            citrus_lirpa("eval", str(folder), "--data-dir", str(data_dir))
    click.echo(table(out))


def table(out: Path) -> str:
    head = [
        "run",
        "Std",
        *(f"certified, {m}" for m in METHODS),
        "UCert",
        "under attack",
        "training minutes",
        "evaluation minutes",
    ]
    lines = [head, ["---"] * len(head)]
    for name in RUNS:
        file = out / name / "eval-bab.json"
        if not file.exists():
            continue
        r = json.loads(file.read_text())
        epochs = map(json.loads, (out / name / "metrics.jsonl").read_text().splitlines())
        shares = [
            r["standard_accuracy"],
            *(r["certified_accuracy"][m] for m in METHODS),
            r["uap_accuracy"]["certified"],
            r["uap_accuracy"]["attacked"],
        ]
        minutes = [sum(e["seconds"] for e in epochs) / 60, r["seconds"]["total"] / 60]
        lines.append([name, *(f"{100 * s:.2f}" for s in shares), *(f"{m:.1f}" for m in minutes)])
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


if __name__ == "__main__":
    main()
