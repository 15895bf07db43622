"""Jobs in processes of their own, several at once; each is a row of steps and one log file."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess  # of commands as lists, never of a shell  # nosec B404
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CitrusError
from ..training.interrupts import interrupted_by, stop_requests

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Step:
    """A command to run, and what a job has been once it succeeded, as ``trained``."""

    done: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """Steps that run one after another. ``next_step`` says which is due, None after the last;
    it is asked only while no other process, of this program or an earlier one, runs the job."""

    name: str
    log: Path
    next_step: Callable[[], Step | None]


def run_jobs(
    jobs: Iterable[Job],
    processes: int,
    *,
    environment: Mapping[str, str],
    say: Callable[[Job, str], object],
    ended: Callable[[], object],
) -> dict[str, str]:
    """Run all jobs, ``processes`` at once; the reasons of those that failed, by name.

    say: gets a job and each event of it, in words; ended: called after each job that was not
    interrupted. On Ctrl-C or SIGTERM nothing more is started, each process gets one SIGINT
    and is waited for, then Interrupted or Terminated is raised; a second Ctrl-C kills them. A
    process outlives this program where that is killed; its job is then waited for by the next
    start, not begun a second time.
    """
    waiting, failures = deque(jobs), {}
    active: list[_Active] = []
    with stop_requests() as stop:
        try:
            while active or (waiting and not stop()):
                while waiting and len(active) < processes and not stop():
                    active.append(_Active(waiting.popleft(), environment, say))
                for one in list(active):
                    if one.goes_on(stopping=bool(stop())):
                        continue
                    active.remove(one)
                    one.close()
                    if not stop():
                        ended()
                    if one.failure is not None:
                        failures[one.job.name] = one.failure
                if active and (len(active) == processes or not waiting):
                    time.sleep(_POLL_SECONDS)
        finally:
            for one in active:
                one.close()
        if stop():
            message = "interrupted; all is saved: repeat the command to continue"
            raise interrupted_by(stop(), message)
    return failures


class _Active:
    """A job in hand.

    Its log is locked, and a process inherits the lock with its output: the lock ends with the
    last of them, whatever becomes of this program.
    """

    def __init__(self, job: Job, environment: Mapping[str, str], say: Callable[[Job, str], object]):
        self.job, self.environment, self.say = job, environment, say
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.log = open(job.log, "ab")
        self.locked = self.warned = self.interrupted = False
        self.child: subprocess.Popen[bytes] | None = None
        self.step: Step | None = None
        self.done: set[str] = set()
        self.begin, self.output_begins = 0.0, 0
        self.failure: str | None = None

    def goes_on(self, *, stopping: bool) -> bool:
        """One look at the job: start what is due, note what ended; False after its end."""
        if self.child is None:
            return not stopping and self._start()
        if stopping and not self.interrupted:
            self.interrupted = True
            self.child.send_signal(signal.SIGINT)
        status = self.child.poll()
        if status is None:
            return True
        self.child = None
        if status == 0 and self.step is not None:
            self.done.add(self.step.done)
            self.say(self.job, f"{self.step.done} in {_duration(time.monotonic() - self.begin)}")
            return not stopping
        if not stopping:
            self._fail(self._reason(status))
        return False

    def close(self) -> None:
        """End the process, if one still runs, and give up the lock."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
        self.log.close()

    def _start(self) -> bool:
        if not self._lock():
            return True
        try:
            self.step = self.job.next_step()
        except CitrusError as error:
            self._fail(str(error))
            return False
        if self.step is None:
            if not self.done:
                self.say(self.job, "was finished before")
            return False
        if self.step.done in self.done:
            self._fail(f"was {self.step.done}, but the files that should say so do not")
            return False
        self.log.write(f"$ {shlex.join(self.step.command)}\n".encode())
        self.log.flush()
        self.output_begins = self.log.tell()
        self.begin = time.monotonic()
        self.child = subprocess.Popen(  # this program's own commands  # nosec B603
            self.step.command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches this program only
        )
        return True

    def _lock(self) -> bool:
        """Whether the job is ours; where a process of an earlier program has it, say so once."""
        import fcntl  # not on Windows

        if not self.locked:
            try:
                fcntl.flock(self.log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.locked = True
            except BlockingIOError:
                if not self.warned:
                    self.say(self.job, "still runs since an earlier start; waiting for it")
                self.warned = True
        return self.locked

    def _reason(self, status: int) -> str:
        """The last line of the output; the name of the signal, where one ended the process."""
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        output = self.job.log.read_bytes()[self.output_begins :].decode("utf-8", "replace")
        return output.strip().rpartition("\n")[2].strip() or f"status {status}"

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.say(self.job, f"failed: {reason}")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def environment_for(processes: int) -> dict[str, str]:
    """This process's environment, with the cores shared among ``processes``."""
    share = max(1, (os.cpu_count() or 1) // processes)
    return {"OMP_NUM_THREADS": str(share), **os.environ}
