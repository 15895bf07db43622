"""Does cross-input training pay? The fronts of several methods under equal tuning.

Each method gets the same trials, and epochs that take the same time, by the steps that
method_time.py measured. The state of a study is one small file in benchmarks/fronts/, which any
number of workers, on any machine, continue; trainings lie in the folder that --out names.
Run it in the root of the repository.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

#: Time of a training step beside IBP's: the means of method_time.py's two settings.
STEP = {"ibp": 1.0, "mtl-ibp": 1.8, "sabr": 4.35, "citrus": 11.4, "citrus-si": 12.5}
#: What the paper's CITRUS does not have, at its defaults; the study citrus-open varies it.
PAPER = {"loss.reduction": '"sum"', "loss.worst": "0", "loss.universal": "0", "loss.alpha": "1.0"}
#: Epochs of IBP, held-out images, and images that trials are judged on.
SETTINGS = {
    "mnist-0.3": (40, 5000, 5000),
    "cifar10-2-255": (40, 5000, 2000),
    "cifar10-8-255": (40, 5000, 2000),
    "digits": (100, 300, 300),  # minutes, to see that all of it works
}
STUDIES = ("citrus", "citrus-open", "citrus-si", "sabr", "mtl-ibp", "ibp")


def write_study(setting: str, name: str, trials: int, out: Path) -> Path:
    """Write the file of a study."""
    epochs, held_out, limit = SETTINGS[setting]
    method = name.removesuffix("-open")
    fixed = {
        "data.held_out": held_out,
        "train.epochs": max(2, round(epochs / STEP[method])),
        "train.threads": 1,
    }
    if setting != "digits":
        fixed |= {"model.name": '"convsmall"', "train.batch_size": 128}
    if name in ("citrus", "citrus-si"):
        fixed |= PAPER
    lines = [
        f'preset = "{setting}"', f'method = "{method}"', f"trials = {trials}",
        f'name = "{setting}-{name}"', f'folder = "{out / setting / name}"',
        f'storage = "benchmarks/fronts/{setting}-{name}.journal"',
        "[set]", *(f'"{key}" = {value}' for key, value in fixed.items()),
        "[search]", 'method = "crown-ibp"', f"limit = {limit}",
        "[front]", "seeds = [0, 1, 2]", "time-limit = 5",
    ]  # fmt: skip
    file = out / f"{setting}-{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


def citrus_lirpa(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "citrus_lirpa", *map(str, words)], check=True)


@click.command()
@click.option("--setting", type=click.Choice(list(SETTINGS)), default="mnist-0.3")
@click.option("--study", "studies", type=click.Choice(STUDIES), multiple=True, default=STUDIES)
@click.option("--trials", type=int, default=20, show_default=True, help="Of each study.")
@click.option("--data-dir", type=Path, default=Path("data"))
@click.option("--out", type=Path, default=Path("runs/fronts"), show_default=True)
@click.option("--compare", is_flag=True, help="Only compare what is there.")
def main(setting, studies, trials, data_dir, out, compare) -> None:
    """Tune the methods of a setting, one after the other, then compare their fronts."""
    files = [write_study(setting, name, trials, out) for name in studies]
    for file in [] if compare else files:
        citrus_lirpa("tune", file, "--data-dir", data_dir)
    citrus_lirpa("front", *files, "--markdown", "--out", out / setting)


if __name__ == "__main__":
    main()
