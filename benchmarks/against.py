"""Single images by α,β-CROWN and by this package, in pairs: the same property, the same limit.

`python benchmarks/verifier.py --against CHECKOUT` runs it. CHECKOUT is a clone of
https://github.com/Verified-Intelligence/alpha-beta-CROWN with its submodule, and `--python` the
Python of an environment with its requirements; neither is fetched here.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from citrus_lirpa import PGD, BoundedNet, certify
from citrus_lirpa.data.types import DatasetSpec, Split
from citrus_lirpa.verify import vnnlib

#: What α,β-CROWN answers, by the first word; all else is no verdict.
ANSWERS = {"unsat": "proved", "safe": "proved", "sat": "broken", "unsafe": "broken"}
VERDICTS = ("proved", "broken", "unknown")


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

    def run(self, *arguments: str) -> float:
        """Run it, and return its CPU seconds; ClickException where it fails."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [self.python, "abcrown.py", *arguments],
            cwd=self.checkout / "complete_verifier",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise click.ClickException(f"α,β-CROWN failed: {' '.join(last)}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def verdict(self, folder: Path, image: int, seconds: float) -> tuple[str, float]:
        """Return its verdict on an exported image, and its CPU seconds."""
        answer = folder / "answer.txt"
        answer.unlink(missing_ok=True)
        spent = self.run(
            *("--config", self.config, "--device", "cpu", "--timeout", f"{seconds:g}"),
            *("--onnx_path", str(folder / vnnlib.MODEL)),
            *("--vnnlib_path", str(folder / f"image_{image:05d}.vnnlib")),
            *("--results_file", str(answer)),
        )
        word = answer.read_text().split()[0].split("-")[0] if answer.is_file() else ""
        return ANSWERS.get(word, "unknown"), spent


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
    rival: Rival, net: BoundedNet, data: Split, spec: DatasetSpec, eps: float, seconds: float,
    folder: Path,
) -> Pairs:  # fmt: skip
    """Run both on all images that are classified correctly, in turn, and return what they find.

    What α,β-CROWN takes to start is measured once, and taken from each of its times.
    """
    record = vnnlib.export(
        net.module, data, spec, folder, images=range(len(data)), eps=eps, timeout=seconds
    )
    start = rival.run("--help")
    pairs = Pairs()
    for image in record["images"]:
        begin = time.process_time()
        found = certify(
            net, data.pixels([image]), data.labels[[image]], eps, method="bab",
            attack=PGD(30, restarts=2, clip=None), time_limit=seconds,
        )  # fmt: skip
        spent = time.process_time() - begin
        verdict = "proved" if found.certified else "broken" if found.attacked else "unknown"
        theirs, took = rival.verdict(folder, image, seconds)
        pairs.images.append(image)
        pairs.ours.append((verdict, spent))
        pairs.theirs.append((theirs, max(0.0, took - start)))
        click.echo(f"{image}: {verdict} {spent:.2f} s, {theirs} {took - start:.2f} s", err=True)
    return pairs
