"""Processes that are forked from this one: they have imported everything and begin at once."""

import atexit
import logging
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from command_line import PATIENCE, ROOT

from citrus_lirpa.cli import main

_fork = multiprocessing.get_context("fork")


def program(*args: object) -> None:
    """The command line, as a program would run it."""
    main([str(arg) for arg in args])


class Forked(_fork.Process):
    """``work(*args)`` in a process of its own, whose output and errors go to two files or one."""

    def __init__(
        self,
        work: Callable,
        *args: object,
        output: Path,
        errors: Path,
        environment: Mapping[str, str] = os.environ,
        cwd: Path = ROOT,
    ):
        super().__init__(target=self._work, args=(work, args, environment, cwd), daemon=True)
        self.output, self.errors = output, errors
        with warnings.catch_warnings():  # from Python 3.12 on: threads of torch are not in the fork
            warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
            self.start()

    def _work(self, work, args, environment, cwd) -> None:
        atexit._clear()  # what this process is to do at its end
        logging.getLogger().handlers.clear()  # which keep for pytest what is logged
        os.chdir(cwd)
        os.environ.update(environment)
        for number, file in ((1, self.output), (2, self.errors)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
        try:
            work(*args)
        finally:
            atexit._run_exitfuncs()

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float = PATIENCE) -> int | None:
        """The exit status; None if it has none by then."""
        self.join(timeout)
        return self.exitcode


class Processes:
    """The same work in several processes that find each other, as torchrun starts them."""

    def __init__(self, work: Callable, *args: object, count: int = 2, cwd: Path = ROOT):
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
        shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
                  "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port),
                  "TORCHELASTIC_USE_AGENT_STORE": "True",
                  "TORCHELASTIC_RESTART_COUNT": "0"}  # fmt: skip
        self.folder = tempfile.TemporaryDirectory()
        self.all = [
            Forked(
                work, *args,
                output=Path(self.folder.name, f"{rank}.out"),
                errors=Path(self.folder.name, f"{rank}.err"),
                environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                cwd=cwd,
            )
            for rank in range(count)
        ]  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
            process.join()
        self.folder.cleanup()

    def wait(self) -> list[tuple[int | None, str, str]]:
        """Of each process: exit status, output, errors."""
        return [(p.wait(), p.output.read_text(), p.errors.read_text()) for p in self.all]
