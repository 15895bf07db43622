"""The second command for a GPU, at most eight minutes: CNN7 on CIFAR-10 at 8/255, certified.

    python benchmarks/gpu/second.py OUT --data-dir DATA [--total 480] [--precision tf32]

Trains in large mode for as many epochs as fit by OUT/first.json, exports the weights in pieces of
at most 15 MiB (``pieces.py`` puts them together), and certifies: all test images by CROWN-IBP,
groups of all by linear certificates, and some by branch and bound. Each part has a time limit of
its own, so that the others run whatever happens to one. OUT/second.json has the tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pieces

#: Share of the time that training takes, and seconds kept for what follows the last step.
TRAINING, EXPORT = 0.6, 15
#: Seconds of a step where first.json has none, and of an epoch beside its steps.
STEP, EPOCH = 0.06, 2.0
#: Options of ``eval`` for each certification.
EVALUATIONS = {
    "images": ["--method", "crown-ibp", "--relational", "none", "--batch-size", 1000],
    "groups": ["--method", "crown-ibp", "--time-limit", 0.05, "--batch-size", 500],
    "search": ["--method", "bab", "--relational", "cross", "--time-limit", 0.2, "--limit", 200],
}
#: What makes it small enough to try it on a CPU.
SMALL = {
    "train": ["--set", "data.limit=64", "--set", "model.width=4", "--set", "model.linear=16",
              "--set", "loss.attack_steps=1", "--set", "train.batch_size=32"],
    "eval": ["--limit", 10],
}  # fmt: skip


def epochs(first: Path, batch: int, images: int, precision: str, seconds: float) -> int:
    """How many epochs fit into so many seconds, at least two."""
    step = STEP
    if first.exists():
        rows = json.loads(first.read_text())["steps"]
        fitting = [row for row in rows if (row["mode"], row["precision"]) == ("large", precision)]
        step = next((row["seconds"] for row in fitting if "seconds" in row), STEP)
    return max(2, int(seconds / (1.1 * step * (images // batch) + EPOCH)))


def graphs(first: Path) -> list[str]:
    """Options that turn CUDA graphs off, where first.json says that they do not hold."""
    rows = json.loads(first.read_text())["checks"] if first.exists() else []
    holds = all(row["result"] == "PASS" for row in rows if "CUDA graphs" in row["check"])
    return [] if holds else ["--set", "train.graph=false"]


def command(name: str, *options: object, seconds: float) -> str:
    """Run a command of citrus-lirpa; at its limit it is told to stop, which keeps its results."""
    begin, line = time.perf_counter(), [name, *map(str, options)]
    print("citrus-lirpa", *line, flush=True)
    started = subprocess.Popen([sys.executable, "-m", "citrus_lirpa", *line])
    try:
        status = started.wait(timeout=max(1.0, seconds))
        said = "finished" if status == 0 else f"failed with status {status}"
    except subprocess.TimeoutExpired:
        started.terminate()
        try:
            started.wait(timeout=30)
        except subprocess.TimeoutExpired:
            started.kill()
        said = "stopped at its time limit"
    print(f"{name}: {said} after {time.perf_counter() - begin:.0f} s", flush=True)
    return said


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--total", default=480, show_default=True, help="Seconds for everything.")
@click.option("--precision", default="tf32", show_default=True)
@click.option("--small", is_flag=True, help="A small network and few images, to try it on a CPU.")
def main(out: Path, data_dir: Path, device: str, total: int, precision: str, small: bool) -> None:
    begin = time.perf_counter()

    def left() -> float:
        return total - EXPORT - (time.perf_counter() - begin)

    out.mkdir(parents=True, exist_ok=True)
    run, where = out / "run", ["--data-dir", data_dir, "--no-download", "--device", device]
    batch, images, more = (32, 64, SMALL["train"]) if small else (128, 50_000, [])
    count = epochs(out / "first.json", batch, images, precision, TRAINING * total)
    count = min(count, 2) if small else count
    found = {"epochs": count, "precision": precision, "said": {}}
    settings = ["--set", f"train.epochs={count}", "--precision", precision, *more]
    settings += graphs(out / "first.json")
    found["said"]["train"] = command(
        "train", "--preset", "cifar10-8-255", "--mode", "large", *settings, "--out", run, *where,
        seconds=(TRAINING + 0.1) * total,
    )  # fmt: skip
    weights = out / "cnn7.safetensors"
    found["said"]["export"] = command("export", run, "--out", weights, seconds=left())
    if weights.exists():
        found["pieces"] = [piece.name for piece in pieces.split(weights, out)]
    for name, options in EVALUATIONS.items():
        folder, few = out / name, SMALL["eval"] if small else []
        found["said"][name] = command(
            "eval", run, *options, *few, "--out", folder, *where, seconds=left()
        )
        records = [json.loads(file.read_text()) for file in folder.glob("eval-*.json")]
        long = ("verdicts", "image_seconds", "groups")
        found[name] = [{k: v for k, v in r.items() if k not in long} for r in records]
        (out / "second.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
