"""How long training steps take: beside plain PyTorch, a literal double loop, and other methods.

    python benchmarks/speed.py [--quick] [--json runs/speed.json]

Random images of CIFAR-10's size, ε = 8/255, τ = 0.7·ε, PGD with 20 steps (SABR 8, PGD training
10). All variants of a table take turns, so that a change of the machine's load meets all of
them; seconds are medians over the rounds and ratios medians of the rounds' ratios. Peak memory
is that of a process that does nothing else. Beside each step stands its share of the peak: its
floor, which `floor.py` counts and measures, over its time. `plain.py` says what is plain.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import torch
from floor import Work, clock_of, peaks
from plain import Plain, literal_step
from torch import nn

from citrus_lirpa import (
    PGD,
    Adversarial,
    BoundedNet,
    Box,
    Citrus,
    Groups,
    Ibp,
    Sabr,
    Shifts,
    cross_input_boxes,
    robust_cross_entropy,
)
from citrus_lirpa.bounds import lirpa as _compat
from citrus_lirpa.models import build_model
from citrus_lirpa.training import setup

EPS, RATIO, PARTNERS, STEPS = 8 / 255, 0.7, 4, 20
SHAPE = (3, 32, 32)
_WIDE = 10  # columns
#: Pairing of the two modes.
MODES = {"paper": Groups(5), "large": Shifts(PARTNERS)}
#: Of each kind of step: attack steps, and boxes an input.
FLOORS = {
    "citrus": (STEPS, PARTNERS),
    "bfloat16": (STEPS, PARTNERS),
    "8 PGD steps": (8, PARTNERS),
    "--mode fast": (1, 2),
    "sabr": (8, 1),
    "ibp": (0, 1),
    "pgd": (10, 0),
}

Step = Callable[[], object]


def model(name: str) -> nn.Sequential:
    """Build a network; cnn7@0.25 is a CNN7 of a quarter of the width."""
    torch.manual_seed(0)
    name, _, width = name.partition("@")
    options = {"width": float(width)} if width else {}
    return build_model(name, shape=SHAPE, classes=10, mean=[0.5] * 3, std=[0.2] * 3, **options)


def images(batch: int, device: str):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, *SHAPE, generator=generator)
    return x.to(device), torch.randint(10, (batch,), generator=generator).to(device)


class Subject:
    """A bounded network, its optimiser and a batch: what steps are made of."""

    def __init__(self, name: str, batch: int, device: str, *, dtype=None, compiled=False):
        self.x, self.y = images(batch, device)
        self.net = BoundedNet(model(name).to(device), self.x[:2]).train()
        self.net.attack_dtype = dtype
        if compiled:
            self.net.compile()
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=5e-4)

    def step(self, loss: nn.Module) -> Step:
        def step() -> None:
            self.optimiser.zero_grad()
            loss(self.net, self.x, self.y, EPS).backward()
            self.optimiser.step()

        return step

    def literally(self, pairing) -> Step:
        sees = pairing(len(self.x))
        tau = RATIO * EPS
        return lambda: literal_step(
            self.net, self.optimiser, PGD(STEPS), self.x, self.y, sees, eps=EPS, tau=tau
        )


def take_turns(steps: Mapping[str, Step], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each step in each round, after one round to warm up.

    On one CPU thread they are those in which the thread ran, so that other work does not count.
    """
    clock = clock_of(device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            wait(device)
            begin = clock()
            step()
            wait(device)
            if number:
                seconds[name].append(clock() - begin)
    return seconds


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def ratio(seconds: dict[str, list[float]], a: str, b: str) -> float:
    return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))


# -- the tables -------------------------------------------------------------------------


