"""Sweeps on Slurm: by submitit's own local executor, and on a real Slurm of one node."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import run, said, wait_for
from configurations import SMALL_SWEEP
from one_node_slurm import one_node

from citrus_lirpa.runs import slurm
from citrus_lirpa.runs.jobs import Job, Step

pytest.importorskip("submitit", reason="submitit is not installed: pip install '.[slurm]'")


def job(folder: Path, name: str, code: str) -> Job:
    """A step of Python code that leaves a file behind once it succeeds."""
    done = folder / f"{name}.done"
    text = (
        f"import signal, sys, time\nfrom pathlib import Path\n{code}\nPath({str(done)!r}).touch()"
    )
    step = Step("done", (sys.executable, "-c", text))
    return Job(name, folder / "logs" / f"{name}.log", lambda: None if done.exists() else step)


def test_what_is_due_is_submitted_and_waited_for(tmp_path):
    (tmp_path / "old.done").touch()
    made = [job(tmp_path, "old", ""), job(tmp_path, "new", "print('work')")]
    heard: list[str] = []
    failures = slurm.run_submitted(
        made,
        slurm.load().LocalExecutor(tmp_path / "slurm"),
        lambda: None,
        say=lambda one, event: heard.append(f"{one.name}: {event.partition(' in ')[0]}"),
        ended=lambda: heard.append("ended"),
        poll_seconds=0.1,
    )
    assert failures == {}
    assert heard[:2] == ["old: was finished before", "ended"]
    assert heard[3:] == ["new: done", "ended"] and heard[2].startswith("new: is job ")
    assert (tmp_path / "new.done").exists() and "work" in made[1].log.read_text()


def test_a_failure_on_a_node_is_told(tmp_path):
    (tmp_path / "logs").mkdir()
    bad = slurm.OnNode(job(tmp_path, "bad", "sys.exit('Error: no luck')"), frozenset())
    assert bad() == (["failed: Error: no luck"], "Error: no luck")


@pytest.mark.parametrize(
    ("number", "queued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False), (signal.SIGINT, False)]
)
def test_a_signal_has_the_steps_save_and_only_a_time_limit_queues_again(tmp_path, number, queued):
    saved = tmp_path / "saved"
    code = (
        f"import os\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(Path({str(saved)!r}).touch()"
        f" or 130))\nos.kill({os.getpid()}, {int(number)})\ntime.sleep(60)"
    )
    told: list[int] = []  # what submitit hears, which would have the job queued again
    before = signal.signal(signal.SIGUSR1, lambda heard, _: told.append(heard))
    try:
        with pytest.raises(SystemExit):
            slurm.OnNode(job(tmp_path, "long", code), frozenset())()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert saved.exists() and told == ([number] if queued else [])


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "group.toml"
    file.write_text(SMALL_SWEEP.format(epochs=1, grid=""))
    out = ("--out", tmp_path / "out")
    assert "there is no Slurm here" in said(*run("sweep", file, *out, "--launcher", "slurm"), 2)
    assert "--slurm is for --launcher slurm" in said(*run("sweep", file, "--slurm", "time=5"), 2)
    status, output = run("sweep", file, *out, "--launcher", "slurm", "--slurm", "time")
    assert status == 2 and "'time' has no value" in output
    assert list(tmp_path.iterdir()) == [file]


# -- a real Slurm -----------------------------------------------------------------------


@contextmanager
def begun(file: Path, *options: str) -> Iterator[subprocess.Popen]:
    """Start a sweep on Slurm in the folder of its file; it is killed at the end."""
    words = ["-m", "citrus_lirpa", "sweep", file.name, "--out", "out", "--launcher", "slurm"]
    with subprocess.Popen(
        [sys.executable, *words, *options], cwd=file.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as sweep:  # fmt: skip
        try:
            yield sweep
        finally:
            sweep.kill()


def jobs() -> dict[str, str]:
    """The states of the jobs that are not over."""
    asked = ["squeue", "--array", "--noheader", "--format=%i %T"]
    text = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in text.splitlines())


def seeds(folder: Path, count: int, epochs: int) -> Path:
    file = folder / "group.toml"
    file.write_text(SMALL_SWEEP.format(epochs=epochs, grid=f'"train.seed" = {list(range(count))}'))
    return file


def starts(out: Path, seed: int) -> list[str]:
    """The commands in the log of a run: train, resume, eval."""
    text = (out / "logs" / f"digits-ibp-seed{seed}.log").read_text()
    found = re.findall(r"^\$ .*citrus_lirpa (train --resume|train|eval)", text, re.MULTILINE)
    return [words.rpartition("--")[2] for words in found]


def kill(task: int) -> None:
    """Kill what runs a task of the job array: first submitit's Python, then the step it started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
            mine = f"SLURM_ARRAY_TASK_ID={task}".encode() in variables
            if mine and words[0] == sys.executable.encode():
                found.append((b"submitit.core._submit" not in words, int(process.name)))
    assert len(found) >= 2
    for _, pid in sorted(found):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.nightly
