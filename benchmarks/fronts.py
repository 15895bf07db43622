"""Does cross-input training pay? The fronts of several methods under equal tuning.

Each method gets the same trials, and epochs that take the same time, by the steps that
STEP lists. The methods take turns, a trial each, so that they have had equally many wherever
it stops. The state of a study is one small file in benchmarks/fronts/, from which the same
command goes on, on any machine; trainings lie in the folder that --out names. Run it in the
root of the repository.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import torch
from commands import citrus_lirpa, one_line_errors

from citrus_lirpa.bounds import lirpa
from citrus_lirpa.runs.tuning import study
from citrus_lirpa.runs.tuning.storage import Storage
from citrus_lirpa.runs.tuning.worker import Worker

#: CPU time of a training step beside IBP's, on MNIST at 0.3 in batches of 128.
STEP = {"ibp": 1.0, "mtl-ibp": 1.7, "sabr": 2.9, "citrus": 8.3, "citrus-si": 9.2, "citrus-k3": 9.0}
#: At 0.1 in batches of 64, where each attack is one full sign step, and CITRUS has two partners.
SHORT_STEP = {"ibp": 1.0, "mtl-ibp": 1.6, "sabr": 1.3, "citrus": 2.0, "citrus-si": 3.1}
#: On the digits, with a fully connected network in batches of 64.
DIGITS_STEP = {"ibp": 1.0, "mtl-ibp": 1.4, "sabr": 1.75, "citrus": 3.2, "citrus-si": 3.35,
               "citrus-k3": 4.35}  # fmt: skip
#: What the paper's CITRUS does not have, at its defaults; the study citrus-open varies it.
PAPER = {"loss.reduction": '"sum"', "loss.worst": "0", "loss.universal": "0", "loss.alpha": "1.0",
         "loss.k": "2"}  # fmt: skip
#: The three pairs of three partners, with a quarter of the attack steps: a step costs as much.
PAIRS = PAPER | {"loss.k": "3", "loss.partners": "3", "loss.attack_steps": "5"}
#: What the studies of CITRUS's family do not vary; k would change what a trial costs.
FIXED = {"citrus": PAPER, "citrus-si": PAPER, "citrus-k3": PAIRS,
         "citrus-measured": PAPER | {"loss.k": "0"}, "citrus-open": {"loss.k": "2"}}  # fmt: skip
#: Where each attack is one full sign step; `--mode fast` has two partners as well.
SIGN_STEP = {"loss.attack_steps": "1", "loss.attack_step_size": "2.0"}
FAST = {"loss.partners": "2", "loss.sign_steps": "1.0"}
SHORT_FIXED = {name: values | FAST for name, values in FIXED.items()} | {"sabr": SIGN_STEP}


class Setting(NamedTuple):
    """The budget of a setting.

    Args:
        epochs: Of IBP; the other methods get as many as take the same time.
        held_out: Images kept from training.
        limit: Held-out images that trials are judged on.
        step: Time of a training step beside IBP's.
        common: What all its trainings share.
        front: How the networks of the front are judged, on test images.
        fixed: What the trainings of single studies share.
        space: Ranges in place of the methods' own.
        head: Further keys of the study.
    """

    epochs: int
    held_out: int
    limit: int
    step: dict[str, float] = STEP
    common: tuple[str, ...] = ('"model.name" = "convsmall"', '"train.batch_size" = 128')
    front: tuple[str, ...] = ("seeds = [1, 2, 3]", "time-limit = 5")
    fixed: dict[str, dict[str, str]] = FIXED
    space: tuple[str, ...] = ()
    head: str = ""


#: Fifteen to twenty seconds of one core for each training, and four for judging a trial.
SHORT = Setting(
    12,
    5000,
    400,
    SHORT_STEP,
    ('"model.name" = "convsmall"', '"train.batch_size" = 64', '"data.limit" = 5000'),
    ("seeds = [1, 2, 3]", 'method = "alpha-crown"', 'relational = "none"', "limit = 1000"),
    SHORT_FIXED,
    ('"train.lr" = { low = 1e-3, high = 8e-3, log = true }',),
    "stop_at = []",
)
CIFAR10 = ("cifar10-2-255", "cifar10-8-255")
SETTINGS = {
    "mnist-0.3": Setting(40, 5000, 5000),
    **dict.fromkeys(CIFAR10, Setting(40, 5000, 2000)),
    "digits": Setting(
        100, 300, 300, DIGITS_STEP, (), ("seeds = [0]", 'method = "alpha-crown"', "time-limit = 1")
    ),  # minutes
    **{f"{name}-short": SHORT for name in ("mnist-0.1", "mnist-0.3", *CIFAR10)},
}
STUDIES = (
    "citrus",
    "citrus-open",
    "citrus-k3",
    "citrus-measured",
    "citrus-si",
    "sabr",
    "mtl-ibp",
    "ibp",
)


def write_study(setting: str, name: str, trials: int, out: Path) -> Path:
    """Write the file of a study."""
    given, method = SETTINGS[setting], name.removesuffix("-open").removesuffix("-k3")
    method = method.removesuffix("-measured")
    preset = setting.removesuffix("-short")
    epochs = max(2, round(given.epochs / given.step.get(name, given.step[method])))
    fixed = {"data.held_out": given.held_out, "train.epochs": epochs, "train.threads": 1}
    lines = [
        f'preset = "{preset}"', f'method = "{method}"', f"trials = {trials}",
        f'name = "{setting}-{name}"', f'folder = "{out / setting / name}"',
        f'storage = "benchmarks/fronts/{setting}-{name}.journal"',
        given.head, "[set]", *given.common,
        *(f'"{key}" = {value}' for key, value in (fixed | given.fixed.get(name, {})).items()),
        "[space]", *given.space,
        "[search]", 'method = "crown-ibp"', f"limit = {given.limit}",
        "[front]", *given.front,
    ]  # fmt: skip
    file = out / f"{setting}-{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


@click.command()
@click.option("--setting", type=click.Choice(list(SETTINGS)), default="mnist-0.3")
@click.option("--study", "studies", type=click.Choice(STUDIES), multiple=True, default=STUDIES)
@click.option("--trials", type=int, default=20, show_default=True, help="Of each study.")
@click.option("--data-dir", type=Path, default=Path("data"))
@click.option("--out", type=Path, default=Path("runs/fronts"), show_default=True)
@click.option("--compare", is_flag=True, help="Only compare what is there.")
def main(setting, studies, trials, data_dir, out, compare) -> None:
    """Tune the methods of a setting, in turns, judge and compare their fronts."""
    files = [write_study(setting, name, trials, out) for name in studies]
    if not compare:
        lirpa.load()
        for number in range(1, trials + 1):
            for file in files:
                tune(file, number, data_dir)
        for file in files:
            citrus_lirpa("tune", file, "--data-dir", data_dir)
    citrus_lirpa("front", *files, "--markdown", "--out", out / setting)


def tune(file: Path, trials: int, data_dir: Path) -> None:
    """Work on a study until it has so many trials, beside those that another machine lost."""
    plan = study.read(file)
    with one_line_errors(), closing(Storage(plan, create=True)) as storage:
        running = [t for t in storage.trials() if t.state == "running"]
        lost = sum(not (plan.folder / "trials" / f"{t.number:04d}").is_dir() for t in running)
        plan = replace(plan, trials=trials + lost, front=None)
        click.echo(f"{plan.name}, trial {trials} of each")
        Worker(plan, storage, torch.device("cpu"), data_dir, False, click.echo).run()


if __name__ == "__main__":
    main()
