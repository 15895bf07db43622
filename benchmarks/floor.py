"""How fast a step could be: its floating-point operations over what the machine can do.

    python benchmarks/floor.py [--threads 1] [--device cpu]

``Work`` counts what the convolutions and linear layers of a network must compute in a step;
``peaks`` measures how fast this machine computes at best, in convolutions and in products of
matrices, float32 and bfloat16. One over the other is the floor, which a step can touch only
where all else costs nothing: elementwise operations, memory, the optimiser, Python.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from citrus_lirpa.bounds.products import product

#: Seconds for which each kind of product is measured. One takes about a millisecond, so that on a
#: busy machine too some are not interrupted.
SECONDS = 1.0
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """Floating-point operations for one input: of a forward pass, and of its first layer."""

    forward: float
    first: float

    @staticmethod
    @torch.no_grad()
    def of(model: nn.Module, example: Tensor) -> Work:
        """Count two for each weight that a value of the result is multiplied by."""
        found: list[float] = []

        def count(layer: nn.Module, _: object, result: Tensor) -> None:
            found.append(2 * result[0].numel() * layer.weight[0].numel())

        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        training = model.training
        model.eval()(example)
        model.train(training)
        for hook in hooks:
            hook.remove()
        return Work(sum(found), found[0])

    def step(self, attack_steps: int, boxes: int) -> tuple[float, float]:
        """Operations of a training step for one input: of its attack, and of all else.

        An attack step is a pass forward and one back to the input. The clean pass and those of a
        box, of its centre and its radius, go back to the weights too, but not to the input.
        """
        trained = 3 * self.forward - self.first
        return attack_steps * 2 * self.forward, (1 + 2 * boxes) * trained

    def seconds(
        self, attack_steps: int, boxes: int, peaks: dict[str, float], rounded: bool = False
    ) -> float:
        """The floor of a step for one input, its attack in bfloat16 where it is ``rounded``."""
        attack, rest = self.step(attack_steps, boxes)
        return attack / peaks["bfloat16" if rounded else "float32"] + rest / peaks["float32"]


@functools.cache
def rates(device: str) -> dict[str, float]:
    """Operations a second of each kind of product in each type, the best of many tries."""
    found = {}
    for name, dtype in TYPES.items():
        channels, side, batch, size = 128, 16, 4, 512
        x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        w = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        a, b = torch.randn(2, size, size, device=device, dtype=dtype)
        work = 2 * x.numel() * w[0].numel()
        kinds = {
            "convolution": (lambda x=x, w=w: F.conv2d(x, w, None, 1, 1), work),
            "product": (lambda a=a, b=b: product(a, b), 2 * size**3),
        }
        found |= {f"{name}, {kind}": _rate(*values, device) for kind, values in kinds.items()}
    return found


def peaks(device: str) -> dict[str, float]:
    """Operations a second at best, in each type."""
    return {name: max(v for k, v in rates(device).items() if name in k) for name in TYPES}


@torch.no_grad()
def _rate(compute: Callable[[], Tensor], work: float, device: str) -> float:
    clock, best, end = clock_of(device), float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        begin = clock()
        if compute().is_cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - begin)
    return work / best


def clock_of(device: str) -> Callable[[], float]:
    """The time that the thread ran, where one CPU thread does all the work; else the clock."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    for name, rate in rates(device).items():
        click.echo(f"{name}: {rate / 1e9:.0f} GF/s")


if __name__ == "__main__":
    main()
