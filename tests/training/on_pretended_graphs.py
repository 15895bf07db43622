"""What tests/training/test_graphed.py looks at, computed on the pretended GPU.

``python on_pretended_graphs.py FOLDER [CASE...]`` works in a folder and writes ``seen.json`` there,
of all that the tests look at or of these cases alone.
"""

import pretend_cuda  # before torch

# isort: split

import json
import logging
import sys
from pathlib import Path

import pretend_graphs
import torch

from citrus_lirpa import data
from citrus_lirpa.losses import Citrus, Sabr
from citrus_lirpa.losses.base import Stage
from citrus_lirpa.training import setup
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.loop import fit

GPU = torch.device("cuda")
DIGITS = data.load("digits", train=True, data_dir=Path("none"))
#: An epoch without ε, one on the ramp, one behind it; 5 steps each, and 5 images that fill none.
SETTINGS = [
    "train.epochs=3", "train.batch_size=10", "data.limit=55", "train.ramp_start=2",
    "train.ramp_length=1", "train.milestones=[1.5, 2.5]", "train.lr=0.01",
]  # fmt: skip
SMALL = ["model.hidden=[12, 12]", "train.l1=1e-6"]
CNN7 = ["model.name=cnn7", "model.width=2", "model.linear=8"]
LONG_RAMP = ["train.ramp_start=1", "train.ramp_length=2.5"]
FEW = ["loss.attack_steps=2"]
CASES = {
    "citrus": ("citrus", [*SMALL, *FEW, "loss.worst=2"]),
    "sabr of cnn7": ("sabr", [*CNN7, *LONG_RAMP, *FEW]),
    "universal partners": ("citrus", [*SMALL, *FEW, "loss.universal=2"]),
    "staps": ("staps", [*SMALL, *FEW, "loss.latent_steps=2"]),
}
#: Seen at night, as they take time.
OTHERS = {
    "taps": ("taps", [*CNN7, "loss.latent_steps=2"]),
    "cw-uat": ("cw-uat", SMALL),
    "crown-ibp": ("crown-ibp", SMALL),
    "smoothadv": ("smoothadv", SMALL),
    "denoiser": ("denoiser", ["model.width=4"]),
    "colt": ("colt", [*SMALL, "loss.projections=5", "loss.mix=0.2"]),
    "colt, fading in": ("colt", [*SMALL, "loss.projections=5", "loss.mix=0.9"]),
    "uap-game": ("uap-game", SMALL),
}


class Reading(Citrus):
    """Reads from the GPU in each step."""

    def begin_step(self, net, done, eps):
        return Stage(graph=())

    def terms(self, net, x, y, eps):
        found = super().terms(net, x, y, eps)
        return found if bool(found.total < 1e6) else None


class Counting(Sabr):
    """Decides by numbers of the host of which nothing is known."""


class Log(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def train(method, options, kind=None, **more):
    """Train once, if need be by a loss of another class; return what was seen of it."""
    log, logger = Log(), logging.getLogger("citrus_lirpa.training.graphed")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    config = resolve(preset="digits", method=method, overrides=[*SETTINGS, *options])
    pretend_graphs.Graph.count.update(captured=0, replayed=0)
    with pretend_cuda.Pretended() as seen:
        net, loss = setup.build(config, GPU)
        loss.__class__ = kind or type(loss)
        seen.waits.clear()
        if method == "sabr":  # as a user may at an epoch's end
            more["on_epoch"] = lambda record: setattr(
                loss.small_box, "tau_ratio", 0.2 * record["epoch"]
            )
        history = fit(net, loss, DIGITS, config, **more)
        waits = {line: count for line, count in seen.waits.items() if "metrics" not in line}
        weights = torch.cat([t.flatten() for t in net.module.state_dict().values()]).tolist()
    logger.removeHandler(log)
    keys = ("loss", "regulariser", "accuracy", "certified", "kappa", "eps", "lr")
    return {
        "weights": weights, "waits": waits, "mixed": seen.mixed, "log": log.lines,
        "records": [{key: record[key] for key in keys} for record in history.records],
        **pretend_graphs.Graph.count,
    }  # fmt: skip


def stop(record):
    if record["epoch"] == 2:
        raise KeyboardInterrupt


def resumed(folder: Path) -> dict:
    """A training that stopped at the end of its second epoch, before that was saved, went on."""
    method, options = CASES["citrus"]
    try:
        train(method, options, folder=folder, on_epoch=stop)
    except KeyboardInterrupt:
        return train(method, options, folder=folder)
    raise AssertionError("it was not stopped")


def both_ways(method: str, options: list[str]) -> list[dict]:
    return [train(method, [*options, f"train.graph={on}"]) for on in ("true", "false")]


def everything(folder: Path) -> dict:
    found = {name: both_ways(*case) for name, case in CASES.items()}
    found["reading"] = train(*CASES["citrus"], Reading)
    found["a user's class"] = train("sabr", [*SMALL, *FEW], Counting)
    found["resumed"] = resumed(folder / "run")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, *named = Path(sys.argv[1]), *sys.argv[2:]
    seen = {name: both_ways(*OTHERS[name]) for name in named} or everything(place)
    (place / "seen.json").write_text(json.dumps(seen))
