"""What tests/product/test_pretended_gpu.py looks at, computed on the pretended GPU.

``python on_pretended_gpu.py FOLDER METHOD...`` works in a folder and writes ``seen.json`` there.
"""

import pretend_cuda  # before torch

# isort: split

import contextlib
import functools
import json
import os
import sys
import traceback
from pathlib import Path
from unittest import mock

import torch
from click.testing import CliRunner
from command_line import run_in_this_process
from configurations import SMALL_SWEEP
from reference import make

from citrus_lirpa import Box, data, verify
from citrus_lirpa.attacks import PGD, GroupAttack, SgdUap
from citrus_lirpa.bounds import lirpa
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.cli import main
from citrus_lirpa.errors import InputError, Interrupted
from citrus_lirpa.training import checkpoint, setup
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.loop import fit
from citrus_lirpa.verify.crown.engine import DualEngine

CPU, GPU = torch.device("cpu"), torch.device("cuda")
DIGITS = data.load("digits", train=True, data_dir=Path("none"))
EPS = 0.04
TEST = data.load("digits", train=False, data_dir=Path("none"))


def configuration(method: str, *overrides: str):
    options = ["train.batch_size=30", *overrides]
    options += ["loss.attack_steps=2"] * (method == "citrus")
    options += ["model.hidden=[12, 12]"] * ("model.name=cnn7" not in overrides)
    return resolve(preset="digits", method=method, overrides=options)


def trained(method: str, device: torch.device, *overrides: str, **options):
    """A network, trained, and the records of its epochs."""
    config = configuration(method, *overrides)
    net, loss = setup.build(config, device)
    return net, fit(net, loss, DIGITS, config, **options).records


def run(*args: object) -> dict:
    """One command on the pretended GPU."""
    torch.backends.cudnn.benchmark = False
    with pretend_cuda.Pretended() as seen:
        result = CliRunner().invoke(main, [str(arg) for arg in args])
    error = result.exception if not isinstance(result.exception, SystemExit) else None
    told = "".join(traceback.format_exception(error)) if error else result.output
    return {
        "exit": result.exit_code,
        "mixed": seen.mixed,
        "without_kernel": seen.without_kernel(),
        "operators": len(seen.operators),
        "measures convolutions": torch.backends.cudnn.benchmark,
        "told": told[-2000:],
    }


def commands(folder: Path, network: Path) -> dict:
    """All commands that compute, on a network of three epochs and on a good one."""
    begun = folder / "run"
    with pretend_cuda.Pretended(), contextlib.suppress(Interrupted):
        trained(
            "citrus", GPU, "train.epochs=3", "data.limit=90",
            folder=begun, on_epoch=lambda record: os.kill(os.getpid(), 2),
        )  # fmt: skip
    gpu, few = ("--device", "cuda"), ("--limit", 20, "--time-limit", 0.2, "--eps", EPS)
    exported = folder / "exported"
    CliRunner().invoke(
        main, ["export", str(network), "--out", str(exported), "--limit", "2", "--eps", str(EPS)]
    )
    (exported / "results.csv").write_text("0,unsat\n1,timeout\n")
    sweep = SMALL_SWEEP.format(epochs=1, grid='"train.eps" = [0.1]')
    (folder / "sweep.toml").write_text(sweep)
    with mock.patch("citrus_lirpa.runs.jobs.run_jobs", run_in_this_process):
        swept = run("sweep", folder / "sweep.toml", "--out", folder / "sweep", *gpu)
    return {
        "resume": run("train", "--resume", begun, *gpu),
        "eval": run("eval", network, *few, "--relational", "cross", *gpu),
        "import": run(
            "eval", network, *few, "--import-verdicts", exported, "--out", folder / "other", *gpu
        ),
        "attack": run("attack", network, "--limit", 50, *gpu),
        "smooth": run("smooth", network, "--sigma", 0.1, "--n", 500, "--limit", 3, *gpu),
        "sweep": swept,
        "doctor": run("doctor"),
    }


