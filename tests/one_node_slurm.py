"""A Slurm of one node in a folder of its own, for tests: Debian's slurm-wlm and munge, as root."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={next_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")


@contextmanager
def one_node() -> Iterator[None]:
    """Start it, and name it to Slurm's commands; skips where it is not installed."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid():
        pytest.skip("it takes root and Debian's slurm-wlm and munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    daemons: list[subprocess.Popen] = []
    before = os.environ.get("SLURM_CONF")
    try:
        os.environ["SLURM_CONF"] = str(_configured(folder))
        for command in _commands(folder):
            with open(folder / "daemons.log", "ab") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(1)
        _wait(lambda: "idle" in _said("sinfo", "-h", "-o", "%T"), folder)
        yield
    finally:
        if len(daemons) == 3:
            subprocess.run(["scancel", "--me"], check=False)
            _wait(lambda: not _said("squeue", "--noheader"), folder)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder)


def _configured(folder: Path) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = socket.gethostname().partition(".")[0]
    file = folder / "slurm.conf"
    file.write_text(
        CONFIGURATION.format(
            folder=folder, host=host, port=port, next_port=port + 1, cpus=os.cpu_count()
        )
    )
    return file


def _commands(folder: Path) -> list[list[str]]:
    parts = ("socket", "key-file", "pid-file", "log-file", "seed-file")
    munge = [f"--{part}={folder}/munge.{part.partition('-')[0]}" for part in parts]
    return [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _wait(holds: Callable[[], object], folder: Path) -> None:
    for _ in range(90):
        if holds():
            return
        time.sleep(1)
    logs = "\n".join(log.read_text()[-1000:] for log in folder.glob("*.log"))
    raise AssertionError(f"Slurm does not become idle:\n{logs}")
