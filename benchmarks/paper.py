"""The tables and figures of the CITRUS paper, one command each, beside the paper's numbers.

    python benchmarks/paper.py table1 --scale small --data-dir DATA
    python benchmarks/paper.py figure5a --scale paper --data-dir DATA

Trains and certifies what is not finished yet below OUT/runs (the same command continues after
Ctrl-C, and tables share their runs), then writes OUT/TARGET.json, OUT/TARGET.md and
OUT/TARGET.png. Scale small: ConvSmall, short schedules, the first 1,000 test images, hours on two
CPU cores. Scale paper: CNN7, the full schedules, all test images, for a GPU; batches of 64 to 256
in place of five, as the presets have them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import paper_losses
import paper_output
import tomli_w
from commands import exit_status

from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.formats import atomic as files
from citrus_lirpa.reports import compare
from citrus_lirpa.runs import sweep

PRESETS = ("mnist-0.1", "mnist-0.3", "cifar10-2-255", "cifar10-8-255", "tinyimagenet-1-255")
#: The paper's ablations and its comparison with universal adversarial training are of this.
CENTRE = "cifar10-8-255"

#: Table 1: standard accuracy and UCert in per cent.
TABLE1 = {
    "mnist-0.1": {"citrus": (99.27, 98.41), "taps": (99.19, 98.65), "sabr": (99.23, 98.37),
                  "ibp": (98.84, 98.12)},
    "mnist-0.3": {"citrus": (99.04, 95.61), "taps": (98.53, 95.24), "sabr": (98.75, 95.37),
                  "ibp": (97.67, 94.76)},
    "cifar10-2-255": {"citrus": (83.45, 66.98), "taps": (79.76, 66.62), "sabr": (79.24, 65.38),
                      "ibp": (66.84, 59.41)},
    "cifar10-8-255": {"citrus": (63.12, 39.88), "taps": (52.82, 40.90), "sabr": (52.38, 41.57),
                      "ibp": (48.94, 39.05)},
    "tinyimagenet-1-255": {"citrus": (35.62, 26.27), "taps": (28.98, 24.71),
                           "sabr": (28.85, 21.53), "ibp": (25.92, 18.50)},
}  # fmt: skip
TABLE2 = {"citrus": (63.12, 39.88), "pgd": (87.25, 0.0), "uat": (94.28, 0.87),
          "cw-uat": (94.91, 1.51)}  # fmt: skip
TABLE3 = {"citrus": (63.12, 39.88), "citrus-si": (50.24, 40.06)}
#: Table 4: minutes of CITRUS training on one RTX 3090.
TABLE4 = {"mnist-0.1": 527, "mnist-0.3": 492, "cifar10-2-255": 1004, "cifar10-8-255": 1185,
          "tinyimagenet-1-255": 3583}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """fixed: settings of all runs; evaluation: options of eval; some targets need less."""

    fixed: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    by_target: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SCALES = {
    "small": Scale(
        {
            "model.name": "convsmall",
            "train.epochs": 5,
            "train.lr": 2e-3,
            "train.batch_size": 64,
            "train.threads": 1,
        },
        {"limit": 1000, "time-limit": 1},
        {
            "figure5a": {"train.epochs": 3},
            "figure5b": {"train.epochs": 2, "data.limit": 10_000, "train.lr": 5e-4},
        },
    ),
    "paper": Scale({}, {"time-limit": 10}),
}


@dataclass(frozen=True)
class Target:
    """grids: of the sweep; paper: (standard accuracy, UCert) of a run, None where the paper has
    none; labels: keys that tell the runs apart; minutes: the paper's, where it is about time."""

    title: str
    grids: tuple[Mapping[str, list], ...]
    labels: tuple[str, ...]
    paper: Any = lambda choice: None
    minutes: Any = lambda choice: None


def batches_of(size: int) -> dict[str, list]:
    """CITRUS in groups of ``size``, one group a batch, as Algorithm 1 has it."""
    pairing = {"loss.pairing": ["groups"], "loss.partners": [size - 1]}
    return {"preset": [CENTRE], "method": ["citrus"], "train.batch_size": [size], **pairing}


