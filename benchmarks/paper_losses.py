"""Figure 4 of the paper: same-input against cross-input losses while CITRUS trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import paper_output
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from tqdm.auto import tqdm

from citrus_lirpa import data
from citrus_lirpa.bounds.margins import robust_cross_entropy
from citrus_lirpa.formats import atomic as files
from citrus_lirpa.losses import Citrus, LossTerms
from citrus_lirpa.losses.cross_input import cross_input_boxes
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.training import config
from citrus_lirpa.training import loop as train
from citrus_lirpa.training import setup as runs

_TITLE = "Figure 4: same-input and cross-input losses"
#: Every so many steps the losses are taken.
_EVERY = 10
CURVES = {
    "same": "the input's own perturbation",
    "max": "max over the others' perturbations",
    "sum": "sum over the others' perturbations",
}


def observe(loss: Citrus, seen: list[dict[str, float]]) -> None:
    """Make ``loss`` note every tenth step's same-input and cross-input losses in ``seen``."""
    terms_of, steps = loss.terms, [0]

    def terms(net: Any, x: Tensor, y: Tensor, eps: Any) -> LossTerms:
        result = terms_of(net, x, y, eps)
        steps[0] += 1
        if steps[0] % _EVERY == 0:
            seen.append(losses_of(loss, net, x, y, eps, result))
        return result

    loss.terms = terms


@torch.no_grad()
def losses_of(
    loss: Citrus, net: Any, x: Tensor, y: Tensor, eps: Any, terms: LossTerms
) -> dict[str, float]:
    """Means over the inputs of the robust cross-entropy on the own box, and of its sum and
    maximum over the partners' boxes."""
    own = torch.arange(len(x)).unsqueeze(1)
    box = cross_input_boxes(x, terms.perturbations, loss.tau_ratio * eps, own, loss.clip)
    same = robust_cross_entropy(net.margins(box, y, loss.method))
    across = robust_cross_entropy(terms.margins.flatten(0, 1)).view(len(x), -1)
    return {
        "same": float(same.mean()),
        "max": float(across.max(1).values.mean()),
        "sum": float(across.sum(1).mean()),
    }


def run(preset: str, fixed: Mapping[str, Any], *, data_dir: Path, out: Path) -> None:
    """Train CITRUS and write figure4.json, figure4.md and figure4.png; resumable."""
    overrides = [f"{key}={value}" for key, value in fixed.items()]
    settings = config.resolve(preset=preset, method="citrus", overrides=overrides)
    folder = out / "runs" / "figure4"
    if not folder.exists():
        RunFolder(folder).begin(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, loss = runs.build(settings, device)
    seen: list[dict[str, float]] = []
    observe(loss, seen)
    log = folder / "losses.jsonl"

    def on_epoch(record: dict[str, Any]) -> None:
        means = {key: sum(s[key] for s in seen) / len(seen) for key in CURVES} if seen else {}
        earlier = [line for line in lines_of(log) if line["epoch"] < record["epoch"]]
        now = {"epoch": record["epoch"], "eps": record["eps"], **means}
        files.write_text(log, "".join(json.dumps(line) + "\n" for line in [*earlier, now]))
        tqdm.write(json.dumps(now))
        seen.clear()

    images = data.load(settings.data.name, train=True, data_dir=data_dir)
    train.fit(net, loss, images, settings, folder=folder, progress=True, on_epoch=on_epoch)
    lines = lines_of(log)
    rows = [line for line in lines if "same" in line]  # not the epochs before the ramp
    record = {"preset": preset, "machine": paper_output.machine(), "epochs": lines}
    files.write_text(out / "figure4.json", json.dumps(record, indent=2) + "\n")
    table = [
        f"### {_TITLE}",
        "",
        f"{preset}; {record['machine']}.",
        "",
        "| epoch | ε | own box | max over the others | sum over the others |",
        "|--:|--:|--:|--:|--:|",
        *(
            f"| {r['epoch']} | {r['eps']:.4f} | {r['same']:.3f} | {r['max']:.3f} | {r['sum']:.3f} |"
            for r in rows
        ),
    ]
    files.write_text(out / "figure4.md", "\n".join(table) + "\n")
    draw(rows, out / "figure4.png")
    click.echo("\n".join(table) + f"\n{out / 'figure4'}.json, .md, .png")


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Own box and maximum together, which lie close; the sum, several times them, beside."""
    figure = Figure((9, 3.8), layout="constrained")
    for axes, keys in zip(figure.subplots(1, 2), (("same", "max"), ("sum",)), strict=True):
        for key in keys:
            colour = f"C{list(CURVES).index(key)}"
            axes.plot(
                [row["epoch"] for row in rows],
                [row[key] for row in rows],
                marker="o",
                color=colour,
                label=CURVES[key],
            )
        axes.set(xlabel="epoch", ylabel="robust cross-entropy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.suptitle(_TITLE, fontsize=11)
    files.write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
