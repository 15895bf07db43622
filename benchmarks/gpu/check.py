"""Does a GPU compute what the CPU computes? One line a check: PASS, FAIL or ERROR.

    python benchmarks/gpu/check.py [--device cuda] [--small]

Needs no data. Random numbers are drawn on the CPU, so that both devices see the same. Behind each
check stand what it measured and the most that this may be: the relative distance of the GPU's
result to the CPU's, where the check names nothing else.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import time
from collections.abc import Callable
from logging.handlers import BufferingHandler
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from citrus_lirpa import PGD, BoundedNet, Box, Citrus, Groups, Shifts, data, fit, verify
from citrus_lirpa.bounds.net import METHODS
from citrus_lirpa.bounds.precision import full_precision, rounding_threshold
from citrus_lirpa.errors import CitrusError, reason
from citrus_lirpa.models import build_model
from citrus_lirpa.training import checkpoint, setup
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.regularisers import shi_regulariser

EPS, CPU = 8 / 255, torch.device("cpu")
ZOO = {"zoo:cifar10-8-255-convsmall": 0.5, "zoo:mnist-0.1-convsmall": 0.1}
#: What to do where a check fails.
TRAIN, CERTIFY = "train with --device cpu", "certify with --device cpu"
TF32 = "unset NVIDIA_TF32_OVERRIDE; if it was not set, do not trust this GPU with this torch"
#: A check gives what it measured, and the most that this may be.
Check = Callable[["Pair"], tuple[float, float]]
#: By name, each with what to do where it fails.
CHECKS: dict[str, tuple[Check, str]] = {}


def check(
    name: str, fix: str, *options: object
) -> Callable[[Callable[..., tuple[float, float]]], Check]:
    """Add a check to the list, with options if it takes some."""

    def add(function: Callable[..., tuple[float, float]]) -> Check:
        CHECKS[name] = lambda pair: function(pair, *options), fix
        return function

    return add


class Pair:
    """CNN7 and a batch on two devices.

    Args:
        there: The device that is compared with the CPU.
        small: Make the network narrow.
    """

    def __init__(self, there: torch.device, small: bool):
        self.there, self.rows, self.devices = there, 5 if small else 20, (there, CPU)
        self.narrow = self._nets(width=8, linear=32)
        self.nets = self.narrow if small else self._nets()
        self.x = torch.rand(self.rows, 3, 32, 32)
        self.y = torch.randint(10, (self.rows,))
        self.v = torch.empty_like(self.x).uniform_(-EPS, EPS)

    def _nets(self, **options: int) -> list[BoundedNet]:
        torch.manual_seed(0)
        means = {"mean": [0.49, 0.48, 0.45], "std": [0.2, 0.2, 0.2]}
        model = build_model("cnn7", shape=(3, 32, 32), classes=10, **means, **options)
        return [
            BoundedNet(copy.deepcopy(model).to(d), torch.zeros(2, 3, 32, 32, device=d))
            for d in self.devices
        ]

    def each(
        self, compute: Callable[[BoundedNet, Tensor, Tensor], Tensor], narrow: bool = False
    ) -> list[Tensor]:
        """What is computed on the device and on the CPU, in full precision."""
        found = []
        nets = self.narrow if narrow else self.nets
        for net, device in zip(nets, self.devices, strict=True):
            with full_precision(device):
                found.append(compute(net, self.x.to(device), self.y.to(device)))
        return found


def relative(one: Tensor, other: Tensor) -> float:
    """The distance of two tensors over the size of the second."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    distance = (one - other).norm() / other.norm().clamp(min=1e-30)
    return float(distance) if bool(one.isfinite().all()) else float("inf")