def waits(method: str) -> dict:
    """How often a step lets the host wait, in all phases of the ramp: by line, for each step."""
    found, steps, epochs = [], (2, 5), 3
    for count in steps:
        more = (f"data.limit={30 * count}", f"train.epochs={epochs}", "train.ramp_start=1")
        config = configuration(method, *more, "train.ramp_length=1")
        with pretend_cuda.Pretended() as seen:
            net, loss = setup.build(config, GPU)
            seen.waits.clear()
            fit(net, loss, DIGITS, config)
        found.append(seen.waits)
    less, more = found
    each = {line: (more[line] - less[line]) / (epochs * (steps[1] - steps[0])) for line in more}
    return {"mixed": seen.mixed, "without_kernel": seen.without_kernel(), "lines": each}


def radii() -> dict:
    """Whatever takes an ε takes one that is a tensor on the CPU, and its waits."""
    with pretend_cuda.Pretended() as seen:
        net, _ = setup.build(configuration("ce"), GPU)
        x, y = TEST.pixels(slice(30)).to(GPU), TEST.labels[:30].to(GPU)
        eps = torch.full((1, 8, 8), EPS)
        groups = x.view(6, 5, 1, 8, 8), y.view(6, 5)
        Box.around(x, eps)
        PGD(2, restarts=2)(net, x, y, eps)
        GroupAttack(2, restarts=2)(net, *groups, eps)
        SgdUap(epochs=1, restarts=1)(net, x, y, eps)
        for name in ("citrus", "ibp", "sabr", "uat", "pgd"):
            make(name, EPS)(net.train(), x, y, eps).backward()
        net.eval()
        verify.certify(net, x, y, eps, method="alpha-crown")
        verify.certify_uap(net, x, y, eps, time_limit=0.1)
        waits = []
        for steps in (5, 25):
            seen.waits.clear()
            GroupAttack(steps, restarts=1)(net, *groups, EPS)
            waits.append(sum(seen.waits.values()))
    return {"mixed": seen.mixed, "waits of a group attack": waits}


def moved() -> dict:
    """What wrapping puts elsewhere in memory; whether cuDNN convolves; margins at a time."""
    convolved = []
    with pretend_cuda.Pretended():
        config = configuration("ce", "model.name=cnn7", "model.width=2", "model.linear=8")
        here, _ = setup.build(config, CPU)
        there, _ = setup.build(config, GPU)
        pairs = zip(here.parameters(), there.parameters(), strict=True)
        alike = all(torch.equal(a, b.cpu()) for a, b in pairs)
        module = checkpoint.make_model(config)[0].to(GPU)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        before = {name: tensor.host.data_ptr() for name, tensor in tensors.items()}
        net = setup.BoundedNet(module, torch.zeros(2, 1, 8, 8, device=GPU)).eval()
        after = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        elsewhere = [
            name for name, tensor in after.items()
            if tensor is not tensors[name] or tensor.host.data_ptr() != before[name]
        ]  # fmt: skip
        x, y = TEST.pixels(slice(5)).to(GPU), TEST.labels[:5].to(GPU)
        convolve = torch.nn.functional.conv2d

        def watched(*args, **options):
            convolved.append(torch.backends.cudnn.enabled)
            return convolve(*args, **options)

        with mock.patch("torch.nn.functional.conv2d", watched):
            verify.certify(net, x, y, EPS, method="alpha-crown")
            certifying = len(convolved)
            rows = [DualEngine(net, Ball(EPS)).rows_at_once]
            with mock.patch("citrus_lirpa.verify.crown.portions.free_memory", lambda _: 1 << 24):
                rows.append(DualEngine(net, Ball(EPS)).rows_at_once)
                with mock.patch("citrus_lirpa.distributed.size_here", lambda: 4):
                    rows.append(DualEngine(net, Ball(EPS)).rows_at_once)
            make("sabr", EPS)(net.train(), x, y, EPS)
    return {
        "tensors": elsewhere, "of": len(tensors), "rows": rows, "alike": alike,
        "certify": sorted({*convolved[:certifying]}), "train": sorted({*convolved[certifying:]}),
    }  # fmt: skip


