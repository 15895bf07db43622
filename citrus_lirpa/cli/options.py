"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from ..errors import Terminated, require
from ..imports import permit_code
from ..training.interrupts import Termination, terminations
from .choices import (
    ARITHMETICS,
    DATASETS,
    LOGGERS,
    MAX_SEED,
    NORMS,
    PROTOCOL,
    RELATIONAL,
    SOLVERS,
    STAGES,
)
from .output import results
from .types import FILE, Code, Data, Number, Numbers

Command = Callable[..., Any]


data_dir = click.option(
    "--data-dir",
    type=FILE,
    default="data",
    envvar="CITRUS_DATA_DIR",
    show_default=True,
    show_envvar=True,
    help="Folder of the data sets.",
)
eps = click.option(
    "--eps", type=Number(), help="Radius in pixels, as 0.1 or 8/255.  [default: the run's]"
)
eps_map = click.option(
    "--eps-map",
    type=FILE,
    metavar="FILE.npy",
    help="The radius of each pixel, channel or feature instead, zero where nothing moves.",
)
norm = click.option(
    "--norm",
    type=click.Choice(NORMS),
    help="What u is measured in: inf for its largest change of a pixel, 2 for its Euclidean length "
    "over all pixels, which takes one --eps.  [default: the run's, or inf]",
)
clip = click.option(
    "--clip/--no-clip",
    default=False,
    show_default=True,
    help="Whether the attacked image x + u is cut to [0, 1].",
)


dataset = click.option(
    "--dataset",
    "--data",
    "dataset",
    type=Data(DATASETS),
    metavar="NAME",
    help=f"Data set of the images: {', '.join(DATASETS)}; another of torchvision, as cifar100; or "
    "your own: a folder, FILE.npz or FILE.py:NAME. Required for files of other programs.  "
    "[default: the run's]",
)
download = click.option(
    "--download/--no-download",
    default=True,
    show_default=True,
    help="Fetch a missing data set where there is a network.",
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto (a GPU where there is one), cpu, cuda or cuda:N.",
)
quiet = click.option(
    "--quiet",
    is_flag=True,
    help="Print results, warnings and errors only: no bars, no line for each epoch.",
)
log = click.option(
    "--log",
    type=click.Choice(LOGGERS),
    multiple=True,
    help="Report there too; may be given again. wandb: sent unless WANDB_MODE=offline.",
)
results_out = click.option(
    "--out",
    type=FILE,
    help="Folder of the results.  [default: the run's; NAME-eval for zoo:NAME and beside "
    "NAME.onnx; FILE-eval beside another FILE]",
)


own_model = click.option(
    "--model",
    type=Code(),
    help="Your own network: FILE.py:NAME or MODULE:NAME, which is run; or ctrain:ARCHITECTURE, of "
    "the installed CTRAIN.",
)
trust_code = click.option(
    "--trust-code",
    is_flag=True,
    expose_value=False,
    callback=lambda ctx, param, given: given and permit_code("*"),
    help="Run the code that the run's configuration names.",
)


def job(command: Command) -> Command:
    """Give a command the options of a job on data, which a scheduler may stop: the last ones."""
    for option in (requeue, results, quiet, device, download, data_dir):
        command = option(command)
    return command


def network_path(command: Command) -> Command:
    """Give a command PATH and the options of users' own networks.

    It gets ``path``, and ``own``, which ``load_network`` takes.
    """

    @click.argument("path", type=FILE, required=False)
    @own_model
    @click.option(
        "--weights", type=FILE, help="In place of PATH: the weights of --model, or a checkpoint."
    )
    @click.option("--mean", type=Numbers(), help="Mean of each channel, to normalise pixels by.")
    @click.option("--std", type=Numbers(), help="Standard deviation of each channel, with --mean.")
    @trust_code
    @functools.wraps(command)
    def of_network(*, path, weights, model, mean, std, **options: Any) -> Any:
        own = " with the weights of --model" if model else ""
        require((path is None) != (weights is None), f"give either PATH or --weights FILE{own}")
        given = {"source": model, "mean": mean, "std": std}
        chosen = {key: value for key, value in given.items() if value is not None}
        return command(path=path or weights, own=chosen or None, **options)

    return of_network