@check(
    "weights of a training on the GPU by CUDA graphs and without them",
    "train with --set train.graph=false, as second.py then does",
)
def graphs(pair: Pair) -> tuple[float, float]:
    """Through steps without ε, on its ramp and behind it; on a CPU both are usual steps."""
    overrides = ["train.epochs=3", "data.limit=640", "train.batch_size=64", "train.ramp_start=2"]
    overrides += ["train.ramp_length=1", "train.milestones=[1.5, 2.5]", "loss.attack_steps=5"]
    images = data.load("digits", train=True, data_dir=Path("none"))
    refusals, log = BufferingHandler(100), logging.getLogger("citrus_lirpa.training.graphed")
    log.addHandler(refusals)
    log.setLevel(logging.INFO)
    found = []
    for on in ("true", "false"):
        settings = resolve(preset="digits", overrides=[*overrides, f"train.graph={on}"])
        net, training = setup.build(settings, pair.there)
        fit(net, training, images, settings)
        found.append(torch.cat([weight.flatten() for weight in net.parameters()]))
    log.removeHandler(refusals)
    assert not refusals.buffer, refusals.buffer[0].getMessage()
    return relative(*found), 1e-4


@check("logits in eval mode", TF32)
@torch.no_grad()
def logits(pair: Pair) -> tuple[float, float]:
    return relative(*pair.each(lambda net, x, y: net.eval()(x))), 1e-5


@check("logits and statistics in train mode", TF32)
@torch.no_grad()
def statistics(pair: Pair) -> tuple[float, float]:
    def compute(net: BoundedNet, x: Tensor, y: Tensor) -> Tensor:
        parts = [net.train()(x), *(b for b in net.module.buffers() if b.is_floating_point())]
        return torch.cat([part.flatten() for part in parts])

    return relative(*pair.each(compute)), 1e-4


@torch.no_grad()
def bounds(pair: Pair, method: str) -> tuple[float, float]:
    dear = method in ("crown", "alpha-crown")
    rows, radius = (1, 1e-3) if dear else (pair.rows, EPS)
    found = pair.each(
        lambda net, x, y: net.eval().margins(Box.around(x[:rows], radius), y[:rows], method),
        narrow=dear,
    )
    return relative(*found), 1e-4


@check("float32 bounds on the GPU beside float64 ones, in thresholds of a proof", CERTIFY)
@torch.no_grad()
def rounding(pair: Pair) -> tuple[float, float]:
    net, x, y = pair.nets[0].eval(), pair.x.to(pair.there), pair.y.to(pair.there)
    with full_precision(pair.there):
        found = net.bound(Box.around(x, EPS), y)
        limit = rounding_threshold(net(x), found.magnitudes)
        twin = net.in_float64()
        assert twin is not None
        exact = twin.eval().margins(Box.around(x.double(), EPS), y)
    return float(((found.margins.double() - exact).abs().amax(1) / limit).max()), 1.0


def loss(pair: Pair, pairing: Groups | Shifts) -> tuple[float, float]:
    def compute(net: BoundedNet, x: Tensor, y: Tensor) -> Tensor:
        def attack(net: BoundedNet, x: Tensor, y: Tensor, eps: float) -> Tensor:
            return pair.v.to(x.device).clamp(-eps, eps)

        net.train().module.zero_grad()
        terms = Citrus(0.7, attack=attack, pairing=pairing)(net, x, y, EPS)
        found = terms.bounds
        penalty = 0.5 * shi_regulariser(found.inputs, found.preactivations)
        (terms.total + penalty).backward()
        gradient = torch.cat([weight.grad.flatten() for weight in net.parameters()])
        values = torch.stack([terms.total.detach(), penalty.detach()])
        return torch.cat([values / values.norm(), gradient / gradient.norm()])

    return relative(*pair.each(compute)), 1e-3


check("CITRUS on groups: loss, regulariser, gradient", TRAIN, Groups(5))(loss)
check("CITRUS on shifts: loss, regulariser, gradient", TRAIN, Shifts(4))(loss)


def attacked(net: BoundedNet, x: Tensor, y: Tensor) -> Tensor:
    v = PGD(20)(net, x, y, EPS)
    assert float(v.abs().max()) <= EPS + 1e-6
    with net.evaluating():
        return F.cross_entropy(net(x + v), y).detach()


@check("the loss that PGD reaches", TRAIN)
def attack(pair: Pair) -> tuple[float, float]:
    there, here = pair.each(attacked)
    return abs(float(there) / float(here) - 1), 0.02


