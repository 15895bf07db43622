"""Whether certificates hold: each checked again in float64 and by attack, and what rounding does.

    python benchmarks/numerics.py --data-dir DATA

Pairs of an image and a network: random and briefly trained networks on the digits in the package,
and the networks of the zoo on their test sets where the data is at hand. Every certificate of the
cascade (IBP to α-CROWN, of CNN7 to CROWN, in float32) is

- attacked in float64, by PGD of 60 steps with three restarts and by 64 random corners of the box,
- certified again by the same stages in float64.

It also compares the bounds themselves: float32 with float64, method by method, and interval bounds
whose products are rounded as TF32 does, with float64. The difference is given in units of the
threshold above which `certify` believes a float32 bound. Exit status 1 if a certificate is broken.
"""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from pathlib import Path

import click
import paper_output
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm.auto import tqdm

from citrus_lirpa import data
from citrus_lirpa.attacks import PGD
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.bounds.precision import rounding_threshold
from citrus_lirpa.errors import DataError, ModelError
from citrus_lirpa.formats import atomic as files
from citrus_lirpa.models import Normalise, build_model
from citrus_lirpa.training import checkpoint, config, zoo
from citrus_lirpa.training import loop as train
from citrus_lirpa.training import setup as runs
from citrus_lirpa.verify import certify

