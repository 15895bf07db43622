"""Does cross-input training pay? The fronts of several methods under equal tuning.

Each method gets the same trials, and epochs that take the same time, by the steps that
STEP lists. The state of a study is one small file in benchmarks/fronts/, which any
number of workers, on any machine, continue; trainings lie in the folder that --out names.
Run it in the root of the repository.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click

#: CPU time of a training step beside IBP's, on MNIST at 0.3 in batches of 128.
STEP = {"ibp": 1.0, "mtl-ibp": 1.7, "sabr": 2.9, "citrus": 8.3, "citrus-si": 9.2, "citrus-k3": 9.0}
#: In batches of 64, and with one attack step for CITRUS's family.
ONE_STEP = {"ibp": 1.0, "mtl-ibp": 1.6, "sabr": 2.8, "citrus": 3.1, "citrus-k3": 3.6}
#: What the paper's CITRUS does not have, at its defaults; the study citrus-open varies it.
PAPER = {"loss.reduction": '"sum"', "loss.worst": "0", "loss.universal": "0", "loss.alpha": "1.0",
         "loss.k": "2"}  # fmt: skip
#: The three pairs of three partners, with a quarter of the attack steps: a step costs as much.
PAIRS = PAPER | {"loss.k": "3", "loss.partners": "3", "loss.attack_steps": "5"}
#: What the studies of CITRUS's family do not vary.
FIXED = {"citrus": PAPER, "citrus-si": PAPER, "citrus-k3": PAIRS}
#: Judges a network of the front in seconds.
QUICK = ("seeds = [0]", 'method = "alpha-crown"', "limit = 1000", "time-limit = 1")


class Setting(NamedTuple):
    """The budget of a setting.

    Args:
        preset: Data set, ε and recipes.
        epochs: Of IBP; the other methods get as many as take the same time.
        held_out: Images kept from training.
        limit: Held-out images that trials are judged on.
        images: Training images; 0 for all.
        front: How the networks of the front are judged, on test images.
        one_step: Whether CITRUS's family attacks by one step, in batches of 64.
    """

    preset: str
    epochs: int
    held_out: int
    limit: int
    images: int = 0
    front: tuple[str, ...] = ("seeds = [0, 1, 2]", "time-limit = 5")
    one_step: bool = False


SETTINGS = {
    "mnist-0.3": Setting("mnist-0.3", 40, 5000, 5000),
    "mnist-0.3-small": Setting("mnist-0.3", 38, 5000, 1000, 10000, QUICK, True),  # an hour
    "cifar10-2-255": Setting("cifar10-2-255", 40, 5000, 2000),
    "cifar10-8-255": Setting("cifar10-8-255", 40, 5000, 2000),
    "digits": Setting("digits", 100, 300, 300),  # minutes, to see that all of it works
}
STUDIES = ("citrus", "citrus-open", "citrus-k3", "citrus-si", "sabr", "mtl-ibp", "ibp")


def write_study(setting: str, name: str, trials: int, out: Path) -> Path:
    """Write the file of a study."""
    given, method = SETTINGS[setting], name.removesuffix("-open").removesuffix("-k3")
    step = ONE_STEP if given.one_step else STEP
    fixed = {
        "data.held_out": given.held_out,
        "data.limit": given.images,
        "train.epochs": max(2, round(given.epochs / step.get(name, step[method]))),
        "train.threads": 1,
        **FIXED.get(name, {}),
    }
    if setting != "digits":
        fixed |= {"model.name": '"convsmall"', "train.batch_size": 64 if given.one_step else 128}
    if given.one_step and method == "citrus":
        fixed["loss.sign_steps"] = 1.0
    lines = [
        f'preset = "{given.preset}"', f'method = "{method}"', f"trials = {trials}",
        f'name = "{setting}-{name}"', f'folder = "{out / setting / name}"',
        f'storage = "benchmarks/fronts/{setting}-{name}.journal"',
        "[set]", *(f'"{key}" = {value}' for key, value in fixed.items()),
        "[search]", 'method = "crown-ibp"', f"limit = {given.limit}",
        "[front]", *given.front,
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