@check(
    "PGD in bfloat16 on the GPU: share of float32's loss that it misses",
    "train with --precision float32",
)
def rounded_attack(pair: Pair) -> tuple[float, float]:
    net, x, y = pair.nets[0], pair.x.to(pair.there), pair.y.to(pair.there)
    exact = float(attacked(net, x, y))
    net.attack_dtype = torch.bfloat16
    try:
        return 1 - float(attacked(net, x, y)) / exact, 0.05
    finally:
        net.attack_dtype = None


def certificates(pair: Pair, name: str, share: float) -> tuple[float, float]:
    """How many verdicts differ, of certified or not."""
    model, spec, settings = checkpoint.load_model(Path(name))
    x, eps, found = torch.rand(20, *spec.shape), share * settings.train.eps, []
    for device in pair.devices:
        example = torch.zeros(2, *spec.shape, device=device)
        net = BoundedNet(copy.deepcopy(model).to(device), example).eval()
        with torch.no_grad():
            y = net(x.to(device)).argmax(1)
        verdicts = verify.certify(net, x.to(device), y, eps, method="alpha-crown").verdicts()
        found.append([verdict in ("undecided", "attacked") for verdict in verdicts])
    return float(sum(a != b for a, b in zip(*found, strict=True))), 0.0


for name, share in ZOO.items():
    check(f"certificates of {name}: how many of 20 differ", CERTIFY, name, share)(certificates)


@check(
    "weights of a checkpoint of the GPU, read on the CPU; its training goes on",
    "bring weights back by `citrus-lirpa export`, and do not use --resume",
)
def resumed(pair: Pair) -> tuple[float, float]:
    overrides = ["train.epochs=2", "data.limit=128", "train.batch_size=64"]
    settings = resolve(preset="digits", overrides=overrides)
    images = data.load("digits", train=True, data_dir=Path("none"))
    with tempfile.TemporaryDirectory() as folder:
        net, training = setup.build(settings, pair.there)
        fit(net, training, images, settings, folder=Path(folder))
        model, *_ = checkpoint.load_model(Path(folder))
        there = torch.cat([weight.flatten() for weight in net.parameters()])
        again, training = setup.build(settings, pair.there)
        assert len(fit(again, training, images, settings, folder=Path(folder)).records) == 2
    return relative(there, torch.cat([weight.flatten() for weight in model.parameters()])), 0.0


for name in METHODS:  # the dearest last
    check(f"bounds by {name}", CERTIFY, name)(bounds)


def run(device: torch.device, small: bool, until: float) -> list[dict]:
    """Make all checks, but those that would begin after ``until``; print a line for each."""
    pair, rows = Pair(device, small), []
    print("checks, with what each measured <= what that may be (check.py says more)", flush=True)
    for name, (function, fix) in CHECKS.items():
        begin = time.perf_counter()
        if begin > until:
            result, said = "SKIP", "no time left; give more --seconds"
        else:
            try:
                value, limit = function(pair)
                result, sign = ("PASS", "<=") if value <= limit else ("FAIL", "not <=")
                said = f"{value:.3g} {sign} {limit:.3g}"
            except Exception as error:  # noqa: BLE001 - whatever a GPU brings is to be told
                result, said = "ERROR", f"{type(error).__name__}: {reason(error)}"
        seconds = time.perf_counter() - begin
        said += f"; {fix}" if result in ("FAIL", "ERROR") else ""
        print(f"{result:<5} {name}: {said}  [{seconds:.1f} s]", flush=True)
        rows.append({"check": name, "result": result, "said": said, "seconds": seconds})
    passed = sum(row["result"] == "PASS" for row in rows)
    print(f"checks: {passed} of {len(rows)} passed", flush=True)
    return rows


def chosen(device: str) -> torch.device:
    """The device of this name; one line, and the end, where it cannot be used."""
    try:
        return setup.choose_device(device)
    except CitrusError as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--small", is_flag=True, help="A narrow network, to try this on a CPU.")
def main(device: str, small: bool) -> None:
    rows = run(chosen(device), small, float("inf"))
    raise SystemExit(any(row["result"] != "PASS" for row in rows))


if __name__ == "__main__":
    main()
