"""What tests/product/test_pretended_gpu.py looks at, computed on the pretended GPU.

``python on_pretended_gpu.py FOLDER`` works in a folder and writes ``seen.json`` there.
"""

import pretend_cuda  # before torch

# isort: split

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path

import torch
from click.testing import CliRunner
from configurations import SMALL_SWEEP

from citrus_lirpa import Box, data, verify
from citrus_lirpa.attacks import SgdUap
from citrus_lirpa.cli import main
from citrus_lirpa.errors import Interrupted
from citrus_lirpa.losses.registry import TRAINING_METHODS
from citrus_lirpa.training import checkpoint, setup
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.loop import fit

CPU, GPU = torch.device("cpu"), torch.device("cuda")
DIGITS = data.load("digits", train=True, data_dir=Path("none"))
TEST = data.load("digits", train=False, data_dir=Path("none"))
SMALL = ("train.batch_size=30", "loss.attack_steps=2", "model.hidden=[12, 12]")
#: Loads the pretended GPU in every process that a sweep starts.
SITE = "import pretend_cuda\npretend_cuda.Pretended().__enter__()\n"


def configuration(method: str, *overrides: str):
    options = [part for part in SMALL if "attack_steps" not in part or method == "citrus"]
    return resolve(preset="digits", method=method, overrides=[*options, *overrides])


def trained(method: str, device: torch.device, *overrides: str, **options):
    """A network, trained, and the records of its epochs."""
    config = configuration(method, *overrides)
    net, loss = setup.build(config, device)
    return net, fit(net, loss, DIGITS, config, **options).records


def run(*args: object) -> dict:
    """One command on the pretended GPU."""
    with pretend_cuda.Pretended() as seen:
        result = CliRunner().invoke(main, [*map(str, args), "--device", "cuda"])
    error = result.exception if not isinstance(result.exception, SystemExit) else None
    told = "".join(traceback.format_exception(error)) if error else result.output
    return {
        "exit": result.exit_code,
        "mixed": seen.mixed,
        "without_kernel": seen.without_kernel(),
        "operators": len(seen.operators),
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
    few = ("--limit", 20, "--time-limit", 0.2)
    exported = folder / "exported"
    CliRunner().invoke(main, ["export", str(network), "--out", str(exported), "--images", "0,1,2"])
    (exported / "results.csv").write_text("0,unsat\n1,timeout\n")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    sweep = SMALL_SWEEP.format(epochs=1, grid='"train.eps" = [0.1]')
    (folder / "sweep.toml").write_text(sweep)
    here = [str(folder / "site"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(here)
    return {
        "resume": run("train", "--resume", begun),
        "eval": run("eval", network, *few, "--relational", "cross"),
        "import": run(
            "eval", network, *few, "--import-verdicts", exported, "--out", folder / "imported"
        ),
        "attack": run("attack", network, "--limit", 50),
        "smooth": run("smooth", network, "--sigma", 0.1, "--n", 500, "--limit", 3),
        "sweep": run("sweep", folder / "sweep.toml", "--out", folder / "sweep"),
        "doctor": run("doctor"),
    }


def waits(method: str) -> dict:
    """How often a step lets the host wait, in all phases of the ramp: by line, for each step."""
    found, steps, epochs = [], (2, 8), 3
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


def results(device: torch.device, network: Path) -> dict:
    """What must be the same on both devices, up to rounding."""
    found = {}
    with pretend_cuda.Pretended(one_generator=True) if device == GPU else contextlib.nullcontext():
        for method, more in (
            ("citrus", ()), ("crown-ibp", ()), ("taps", ()),
            ("sabr", ("model.name=cnn7", "model.width=2", "model.linear=8")),
        ):  # fmt: skip
            name = f"{method} {' '.join(more)}".strip()
            net, records = trained(method, device, "train.epochs=2", "data.limit=90", *more)
            weights = torch.cat([weight.detach().flatten() for weight in net.parameters()])
            found[name] = [[record[key] for key in ("loss", "regulariser")] for record in records]
            found[f"{name}, weights"] = weights.cpu().tolist()
        module, spec, _ = checkpoint.load_model(network)
        net = setup.BoundedNet(module.to(device), torch.zeros(2, *spec.shape, device=device)).eval()
        x, y = TEST.pixels(slice(40)).to(device), TEST.labels[:40].to(device)
        with torch.no_grad():
            for method in ("ibp", "crown-ibp", "crown", "alpha-crown"):
                bound = net.margins(Box.around(x[:5], 0.02), y[:5], method)
                found[f"bounds by {method}"] = bound.flatten().cpu().tolist()
        certificates = verify.certify(net, x, y, 0.04, method="bab", time_limit=5)
        found["certificates"] = certificates.verdicts()
        groups = verify.certify_uap(net, x, y, 0.04, group_size=5, time_limit=5)
        found["groups"] = [groups.lower.tolist(), groups.upper.tolist()]
        torch.manual_seed(0)
        found["attack"] = SgdUap(epochs=2, restarts=1)(net, x, y, 0.1).fooling_rate
    return found


def everything(folder: Path) -> dict:
    network = folder / "network"
    trained("ibp", CPU, "train.epochs=8", folder=network)
    return {
        "commands": commands(folder, network),
        "waits": {name: waits(name) for name in TRAINING_METHODS},
        "results": {device.type: results(device, network) for device in (CPU, GPU)},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    (place / "seen.json").write_text(json.dumps(everything(place)))
