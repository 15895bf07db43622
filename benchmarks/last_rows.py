"""MNIST, ε = 0.1, ConvSmall: COLT, the UAP game and randomized smoothing beside IBP.

    python benchmarks/last_rows.py --data-dir DATA --out runs/last [--only colt]

Two epochs each, as in methods.toml. Every run is evaluated by the whole cascade on the first
1,000 test images in groups of 5. Those that were trained under noise are smoothed with the same
σ too, and plain training with and without a denoiser (of 500 steps) in front. What is finished
already is not done again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

#: Options of each method beyond those of all.
RUNS = {
    "ibp": [],
    "colt": ["--set", "loss.halvings=4"],  # of 14, which are for 200 epochs a stage
    "uap-game": [],
    "gaussian": [],
    "smoothadv": [],
    "ce": [],
}
SMOOTHED = ("gaussian", "smoothadv", "ce")
DENOISED = "ce"
SHARED = [
    *("--preset", "mnist-0.1", "--set", "model.name=convsmall", "--set", "train.epochs=2"),
    *("--set", "train.lr=2e-3", "--set", "train.batch_size=64"),
]
SIGMA = "0.25"


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="runs/last", show_default=True)
@click.option("--only", type=click.Choice(list(RUNS)), multiple=True)
def main(data_dir: Path, out: Path, only: tuple[str, ...]) -> None:
    shared = ["--data-dir", str(data_dir), "--requeue", "--quiet"]
    for name in only or RUNS:
        folder = str(out / name)
        citrus_lirpa("train", *SHARED, "--method", name, *RUNS[name], "--out", folder, *shared)
        citrus_lirpa("eval", folder, "--limit", "1000", "--time-limit", "1", *shared)
        noise = ["--sigma", SIGMA, "--n", "1000"]
        if name in SMOOTHED:
            citrus_lirpa("smooth", folder, *noise, "--limit", "1000", *shared)
        if name == DENOISED:
            denoiser = trained_denoiser(data_dir, out / "denoiser.onnx")
            more = ["--limit", "100", "--denoiser", denoiser]
            citrus_lirpa("smooth", folder, *noise, *more, *shared)
    click.echo(table(out))


def citrus_lirpa(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "citrus_lirpa", *arguments], check=True)


def trained_denoiser(data_dir: Path, out: Path) -> str:
    script = str(Path(__file__).parents[1] / "examples" / "denoiser.py")
    options = ["--dataset", "mnist", "--data-dir", str(data_dir), "--steps", "500"]
    if not out.exists():
        subprocess.run([sys.executable, script, *options, "--out", str(out)], check=True)
    return str(out)


def table(out: Path) -> str:
    head = ["method", "Std", "certified", "UCert", "under attack", "training minutes"]
    lines = [head, ["---"] * len(head)]
    smoothed: list[list[str]] = []
    for name in RUNS:
        folder = out / name
        if not (folder / "eval-bab.json").exists():
            continue
        r = json.loads((folder / "eval-bab.json").read_text())
        epochs = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        uap = r["uap_accuracy"]
        shares = [r["standard_accuracy"], r["certified_accuracy"]["bab"]]
        shares += [uap["certified"], uap["attacked"]]
        minutes = sum(e["seconds"] for e in epochs) / 60
        lines.append([name, *(f"{100 * s:.2f}" for s in shares), f"{minutes:.1f}"])
        for record in sorted(folder.glob(f"smooth-{SIGMA}*.json")):
            found = json.loads(record.read_text())
            at = [f"{100 * share:.1f}" for share in found["accuracy_at"].values()][:3]
            title = f"{name}, denoised" if found.get("denoiser") else name
            smoothed.append([title, str(found["images"]), *at])
    head = ["smoothed", "images", "within 0", "within 0.25", "within 0.5"]
    return "\n\n".join(
        "\n".join("| " + " | ".join(row) + " |" for row in rows)
        for rows in (lines, [head, ["---"] * len(head), *smoothed])
    )


if __name__ == "__main__":
    main()
