"""Does Marabou agree? Single images of small trained networks, decided by both.

    pip install maraboupy
    python benchmarks/marabou.py --properties 250

Networks of two hidden layers learn the embedded digits; each image gets a radius near the one
from which an attack succeeds. `certify` by branch and bound says certified, broken or undecided.
For each wrong class, Marabou looks for a point of the box at which this class is as likely as the
label. The encoding is compared with the network first, and each point that Marabou finds is
replayed in float64.

A disagreement: an image that is certified here, and whose point holds; or broken here, where
Marabou finds nothing.
"""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np
import torch
from maraboupy import Marabou, MarabouCore
from maraboupy.parsers.InputQueryBuilder import InputQueryBuilder
from torch import Tensor, nn

from citrus_lirpa import BoundedNet, Ibp, certify, data
from citrus_lirpa.attacks import PGD

#: Radii as shares of the one from which an attack succeeds.
SHARES = (0.5, 0.75, 0.9, 0.97, 1.03)
#: Marabou takes what is off by this much for equal.
TOLERANCE = 1e-5


@click.command()
@click.option("--properties", default=250, help="Pairs of an image and a radius.")
@click.option("--networks", default=10, help="Networks that share them.")
@click.option("--seconds", default=30, help="Time limit of Marabou, for each wrong class.")
@click.option("--json", "record", type=click.Path(path_type=Path))
def main(properties: int, networks: int, seconds: int, record: Path | None) -> None:
    """Print how often both say what."""
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    here = there = 0.0
    for seed in range(networks):
        model = trained(seed)
        split = data.load("digits", train=False, data_dir=Path("data"))
        right = (model(split.pixels(slice(None))).argmax(1) == split.labels).nonzero().flatten()
        chosen = right[torch.randperm(len(right))][: -(-properties // networks)].tolist()
        for number, image in enumerate(chosen):
            if counts.total() == properties:
                break
            x, y = split.pixels([image]), split.labels[[image]]
            net = BoundedNet(model, x).eval()
            eps = SHARES[number % len(SHARES)] * edge(net, x, y)
            begin = time.process_time()
            found = certify(net, x, y, eps, method="bab", attack=PGD(steps=20))
            here += time.process_time() - begin
            begin = time.process_time()
            answer = ask(model, x[0], int(y), eps, seconds)
            there += time.process_time() - begin
            (mine,) = found.verdicts()
            mine = mine if mine in ("attacked", "undecided") else "certified"
            wrong = (mine, answer) in (("certified", "sat"), ("attacked", "unsat"))
            counts["DISAGREE: " * wrong + f"{mine}, Marabou {answer}"] += 1
        click.echo(f"{seed + 1} of {networks} networks: {dict(counts)}", err=True)
    values = {**counts, "CPU seconds here": round(here, 1), "of Marabou": round(there, 1)}
    click.echo(json.dumps(values, indent=2))
    if record is not None:
        record.write_text(json.dumps(values, indent=2) + "\n")


def trained(seed: int) -> nn.Sequential:
    """A network of 8x8 digits; every other one learns with IBP's bounds."""
    torch.manual_seed(seed)
    split = data.load("digits", train=True, data_dir=Path("data"))
    x, y = split.pixels(slice(None)), split.labels
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 10)
    )
    net, ibp = BoundedNet(model, x[:2]).train(), Ibp(clip=None)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(400):
        rows = torch.randint(len(x), (128,))
        plain = nn.functional.cross_entropy(model(x[rows]), y[rows])
        bound = ibp(net, x[rows], y[rows], 0.05) if seed % 2 and step > 150 else 0.0
        optimiser.zero_grad()
        (plain + bound).backward()
        optimiser.step()
    return model.eval()


def edge(net: BoundedNet, x: Tensor, y: Tensor) -> float:
    """Return the radius from which an attack breaks an image, by bisection."""
    attack, low, high = PGD(steps=20), 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        broken = net(x + attack(net, x, y, middle)).argmax(1) != y
        low, high = (low, middle) if broken else (middle, high)
    return high


def ask(model: nn.Sequential, x: Tensor, label: int, eps: float, seconds: int) -> str:
    """Ask Marabou about every wrong class: sat, unsat or unknown."""
    exact, x = copy.deepcopy(model).double(), x.double()
    classes = [c for c in range(10) if c != label]
    answers = [_ask(exact, x, label, wrong, eps, seconds) for wrong in classes]
    return next((answer for answer in ("sat", "unknown") if answer in answers), "unsat")


def _ask(model: nn.Sequential, x: Tensor, label: int, wrong: int, eps: float, seconds: int) -> str:
    query, pixels, logits = encode(model)
    for variable, value in zip(pixels, x.flatten().tolist(), strict=True):
        query.setLowerBound(variable, value - eps)
        query.setUpperBound(variable, value + eps)
    query.addInequality([logits[label], logits[wrong]], [1, -1], 0)
    code, values = _solve(query, seconds)
    if code != "sat":
        return "unsat" if code == "unsat" else "unknown"
    point = torch.tensor([values[v] for v in pixels], dtype=torch.float64).view_as(x)
    point = torch.minimum(torch.maximum(point, x - eps), x + eps)
    with torch.no_grad():
        scores = model(point.unsqueeze(0))[0]
    return "sat" if scores[label] <= scores[wrong] + TOLERANCE else "unknown"


def encode(model: nn.Sequential) -> tuple[InputQueryBuilder, list[int], list[int]]:
    """Write the layers as Marabou's equations; return them, their inputs and their outputs."""
    query = InputQueryBuilder()
    pixels = values = [query.getNewVariable() for _ in range(64)]
    for layer in model[1:]:
        if isinstance(layer, nn.ReLU):
            results = [query.getNewVariable() for _ in values]
            for value, result in zip(values, results, strict=True):
                query.addRelu(value, result)
        else:
            results = [query.getNewVariable() for _ in layer.bias]
            for weights, bias, result in zip(
                layer.weight.tolist(), layer.bias.tolist(), results, strict=True
            ):
                query.addEquality([*values, result], [*weights, -1.0], -bias)
        values = results
    query.inputVars.append(np.array(pixels))
    query.outputVars.append(np.array(values))
    _compare(model, query, pixels, values)
    return query, pixels, values


def _compare(
    model: nn.Sequential, query: InputQueryBuilder, pixels: list[int], logits: list[int]
) -> None:
    """Raise unless Marabou computes what the network does at a point."""
    x = torch.rand(64, dtype=torch.float64)
    for variable, value in zip(pixels, x.tolist(), strict=True):
        query.setLowerBound(variable, value)
        query.setUpperBound(variable, value)
    code, values = _solve(query, 30)
    with torch.no_grad():
        wanted = model(x.view(1, 1, 8, 8))[0]
    found = torch.tensor([values[v] for v in logits], dtype=torch.float64)
    assert code == "sat" and torch.allclose(found, wanted, atol=TOLERANCE), "another encoding"


def _solve(query: InputQueryBuilder, seconds: int) -> tuple[str, dict[int, float]]:
    options = Marabou.createOptions(verbosity=0, timeoutInSeconds=seconds, numWorkers=1)
    code, values, _ = MarabouCore.solve(query.getInputQuery(), options, "")
    return code, values


if __name__ == "__main__":
    main()
