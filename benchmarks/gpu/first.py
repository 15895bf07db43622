"""The first command for a GPU, at most four minutes: is it right, and how fast is it?

    python benchmarks/gpu/first.py OUT [--device cuda] [--seconds 230] [--small]

Prints the checks of ``check.py``, that of CUDA graphs first. Then it times training steps of CNN7
on random images of CIFAR-10's size, by mode, batch and precision, what runs longest last. Each is
timed in three ways: as ``citrus-lirpa train`` makes it, by CUDA graphs; without them; and by graphs
with images and weights channels last. On a CPU these are one. Last come certificates of one network
in float32, more images at a time, and float64. Writes OUT/first.json, from which ``second.py``
knows how many epochs fit.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import check
import click
import torch

from citrus_lirpa import BoundedNet, data, fit, verify
from citrus_lirpa.bounds import steps
from citrus_lirpa.errors import reason
from citrus_lirpa.training import checkpoint, setup
from citrus_lirpa.training.config import resolve

#: Mode, batch and precision of the steps that are timed.
CASES = [
    (mode, batch, precision)
    for precision in ("tf32", "float32", "bfloat16")
    for mode, batch in (("paper", 5), ("large", 128))
]
#: The ways to make them: by CUDA graphs or not, and channels last or not.
WAYS = {
    "by graphs": (True, False),
    "without graphs": (False, False),
    "channels last": (True, True),
}
#: Steps of an epoch in each mode. The second of two is timed; it captures its graph anew, which
#: takes about as long as one step without a graph.
STEPS, EPOCHS = {"paper": 100, "large": 40}, 2
#: ε at the end of its ramp, so small that losses stay near those of clean inputs.
EPS = 0.001
#: Types of numbers, and images at a time, by which images are certified.
CERTIFYING = [(torch.float32, 256), (torch.float32, 1024), (torch.float64, 256)]
#: What makes CNN7 small enough to try this on a CPU, and steps of an epoch then.
SMALL_STEPS, SMALL = 2, ["model.width=4", "model.linear=16", "loss.attack_steps=2"]


@contextlib.contextmanager
def channels_last(net: torch.nn.Module) -> Iterator[None]:
    """Let images and weights of convolutions lie channels last on a GPU too."""
    net.to(memory_format=torch.channels_last)
    with mock.patch.object(steps, "CHANNELS_LAST", {"cpu", "cuda"}):
        yield


def step_time(
    mode: str, batch: int, precision: str, device: torch.device, small: bool, way: str
) -> dict:
    """Train on random images with ε on its ramp; return seconds a step of the last epoch."""
    graph, last = WAYS[way]
    count = SMALL_STEPS if small else STEPS[mode]
    overrides = [f"train.epochs={EPOCHS}", f"train.batch_size={batch}", "train.ramp_start=1"]
    overrides += [f"train.precision={precision}", f"train.ramp_length={EPOCHS}"]
    overrides += [f"train.graph={str(graph).lower()}", f"train.eps={EPS}"]
    overrides += SMALL if small else []
    config = resolve(preset="cifar10-8-255", mode=mode, overrides=overrides)
    same = torch.Generator().manual_seed(0)  # so that the ways end with the same loss
    shape = count * batch, 3, 32, 32
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=same)
    images = data.Split(pixels, torch.randint(10, shape[:1], generator=same))
    gc.collect()  # networks hold themselves: the one before would count
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    net, loss = setup.build(config, device)
    with channels_last(net.module) if last else contextlib.nullcontext():
        record = fit(net, loss, images, config).records[-1]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {"seconds": record["seconds"] / count, "loss": record["loss"], "peak_gib": peak}


def tried(case: tuple[str, int, str], device: torch.device, small: bool, way: str) -> dict:
    """What ``step_time`` says, or why it says nothing."""
    if case[2] == "tf32" and device.type != "cuda":
        return {"error": "a GPU alone has TF32"}
    try:
        return step_time(*case, device, small, way)
    except Exception as error:  # noqa: BLE001 - whatever a GPU brings is to be told
        return {"error": f"{type(error).__name__}: {reason(error)}"}


def told(way: str, said: dict, first: dict) -> str:
    """One way to make a step, beside the first way."""
    if "error" in said:
        return f"{way}: {said['error']}"
    times = f" ({said['seconds'] / first['seconds']:.2f} times that)" if "seconds" in first else ""
    return (
        f"{way} {1000 * said['seconds']:.1f} ms{'' if said is first else times}, "
        f"loss {said['loss']:.4g}, {said['peak_gib']:.1f} GiB"
    )


def step_times(device: torch.device, small: bool, until: float) -> list[dict]:
    """Time all cases, but those that would begin after ``until``; print a line for each."""
    rows = []
    setup.measure_convolutions(device)  # as ``citrus-lirpa train`` does
    print("steps of CNN7 on the same random images, ε on its ramp: time, loss, peak memory of each "
          "way to make them", flush=True)  # fmt: skip
    for mode, batch, precision in CASES:
        case = mode, min(batch, 10) if small else batch, precision
        what = "{} mode, batch {}, {}: ".format(*case)
        if time.perf_counter() > until:
            print(f"{what}no time left; give more --seconds", flush=True)
            continue
        ways = {way: tried(case, device, small, way) for way in WAYS}
        first = ways["by graphs"]
        print(what + "; ".join(told(way, said, first) for way, said in ways.items()), flush=True)
        rows.append(dict(zip(("mode", "batch", "precision"), case, strict=True), ways=ways))
    return rows


def certifying(device: torch.device, small: bool, until: float) -> list[dict]:
    """Time certificates of random images, up to CROWN, by a network of the zoo; print lines."""
    model, spec, settings = checkpoint.load_model(Path("zoo:cifar10-8-255-convsmall"))
    eps, rows = settings.train.eps / 2, []
    x = torch.rand(20 if small else 1024, *spec.shape, generator=torch.Generator().manual_seed(0))
    for dtype, at_once in CERTIFYING:
        if time.perf_counter() > until:
            break
        images = x.to(device, dtype)
        net = BoundedNet(copy.deepcopy(model).to(device, dtype), images[:2]).eval()
        with torch.no_grad():
            y = net(images).argmax(1)
        options = {"method": "crown", "batch_size": at_once, "progress": False}
        verify.certify(net, images[:2], y[:2], eps, **options)  # libraries begin
        begin = time.perf_counter()
        proved = int(verify.certify(net, images, y, eps, **options).certified.sum())
        row = {"type": str(dtype).removeprefix("torch."), "at_once": at_once, "proved": proved}
        rows.append({**row, "seconds": time.perf_counter() - begin})
        what = f"certificates of {len(x)} random images up to CROWN, {row['type']}, "
        what += f"{at_once} at a time: {rows[-1]['seconds']:.2f} s, {proved} proved"
        print(what, flush=True)
    return rows


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--device", default="cuda", show_default=True)
@click.option("--seconds", default=230, show_default=True, help="Nothing begins after them.")
@click.option("--small", is_flag=True, help="Small networks, to try this on a CPU.")
def main(out: Path, device: str, seconds: float, small: bool) -> None:
    begin, where = time.perf_counter(), check.chosen(device)
    name = torch.cuda.get_device_name() if where.type == "cuda" else "cpu"
    print(f"torch {torch.__version__} on {name}, {torch.get_num_threads()} threads", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    graphs = logging.getLogger("citrus_lirpa.training.graphed")  # it says what is made no graph
    graphs.addHandler(logging.StreamHandler(sys.stdout))
    graphs.setLevel(logging.INFO)
    found = {"device": name, "torch": torch.__version__}
    found["checks"] = check.run(where, small, begin + 0.6 * seconds)
    (out / "first.json").write_text(json.dumps(found, indent=2) + "\n")
    found["steps"] = step_times(where, small, begin + 0.8 * seconds)
    (out / "first.json").write_text(json.dumps(found, indent=2) + "\n")
    found["certifying"] = certifying(where, small, begin + 0.9 * seconds)
    (out / "first.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"{out / 'first.json'} is written, {time.perf_counter() - begin:.0f} s; next: "
          f"python benchmarks/gpu/second.py {out} --data-dir DATA", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
