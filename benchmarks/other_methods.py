"""COLT, the UAP game, universal attacks and randomized smoothing beside IBP, ConvSmall.

    python benchmarks/other_methods.py cifar10-2-255 --data-dir DATA --out runs/last [--only colt]

Reduced schedules, in ``SETTINGS``. Every run is evaluated by the whole cascade on the first 1,000
test images in groups of 5. Those that were trained under noise are smoothed with the same σ too,
and plain training with and without a denoiser in front. Steps are timed by method_time.py. What is
finished already is not done again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
from commands import citrus_lirpa

#: Options of each method beyond those of all.
RUNS = {
    "ibp": [],
    "uap-game": [],
    "uat": [],
    "cw-uat": [],
    "gaussian": [],
    "smoothadv": [],
    "ce": [],
    "colt": ["--set", "loss.halvings=4"],  # of 14, which are for 200 epochs a stage
}
SMOOTHED = ("gaussian", "smoothadv", "ce")
DENOISED = "ce"
SHARED = ["--set", "model.name=convsmall", "--set", "train.lr=2e-3"]
_CIFAR = ["--set", "train.epochs=3", "--set", "train.batch_size=100", "--set", "data.limit=10000"]
#: Schedule of each preset.
SETTINGS = {
    "mnist-0.1": ["--set", "train.epochs=2", "--set", "train.batch_size=64"],
    "cifar10-2-255": _CIFAR,
    "cifar10-8-255": _CIFAR,
}
SIGMA = "0.25"
#: Of every line on smoothed networks.
GUARANTEE = "probabilistic, of the smoothed network"
#: Beside the runs of a setting: the time of a step of each method.
STEPS = "steps.json"


@click.command()
@click.argument("setting", type=click.Choice(list(SETTINGS)))
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="runs/last", show_default=True)
@click.option("--only", type=click.Choice(list(RUNS)), multiple=True)
@click.option("--time-limit", default="1", show_default=True, help="Seconds for each group.")
def main(setting: str, data_dir: Path, out: Path, only: tuple[str, ...], time_limit: str) -> None:
    shared = ["--data-dir", str(data_dir), "--requeue", "--quiet"]
    schedule = ["--preset", setting, *SHARED, *SETTINGS[setting]]
    for name in only or RUNS:
        folder = str(out / setting / name)
        citrus_lirpa("train", *schedule, "--method", name, *RUNS[name], "--out", folder, *shared)
        citrus_lirpa("eval", folder, "--limit", "1000", "--time-limit", time_limit, *shared)
        noise = ["--sigma", SIGMA, "--n", "1000"]
        if name in SMOOTHED:
            citrus_lirpa("smooth", folder, *noise, "--limit", "1000", *shared)
        if name == DENOISED:
            denoiser = str(out / setting / "denoiser")
            made = ("--method", "denoiser", "--set", f"loss.sigma={SIGMA}", "--out", denoiser)
            citrus_lirpa("train", *schedule, "--set", "model.name=denoiser", *made, *shared)
            more = ("--limit", "100", "--denoiser", denoiser)
            citrus_lirpa("smooth", folder, *noise, *more, *shared)
    timed(setting, data_dir, out / setting)
    click.echo(table(out / setting))


def timed(setting: str, data_dir: Path, out: Path) -> None:
    script, file = Path(__file__).with_name("method_time.py"), out / STEPS
    if not file.exists():
        options = ["--preset", setting, "--data-dir", data_dir, "--batch", "100", "--rounds", "3"]
        only = [word for name in RUNS for word in ("--only", name)]
        command = [sys.executable, script, *options, *only, "--json", file]
        subprocess.run(list(map(str, command)), check=True)


def table(out: Path) -> str:
    head = ["method", "Std", "certified", "UCert", "under attack", "a step / IBP's"]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    steps = {
        r["method"]: r["relative_to_ibp"] for r in json.loads((out / STEPS).read_text())["rows"]
    }
    smoothed: list[list[str]] = []
    for name in RUNS:
        folder = out / name
        if not (folder / "eval-bab.json").exists():
            continue
        r = json.loads((folder / "eval-bab.json").read_text())
        uap = r["uap_accuracy"]
        shares = [r["standard_accuracy"], r["certified_accuracy"]["bab"]]
        shares += [uap["certified"], uap["attacked"]]
        lines.append([name, *(f"{100 * s:.2f}" for s in shares), f"{steps[name]:.1f}"])
        for record in sorted(folder.glob(f"smooth-{SIGMA}*.json")):
            found = json.loads(record.read_text())
            at = [f"{100 * share:.1f}" for share in found["accuracy_at"].values()][:3]
            title = f"{name}, denoised" if found.get("denoiser") else name
            covered = f"{100 * found['covered']:.1f}"
            smoothed.append([title, GUARANTEE, str(found["images"]), *at, covered])
    head = ["smoothed", "guarantee", "images", "within 0", "within 0.25", "within 0.5", "ε"]
    return "\n\n".join(
        "\n".join("| " + " | ".join(row) + " |" for row in rows)
        for rows in (lines, [head, ["---"] * len(head), *smoothed])
    )


if __name__ == "__main__":
    main()