def seed(help: str) -> Callable[[Command], Command]:
    """Give a command --seed."""
    kind = click.IntRange(0, MAX_SEED)
    return click.option("--seed", type=kind, default=0, show_default=True, help=help)


#: The options of ``eval`` that are fields of ``Protocol``: an option that commands share, or what
#: click needs to know beside the name and the default, which ``Protocol`` has.
_PROTOCOL: dict[str, Callable[[Command], Command] | dict[str, Any]] = {
    "method": dict(
        type=click.Choice(STAGES),
        help="Last stage to try on single images; the cheaper ones always run before it. Costs of "
        "an open image: ibp two passes through the network, crown-ibp one for each class, crown "
        "one for each unstable neuron, alpha-crown twenty for each class, bab (branch and bound) "
        "up to half of --time-limit.",
    ),
    "relational": dict(
        type=click.Choice(RELATIONAL),
        help="Group stage: none, io (fixed linear bounds; costs about as much as the method), or "
        "cross (bounds of several images optimised together, with --method bab also split; up to "
        "half of --time-limit for a group); or, for comparison, what one paper does: zeng, raven, "
        "racoon or rabbit.  [default: cross with --method bab, else io]",
    ),
    "time_limit": dict(
        type=click.FloatRange(min=0),
        help="Seconds for each group still open: half for its images alone, half for the group. "
        "What is open by then is reported as open.",
    ),
    "total_time": dict(
        type=click.FloatRange(min=0),
        help="Seconds for the whole evaluation, shared among its batches.  [default: no limit]",
    ),
    "solver": dict(
        type=click.Choice(SOLVERS),
        help="Solver of the mixed-integer programs of groups with many open images.",
    ),
    "eps": eps,
    "norm": norm,
    "group_size": dict(type=int, help="Number of images that share one perturbation."),
    "limit": dict(type=int, help="Only the first N images."),
    "held_out": dict(
        is_flag=True,
        help="The training images held out by data.held_out, rather than the test set.",
    ),
    "clip": clip,
    "batch_size": dict(
        type=int, help="Images that go through the stages together, and are saved together."
    ),
    "seed": seed("Seed of the attack's random starts."),
    "arithmetic": dict(
        type=click.Choice(ARITHMETICS),
        help="What is certified: the network in real numbers, or what a device computes of it in "
        "float32, in any order of sums. float32 is for networks with piecewise linear layers.",
    ),
}


def protocol_options(command: Command) -> Command:
    """Give a command an option for each field of ``Protocol``; see ``protocol_of``."""
    for name, option in reversed(_PROTOCOL.items()):
        if isinstance(option, dict):
            flag, default = f"--{name.replace('_', '-')}", PROTOCOL[name]
            option = click.option(flag, default=default, show_default=True, **option)
        command = option(command)
    return command


def evaluated_runs(command: Command) -> Command:
    """Give a command RUN..., evaluated run folders, and --method, the evaluation to use."""
    method = click.option(
        "--method",
        type=click.Choice(STAGES),
        help="Use eval-METHOD.json of each run.  [default: of the strongest method it has]",
    )
    runs = click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=FILE)
    return runs(method(command))


def requeue(command: Command) -> Command:
    """Give a command --requeue, which also decides on its exit status after SIGTERM."""

    @click.option(
        "--requeue",
        is_flag=True,
        help="For a job that a scheduler stops and starts again by the same command: continue "
        "what is there; on SIGTERM or SIGUSR1 save, and exit with 0.",
    )
    @functools.wraps(command)
    def requeueable(*, requeue: bool, **options: Any) -> Any:
        try:
            with terminations():
                return command(requeue=requeue, **options)
        except (Terminated, Termination) as stop:
            message = str(stop) or "stopped by a signal; what was saved is kept"
            if not requeue:
                raise Terminated(message) from None
            click.echo(message, err=True)
            return None

    return requeueable
