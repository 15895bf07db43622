"""What test_distributed.py does once in one process and once in two."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import torch
from command_line import run
from torch import Tensor, nn

from citrus_lirpa import data, distributed
from citrus_lirpa.attacks import SgdUap
from citrus_lirpa.errors import CitrusError, Interrupted, NonFiniteLossError
from citrus_lirpa.training import loop as train
from citrus_lirpa.training import setup as runs
from citrus_lirpa.training.batchnorm import running_statistics
from citrus_lirpa.training.config import resolve
from citrus_lirpa.verify import Protocol, Saved, Smoothing, evaluate, smooth

#: Three epochs of four steps, with ε from the first step on; slices of 20 in two processes.
SMALL = ("data.limit=160", "train.batch_size=40", "train.epochs=3", "train.ramp_start=1",
         "train.ramp_length=1", "train.milestones=[2]", "model.hidden=[12, 8]",
         "train.shi=0")  # fmt: skip
ATTACK = "loss.attack_steps=3"
#: A seed with which no gradient is so near 0 that its sign depends on rounding: weights that start
#: one rounding apart end less than 1e-7 apart in every training below.
NO_TIES = "train.seed=1"
#: Trainings whose weights must not depend on the number of processes.
EQUAL = {
    "ibp": ("ibp", ()),
    "sabr": ("sabr", (ATTACK,)),
    "citrus in groups": ("citrus", (ATTACK, "loss.pairing=groups")),
    "citrus, universal and worst": (
        "citrus",
        (ATTACK, "loss.pairing=groups", "loss.universal=2", "loss.worst=2"),
    ),
    "citrus, triples": ("citrus", (ATTACK, "loss.pairing=groups", "loss.k=4")),
    "restarts": ("citrus", (ATTACK, "loss.pairing=groups", "loss.attack_restarts=2")),
    "cw-uat": ("cw-uat", ()),
}
#: BatchNorm, and partners that are paired within each process's rows.
CNN = (*SMALL[:-2], "train.epochs=1", "model.name=cnn7", "model.width=2", "model.linear=8")
#: Five batches of six groups, and verdicts of every kind.
PROTOCOL = Protocol(eps=0.04, method="crown", relational="none", limit=142, batch_size=30)
UAP = SgdUap(epochs=2, batch_size=32, per_class=True)


class Run:
    """A training on the digits."""

    def __init__(self, method: str | None, overrides: tuple[str, ...], folder: Path | None = None):
        self.config = resolve(preset="digits", method=method, overrides=overrides)
        self.net, self.loss = runs.build(self.config, torch.device("cpu"))
        self.folder = folder

    def fit(self, **more) -> list[dict]:
        images = data.load("digits", train=True, data_dir=Path("none"))
        return train.fit(
            self.net, self.loss, images, self.config, folder=self.folder, **more
        ).records

    def weights(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.net.module.state_dict().items()}


def trained(method: str, overrides: tuple[str, ...]) -> dict:
    """Weights, records, what ``on_epoch`` got and the state of torch's generator."""
    run, seen = Run(method, overrides), []
    records = run.fit(on_epoch=seen.append)
    random = torch.get_rng_state()
    return {"weights": run.weights(), "records": records, "seen": seen, "random": random}


def one_step_of_batchnorm() -> list[Tensor]:
    """Running statistics after a single step."""
    run = Run("ibp", (*CNN, "data.limit=40"))
    run.fit()
    return running_statistics(run.net.module)


def evaluated(folder: Path) -> dict:
    """An evaluation by batches on the disk, and a second one that finds the middle one there."""
    run = Run("ibp", SMALL)
    run.fit()
    test = data.load("digits", train=False, data_dir=Path("none"))
    spec = data.find_spec("digits")
    settings = asdict(PROTOCOL)

    def record(resume: bool) -> dict:
        with distributed.leader_first():
            saved = Saved(folder / "p", settings, resume=resume or not distributed.leads())
        result = evaluate(run.net, test, spec, PROTOCOL, saved=saved)
        kept = distributed.agreed(saved.count())  # before the first process removes some
        found = {**result.record(), "kept": kept, "strongest": result.strongest.tolist()}
        del found["seconds"], found["image_seconds"], found["groups"]["seconds"]
        return found

    first = record(resume=False)
    if distributed.leads():
        for number in (0, 1, 3, 4):
            (folder / "p" / f"{number:05d}.pt").unlink()
    return {"first": first, "resumed": record(resume=True)}


