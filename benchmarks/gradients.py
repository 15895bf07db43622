"""How far a cheaper CITRUS step turns the gradient that the weights descend.

    python benchmarks/gradients.py NETWORK --data-dir DATA --tau-ratio 0.4 [--dataset D --eps ε]

The cosine between the gradient in the weights of the loss with 20 attack steps and four partners,
and that of each cheaper or other loss, on the first training images. NETWORK is what `eval`
takes: a run folder, zoo:NAME or an ONNX file. Beside "another start", which changes nothing but
the random start of the attack, a cosine of the same size is no change that training would see;
"another batch" shows how much chance there is in a step anyway.
"""

from __future__ import annotations

import copy
from pathlib import Path

import click
import torch
from torch import Tensor

from citrus_lirpa import PGD, BoundedNet, Citrus, Shifts, data
from citrus_lirpa.runs.networks import load_network

BATCH = 256


class Later:
    """The partners that follow those of Shifts(4): i+5, ..., i+8."""

    def __call__(self, batch: int) -> Tensor:
        return (Shifts(4)(batch) + 4) % batch


def nothing(net: BoundedNet, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return torch.zeros_like(x)


def losses(tau_ratio: float) -> dict[str, Citrus]:
    changes = {
        "20 steps, another start": {},
        "8 steps": {"attack": PGD(8)},
        "one step across the ball": {"attack": PGD.sign_step()},
        "2 partners": {"pairing": Shifts(2)},
        "1 partner": {"pairing": Shifts(1)},
        "--mode fast: one step, 2 partners": {"attack": PGD.sign_step(), "pairing": Shifts(2)},
        "other partners": {"pairing": Later()},
        "uniform perturbations": {"attack": PGD(0)},
        "no perturbations": {"attack": nothing},
    }
    return {name: Citrus(tau_ratio, **change) for name, change in changes.items()}


def gradient(net: BoundedNet, loss: Citrus, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
    """The gradient in all weights; BatchNorm's statistics are left as they were."""
    state = copy.deepcopy(net.module.state_dict())
    torch.manual_seed(seed)
    net.train()
    parts = torch.autograd.grad(loss(net, x, y, eps), net.parameters())
    net.module.load_state_dict(state)
    return torch.cat([part.flatten() for part in parts])


def cosines(
    net: BoundedNet, x: Tensor, y: Tensor, eps: float, tau_ratio: float
) -> dict[str, float]:
    """The cosine to the faithful gradient on the first half of a batch, of each loss."""
    half = len(x) // 2
    batch = x[:half], y[:half], eps

    def cosine(other: Tensor) -> float:
        return float(torch.cosine_similarity(faithful, other, dim=0))

    faithful = gradient(net, Citrus(tau_ratio), *batch, seed=0)
    found = {
        name: cosine(gradient(net, loss, *batch, seed=1))
        for name, loss in losses(tau_ratio).items()
    }
    another = gradient(net, Citrus(tau_ratio), x[half:], y[half:], eps, seed=0)
    return found | {"another batch": cosine(another)}


@click.command()
@click.argument("network", type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--tau-ratio", type=float, required=True, help="τ/ε of the loss.")
@click.option("--dataset", help="Of an ONNX file.")
@click.option("--eps", type=float, help="The run's by default.")
def main(network: Path, data_dir: Path, tau_ratio: float, dataset: str, eps: float) -> None:
    torch.set_num_threads(1)
    subject = load_network(network, dataset, eps)
    net = subject.bounded(torch.device("cpu"), seed=0)
    split = data.load(subject.spec.name, train=True, data_dir=data_dir)
    x, y = split.images[: 2 * BATCH].float() / 255, split.labels[: 2 * BATCH]
    click.echo(f"{network}, {subject.spec.name}, ε = {subject.eps:.4g}, τ/ε = {tau_ratio:g}")
    for name, value in cosines(net, x, y, subject.eps, tau_ratio).items():
        click.echo(f"| {name} | {value:.4f} |")


if __name__ == "__main__":
    main()