def whole_steps(name: str, mode: str, batch: int, rounds: int, device: str, compiled: bool) -> dict:
    """CITRUS beside plain PyTorch, the double loop, and other methods at the same batch."""
    pairing = MODES[mode]
    subject, citrus = Subject(name, batch, device), Citrus(RATIO, pairing=pairing)
    bare = model(name).to(device).train()
    plain = Plain(bare, attack_steps=STEPS, partners=PARTNERS, eps=(1 - RATIO) * EPS)
    fast = Citrus(RATIO, pairing=Shifts(2), attack=PGD.sign_step())
    steps = {
        "citrus": subject.step(citrus),
        "plain": lambda: plain.step(subject.x, subject.y, RATIO * EPS),
        "sabr": subject.step(Sabr(RATIO)),
        "ibp": subject.step(Ibp()),
        "pgd": subject.step(Adversarial()),
        "bfloat16": Subject(name, batch, device, dtype=torch.bfloat16).step(citrus),
        "8 PGD steps": subject.step(Citrus(RATIO, pairing=pairing, attack=PGD(8))),
        "--mode fast": subject.step(fast),
    }
    if compiled:
        steps["compiled"] = Subject(name, batch, device, compiled=True).step(citrus)
    if mode == "paper":
        steps["double loop"] = subject.literally(pairing)
    seconds = take_turns(steps, rounds, device)
    row = {"model": name, "mode": mode, "batch": batch}
    row |= {f"{key}, s": statistics.median(value) for key, value in seconds.items()}
    work = Work.of(bare, subject.x[:1])
    row["peak, GF/s"] = peaks(device)["float32"] / 1e9
    for key, (attack, boxes) in FLOORS.items():
        floor = batch * work.seconds(attack, boxes, peaks(device), rounded=key == "bfloat16")
        row[f"{key}, % of peak"] = 100 * floor / row[f"{key}, s"]
    row["plain / citrus"] = ratio(seconds, "plain", "citrus")
    row["citrus / --mode fast"] = ratio(seconds, "citrus", "--mode fast")
    for other in ("sabr", "ibp", "pgd"):
        row[f"citrus / {other}"] = ratio(seconds, "citrus", other)
    for option in ("8 PGD steps", "bfloat16", "compiled"):
        if option in steps:
            row[f"{option} / citrus"] = ratio(seconds, option, "citrus")
    row["8 PGD steps / sabr"] = ratio(seconds, "8 PGD steps", "sabr")
    if "double loop" in steps:
        row["double loop / citrus"] = ratio(seconds, "double loop", "citrus")
    return row


def beside_ctrain(name: str, batch: int, rounds: int, device: str) -> dict:
    """SABR, and CITRUS in fast mode, beside CTRAIN's SABR."""
    subject = Subject(name, batch, device)
    steps = {
        "sabr of CTRAIN": ctrain_sabr(name, batch, device),
        "sabr": subject.step(Sabr(RATIO)),
        "--mode fast": subject.step(Citrus(RATIO, pairing=Shifts(2), attack=PGD.sign_step())),
    }
    seconds = take_turns(steps, rounds, device)
    row = {"model": name, "batch": batch}
    row |= {f"{key}, s": statistics.median(value) for key, value in seconds.items()}
    row["sabr of CTRAIN / sabr"] = ratio(seconds, "sabr of CTRAIN", "sabr")
    row["--mode fast / sabr of CTRAIN"] = ratio(seconds, "--mode fast", "sabr of CTRAIN")
    return row


def interval_passes(name: str, boxes: int, rounds: int, device: str) -> dict:
    """IBP forward and backward: by BoundedNet, written by hand, and by auto_LiRPA."""
    subject = Subject(name, boxes, device)
    bare = model(name).to(device).train()
    plain = Plain(bare, attack_steps=0, partners=0, eps=EPS)
    slow = BoundedNet(model(name).to(device), subject.x[:2]).train()
    slow.fast = None
    box = Box.around(subject.x, EPS)

    def through(net: BoundedNet) -> Step:
        def step() -> None:
            net(subject.x[:5])
            robust_cross_entropy(net.margins(box, subject.y)).mean().backward()
            net.module.zero_grad()

        return step

    def by_hand() -> None:
        statistics_ = plain.clean_pass(subject.x[:5])
        radius = torch.full_like(subject.x, EPS)
        margins = plain.margins(statistics_, subject.x, radius, subject.y)
        margins.neg().logsumexp(1).mean().backward()
        bare.zero_grad()

    steps = {"plan": through(subject.net), "by hand": by_hand, "auto_LiRPA": through(slow)}
    seconds = take_turns(steps, rounds, device)
    row = {"model": name, "boxes": boxes}
    row |= {f"{key}, s": statistics.median(value) for key, value in seconds.items()}
    row["plan / by hand"] = ratio(seconds, "plan", "by hand")
    row["auto_LiRPA / plan"] = ratio(seconds, "auto_LiRPA", "plan")
    return row


