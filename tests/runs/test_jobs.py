"""The processes of a sweep: one after another, side by side, stopped, killed and left."""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from command_line import wait_for
from processes import Forked

from citrus_lirpa.cli.actions import sweep as sweep_action
from citrus_lirpa.errors import InputError, Interrupted
from citrus_lirpa.runs.jobs import Job, Step, places
from citrus_lirpa.runs.jobs import run_jobs as run_all


def job(folder: Path, name: str, *codes: str) -> Job:
    """Steps of Python code that each, once they succeed, leave a file behind."""
    files = [folder / f"{name}.{i}" for i in range(len(codes))]
    program = "import signal, sys, time, os\nfrom pathlib import Path\n"

    def next_step() -> Step | None:
        for i, (code, file) in enumerate(zip(codes, files, strict=True)):
            if not file.exists():
                text = f"{program}{code}\nPath({str(file)!r}).touch()"
                return Step(f"done {i}", (sys.executable, "-c", text))
        return None

    return Job(name, folder / f"{name}.log", next_step)


def run_jobs(jobs, count: int, said: list, react=lambda job, event: None) -> dict[str, str]:
    def say(one: Job, event: str) -> None:
        said.append((one.name, event))
        react(one, event)

    return run_all(jobs, places(count), say=say, ended=lambda: None)


def waits_for(file: Path) -> str:
    return f"while not Path({str(file)!r}).exists(): time.sleep(0.02)"


def test_steps_follow_one_another_and_jobs_run_side_by_side(tmp_path):
    # each first step ends only once the other job's has begun
    codes = [
        (f"Path({str(tmp_path / mine)!r}).touch()\n{waits_for(tmp_path / other)}", "print('x')")
        for mine, other in (("a", "b"), ("b", "a"))
    ]
    said: list = []
    assert run_jobs([job(tmp_path, "1", *codes[0]), job(tmp_path, "2", *codes[1])], 2, said) == {}
    events = [(name, event.partition(" in ")[0]) for name, event in said]
    for name in "12":
        assert [e for n, e in events if n == name] == ["done 0", "done 1"]
        log = (tmp_path / f"{name}.log").read_text().splitlines()
        assert [line[:2] for line in log].count("$ ") == 2 and log[-1] == "x"


def test_never_more_at_once_than_asked(tmp_path):
    lock = f"Path({str(tmp_path / 'lock')!r})"
    code = f"{lock}.mkdir()\ntime.sleep(0.1)\n{lock}.rmdir()"  # fails where another one runs
    assert run_jobs([job(tmp_path, str(i), code) for i in range(3)], 1, []) == {}


def test_a_failure_leaves_the_others_alone(tmp_path):
    failing = "print('much'); print('Error: no luck', file=sys.stderr); sys.exit(1)"
    killed = "os.kill(os.getpid(), signal.SIGKILL)"
    silent = "sys.exit(7)"
    jobs = [job(tmp_path, "bad", failing), job(tmp_path, "killed", killed),
            job(tmp_path, "silent", silent), job(tmp_path, "good", "")]  # fmt: skip
    said: list = []
    assert run_jobs(jobs, 1, said) == {
        "bad": "Error: no luck", "killed": "ended by SIGKILL", "silent": "status 7"
    }  # fmt: skip
    assert (tmp_path / "good.0").exists()
    assert ("bad", "failed: Error: no luck") in said
    assert "much\n" in (tmp_path / "bad.log").read_text()


def test_a_step_that_is_due_again_after_it_succeeded_is_a_failure(tmp_path):
    step = Step("trained", (sys.executable, "-c", ""))
    endless = Job("endless", tmp_path / "log", lambda: step)
    failures = run_jobs([endless], 1, [])
    assert list(failures) == ["endless"] and "was trained" in failures["endless"]