METHODS = ("ibp", "crown-ibp", "crown")
RADII = (0.01, 0.03, 0.06)
TRAINED = ("ibp", "sabr", "citrus")
MODELS = {
    "mlp": {"hidden": [40, 40]},
    "cnn7": {"width": 4, "linear": 32},
}
#: Last stage of the certificates; α-CROWN of CNN7 would take most of the time.
STAGES = {"cnn7": "crown"}
_CORNERS = 64
_CNN7_IMAGES = 400  # whose CROWN bounds take longest
_COMPARED = 128  # images of a network whose bounds are compared


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="runs/numerics", show_default=True)
@click.option("--random", "count", default=56, show_default=True, help="Random networks.")
@click.option("--seeds", default=2, show_default=True, help="Of each trained network.")
def main(data_dir: Path, out: Path, count: int, seeds: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tally: dict[str, Counter] = defaultdict(Counter)
    differences: dict[str, list[Tensor]] = defaultdict(list)
    total = count + seeds * len(TRAINED) * len(MODELS) + len(zoo.names())
    with tqdm(total=total, unit="network") as bar:
        for kind, model, x, y, eps in networks(data_dir, count, seeds):
            bar.set_description(kind)
            check(tally[kind], model, x, y, eps, STAGES.get(kind.split()[-1], "alpha-crown"))
            compare(differences, model, x[:_COMPARED], y[:_COMPARED], eps)
            bar.update()
    record = {
        "machine": paper_output.machine(),
        "certificates": {kind: dict(counts) for kind, counts in tally.items()},
        "differences": {name: summary(torch.cat(parts)) for name, parts in differences.items()},
    }
    files.write_text(out / "numerics.json", json.dumps(record, indent=2) + "\n")
    draw(differences, out / "numerics.png")
    click.echo(markdown(record) + f"\n{out / 'numerics'}.json, .png")
    if any(counts["broken"] for counts in tally.values()):
        raise SystemExit(1)


# -- networks -----------------------------------------------------------------------


def networks(data_dir: Path, count: int, seeds: int):
    """(kind, model in eval mode, images, labels, ε) of each network."""
    parts = [data.load("digits", train=part, data_dir=data_dir) for part in (True, False)]
    x = torch.cat([part.pixels(slice(None)) for part in parts])
    y = torch.cat([part.labels for part in parts])
    for seed in range(count):
        torch.manual_seed(seed)
        name = "cnn7" if seed % 8 == 7 else "mlp"
        model = build_model(
            name, shape=(1, 8, 8), classes=10, mean=[0.0], std=[1.0], **MODELS[name]
        )
        model(x[torch.randperm(len(x))[:64]])  # BatchNorm's statistics
        model.eval()
        with torch.no_grad():
            labels = model(x).argmax(1)  # nobody has trained it: certify what it says
        some = slice(None, _CNN7_IMAGES if name == "cnn7" else None)
        yield f"random {name}", model, x[some], labels[some], RADII[seed % len(RADII)] / 4
    for name, options in MODELS.items():
        for method in TRAINED:
            for seed in range(seeds):
                yield (
                    f"{method} {name}",
                    trained(name, options, method, seed),
                    x,
                    y,
                    RADII[seed % 3],
                )
    for name in zoo.names():
        try:
            model, spec, settings = checkpoint.load_model(Path(f"{zoo.PREFIX}{name}"))
            test = data.load(spec.name, train=False, data_dir=data_dir, download=False)
        except DataError as error:
            tqdm.write(f"zoo:{name} left out: {error}")
            continue
        yield f"zoo:{name}", model, test.pixels(slice(None)), test.labels, settings.train.eps


def trained(name: str, options: dict, method: str, seed: int) -> nn.Module:
    overrides = [f"model.name={name}", f"train.seed={seed}", "train.epochs=8", "train.threads=1"]
    overrides += [f"model.{key}={value}" for key, value in options.items()]
    settings = config.resolve(preset="digits", method=method, overrides=overrides)
    images = data.load("digits", train=True, data_dir=Path("data"))
    net, loss = runs.build(settings, torch.device("cpu"))
    train.fit(net, loss, images, settings)
    return net.module.eval()


# -- certificates -------------------------------------------------------------------


def check(counts: Counter, model: nn.Module, x: Tensor, y: Tensor, eps: float, method: str) -> None:
    """Certify in float32, then attack and certify again in float64."""
    net = BoundedNet(model, x[:2])
    proved = certify(net, x, y, eps, method=method).certified
    exact = net.in_float64()
    x64, y64 = x[proved].double(), y[proved]
    counts["networks"] += 1
    counts["pairs"] += len(x)
    counts["certified"] += len(x64)
    if len(x64):
        counts["broken"] += int(broken(exact, x64, y64, eps).sum())
        again = certify(exact, x64, y64, eps, method=method).certified
        counts["not proved in float64"] += int((~again).sum())


@torch.no_grad()
def broken(net: BoundedNet, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """(N,) whether any attack in float64 changes the class."""
    hit = torch.zeros(len(x), dtype=torch.bool)
    with torch.enable_grad():
        v = PGD(steps=60, restarts=3, clip=None)(net, x, y, eps)
    for rows in torch.arange(len(x)).split(2048):
        tried = [v[rows]] + [eps * torch.randn_like(x[rows]).sign() for _ in range(_CORNERS)]
        for u in tried:
            hit[rows] |= net.module(x[rows] + u).argmax(1) != y[rows]
    return hit


# -- bounds -------------------------------------------------------------------------


def compare(
    differences: dict[str, list[Tensor]], model: nn.Module, x: Tensor, y: Tensor, eps: float
) -> None:
    """Differences to the float64 bounds, per image, in units of the rounding threshold."""
    net = BoundedNet(model, x[:2])
    exact = net.in_float64()
    box, box64 = Box.around(x, eps, None), Box.around(x.double(), eps, None)
    with torch.no_grad():
        unit = rounding_threshold(net(x)).double()[:, None]
        for method in METHODS:
            try:
                true = exact.margins(box64, y, method)
            except ModelError as error:  # auto_LiRPA's CROWN of large images mixes types
                tqdm.write(f"{method} in float64 left out: {error}")
                continue
            apart = (net.margins(box, y, method).double() - true).abs() / unit
            differences[method].append(apart.flatten())
        true = interval_margins(exact.module, box64, y, lambda t: t)
        same = exact.margins(box64, y, "ibp")
        if not torch.allclose(true, same, atol=1e-9):
            raise click.ClickException("the hand-written interval bounds are not the package's")
        rounded = interval_margins(copy.deepcopy(model), box, y, as_tf32).double()
        differences["ibp in TF32"].append(((rounded - true).abs() / unit).flatten())


def as_tf32(t: Tensor) -> Tensor:
    """Rounded to TF32's ten bits of mantissa, to nearest, as tensor cores round operands."""
    bits = t.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def interval_margins(model: nn.Module, box: Box, y: Tensor, rounded) -> Tensor:
    """(N, K-1) interval bounds of the margins of a Sequential in eval mode, layer by layer.

    ``rounded`` is applied to every operand of a product.
    """
    centre, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    *layers, last = model
    for layer in layers:
        if isinstance(layer, Normalise):
            centre, radius = layer(centre), radius / layer.std
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            scale = layer.weight / (layer.running_var + layer.eps).sqrt()
            shape = (-1, *[1] * (centre.ndim - 2))
            centre = (centre - layer.running_mean.view(shape)) * scale.view(shape)
            centre, radius = centre + layer.bias.view(shape), radius * scale.abs().view(shape)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            weight, bias = rounded(layer.weight), layer.bias
            centre = product(layer, rounded(centre), weight, bias)
            radius = product(layer, rounded(radius), weight.abs(), None)
        elif isinstance(layer, nn.ReLU):
            lower, upper = (centre - radius).relu(), (centre + radius).relu()
            centre, radius = (lower + upper) / 2, (upper - lower) / 2
        else:
            centre, radius = layer(centre), layer(radius)
    rows = []
    for n, label in enumerate(y.tolist()):
        wrong = [c for c in range(len(last.weight)) if c != label]
        weight = last.weight[label] - last.weight[wrong]
        offset = last.bias[label] - last.bias[wrong]
        worst = rounded(weight.abs()) @ rounded(radius[n])
        rows.append(rounded(weight) @ rounded(centre[n]) + offset - worst)
    return torch.stack(rows)


def product(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding)


# -- output -------------------------------------------------------------------------


def summary(values: Tensor) -> dict[str, float]:
    return {
        "median": float(values.median()),
        "largest": float(values.max()),
        "share above the threshold": float((values > 1).double().mean()),
    }


def markdown(record: dict) -> str:
    titles = ("networks", "pairs", "certified", "broken", "not proved in float64")
    lines = [record["machine"], "", "| network | " + " | ".join(titles) + " |"]
    lines.append("|---|" + "--:|" * len(titles))
    sums: Counter = Counter()
    for kind, counts in record["certificates"].items():
        sums.update(counts)
        lines.append(f"| {kind} | " + " | ".join(f"{counts.get(t, 0):,}" for t in titles) + " |")
    lines.append("| all | " + " | ".join(f"{sums[t]:,}" for t in titles) + " |")
    lines += ["", "| bounds | median | largest | beyond the threshold |", "|---|--:|--:|--:|"]
    for name, values in record["differences"].items():
        share = f"{values['share above the threshold']:.2%}"
        lines.append(f"| {name} | {values['median']:.2g} | {values['largest']:.2g} | {share} |")
    return "\n".join(lines) + "\n"


def draw(differences: dict[str, list[Tensor]], path: Path) -> None:
    """Distributions of the differences, on a logarithmic axis with the threshold at 1."""
    figure = Figure((7, 3.8), layout="constrained")
    axes = figure.subplots()
    edges = [10 ** (e / 4) for e in range(-28, 17)]
    for name, parts in differences.items():
        values = torch.cat(parts).clamp(min=edges[0])
        shares = torch.full((len(values),), 100 / len(values))
        axes.hist(values.numpy(), edges, weights=shares.numpy(), histtype="step", label=name)
    axes.axvline(1, color="0.4", linestyle="--", linewidth=1)
    axes.annotate("believed only beyond", (1, 0.97), (4, 0), xycoords=("data", "axes fraction"),
                  textcoords="offset points", fontsize=8, color="0.4", va="top")  # fmt: skip
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), ylabel="per cent of the bounds",
             xlabel="difference to the float64 bound / rounding threshold")  # fmt: skip
    axes.legend(frameon=False, fontsize=8)
    files.write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))


if __name__ == "__main__":
    main()