def stages(name: str, mode: str, batch: int, rounds: int, device: str) -> dict:
    """Where the time of a CITRUS step goes; backward is what is left of the whole."""
    subject = Subject(name, batch, device)
    net, x, y, tau = subject.net, subject.x, subject.y, RATIO * EPS
    loss = Citrus(RATIO, pairing=MODES[mode])
    partners = loss.pairing(batch)
    v = loss.attack(net, x, y, EPS - tau)
    labels = y.unsqueeze(1).expand(partners.shape).flatten()
    box = cross_input_boxes(x, v, tau, partners)
    subject.step(loss)()  # gradients for the optimiser

    def bounds() -> None:
        robust_cross_entropy(net.margins(box, labels)).mean()

    net(x)
    seconds = take_turns(
        {
            "whole": subject.step(loss),
            "attack": lambda: loss.attack(net, x, y, EPS - tau),
            "clean pass": lambda: net(x),
            "boxes": lambda: cross_input_boxes(x, v, tau, partners),
            "bounds": bounds,
            "optimiser": subject.optimiser.step,
        },
        rounds,
        device,
    )
    median = {key: statistics.median(value) for key, value in seconds.items()}
    whole = median.pop("whole")
    order = ("attack", "clean pass", "boxes", "bounds", "backward", "optimiser")
    median["backward"] = whole - sum(median.values())
    return {"model": name, "mode": mode, "batch": batch} | {
        f"{key}, %": 100 * median[key] / whole for key in order
    }


def growth(name: str, rounds: int, device: str, largest: int) -> list[dict]:
    """Seconds of a step as batch, partners m, and PGD steps grow, one at a time."""
    cases = [{"batch": b} for b in (5, 16, 64, 256) if b <= largest]
    cases += [{"m": m} for m in (1, 2, 4, 8)]
    cases += [{"PGD steps": s} for s in (0, 8, 20, 40)]
    rows = []
    for case in cases:
        wanted = {"batch": 16, "m": PARTNERS, "PGD steps": STEPS} | case
        subject = Subject(name, wanted["batch"], device)
        loss = Citrus(RATIO, pairing=Shifts(wanted["m"]), attack=PGD(wanted["PGD steps"]))
        seconds = take_turns({"step": subject.step(loss)}, rounds, device)["step"]
        rows.append({"model": name, **wanted, "s/step": statistics.median(seconds)})
    return rows


def start_up(rounds: int) -> list[dict]:
    """Wall seconds of whole processes: what a user waits before anything happens."""
    train = ["train", "--preset", "digits", "--set", "train.epochs=1", "--set", "data.limit=64"]
    train += ["--set", "train.batch_size=32", "--quiet", "--out"]
    rows = []
    for name, arguments in {"--help": ["--help"], "train, two steps on the digits": train}.items():
        seconds = []
        for number in range(rounds + 1):
            out = [f"{os.environ.get('TMPDIR', '/tmp')}/speed-{os.getpid()}-{number}"]
            command = [*arguments, *(out if arguments is train else [])]
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "citrus_lirpa", *command], check=True, capture_output=True
            )
            seconds.append(time.perf_counter() - begin)
        rows.append({"citrus-lirpa": name, "s": statistics.median(seconds[1:])})
    return rows


# -- memory, in processes of their own --------------------------------------------------


