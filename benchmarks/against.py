"""Single images by α,β-CROWN and by this package: the same properties, the same limit.

`python benchmarks/verifier.py --against CHECKOUT` runs it. CHECKOUT is a clone of
https://github.com/Verified-Intelligence/alpha-beta-CROWN with its submodule, and `--python` the
Python of an environment with its requirements; neither is fetched here.

α,β-CROWN takes the network as a PyTorch module, normalised images and one radius for each channel,
by its own loader of Python files. It gets all images in one process, whose start is not counted,
sees nothing of this package, and its clock counts seconds of the processor.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from citrus_lirpa import PGD, BoundedNet, certify
from citrus_lirpa.bounds.unwrapping import split_normalise
from citrus_lirpa.data.types import Split

#: What α,β-CROWN answers, by the first word; all else is no verdict.
ANSWERS = {"safe": "proved", "unsafe": "broken"}
VERDICTS = ("proved", "broken", "unknown")
#: A line of its log.
RESULT = re.compile(r"Result: ([a-z]+).* in ([0-9.]+) seconds")
#: The file of Python that hands a problem over.
PROBLEM = """
import math
import time
from pathlib import Path

import torch

time.time = time.process_time
FOUND = torch.load(Path(__file__).parent / "problem.pt", weights_only=False)


def network():
    return FOUND["network"]


def images(specification):
    return {"X": FOUND["x"], "labels": FOUND["y"], "eps": FOUND["eps"], "norm": math.inf}
"""


@dataclass(frozen=True)
class Rival:
    """α,β-CROWN in a folder.

    Args:
        checkout: The folder.
        python: The Python that runs it.
        config: One of its configurations, from its folder `complete_verifier`.
    """

    checkout: Path
    python: str
    config: str

    def verdicts(
        self, problem: dict[str, Any], classes: int, seconds: float, folder: Path
    ) -> Iterator[tuple[str, float]]:
        """Yield its verdict on each image of a problem, and its CPU seconds.

        Where it fails, the image in hand is unknown, and it starts anew with the next one.
        ClickException where it fails on the first one.
        """
        found = 0
        while found < len(problem["x"]):
            begin = found
            rest = {**problem, "x": problem["x"][begin:], "y": problem["y"][begin:]}
            for verdict in self._run(rest, classes, seconds, folder, first=not begin):
                found += 1
                yield verdict

    def _run(
        self, problem: dict[str, Any], classes: int, seconds: float, folder: Path, first: bool
    ) -> Iterator[tuple[str, float]]:
        (folder / "problem.py").write_text(PROBLEM)
        torch.save(problem, folder / "problem.pt")
        torch.save(problem["network"].state_dict(), folder / "weights.pt")
        threads = str(torch.get_num_threads())
        count, last = 0, ""
        with subprocess.Popen(
            self._command(classes, seconds, folder),
            cwd=self.checkout / "complete_verifier",
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for line in process.stdout or ():
                last = line.strip() or last
                if result := RESULT.match(line):
                    count += 1
                    yield ANSWERS.get(result[1], "unknown"), float(result[2])
        if count < len(problem["x"]):
            if first and not count:
                raise click.ClickException(f"α,β-CROWN failed: {last}")
            click.echo(f"α,β-CROWN failed: {last}", err=True)
            yield "unknown", 0.0

    def _command(self, classes: int, seconds: float, folder: Path) -> list[str]:
        return [
            *(self.python, "abcrown.py", "--config", self.config, "--device", "cpu"),
            *("--timeout", f"{seconds:g}", "--num_outputs", str(classes)),
            *("--root_path", str(folder), "--csv_name", ""),
            *("--model", 'Customized("problem.py", "network")'),
            *("--dataset", 'Customized("problem.py", "images")'),
            *("--load_model", str(folder / "weights.pt")),
            *("--results_file", str(folder / "results.txt")),
        ]


@dataclass
class Pairs:
    """Verdicts and CPU seconds of the two on the same images."""

    images: list[int] = field(default_factory=list)
    ours: list[tuple[str, float]] = field(default_factory=list)
    theirs: list[tuple[str, float]] = field(default_factory=list)

    def contradictions(self) -> list[int]:
        """Images that one proves and the other breaks."""
        both = zip(self.images, self.ours, self.theirs, strict=True)
        return [i for i, a, b in both if {a[0], b[0]} == {"proved", "broken"}]

    def lines(self) -> list[str]:
        """Counts, contradictions and the ratio of times, in words."""
        found = []
        for name, side in (("citrus-lirpa", self.ours), ("α,β-CROWN", self.theirs)):
            count = Counter(verdict for verdict, _ in side)
            words = ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS)
            found.append(f"{name}: {words}, {self._seconds(side):.1f} CPU seconds")
        wrong = self.contradictions()
        named = f": images {', '.join(map(str, wrong))}" if wrong else ""
        ratio = self._seconds(self.theirs) / max(1e-9, self._seconds(self.ours))
        return [*found, f"contradictions: {len(wrong)}{named}", f"ratio of times: {ratio:.2f}"]

    @staticmethod
    def _seconds(side: Sequence[tuple[str, float]]) -> float:
        return sum(seconds for _, seconds in side)


def compare(
    rival: Rival, net: BoundedNet, data: Split, eps: float, seconds: float, folder: Path
) -> Pairs:
    """Run both on all images that are classified correctly, and return what they find."""
    x, labels = data.pixels(slice(None)), data.labels
    with torch.no_grad():
        logits = torch.cat([net.module(part) for part in x.split(256)])
    chosen = (logits.argmax(1) == labels).nonzero().flatten()
    x, labels, pairs = x[chosen], labels[chosen], Pairs(chosen.tolist())
    for image, label in zip(x.split(1), labels.split(1), strict=True):
        pairs.ours.append(certified(net, image, label, eps, seconds))
    problem = handed_over(net, x, labels, eps)
    for theirs in rival.verdicts(problem, logits.shape[1], seconds, folder):
        image, (ours, took) = pairs.images[len(pairs.theirs)], pairs.ours[len(pairs.theirs)]
        pairs.theirs.append(theirs)
        click.echo(f"{image}: {ours} {took:.2f} s, {theirs[0]} {theirs[1]:.2f} s", err=True)
    return pairs


def certified(
    net: BoundedNet, x: Tensor, y: Tensor, eps: float, seconds: float
) -> tuple[str, float]:
    """Return this package's verdict on an image, and its CPU seconds."""
    begin = time.process_time()
    found = certify(
        *(net, x, y, eps), method="bab", attack=PGD(30, restarts=2, clip=None), time_limit=seconds
    )
    spent = time.process_time() - begin
    return "proved" if found.certified else "broken" if found.attacked else "unknown", spent


def handed_over(net: BoundedNet, x: Tensor, y: Tensor, eps: float) -> dict[str, Any]:
    """Return what a rival gets: normalised images, and a network of torch's own classes."""
    normalise, core = split_normalise(net.module)
    radius = torch.tensor(eps)
    if normalise is not None:
        x, radius = normalise(x), (radius / normalise.std).unsqueeze(0)
    network = torch.fx.symbolic_trace(core)
    for node in network.graph.nodes:
        node.type = None  # names of types, which pickle does not take
    network.recompile()
    return {"network": network, "x": x, "y": y, "eps": radius}
