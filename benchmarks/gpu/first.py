"""The first command for a GPU, at most four minutes: is it right, and how fast is it?

    python benchmarks/gpu/first.py OUT [--device cuda] [--seconds 230] [--small]

Prints the checks of ``check.py``, that of CUDA graphs first, then the time of training steps of
CNN7 on random images of CIFAR-10's size, by batch and precision, what runs longest last: by graphs
and, on a GPU, as usual. Writes OUT/first.json, from which ``second.py`` knows how many epochs fit.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import check
import click
import torch

from citrus_lirpa import data, fit
from citrus_lirpa.errors import reason
from citrus_lirpa.training import setup
from citrus_lirpa.training.config import resolve

#: Mode, batch and precision of the steps that are timed.
CASES = [
    (mode, batch, precision)
    for precision in ("tf32", "float32", "bfloat16")
    for mode, batch in (("paper", 5), ("large", 128))
]
STEPS, EPOCHS = 20, 4
#: What makes CNN7 small enough to try this on a CPU.
SMALL = ["model.width=4", "model.linear=16", "loss.attack_steps=2"]


def step_time(
    mode: str, batch: int, precision: str, device: torch.device, small: bool, graph: bool = True
) -> dict:
    """Train on random images with ε on its ramp; return seconds a step of the last epoch."""
    batch, steps = (min(batch, 10), 2) if small else (batch, STEPS)
    overrides = [f"train.epochs={EPOCHS}", f"train.batch_size={batch}", "train.ramp_start=1"]
    overrides += [f"train.precision={precision}", f"train.ramp_length={EPOCHS}"]
    overrides += [f"train.graph={str(graph).lower()}"]
    overrides += SMALL if small else []
    config = resolve(preset="cifar10-8-255", mode=mode, overrides=overrides)
    pixels = torch.randint(0, 256, (steps * batch, 3, 32, 32), dtype=torch.uint8)
    images = data.Split(pixels, torch.randint(10, (len(pixels),)))
    begin = time.perf_counter()
    net, loss = setup.build(config, device)
    built = time.perf_counter() - begin
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    last = fit(net, loss, images, config).records[-1]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {
        "seconds": last["seconds"] / steps, "loss": last["loss"], "build": built, "peak_gib": peak
    }  # fmt: skip


def step_times(device: torch.device, small: bool, until: float) -> list[dict]:
    """Time all cases, but those that would begin after ``until``; print a line for each."""
    rows = []
    for mode, batch, precision in CASES:
        row = {"mode": mode, "batch": batch, "precision": precision}
        if time.perf_counter() > until:
            said = {"error": "no time left"}
        elif precision == "tf32" and device.type != "cuda":
            said = {"error": "a GPU alone has TF32"}
        else:
            try:
                said = step_time(mode, batch, precision, device, small)
                if device.type == "cuda":
                    said["usual"] = step_time(mode, batch, precision, device, small, graph=False)
            except Exception as error:  # noqa: BLE001 - whatever a GPU brings is to be told
                said = {"error": f"{type(error).__name__}: {reason(error)}"}
        rows.append({**row, **said})
        told = said.get("error") or (
            f"{1000 * said['seconds']:.1f} ms a step, loss {said['loss']:.3f}, "
            f"peak {said['peak_gib'] or 0:.1f} GiB"
        )
        if usual := said.get("usual"):
            ratio = usual["seconds"] / said["seconds"]
            told += f"; without graphs {ratio:.2f} times the time, loss {usual['loss']:.3f}"
        print(f"{mode} {batch} {precision}: {told}", flush=True)
    return rows


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--device", default="cuda", show_default=True)
@click.option("--seconds", default=230, show_default=True, help="Nothing begins after them.")
@click.option("--small", is_flag=True, help="Small networks, to try this on a CPU.")
def main(out: Path, device: str, seconds: float, small: bool) -> None:
    begin, where = time.perf_counter(), setup.choose_device(device)
    name = torch.cuda.get_device_name() if where.type == "cuda" else "cpu"
    print(f"torch {torch.__version__} on {name}, {torch.get_num_threads()} threads", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    found = {"device": name, "torch": torch.__version__}
    found["checks"] = check.run(where, small, begin + 0.6 * seconds)
    (out / "first.json").write_text(json.dumps(found, indent=2) + "\n")
    found["steps"] = step_times(where, small, begin + 0.9 * seconds)
    (out / "first.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