def peak_gib(kind: str, name: str, mode: str, batch: int, device: str, threads: int) -> float:
    """Peak memory of one step of CITRUS or in plain PyTorch, above that of the bare process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (kind, name, mode, batch, device, threads))


def _peak(kind: str, name: str, mode: str, batch: int, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    setup.keep_freed_memory()
    before = highest_memory()
    x, y = images(batch, device)
    if kind == "plain":
        bare = model(name).to(device).train()
        plain = Plain(bare, attack_steps=STEPS, partners=PARTNERS, eps=(1 - RATIO) * EPS)
        plain.step(x, y, RATIO * EPS)
    else:
        Subject(name, batch, device).step(Citrus(RATIO, pairing=MODES[mode]))()
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**30
    return (highest_memory() - before) / 2**20


def highest_memory() -> int:
    """Peak resident KiB of this process. (Linux; getrusage's would include the parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


# -- CTRAIN, where it is installed ------------------------------------------------------


def ctrain_sabr(name: str, batch: int, device: str) -> Step:
    """A step of CTRAIN's SABR, with the arguments that its own trainer passes."""
    from CTRAIN.train.certified.losses import get_sabr_loss

    lirpa, (x, y) = _compat.load(), images(batch, device)
    original = model(name)[1:].to(device)  # CTRAIN normalises the data instead
    x = (x - 0.5) / 0.2
    with _compat.parsing():
        hardened = lirpa.BoundedModule(original.eval(), x[:2], device=device)
    original.train()
    hardened.train()
    optimiser = torch.optim.Adam(original.parameters(), lr=5e-4)
    eps = torch.full((3, 1, 1), EPS / 0.2, device=device)
    low, high = ((torch.full((3, 1, 1), v, device=device) - 0.5) / 0.2 for v in (0.0, 1.0))
    limits = (torch.clamp(x - eps, low, high), torch.clamp(x + eps, low, high))

    def step() -> None:
        optimiser.zero_grad()
        hardened(x)
        ptb = lirpa.PerturbationLpNorm(eps=eps, norm=float("inf"), x_L=limits[0], x_U=limits[1])
        loss, *_ = get_sabr_loss(
            hardened_model=hardened,
            original_model=original,
            data=x,
            data_min=low,
            data_max=high,
            target=y,
            eps=eps,
            subselection_ratio=RATIO,
            criterion=nn.CrossEntropyLoss(reduction="none"),
            device=device,
            n_classes=10,
            pgd_steps=8,
            pgd_early_stopping=False,
            pgd_ptb=ptb,
            return_stats=True,
        )
        loss.backward()
        optimiser.step()

    return step


# -- the command ------------------------------------------------------------------------


def markdown(rows: list[dict]) -> str:
    """A row for each of ``rows``, or, where they hold many values, a column."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = [keys, *([row.get(key, "-") for key in keys] for row in rows)]
    if len(keys) > _WIDE:
        table = [list(column) for column in zip(*table, strict=True)]
    cells = [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in line] for line in table]
    title, *rest = ("| " + " | ".join(line) + " |" for line in cells)
    return "\n".join([title, "|" + " --- |" * len(cells[0]), *rest])


@click.command()
@click.option("--models", default="convsmall,cnn7", show_default=True)
@click.option("--modes", default="paper,large", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--large-batch", default=128, show_default=True, help="Of large mode.")
@click.option("--compile", "compiled", is_flag=True, help="Also time --compile.")
@click.option("--steps", "only_steps", is_flag=True, help="Only the first table.")
@click.option("--ctrain", is_flag=True, help="Only beside CTRAIN, which has to be installed.")
@click.option("--quick", is_flag=True, help="Small batches, fewer rounds, ConvSmall alone.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write the rows here.")
def main(
    models, modes, rounds, threads, device, large_batch, compiled, only_steps, ctrain, quick, file
) -> None:
    torch.set_num_threads(threads)
    setup.keep_freed_memory()  # as citrus-lirpa train does
    if quick:
        models, rounds, large_batch = "convsmall", 1, 16
    names = models.split(",")
    batches = {mode: {"paper": 5, "large": large_batch}[mode] for mode in modes.split(",")}
    cases = [(name, mode, batch) for name in names for mode, batch in batches.items()]
    tables: dict[str, list[dict]] = {}

    def add(title: str, rows: list[dict]) -> None:
        tables[title] = rows
        click.echo(f"\n### {title}\n\n{markdown(rows)}")

    machine = (
        f"{platform.processor() or platform.machine()}, {threads} threads, {device}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, auto_LiRPA "
        f"{_compat.load().version}; {time.strftime('%Y-%m-%d')}"
    )
    click.echo(machine)
    if ctrain:
        sizes = [(name, batch) for name, _, batch in cases]
        add("Beside CTRAIN", [beside_ctrain(*size, rounds, device) for size in sizes])
    else:
        add("Steps", [whole_steps(*case, rounds, device, compiled) for case in cases])
    if not (only_steps or ctrain):
        boxes = [4 * batch for batch in batches.values()]
        add("IBP, forward and backward",
            [interval_passes(n, b, rounds, device) for n in names for b in boxes])  # fmt: skip
        add("Where the time goes", [stages(*case, rounds, device) for case in cases])
        add("Growth", [row for name in names for row in growth(name, rounds, device, large_batch)])
        add(
            "Peak memory of a step, GiB above the bare process",
            [
                {"model": name, "mode": mode, "batch": batch}
                | {k: peak_gib(k, name, mode, batch, device, threads) for k in ("citrus", "plain")}
                for name, mode, batch in cases
            ],
        )
        add("Start-up", start_up(rounds))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"machine": machine, "tables": tables}, indent=2) + "\n")


if __name__ == "__main__":
    main()
