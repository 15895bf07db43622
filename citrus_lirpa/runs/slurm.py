"""Jobs on a Slurm cluster, through submitit: what ``jobs.run_jobs`` is on one machine.

On its node a job runs its steps by ``run_jobs``. Slurm sends SIGUSR1 before the time limit; the
steps save and end, and submitit has Slurm queue the job again, which then continues.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess  # of commands as lists, never of a shell  # nosec B404
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import CitrusError, InputError, Interrupted, reason, require
from ..imports import import_optional, permit_code, permitted
from ..training.interrupts import interrupted_by, stop_requests
from .jobs import Job, run_jobs

#: Where no time limit is given. A job that needs longer is queued again, and continues.
_MINUTES = 60
#: Seconds between the signal and the time limit.
_NOTICE = 120
#: How often a job may run into its time limit.
_RESTARTS = 1000
_POLL_SECONDS = 10.0


@dataclass(frozen=True)
class OnNode:
    """What a Slurm job does: the steps of ``job`` that are due.

    Attributes:
        job: The job.
        code: What the user has named to be run; see ``imports.permit_code``.
    """

    job: Job
    code: frozenset[str]

    def __call__(self) -> tuple[list[str], str]:
        """Run the steps; return the events, in words, and why the job failed."""
        for source in self.code:
            permit_code(source)
        events: list[str] = []
        cores = {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", "1")}
        try:
            failures = run_jobs(
                [self.job],
                [{**cores, **os.environ}],
                say=lambda _, event: events.append(event),
                ended=lambda: None,
            )
        except Interrupted as stop:
            if stop.number == signal.SIGUSR1:
                signal.raise_signal(signal.SIGUSR1)  # submitit has the job queued again, and exits
            raise SystemExit(stop.exit_code) from stop  # cancelled, or queued again by Slurm
        return events, failures.get(self.job.name, "")

    def checkpoint(self) -> Any:
        """Return what submitit queues in place of this: the same, which continues."""
        return load().helpers.DelayedSubmission(self)


def load() -> ModuleType:
    """Import submitit, and have it take the signal that our commands take."""
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # which it reads once, and jobs inherit
    return import_optional("submitit", "pip install 'citrus-lirpa[slurm]'")


def check() -> None:
    """Raise DependencyError without submitit, and InputError where there is no Slurm."""
    load()
    there = shutil.which("sbatch") and shutil.which("srun")
    require(there, "there is no Slurm here: sbatch is not found; use --launcher local")


def run_on_slurm(
    jobs: Iterable[Job],
    *,
    at_once: int | None,
    folder: Path,
    options: Mapping[str, str],
    say: Callable[[Job, str], object],
    ended: Callable[[], object],
) -> dict[str, str]:
    """Run all jobs, each as a job of Slurm, and wait for them; see :func:`run_submitted`.

    Args:
        jobs: The jobs. Those without a step that is due are not submitted.
        at_once: How many may run at once; None for as many as Slurm lets.
        folder: What submitit writes: scripts, logs, results. All nodes must see it.
        options: Options of sbatch, such as {"partition": "gpu", "time": "4:00:00"}.
        say: As of :func:`.jobs.run_jobs`.
        ended: Likewise.
    """
    executor = load().SlurmExecutor(folder.resolve(), max_num_timeout=_RESTARTS)
    executor.update_parameters(
        job_name=f"citrus-{folder.parent.name}",
        time=_MINUTES,
        signal_delay_s=_NOTICE,
        additional_parameters=dict(options),
        **({} if at_once is None else {"array_parallelism": at_once}),
    )
    return run_submitted(jobs, executor, _listed, say=say, ended=ended)


def run_submitted(
    jobs: Iterable[Job],
    executor: Any,
    listed: Callable[[], set[str] | None],
    *,
    say: Callable[[Job, str], object],
    ended: Callable[[], object],
    poll_seconds: float = _POLL_SECONDS,
) -> dict[str, str]:
    """Run all jobs on an executor of submitit, as :func:`.jobs.run_jobs` does on this machine.

    On Ctrl-C or SIGTERM they are cancelled, after saving. Where this program is killed, they go on.
    ``listed`` returns the numbers of the jobs that are not over, None where that is not known.

    Raises:
        InputError: The jobs are refused.
    """
    failures: dict[str, str] = {}
    due = []

    def end(job: Job, events: list[str], failure: str) -> None:
        failures.update({job.name: failure} if failure else {})
        for event in events:
            say(job, event)
        ended()

    for job in jobs:
        if outcome := _settled(job):
            end(job, *outcome)
        else:
            due.append(job)
    with stop_requests() as stop:
        waiting = _submit(due, executor)
        for job, submitted in waiting:
            say(job, f"is job {submitted.job_id} of Slurm")
        for job, outcome in _ended(waiting, stop, listed, poll_seconds):
            end(job, *outcome)
        _cancel([submitted for _, submitted in waiting], listed, poll_seconds)
    if stop():
        saved = "the jobs are cancelled and all is saved: repeat the command to continue"
        raise interrupted_by(stop(), f"interrupted; {saved}")
    return failures


def _settled(job: Job) -> tuple[list[str], str] | None:
    """Return the events and the failure of a job with nothing to do, None for any other."""
    try:
        return None if job.next_step() else (["was finished before"], "")
    except CitrusError as error:
        return [f"failed: {error}"], str(error)


def _submit(jobs: list[Job], executor: Any) -> list[tuple[Job, Any]]:
    if not jobs:
        return []
    code = permitted()
    try:
        submitted = executor.submit_array([OnNode(job, code) for job in jobs])
    except RuntimeError as error:  # of submitit, with what sbatch prints
        raise InputError(f"Slurm refuses the jobs: {reason(error)}") from error
    return list(zip(jobs, submitted, strict=True))


def _ended(
    waiting: list[tuple[Job, Any]],
    stop: Callable[[], int],
    listed: Callable[[], set[str] | None],
    poll_seconds: float,
) -> Iterator[tuple[Job, tuple[list[str], str]]]:
    """Yield jobs as they end, until a stop is asked for; ``waiting`` keeps the others."""
    absent: set[str] = set()
    while waiting and not stop():
        time.sleep(poll_seconds)
        before, found = absent, listed()
        absent = set() if found is None else {s.job_id for _, s in waiting} - found
        for job, submitted in list(waiting):
            # twice: files may arrive late, and a job that is queued again is not listed at once
            if outcome := _outcome(submitted, submitted.job_id in before & absent):
                waiting.remove((job, submitted))
                yield job, outcome


def _outcome(submitted: Any, gone: bool) -> tuple[list[str], str] | None:
    """Return the events and the failure of a job that is over, None for any other."""
    log = submitted.paths.stderr
    if submitted.paths.result_pickle.exists():
        try:
            events, failure = submitted.result()
            return events, failure
        except RuntimeError as error:  # of submitit, with the traceback of the job
            text = f"{str(error).strip().splitlines()[-1]}; see {log}"
    elif gone:
        text = f"ended without a result: killed, or out of memory or time; see {log}"
    else:
        return None
    return [f"failed: {text}"], text


def _cancel(jobs: list[Any], listed: Callable[[], set[str] | None], poll_seconds: float) -> None:
    """Cancel jobs, and wait until they have saved."""
    for job in jobs:
        job.cancel(check=False)
    while {job.job_id for job in jobs} & (listed() or set()):
        time.sleep(poll_seconds)


def _listed() -> set[str] | None:
    """Return the numbers of this user's jobs that wait or run, as submitit writes them."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)  # nosec B603
    return set(asked.stdout.split()) if asked.returncode == 0 else None