def test_a_sweep_on_a_real_slurm_survives_requeue_and_kill(tmp_path):
    """One job is queued again by hand, one killed; the same command ends the sweep."""
    out, file = tmp_path / "out", seeds(tmp_path, 2, 1500)
    with one_node():
        with begun(file, "--slurm", "time=10") as sweep:
            for seed in (0, 1):
                wait_for(out / f"digits-ibp-seed{seed}" / "metrics.jsonl", sweep)
            kill(1)
            first = min(jobs())
            subprocess.run(["scontrol", "requeue", first], check=True)
            output, errors = sweep.communicate(timeout=600)
            assert sweep.returncode == 1, output + errors
            assert "digits-ibp-seed1 failed: ended without a result" in errors
            assert starts(out, 0) == ["train", "resume", "eval"], output
        with begun(file, "--slurm", "time=10") as sweep:
            output, errors = sweep.communicate(timeout=600)
            assert sweep.returncode == 0, output + errors
            assert "seed0: was finished before" in output and "seed1: is job" in output
            assert starts(out, 1) == ["train", "resume", "eval"]
    (table,) = json.loads((out / "compare.json").read_text())["tables"]
    assert len(table["runs"]) == 2


@pytest.mark.nightly
def test_a_time_limit_on_a_real_slurm(tmp_path):
    """The job saves, is queued again by itself and continues; the sweep knows of one job."""

    def limit(minutes: int) -> None:
        (number,) = jobs()
        words = ["scontrol", "update", f"JobId={number}", f"TimeLimit={minutes}"]
        subprocess.run(words, check=True)

    file, out = seeds(tmp_path, 1, 3000), tmp_path / "out"
    signalled = ("--slurm", "time=30", "--slurm", "signal=USR1@100")
    with one_node(), begun(file, *signalled) as sweep:
        wait_for(out / "digits-ibp-seed0" / "metrics.jsonl", sweep)
        limit(2)  # so that little is left, once the training has begun
        while "saved" not in (out / "logs" / "digits-ibp-seed0.log").read_text():
            assert sweep.poll() is None, sweep.communicate()
            time.sleep(1)
        limit(30)
        output, errors = sweep.communicate(timeout=1800)
        assert sweep.returncode == 0, output + errors
    assert output.count("of Slurm") == 1
    assert starts(out, 0) == ["train", "resume", "eval"]


@pytest.mark.nightly
def test_ctrl_c_cancels_the_jobs_of_a_real_slurm(tmp_path):
    file = seeds(tmp_path, 3, 4000)
    with one_node(), begun(file, "--processes", "1") as sweep:
        wait_for(tmp_path / "out" / "digits-ibp-seed0" / "metrics.jsonl", sweep)
        assert sorted(jobs().values()) == ["PENDING", "PENDING", "RUNNING"]
        sweep.send_signal(signal.SIGINT)
        _, errors = sweep.communicate(timeout=300)
        assert sweep.returncode == 130 and "repeat the command to continue" in errors
        assert jobs() == {}
    assert "saved" in (tmp_path / "out" / "logs" / "digits-ibp-seed0.log").read_text()


@pytest.mark.nightly
def test_what_sbatch_refuses_is_one_line(tmp_path):
    with one_node(), begun(seeds(tmp_path, 1, 1), "--slurm", "partition=none") as sweep:
        _, errors = sweep.communicate(timeout=120)
    (line,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert sweep.returncode == 2 and "Slurm refuses the jobs" in line
    assert "invalid partition" in line
