"""``citrus-lirpa eval``."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from .. import distributed
from ..bounds import lirpa as _compat
from ..bounds.box import PIXELS
from ..bounds.net import BoundedNet
from ..data.types import DatasetSpec
from ..errors import InputError, Interrupted, Terminated
from ..formats import atomic as files
from ..formats.locks import locked
from ..reports import tables as report
from ..runs import networks as subjects
from ..runs import perturbations as effects
from ..runs.networks import Subject
from ..training import config
from ..training.interrupts import Termination
from ..verify import (
    RELATIONAL,
    SOLVERS,
    STAGES,
    Evaluation,
    Protocol,
    Saved,
    evaluate,
    fingerprint,
    fingerprint_of_images,
    vnnlib,
)
from ..verify import resume as saved
from .options import (
    clip,
    data_dir,
    dataset,
    device,
    download,
    eps,
    join,
    quiet,
    requeue,
    say,
    show_bars,
    use_threads,
)
from .output import Results, examples, highlight, results, set_aside

#: Lines of the table that matter most; entries of the record with a value for each image.
_COLOURS = {"UCert": "green", "UAP accuracy": "red"}
_LONG = ("verdicts", "image_seconds", "groups")


@click.command(
    "eval",
    epilog=examples(
        ("a whole test set, with branch and bound", "citrus-lirpa eval runs/digits"),
        (
            "quickly: no branch and bound, no group stage",
            "citrus-lirpa eval runs/digits --method crown-ibp --relational none",
        ),
        (
            "another ε, the first 1,000 images, a minute for each hard group",
            "citrus-lirpa eval runs/mnist --eps 0.2 --limit 1000 --time-limit 60",
        ),
        (
            "somebody else's network",
            "citrus-lirpa eval net.onnx --dataset cifar10 --eps 2/255",
        ),
        ("go on after an interruption", "citrus-lirpa eval runs/mnist --resume"),
        ("for a script", "citrus-lirpa eval runs/mnist --json --quiet | jq .uap_accuracy"),
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(list(STAGES)),
    default=Protocol.method,
    show_default=True,
    help="Last stage to try on single images; the cheaper ones always run before it. "
    "bab is branch and bound.",
)
@click.option(
    "--relational",
    type=click.Choice(list(RELATIONAL)),
    default=Protocol.relational,
    show_default=True,
    help="Group stage: none, io (fixed linear bounds), or cross (bounds of several images "
    "optimised together; with --method bab also split).",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0),
    default=Protocol.time_limit,
    show_default=True,
    help="Seconds of branch and bound and group stage for each group still open.",
)
@click.option(
    "--solver",
    type=click.Choice(list(SOLVERS)),
    default=Protocol.solver,
    show_default=True,
    help="Of the mixed-integer programs of groups with many open images.",
)
@eps
@dataset
@click.option(
    "--group-size",
    default=Protocol.group_size,
    show_default=True,
    help="Inputs sharing one perturbation.",
)
@click.option("--limit", type=int, help="Only the first N images.")
@click.option(
    "--held-out",
    is_flag=True,
    help="The training images held out by data.held_out, rather than the test set.",
)
@clip
@click.option(
    "--batch-size",
    default=Protocol.batch_size,
    show_default=True,
    help="Images that go through the stages together, and are saved together.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results.  [default: the run's; NAME-eval for zoo:NAME and beside files]",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted evaluation.")
@click.option(
    "--import-verdicts",
    "verdicts",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A folder of `export`, with the results.csv of another verifier, whose verdicts are "
    "taken as they are.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, config.MAX_SEED),
    default=0,
    show_default=True,
    help="Of the attack's random starts.",
)
@data_dir
@download
@device
@quiet
@results
@requeue
def eval_command(
    path,
    method,
    relational,
    time_limit,
    solver,
    eps,
    dataset,
    group_size,
    limit,
    held_out,
    clip,
    batch_size,
    out,
    resume,
    verdicts,
    seed,
    data_dir,
    download,
    device,
    quiet,
    requeue,
) -> Results:
    """Certify a trained network: PATH is a run folder, a checkpoint, zoo:NAME or an ONNX
    file.

    Reports standard accuracy, individually certified accuracy, and the certified average
    UAP accuracy over consecutive groups of images, between a lower bound (proved) and
    an upper bound (attacks). Writes eval-METHOD.json, a picture of what settled the images
    and one of the strongest perturbation. Finished batches are kept until the end: after an
    interruption, the same command with --resume goes on. What it found there with other
    settings it keeps, in the folder earlier-N. With --requeue it begins, goes on,
    or says that it was finished, and leaves alone what is not trained to its end.
    """
    _compat.load()
    where = join(device)
    if requeue and not subjects.is_trained(path):
        say(f"the training of {path} is not finished: nothing is evaluated", err=True)
        return None
    subject = subjects.load_subject(path, dataset, eps)
    spec = subject.spec
    with distributed.leader_first():
        images = subjects.evaluation_images(subject, data_dir, held_out=held_out, download=download)
    net = BoundedNet(subject.model.to(where), torch.zeros(2, *spec.shape, device=where))
    use_threads(subject.threads)
    torch.manual_seed(seed)
    protocol = Protocol(
        eps=subject.eps,
        method=method,
        relational=relational,
        group_size=group_size,
        time_limit=time_limit,
        solver=solver,
        limit=limit,
        clip=PIXELS if clip else None,
        batch_size=batch_size,
        seed=seed,
        held_out=held_out,
    )
    protocol.images(len(images))
    imported = None if verdicts is None else _imported(verdicts, subject, protocol)
    settings = {
        **asdict(protocol),
        "data": spec.name,
        "weights": fingerprint(subject.model),
        "pixels": fingerprint_of_images(images),
        "imported": sorted((imported or {}).items()),
    }
    output = _Output(out or subjects.results_folder(path), method)
    if distributed.leads():
        click.get_current_context().with_resource(output.held())
    finished = output.finished(settings) if requeue else None
    if distributed.agreed(finished is not None):
        say(f"results: {output.table}, finished before")
        return output.summary(finished) if finished and distributed.leads() else None
    resume = resume or (requeue and saved.is_saved(output.partial, settings))
    with distributed.leader_first():  # which begins the folder, and the others join
        if distributed.leads() and not resume:
            output.set_partial_aside(settings)
        batches = Saved(output.partial, settings, resume=resume, joining=not distributed.leads())
        if distributed.leads():
            output.set_aside(settings)
    bars = show_bars(quiet)
    try:
        result = evaluate(
            net, images, spec, protocol, saved=batches, imported=imported, progress=bars
        )
    except KeyboardInterrupt as stop:
        kind = Terminated if isinstance(stop, Termination) else Interrupted
        raise kind(
            f"interrupted; {batches.count()} finished batches are kept in {output.partial}: repeat "
            f"the command{'' if requeue else ' with --resume'}"
        ) from None
    if not distributed.leads():
        return None
    record = {
        "run": subject.name,
        "data": spec.name,
        **result.record(),
        "weights": settings["weights"],
        "imported": len(settings["imported"]),
        "identity": saved.identity(settings),
    }
    click.echo(highlight(report.evaluation_table(result), _COLOURS))
    output.write(record, result, net, spec)
    batches.discard()
    click.echo(output.lines())
    return output.summary(record)


def _imported(folder: Path, subject: Subject, protocol: Protocol) -> dict[int, str]:
    """Another verifier's verdicts on this network and these boxes."""
    if protocol.held_out:
        raise InputError(
            "--import-verdicts are of test images, as `export` writes them; leave out --held-out"
        )
    verdicts = vnnlib.import_verdicts(
        folder,
        dataset=subject.spec.name,
        eps=protocol.eps,
        clip=protocol.clip,
        model_outputs_match=lambda file: vnnlib.same_outputs(
            subject.model, file, torch.rand(8, *subject.spec.shape)
        ),
    )
    counts = ", ".join(f"{n} {name}" for name, n in sorted(Counter(verdicts.values()).items()))
    say(f"imported from {folder}: {counts}")
    return verdicts