def attacked() -> dict:
    run = Run("ibp", SMALL)
    run.fit()
    test = data.load("digits", train=False, data_dir=Path("none"))
    torch.manual_seed(5)
    result = UAP(run.net, test.pixels(slice(200)), test.labels[:200], 0.1)
    return {**asdict(result), "next": torch.rand(3)}


def smoothed() -> list[list[int]]:
    run = Run("ibp", SMALL)
    test = data.load("digits", train=False, data_dir=Path("none"))
    x, y = test.pixels(slice(45)), test.labels[:45]
    found = smooth(run.net.module, x, y, Smoothing(sigma=0.2, n=200))
    return [found.predicted.tolist(), found.counts.tolist()]


class Faulty(nn.Module):
    """A loss that does something in its fifth step in the last process."""

    def __init__(self, loss, what):
        super().__init__()
        self.loss, self.steps, self.what = loss, 0, what

    def forward(self, net, x, y, eps):
        terms = self.loss(net, x, y, eps)
        self.steps += 1
        last = int(os.environ.get("RANK", 0)) == distributed.size() - 1
        return self.what(terms) if self.steps == 5 and last else terms


def fault(what, kind: type[CitrusError], folder: Path) -> str:
    """The error of a training that a fault in one process ends."""
    run = Run("sabr", (*SMALL, NO_TIES, ATTACK), folder)
    run.loss = Faulty(run.loss, what)
    try:
        run.fit()
    except kind as error:
        return str(error)
    return "no error"


def interrupt(terms):
    os.kill(os.getpid(), signal.SIGTERM)
    return terms


def not_finite(terms):
    return replace(terms, total=terms.total * float("nan"))


def exchanges() -> dict:
    """Each exchange on values that differ between processes."""
    rank = int(os.environ.get("RANK", 0))
    mine = [torch.tensor([1.0, 3.0]) * (rank + 1), torch.tensor([[float(rank)]])]
    distributed.average(mine)
    with distributed.shared_batch():
        part = distributed.draw_rows(lambda rows: torch.arange(rows) * 10.0, 3)
        mean = distributed.averaged(torch.tensor([rank * 2.0]))
    remote = []
    results = distributed.share(
        lambda i: {"i": i, "of": torch.tensor(i * 1.0)}, 7, torch.device("cpu"), remote.append
    )
    value = torch.tensor([rank + 5.0])
    distributed.copy_from_leader([value])
    return {
        "average": mine,
        "rows": part,
        "rows of a batch that is not shared": distributed.draw_rows(torch.zeros, 3),
        "averaged": mean,
        "highest": distributed.highest(rank == 1, -rank),
        "agreed": distributed.agreed([f"of {rank}", rank]),
        "copied": value,
        "share": [one["i"] for one in results] + [float(one["of"]) for one in results],
        "remote": sum(remote),
        "none": distributed.share(lambda i: i, 0, torch.device("cpu")),
        "refused": refusal(lambda: distributed.rank_slice(41, "train.batch_size")),
        "part": [*range(10)[distributed.rank_slice(10, "it")]],
        "leads": distributed.leads(),
        "claimed": distributed.claimed("this"),
        "refused pairs": refusal(
            lambda: Run("citrus", (*SMALL, "loss.pairing=groups", "train.batch_size=10",
                                   "loss.partners=9")).fit()
        ),
    }  # fmt: skip


def refusal(call) -> str:
    try:
        call()
    except CitrusError as error:
        return str(error)
    return ""


def misused(folder: Path) -> tuple[int, str] | None:
    """A command that only one process could do: exit status, and what it says."""
    command = ("train", "--preset", "digits", "--set", "train.batch_size=65", "--out", folder)
    return run(*command) if distributed.size() > 1 else None


def everything(folder: Path) -> dict:
    return {
        **{
            name: trained(method, (*SMALL, NO_TIES, *more))
            for name, (method, more) in EQUAL.items()
        },
        "cnn": trained("citrus", (*CNN, ATTACK)),
        "one step": one_step_of_batchnorm(),
        "evaluated": evaluated(folder),
        "attacked": attacked(),
        "smoothed": smoothed(),
        "exchanges": exchanges(),
        "stopped": fault(interrupt, Interrupted, folder / "stopped"),
        "misused": misused(folder / "misused"),
        "nan": fault(not_finite, NonFiniteLossError, folder / "nan"),
    }


def joined(folder: Path) -> None:
    """Join the other process, and write what came of every job to FOLDER/RANK.pt."""
    distributed.start()
    torch.save(everything(folder), folder / f"{os.environ['RANK']}.pt")
