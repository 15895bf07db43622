"""``citrus-lirpa tune``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

import click

from ...bounds import lirpa
from ...errors import Interrupted
from ...reports.tables import table
from ...runs.tuning import study
from ...runs.tuning.storage import Storage
from ...runs.tuning.worker import Worker
from ...training.interrupts import REPEAT, Termination
from ...training.setup import choose_device
from ..output import Results


def run(file, dry_run, data_dir, download, device, requeue) -> Results:
    """Do what ``citrus-lirpa tune`` is for."""
    lirpa.load()
    plan = study.read(file)
    if dry_run:
        _print_plan(plan)
        return None
    where = choose_device(device)
    with closing(Storage(plan, create=True)) as storage, _to_be_repeated():
        Worker(plan, storage, where, data_dir, download, say=click.echo).run()
        states = [trial.state for trial in storage.trials()]
    counted = ", ".join(
        f"{states.count(state)} {word}"
        for state, word in (("complete", "complete"), ("pruned", "ended early"), ("fail", "failed"))
    )
    click.echo(f"study {plan.name}: {counted}\nlook at it with: citrus-lirpa front {file}")
    return None


@contextmanager
def _to_be_repeated() -> Iterator[None]:
    """Say, after Ctrl-C or SIGTERM, how the study goes on: not as a trial of it alone would."""
    try:
        yield
    except Interrupted as stop:
        error = type(stop)(REPEAT)
        error.number = stop.number
        raise error from None
    except Termination:
        raise
    except KeyboardInterrupt:
        raise Interrupted(REPEAT) from None


def _print_plan(plan: study.Study) -> None:
    rows = [(key, _in_words(asdict(parameter))) for key, parameter in plan.space.items()]
    recipe = plan.recipe()
    shown = [(key, words, f"recipe: {recipe.get(key, '-')}") for key, words in rows]
    click.echo(
        f"study {plan.name}: {plan.trials} trials of {plan.fixed['method']} in {plan.folder}, "
        f"storage {plan.storage.rpartition('@')[2]}\n{table(shown, ('<', '<', '<'))}"
    )


def _in_words(parameter: dict[str, Any]) -> str:
    if "choices" in parameter:
        return f"one of {', '.join(map(str, parameter['choices']))}"
    words = f"{parameter['low']:g} to {parameter['high']:g}"
    notes = {"log": "logarithmic", "whole": "whole", "share_of_epochs": "of the epochs"}
    return ", ".join([words, *(note for key, note in notes.items() if parameter[key])])