class _Output:
    """The files of an evaluation; partial: the folder of its finished batches."""

    def __init__(self, folder: Path, method: str):
        self.folder = folder
        self.table = folder / f"eval-{method}.json"
        self.partial = folder / f"eval-{method}.partial"
        self.stages = folder / f"stages-{method}.png"
        self.picture = folder / f"uap-{method}.png"
        self.arrays = folder / f"uap-{method}.npz"
        self.written = {
            "results": self.table,
            "stages": self.stages,
            "picture": self.picture,
            "perturbations": self.arrays,
        }

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder held for this evaluation alone, without what killed ones left half-written."""
        with locked(self.folder, self.table.stem):
            files.remove_leftovers(self.folder, *(path.name for path in self.written.values()))
            yield

    def finished(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The results of this very evaluation, where it has come to its end."""
        going_on = saved.is_saved(self.partial, settings)
        return None if going_on else saved.results_of(self.table, settings)

    def set_partial_aside(self, settings: dict[str, Any]) -> None:
        """Keep the finished batches of another evaluation, which this one would replace."""
        if not saved.is_saved(self.partial, settings) and any(self.partial.glob("*.pt")):
            set_aside(self.partial)

    def set_aside(self, settings: dict[str, Any]) -> None:
        """Keep the results of another evaluation, which nobody is to take for this one's."""
        if saved.results_of(self.table, settings) is None:
            set_aside(*self.written.values())

    def write(
        self, record: dict[str, Any], result: Evaluation, net: BoundedNet, spec: DatasetSpec
    ) -> None:
        files.write_text(self.table, json.dumps(record, indent=2) + "\n")
        report.plot_stages(result, self.stages)
        report.plot_uap(result, spec, self.picture)
        effects.of_evaluation(net, result).save(self.arrays)

    def lines(self) -> str:
        """What was written where, for people."""
        broken = f"picture: {self.picture}"
        none = "no perturbation broke an image: no picture"
        return (
            f"results: {self.table}\nstages: {self.stages}\n"
            f"{broken if self.picture.is_file() else none}\n"
            f"as a page: citrus-lirpa report {shlex.quote(str(self.folder))}"
        )

    def summary(self, record: dict[str, Any]) -> Results:
        """What stands for the record on stdout: it without what is said of each image."""
        short = {key: value for key, value in record.items() if key not in _LONG}
        there = {kind: str(path) for kind, path in self.written.items() if path.is_file()}
        return {**short, "files": there}
