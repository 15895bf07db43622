"""Two processes in one folder: the second is refused, whatever became of the first."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from command_line import run, said

from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.formats import locks

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from citrus_lirpa.formats.locks import locked
with locked(Path({folder!r}), "train"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    {then}
"""


def holder(folder: Path, then: str = "time.sleep(600)"):
    """A process that holds the folder, once it does, and the id of one that it started."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(folder=str(folder), then=then)],
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, int(process.stdout.readline())


def refusal(folder: Path, work: str = "train") -> str:
    with pytest.raises(CheckpointError) as caught, locks.locked(folder, work):
        pytest.fail("two processes hold one lock")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_second_process_is_told_who_has_the_folder(tmp_path):
    process, child = holder(tmp_path / "run")
    try:
        message = refusal(tmp_path / "run")
        assert f"{tmp_path / 'run'} is in use by process {process.pid} on " in message
        assert socket.gethostname() in message and "(train)" in message
        with locks.locked(tmp_path / "run", "eval-bab"):  # other work
            pass
        process.kill()
        process.wait()
        os.kill(child, 0)  # what it started still runs, and has no part in the lock
        with locks.locked(tmp_path / "run", "train"):
            assert f"process {os.getpid()} on " in refusal(tmp_path / "run")
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
        process.communicate()
    assert list((tmp_path / "run").iterdir()) == []


def test_only_one_of_many_gets_in(tmp_path):
    inside, most, refused = [], [], []

    def enter() -> None:
        for _ in range(200):
            try:
                with locks.locked(tmp_path, "train"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except CheckpointError:
                refused.append(1)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) + len(refused) == 800 and most
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_gives_the_lock_back(tmp_path):
    with pytest.raises(ZeroDivisionError), locks.locked(tmp_path, "train"):
        raise ZeroDivisionError
    with locks.locked(tmp_path, "train"):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    import errno
    import fcntl

    def unknown(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.warns(UserWarning, match="cannot be locked"), locks.locked(tmp_path, "train"):
        pass


def test_vacant(tmp_path):
    folder = tmp_path / "run"
    assert locks.is_vacant(folder)
    with locks.locked(folder, "train"):
        assert locks.is_vacant(folder)
        (folder / ".config.toml.abc.tmp").touch()
        assert locks.is_vacant(folder)
        (folder / ".hidden").touch()
        assert not locks.is_vacant(folder)
    (tmp_path / "file").touch()
    assert not locks.is_vacant(tmp_path / "file")


# -- commands -------------------------------------------------------------------------

SETTINGS = ("--preset", "digits", "--quiet", "--set", "data.limit=64", "--set",
            "train.batch_size=32", "--set", "train.epochs=1")  # fmt: skip


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_command_refuses_a_folder_in_use(tmp_path):
    folder = tmp_path / "run"
    sweep = tmp_path / "group.toml"
    sweep.write_text('preset = "digits"\n')
    with locks.locked(folder, "train"):
        status, output = run("train", *SETTINGS, "--out", folder)
        assert status == 1 and f"{folder} is in use by process {os.getpid()} " in output
        assert not (folder / "metrics.jsonl").exists()
    assert run("train", *SETTINGS, "--out", folder)[0] == 0
    before = files_of(folder)
    evaluation = ("eval", folder, "--method", "ibp", "--relational", "none", "--limit", 10)
    with (
        locks.locked(folder, "train"),
        locks.locked(folder, "eval-ibp"),
        locks.locked(tmp_path / "out", "sweep"),
    ):
        inside = files_of(tmp_path)
        for command in (
            ("train", "--resume", folder),
            ("train", *SETTINGS, "--out", folder, "--requeue"),
            evaluation,
            (*evaluation, "--resume"),
            ("sweep", sweep, "--out", tmp_path / "out"),
        ):
            assert f"is in use by process {os.getpid()} on " in said(*run(*command), 1)
        assert files_of(tmp_path) == inside
    assert files_of(folder) == before
    with locks.locked(folder, "train"):  # evaluating while a run is trained further
        assert run(*evaluation)[0] == 0
