"""Seconds per training step and peak memory of CITRUS and IBP, on the real data.

    python benchmarks/step_time.py --data-dir DATA [--preset cifar10-8-255] [--steps 200]

Trains one epoch of so many steps, ε rising over its first half, in `paper` mode (batches of
5, every ordered pair), in `large` mode (cyclic partners) and under plain IBP at large mode's
batch, and CITRUS in `fast` mode, each in a process of its own so that the peak memory is its own.
Beside each time stands its share of the peak that `floor.py` measures, on `--threads` threads or
on one. Ends with an error where a loss is not finite.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch
from floor import Work, peaks

from citrus_lirpa.training.checkpoint import make_model
from citrus_lirpa.training.config import resolve

VARIANTS = {
    "citrus, paper mode": ["--mode", "paper"],
    "citrus, large mode": ["--mode", "large"],
    "citrus, fast mode": ["--mode", "fast"],
    "ibp, large mode": ["--mode", "large", "--method", "ibp"],
}
#: Of each: attack steps, and boxes an input.
WORK = {
    "citrus, paper mode": (20, 4),
    "citrus, large mode": (20, 4),
    "citrus, fast mode": (1, 2),
    "ibp, large mode": (0, 1),
}


@click.command()
@click.option("--preset", default="cifar10-8-255", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--steps", default=200, show_default=True)
@click.option("--batch", default=128, show_default=True, help="Batch of large mode.")
@click.option("--threads", default=0, show_default=True, help="0: as the trainer chooses.")
@click.option("--only", type=click.Choice(list(VARIANTS)), multiple=True)
@click.option("--set", "overrides", multiple=True, help="Passed on to citrus-lirpa train.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write the rows here.")
def main(preset, data_dir, steps, batch, threads, only, overrides, file) -> None:
    rows = []
    settings = resolve(preset=preset, overrides=overrides)
    model, spec = make_model(settings)
    work = Work.of(model, torch.zeros(1, *spec.shape))
    torch.set_num_threads(threads or 1)
    peak = peaks("cpu")
    for name in only or VARIANTS:
        size = 5 if "paper" in name else batch
        settings = [
            "train.epochs=1",
            "train.ramp_start=1",
            "train.ramp_length=0.5",
            f"data.limit={size * steps}",
            f"train.batch_size={size}",
            f"train.threads={threads}",
            *overrides,
        ]
        rows.append(
            {"variant": name, "batch": size, **measure(preset, VARIANTS[name], settings, data_dir)}
        )
        floor = size * work.seconds(*WORK[name], peak)
        rows[-1]["share_of_peak"] = floor / rows[-1]["seconds_per_step"]
        click.echo(
            f"{name:<20} batch {size:>4}: {rows[-1]['seconds_per_step']:8.3f} s/step, "
            f"{100 * rows[-1]['share_of_peak']:.0f} % of {peak['float32'] / 1e9:.0f} GF/s, peak "
            f"{rows[-1]['peak_gib']:.2f} GiB, loss {rows[-1]['loss']:.3f}, {steps} steps"
        )
    machine = f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
    click.echo(f"{preset}, {machine}, {time.strftime('%Y-%m-%d')}")
    if file:
        file.write_text(json.dumps({"preset": preset, "machine": machine, "rows": rows}, indent=2))


def measure(preset: str, mode: list[str], settings: list[str], data_dir: Path) -> dict:
    """Train once in a child process; its metrics and its peak memory."""
    child = (
        "import resource, sys; from citrus_lirpa.cli import main\n"
        "try: main()\n"
        "finally: print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = [o for s in settings for o in ("--set", s)]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                child,
                "train",
                "--preset",
                preset,
                *mode,
                *options,
                "--data-dir",
                str(data_dir),
                "--out",
                str(out),
                "--quiet",
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise click.ClickException(done.stderr.strip() or done.stdout)
        record = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    peak = int(done.stdout.split("PEAK")[1]) / 2**20  # Linux counts KiB
    return {
        "seconds_per_step": record["seconds"] / record["step"],
        "peak_gib": peak,
        "loss": record["loss"],
    }


if __name__ == "__main__":
    main()
