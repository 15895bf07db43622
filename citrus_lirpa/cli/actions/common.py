"""What several commands do."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ... import distributed
from ...bounds.box import PIXELS
from ...bounds.checks import Scalar
from ...errors import require
from ...reports.tables import table
from ...runs.finding import find_runs
from ...runs.networks import Network, is_trained, load_network
from ...verify import Protocol
from ..choices import PROTOCOL


def protocol_of(options: Mapping[str, Any], eps: Scalar, norm: float) -> Protocol:
    """Make the protocol of the options that ``protocol_options`` gave a command.

    ``eps``, a number or a map, and ``norm`` count where --eps and --norm are not given.
    """
    given = {name: options[name] for name in ("eps", *PROTOCOL)}
    given["eps"] = eps if given["eps"] is None else given["eps"]
    given["clip"] = PIXELS if given["clip"] else None
    given["norm"] = norm if options["norm"] is None else float(options["norm"])
    return Protocol(**given)


def show_bars(quiet: bool) -> bool:
    """Tell whether to draw bars: on a terminal, unless the lines of --verbose would tear them."""
    verbose = logging.getLogger("citrus_lirpa").isEnabledFor(logging.DEBUG)
    return not (quiet or verbose) and sys.stderr.isatty() and distributed.leads()


def echo_once(text: str, *, err: bool = False) -> None:
    """Print, where several processes work as one, in the first of them."""
    if distributed.leads():
        click.echo(text, err=err)


def warn(text: str) -> None:
    """Print a warning on stderr, if there is one."""
    if text:
        echo_once(f"warning: {text}", err=True)


def print_names(title: str, option: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print names of a kind, in bold, with the option that takes them and a line on each."""
    bold = [(f"  {click.style(name, bold=True)}", line) for name, line in rows]
    click.echo(f"{title} ({option}):\n{table(bold, ('<', '<'))}")


def found_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that paths name, and say which paths hold none."""
    folders, others = find_runs(paths)
    if others:
        click.echo(f"left out, for they hold no run: {', '.join(map(str, others))}", err=True)
    return folders


def require_boxes(network: Network, eps: float | None) -> None:
    """Refuse the ε of a run in norm 2 for what takes norm inf."""
    mine = f"the ε of {network.name} is of norm 2; give --eps, which is of norm inf here"
    require(eps is not None or network.norm == math.inf, mine)


def open_network(
    path: Path,
    dataset: str | None,
    eps: float | None,
    own: Any,
    eps_map: Path | None = None,
    norm: str | None = None,
) -> Network:
    """Read a network as ``load_network`` does, and say where its training is not finished."""
    network = load_network(path, dataset, eps, own, eps_map, None if norm is None else float(norm))
    if not is_trained(path):
        warn(f"the training of {path} is not finished: this is the network so far")
    return network
