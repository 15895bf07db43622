"""Jobs in processes of their own, several at once; each is a series of steps and one log file."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess  # of commands as lists, never of a shell  # nosec B404
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import IO

from ..errors import CitrusError
from ..formats.locks import try_lock
from ..training.interrupts import REPEAT, interrupted_by, stop_requests

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Step:
    """A command of a job.

    Attributes:
        done: What the job has been once the command succeeded, such as "trained".
        command: The command and its arguments.
    """

    done: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """Steps that run one after another.

    Attributes:
        name: The name of the job.
        log: The file that receives the commands and their output.
        next_step: Returns the step that is due, None after the last one. It is called only
            while no other process, of this program or of an earlier one, runs the job.
    """

    name: str
    log: Path
    next_step: Callable[[], Step | None]


def run_jobs(
    jobs: Iterable[Job],
    environments: Sequence[Mapping[str, str]],
    *,
    say: Callable[[Job, str], object],
    ended: Callable[[], object],
) -> dict[str, str]:
    """Run all jobs, several at once.

    On Ctrl-C or SIGTERM nothing more is started, and each process gets one SIGINT and is waited
    for; a second Ctrl-C kills them. A process outlives this program where that is killed; the
    next start then waits for it instead of beginning its job a second time.

    Args:
        jobs: The jobs, in the order in which they begin.
        environments: The environment variables of each place for a process; as many jobs run at
            once as there are places.
        say: Called with a job and each of its events, in words.
        ended: Called after each job that was not interrupted.

    Returns:
        Why jobs failed, by their names.

    Raises:
        Interrupted: Ctrl-C stopped the jobs; Terminated where it was SIGTERM.
    """
    interrupted = False
    free: Queue[Mapping[str, str]] = Queue()
    for environment in environments:
        free.put(environment)
    with stop_requests() as stop, ThreadPoolExecutor(len(environments)) as pool:
        runner = _Runner(free, say, ended, stop)
        waiting = {pool.submit(runner.run, job) for job in jobs}
        try:
            while waiting:
                finished, waiting = wait(waiting, _POLL_SECONDS, FIRST_EXCEPTION)
                for job in finished:
                    job.result()  # raises what is not a failure of the job, but of this program
                if stop() and not interrupted:
                    interrupted = True
                    runner.interrupt()
        except BaseException:
            runner.kill()
            raise
    if stop():
        raise interrupted_by(stop(), REPEAT)
    return runner.failures


@dataclass
class _Runner:
    """Runs jobs, each in the thread that asks for it; the callbacks are called one at a time."""

    free: Queue[Mapping[str, str]]
    say: Callable[[Job, str], object]
    ended: Callable[[], object]
    stop: Callable[[], int]
    failures: dict[str, str] = field(default_factory=dict)
    killed: bool = False
    callbacks: threading.Lock = field(default_factory=threading.Lock)
    processes: threading.Lock = field(default_factory=threading.Lock)
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run(self, job: Job) -> None:
        """Run the steps of ``job`` until the last one, a failure or a stop."""
        if self._stopping():
            return
        job.log.parent.mkdir(parents=True, exist_ok=True)
        place = self.free.get()
        try:
            with open(job.log, "ab") as log:
                self._lock(job, log)
                done: set[str] = set()
                while step := self._next_step(job, done):
                    self._run_step(job, step, log, place)
                    done.add(step.done)
        except CitrusError as error:
            self.failures[job.name] = str(error)
            self._say(job, f"failed: {error}")
        finally:
            self.free.put(place)
        if not self._stopping():
            with self.callbacks:
                self.ended()

    def interrupt(self) -> None:
        """Send SIGINT to all processes; after a request to stop, none is started."""
        with self.processes:
            for child in self.running:
                child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill all processes, and start none."""
        with self.processes:
            self.killed = True
            for child in self.running:
                child.kill()

    def _stopping(self) -> bool:
        return self.killed or bool(self.stop())

    def _say(self, job: Job, event: str) -> None:
        with self.callbacks:
            self.say(job, event)

    def _lock(self, job: Job, log: IO[bytes]) -> None:
        """Wait until no process of an earlier program runs the job.

        A process inherits the lock with its output, so that the lock ends with the last of them,
        whatever becomes of this program.
        """
        if not try_lock(log):
            self._say(job, "still runs since an earlier start; waiting for it")
            while not self._stopping() and not try_lock(log):
                time.sleep(_POLL_SECONDS)

    def _next_step(self, job: Job, done: set[str]) -> Step | None:
        if self._stopping():
            return None
        with self.callbacks:
            step = job.next_step()
        if step is None and not done:
            self._say(job, "was finished before")
        if step is not None and step.done in done:
            raise CitrusError(f"was {step.done}, but the files that should say so do not")
        return step

    def _run_step(self, job: Job, step: Step, log: IO[bytes], place: Mapping[str, str]) -> None:
        """Run the command; raise CitrusError where it fails, unless it was asked to stop."""
        begin = time.monotonic()
        log.write(f"$ {shlex.join(step.command)}\n".encode())
        log.flush()
        output_begins = log.tell()
        with self.processes:
            if self._stopping():
                return
            child = subprocess.Popen(  # this program's own commands  # nosec B603
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=place,
                start_new_session=True,  # a terminal's Ctrl-C reaches this program only
            )
            self.running.add(child)
        status = child.wait()
        with self.processes:
            self.running.remove(child)
        if status == 0:
            self._say(job, f"{step.done} in {_duration(time.monotonic() - begin)}")
        elif not self._stopping():
            raise CitrusError(_reason(status, job.log, output_begins))


def _reason(status: int, log: Path, output_begins: int) -> str:
    """Return the last line of the output, or the signal that ended the process."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    with open(log, encoding="utf-8", errors="replace") as file:
        file.seek(output_begins)
        return file.read().strip().rpartition("\n")[2].strip() or f"status {status}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def places(processes: int, gpus: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return an environment for each of several processes at once: this process's, and its share.

    The cores are shared among them. The GPUs are dealt out in turn, as CUDA_VISIBLE_DEVICES names
    them; without any, each process chooses for itself.
    """
    share = max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(share), **os.environ}
    if not gpus:
        return [environment] * processes
    return [
        {**environment, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
        for number in range(processes)
    ]