def refusals() -> list[str]:
    """What is said of data with a fault in the last image, which few steps see."""
    told = []
    for fault in ("label", "nan", "range"):
        images, labels = DIGITS.pixels(slice(90)).clone(), DIGITS.labels[:90].clone()
        images[-1] += {"label": 0.0, "nan": float("nan"), "range": 2.0}[fault]
        labels[-1] += 10 * (fault == "label")
        config = configuration("ibp", "train.epochs=1")
        with pretend_cuda.Pretended():
            net, loss = setup.build(config, GPU)
            try:
                fit(net, loss, data.Split(images, labels), config)
            except InputError as error:
                told.append(str(error))
    return told


def results(device: torch.device, network: Path) -> dict:
    """What must be the same on both devices, up to rounding."""
    found = {}
    with pretend_cuda.Pretended(one_generator=True) if device == GPU else contextlib.nullcontext():
        for method, more in (
            ("citrus", ()), ("crown-ibp", ()), ("taps", ()),
            ("sabr", ("model.name=cnn7", "model.width=2", "model.linear=8")),
        ):  # fmt: skip
            name = f"{method} {' '.join(more)}".strip()
            more = (*more, "train.lr=0.00048828125")  # 2⁻¹¹: Adam on a GPU takes it as float32
            net, records = trained(method, device, "train.epochs=2", "data.limit=90", *more)
            weights = torch.cat([weight.detach().flatten() for weight in net.parameters()])
            found[name] = [[record[key] for key in ("loss", "regulariser")] for record in records]
            found[f"{name}, weights"] = weights.cpu().tolist()
        module, spec, _ = checkpoint.load_model(network)
        net = setup.BoundedNet(module.to(device), torch.zeros(2, *spec.shape, device=device)).eval()
        x, y = TEST.pixels(slice(25)).to(device), TEST.labels[:25].to(device)
        with torch.no_grad():
            for method in ("ibp", "crown-ibp", "crown", "alpha-crown"):
                bound = net.margins(Box.around(x[:5], EPS), y[:5], method)
                found[f"bounds by {method}"] = bound.flatten().cpu().tolist()
        certificates = verify.certify(net, x, y, EPS, method="bab", time_limit=60)
        found["certificates"] = certificates.verdicts()
        groups = verify.certify_uap(
            net, x, y, EPS, group_size=5, time_limit=5, attack=GroupAttack(5, restarts=1)
        )
        found["groups"] = [groups.lower.tolist(), groups.upper.tolist()]
        torch.manual_seed(0)
        found["attack"] = SgdUap(epochs=2, restarts=1)(net, x, y, 0.1).fooling_rate
    return found


def controls() -> dict:
    """Two things that a GPU refuses and two that it takes; five waits, and two that are none."""
    raised = []
    with pretend_cuda.Pretended() as seen:
        x = torch.arange(4.0, device=GPU)
        for work in (
            lambda: x + torch.ones(4),
            lambda: torch.rand(2, device=GPU, generator=torch.Generator()),
            lambda: x + torch.tensor(1.0),
            lambda: x.index_fill(0, torch.arange(2, device=GPU), 2.0),
        ):
            raised.append(False)
            try:
                work()
            except RuntimeError:
                raised[-1] = True
        seen.waits.clear()
        x.cpu(), x.sum().item(), x[x > 1], x.tolist(), torch.ones(2).to(GPU)
        x.masked_fill(x > 1, 0.0), x.sum().sqrt()
    return {"raised": raised, "mixed": len(seen.mixed), "waits": sum(seen.waits.values())}


def everything(folder: Path, methods: list[str]) -> dict:
    network = folder / "network"
    trained("ce", CPU, "train.epochs=8", folder=network)
    # few steps are enough to see the devices of all operators
    attack = functools.partial(GroupAttack, steps=5, restarts=1)
    options = functools.partial(lirpa.bound_options, alpha_iterations=4)
    with (
        mock.patch("citrus_lirpa.verify.groups.GroupAttack", attack),
        mock.patch("citrus_lirpa.bounds.lirpa.bound_options", options),
    ):
        return {
            "controls": controls(),
            "radii": radii(),
            "moved": moved(),
            "refusals": refusals(),
            "commands": commands(folder, network),
            "waits": {name: waits(name) for name in methods},
            "results": {device.type: results(device, network) for device in (CPU, GPU)},
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, *named = sys.argv[1:]
    Path(place, "seen.json").write_text(json.dumps(everything(Path(place), named)))
