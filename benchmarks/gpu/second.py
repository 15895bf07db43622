"""The second command for a GPU, at most eight minutes: CNN7 on CIFAR-10 at 8/255, certified.

    python benchmarks/gpu/second.py OUT --data-dir DATA [--total 480] [--precision tf32]

Trains in large mode for as many epochs as fit by OUT/first.json, exports the weights in pieces of
at most 15 MiB (``pieces.py`` puts them together), and certifies: all 10,000 test images by
CROWN-IBP, 200 by branch and bound, and groups of five among 1,000 and among all by linear
certificates, the latter by four processes that share the GPU. Each part has a time limit of its
own, so that the others run whatever happens to one; an evaluation that is stopped goes on where its
command is repeated. OUT/second.json has the tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import click
import pieces

#: Share of the time that training takes, and seconds kept for what follows the last step.
TRAINING, EXPORT = 0.6, 15
#: Seconds of a step where first.json has none, and of an epoch beside its steps.
STEP, EPOCH = 0.06, 2.0


class Part(NamedTuple):
    """A certification: options of ``eval``, a share of the time that is left, and processes."""

    options: list[object]
    share: float
    processes: int = 1


_GROUPS = ["--method", "crown-ibp", "--time-limit", 0.05, "--batch-size", 500]
#: The two of groups show what it is worth that several processes share a GPU.
EVALUATIONS = {
    "images": Part(["--method", "crown-ibp", "--relational", "none", "--batch-size", 1000], 0.3),
    "search": Part(
        ["--method", "bab", "--relational", "cross", "--time-limit", 0.2, "--limit", 200], 0.3
    ),
    "groups among 1,000 images": Part([*_GROUPS, "--limit", 1000], 0.4),
    "groups among all, by four processes": Part(_GROUPS, 1.0, 4),
}
#: What makes it small enough to try it on a CPU.
SMALL = {
    "train": ["--set", "data.limit=64", "--set", "model.width=4", "--set", "model.linear=16",
              "--set", "loss.attack_steps=1", "--set", "train.batch_size=32"],
    "eval": ["--limit", 10],
}  # fmt: skip


def hold(first: dict) -> bool:
    """Whether CUDA graphs hold, by what ``first.py`` found."""
    rows = first.get("checks", [])
    return all(row["result"] == "PASS" for row in rows if "CUDA graphs" in row["check"])


def epochs(first: dict, batch: int, images: int, precision: str, seconds: float) -> int:
    """How many epochs fit into so many seconds by what ``first.py`` found, at least two."""
    way, step = "by graphs" if hold(first) else "without graphs", STEP
    for row in first.get("steps", []):
        if (row["mode"], row["precision"]) == ("large", precision):
            step = row["ways"][way].get("seconds", STEP)
    count = max(2, int(seconds / (1.1 * step * (images // batch) + EPOCH)))
    print(f"{count} epochs fit, by {1000 * step:.1f} ms a step {way}", flush=True)
    return count


def command(name: str, *options: object, seconds: float, processes: int = 1) -> str:
    """Run a command of citrus-lirpa; at its limit it is told to stop, which keeps its results."""
    begin, line = time.perf_counter(), ["-m", "citrus_lirpa", name, *map(str, options)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        line = [*launcher, f"--nproc_per_node={processes}", *line]
    print(f"\n-- at most {seconds:.0f} s: python", *line, flush=True)
    started = subprocess.Popen([sys.executable, *line])
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
    print(f"-- {name} {said} after {time.perf_counter() - begin:.0f} s", flush=True)
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

    run, where = out / "run", ["--data-dir", data_dir, "--no-download", "--device", device]
    if run.exists():
        raise click.ClickException(f"{run} is of an earlier call; remove it, or name another OUT")
    out.mkdir(parents=True, exist_ok=True)
    batch, images, more = (32, 64, SMALL["train"]) if small else (128, 50_000, [])
    few, most = (SMALL["eval"], 2) if small else ([], 16)
    seen = out / "first.json"
    first = json.loads(seen.read_text()) if seen.exists() else {}
    count = epochs(first, batch, images, precision, TRAINING * total)
    count = min(count, 2) if small else count
    found = {"epochs": count, "precision": precision, "said": {}}
    settings = ["--set", f"train.epochs={count}", "--precision", precision, *more]
    settings += [] if hold(first) else ["--set", "train.graph=false"]
    found["said"]["train"] = command(
        "train", "--preset", "cifar10-8-255", "--mode", "large", *settings, "--out", run, *where,
        seconds=(TRAINING + 0.1) * total,
    )  # fmt: skip
    weights = out / "cnn7.safetensors"
    found["said"]["export"] = command("export", run, "--out", weights, seconds=left())
    if weights.exists():
        found["pieces"] = ["pieces.json", *(piece.name for piece in pieces.split(weights, out))]
    for name, part in EVALUATIONS.items():
        folder = out / name.replace(",", "").replace(" ", "-")
        found["said"][name] = command(
            "eval", run, *part.options, *few, "--out", folder, *where,
            seconds=part.share * left(), processes=min(part.processes, most),
        )  # fmt: skip
        records = [json.loads(file.read_text()) for file in folder.glob("eval-*.json")]
        long = ("verdicts", "image_seconds", "groups")
        found[name] = [{k: v for k, v in r.items() if k not in long} for r in records]
        (out / "second.json").write_text(json.dumps(found, indent=2) + "\n")
    for name in EVALUATIONS:
        if (said := found["said"][name]) != "finished":
            print(f"{name}: {said}; its command, repeated, goes on from there", flush=True)
        for record in found[name]:
            print(f"{name}: {record['images']} in {record['seconds']['total']:.1f} s", flush=True)
    back = ["first.json", "second.json", "run/metrics.jsonl", *found.get("pieces", [])]
    print(f"{time.perf_counter() - begin:.0f} s; bring back from {out}:", *back, flush=True)


if __name__ == "__main__":
    main()
