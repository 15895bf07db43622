"""The lifecycle of work that is saved batch by batch in a folder, until its results are whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .. import distributed
from ..errors import Interrupted, Terminated
from ..training.interrupts import Termination
from ..verify import Saved
from ..verify.identity import identity
from ..verify.resume import is_saved
from .folder import Outcome, ResultFiles
from .launch import Launch, Observer

Result = TypeVar("Result")


def run_batches(
    files: ResultFiles,
    settings: dict[str, Any],
    compute: Callable[[Saved], Result],
    finish: Callable[[Result, str], dict[str, Any]],
    launch: Launch,
) -> Outcome | None:
    """Begin or continue some work in a folder, and write its results.

    Finished batches are kept in the folder until the end. Results of other settings that are
    there are moved into earlier-N.

    Args:
        files: Where everything is.
        settings: All that the results depend on.
        compute: Does the work; takes and keeps finished batches.
        finish: (result, identity) -> record. Writes what belongs beside the record and its
            pictures. The identity is that of the settings.
        launch: How the work is launched.

    Returns:
        The record and its files; None in a process that is not the first of its job.

    Raises:
        CheckpointError: The folder is in use, cannot be written, or holds batches that do not fit.
        Interrupted: Ctrl-C or, as Terminated, SIGTERM stopped it.
    """
    requeue, observer = launch.requeue, launch.observer
    with files.locked():
        finished = files.finished(settings) if requeue else None
        if distributed.agreed(finished is not None):
            return Outcome(finished, files, new=False) if finished else None
        resume = launch.continues(lambda: is_saved(files.partial, settings))
        batches = _open(files, settings, resume, observer)
        with _interruptible(batches, "repeat the command" + ("" if requeue else " with --resume")):
            result = compute(batches)
        if not distributed.leads():
            return None
        observer.on_result(result)
        record = finish(result, identity(settings))
        files.write_record(record)
        observer.draw(result, files)
        batches.discard()
    return Outcome(record, files)


def _open(files: ResultFiles, settings: dict[str, Any], resume: bool, observer: Observer) -> Saved:
    """Open the folder of finished batches: the first process begins it, the others join."""
    with distributed.leader_first():
        leads = distributed.leads()
        if leads and not resume:
            files.set_aside_batches(settings, observer)
        batches = Saved(files.partial, settings, resume=resume, joining=not leads)
        if leads:
            files.set_aside_results(settings, observer)
    return batches


@contextlib.contextmanager
def _interruptible(batches: Saved, hint: str) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an error that says what is kept and how to continue."""
    try:
        yield
    except KeyboardInterrupt as stop:
        kind = Terminated if isinstance(stop, Termination) else Interrupted
        count = batches.count()
        kept = "1 finished batch is" if count == 1 else f"{count} finished batches are"
        begun = ", and what is known of the one in hand" if batches.holds_unfinished() else ""
        raise kind(f"interrupted; {kept} kept in {batches.folder}{begun}: {hint}") from None
