"""Several processes as one job."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from command_line import PATIENCE, ROOT


class Processes:
    """The same command in several processes that find each other, as torchrun starts them."""

    def __init__(self, *command: object, count: int = 2, cwd: Path = ROOT):
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
        shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
                  "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port),
                  "TORCHELASTIC_USE_AGENT_STORE": "True",
                  "TORCHELASTIC_RESTART_COUNT": "0"}  # fmt: skip
        self.all = [
            subprocess.Popen(
                [sys.executable, "-W", "error", *map(str, command)],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=cwd,
            )
            for rank in range(count)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
            process.communicate()

    def wait(self) -> list[tuple[int, str, str]]:
        """Of each process: exit status, output, errors."""
        ended = [process.communicate(timeout=PATIENCE) for process in self.all]
        return [(p.returncode, *texts) for p, texts in zip(self.all, ended, strict=True)]