TARGETS = {
    "table1": Target(
        "Table 1: certified training methods",
        ({"preset": list(PRESETS), "method": list(TABLE1[CENTRE])},),
        ("preset", "method"),
        lambda choice: TABLE1[choice["preset"]][choice["method"]],
    ),
    "table2": Target(
        "Table 2: universal and plain adversarial training",
        ({"preset": [CENTRE], "method": list(TABLE2)},),
        ("method",),
        lambda choice: TABLE2[choice["method"]],
    ),
    "table3": Target(
        "Table 3: with the input's own box",
        ({"preset": [CENTRE], "method": list(TABLE3)},),
        ("method",),
        lambda choice: TABLE3[choice["method"]],
    ),
    "table4": Target(
        "Table 4: minutes of training",
        ({"preset": list(PRESETS), "method": ["citrus"]},),
        ("preset",),
        lambda choice: TABLE1[choice["preset"]]["citrus"],
        lambda choice: TABLE4[choice["preset"]],
    ),
    "figure5a": Target(
        "Figure 5a: τ/ε",
        (
            {
                "preset": [CENTRE],
                "method": ["citrus"],
                "loss.tau_ratio": [0.3, 0.5, 0.7, 0.9],
            },
        ),
        ("loss.tau_ratio",),
    ),
    "figure5b": Target(
        "Figure 5b: batch size",
        tuple(batches_of(size) for size in (2, 3, 5, 7, 10)),
        ("train.batch_size",),
    ),
}


@click.command()
@click.argument("target", type=click.Choice([*TARGETS, "figure4"]))
@click.option("--scale", type=click.Choice(list(SCALES)), default="small", show_default=True)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    type=click.Choice(PRESETS),
    help="Only these settings of a table; the others are reported as not run.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="[default: runs/paper-SCALE]")
@click.option("--processes", type=int, help="Runs at once, as for citrus-lirpa sweep.")
def main(target, scale, presets, data_dir, out, processes) -> None:
    """Reproduce TARGET, a table or figure of the paper."""
    out = out or Path("runs") / f"paper-{scale}"
    out.mkdir(parents=True, exist_ok=True)
    if target == "figure4":
        fixed = SCALES[scale].fixed
        paper_losses.run(CENTRE, fixed, data_dir=data_dir, out=out)
        return
    aim = TARGETS[target]
    every = sweep.expand(sweep.read(write_sweep(out / f"{target}.toml", target, aim, scale)))
    chosen = [run for run in every if not presets or run.choice["preset"] in presets]
    if presets:
        write_sweep(out / f"{target}.toml", target, aim, scale, presets)
    more = ["--processes", str(processes)] if processes else []
    folder = out / "runs"
    command = ["sweep", out / f"{target}.toml", "--out", folder, "--data-dir", data_dir, *more]
    status = exit_status(*command)
    if status and not any((folder / run.name).is_dir() for run in chosen):
        raise SystemExit(status)
    rows = [row(run, aim, folder, chosen) for run in every]
    record = {"target": target, "scale": scale, "machine": paper_output.machine(), "rows": rows}
    files.write_text(out / f"{target}.json", json.dumps(record, indent=2) + "\n")
    text = paper_output.markdown(aim.title, record)
    files.write_text(out / f"{target}.md", text)
    paper_output.draw(target, aim.title, rows, out / f"{target}.png")
    click.echo(f"{text}\n{out / target}.json, .md, .png")
    raise SystemExit(status)


def write_sweep(
    file: Path, name: str, target: Target, scale: str, presets: tuple[str, ...] = ()
) -> Path:
    """The sweep file of a target, of all its settings or of ``presets``."""
    at = SCALES[scale]
    grids = [
        {**grid, "preset": [p for p in grid["preset"] if not presets or p in presets]}
        for grid in target.grids
    ]
    fixed = {**at.fixed, **at.by_target.get(name, {})}
    varied = {key for grid in grids for key in grid}
    fixed = {key: value for key, value in fixed.items() if key not in varied}
    tables = {"set": fixed, "grid": grids, "eval": dict(at.evaluation)}
    files.write_text(file, tomli_w.dumps(tables))
    return file


def row(run: sweep.Run, target: Target, folder: Path, chosen: list[sweep.Run]) -> dict[str, Any]:
    """One row: what tells the run apart, the paper's figures and ours, None where not run."""
    found = None
    if run in chosen:
        try:
            (found,) = compare.read_runs([folder / run.name])
        except CheckpointError as error:
            click.echo(f"{run.name}: {error}", err=True)
    standard, certified = target.paper(run.choice) or (None, None)
    return {
        "labels": {key.rpartition(".")[2]: run.choice[key] for key in target.labels},
        "paper": {
            "standard": standard,
            "ucert": certified,
            "minutes": target.minutes(run.choice),
        },
        "ours": found
        and {
            "standard": 100 * found.standard_accuracy,
            "certified": 100 * found.certified_accuracy,
            "ucert": 100 * found.certified_uap_accuracy,
            "attacked": 100 * found.attacked_uap_accuracy,
            "minutes": found.training_seconds / 60,
            "images": found.setting.images,
        },
    }


if __name__ == "__main__":
    main()