def test_an_error_in_the_plan_of_a_job_is_its_failure(tmp_path):
    def refuse() -> None:
        raise InputError("cannot say")

    jobs = [Job("odd", tmp_path / "odd.log", refuse), job(tmp_path, "good", "")]
    assert run_jobs(jobs, 1, []) == {"odd": "cannot say"}
    assert (tmp_path / "good.0").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_reaches_each_process_once(tmp_path, number):
    signals = tmp_path / "signals"
    code = (
        "def note(*_):\n"
        f"    with open({str(signals)!r}, 'a') as file: file.write('SIGINT\\n')\n"
        "signal.signal(signal.SIGINT, note)\n"
        f"Path({str(tmp_path / 'ready')!r}).touch()\n"
        f"{waits_for(signals)}\ntime.sleep(0.3)\nsys.exit(130)"
    )
    # which keeps its place until it is stopped itself
    kill = f"os.kill({os.getpid()}, {int(number)})\ntime.sleep(60)"
    trigger = f"{waits_for(tmp_path / 'ready')}\n{kill}"
    jobs = [job(tmp_path, "long", code), job(tmp_path, "trigger", trigger),
            job(tmp_path, "later", "")]  # fmt: skip
    with pytest.raises(Interrupted, match="repeat the command"):
        run_jobs(jobs, 2, [])
    assert signals.read_text() == "SIGINT\n"
    assert not (tmp_path / "later.log").exists()


def test_a_second_interruption_kills(tmp_path):
    code = (
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        f"Path({str(tmp_path / 'ready')!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    trigger = (
        f"{waits_for(tmp_path / 'ready')}\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"for _ in range(2): os.kill({os.getpid()}, signal.SIGINT); time.sleep(0.5)"
    )
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path, "stubborn", code), job(tmp_path, "trigger", trigger)], 2, [])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "ready").read_text()), 0)


def test_a_process_that_outlived_its_sweep_is_waited_for(tmp_path):
    ready, log = tmp_path / "ready", tmp_path / "log"
    long = job(tmp_path, "one", f"Path({str(ready)!r}).touch()\n{waits_for(tmp_path / 'go')}")
    earlier = Forked(run_jobs, [long], 1, [], output=log, errors=log)
    wait_for(ready, earlier)
    earlier.kill()
    assert earlier.wait() == -signal.SIGKILL
    said: list = []
    again = job(tmp_path, "one", "raise SystemExit('begun a second time')")
    released = run_jobs([again], 1, said, lambda *_: (tmp_path / "go").touch())
    assert released == {}
    assert [event for _, event in said] == [
        "still runs since an earlier start; waiting for it", "was finished before"
    ]  # fmt: skip
    assert (tmp_path / "one.0").exists()


def test_cores_are_shared_unless_the_user_said_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    threads = [places(n)[-1]["OMP_NUM_THREADS"] for n in (1, 3, 8, 20)]
    assert threads == ["8", "2", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert places(3)[0]["OMP_NUM_THREADS"] == "5"


def test_gpus_are_dealt_out(tmp_path):
    """Two runs at a time on each of two GPUs, and a GPU that is free goes to the next run."""
    seen = [place["CUDA_VISIBLE_DEVICES"] for place in places(4, ["3", "5"])]
    assert seen == ["3", "5", "3", "5"]
    lock = f"Path({str(tmp_path)!r}, os.environ['CUDA_VISIBLE_DEVICES'])"
    code = f"{lock}.mkdir()\ntime.sleep(0.1)\n{lock}.rmdir()\nprint('on', {lock}.name)"
    jobs = [job(tmp_path, str(i), code) for i in range(5)]
    assert run_all(jobs, places(2, ["3", "5"]), say=lambda *_: None, ended=lambda: None) == {}
    used = Counter(one.log.read_text().rpartition("on ")[2].strip() for one in jobs)
    assert set(used) == {"3", "5"} and sum(used.values()) == 5


def test_a_sweep_on_gpus_runs_one_on_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(sweep_action, "choose_device", torch.device)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def dealt(device: str, count: int | None = None) -> list:
        launch = sweep_action.LAUNCHERS["local"]([None] * 5, count, device=device)
        return [e.get("CUDA_VISIBLE_DEVICES") for e in launch.keywords["environments"]]

    assert dealt("cuda") == ["0", "1", "2"]
    assert dealt("cuda", 4) == ["0", "1", "2", "0"]
    assert dealt("cuda:1") == [None]  # the user's own choice
    assert dealt("cpu", 2) == [None, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert dealt("cuda") == ["4", "6", "7"]
