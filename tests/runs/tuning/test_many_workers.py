"""Several workers on one study, killed again and again; databases that stop under them."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import PATIENCE
from configurations import refusal
from processes import Forked, program

from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.runs.tuning import study
from citrus_lirpa.runs.tuning.storage import Storage, Trial

pytest.importorskip("optuna", reason="Optuna is not installed")


class Worker(Forked):
    """A process that works on a study; what it says goes into a file."""

    def __init__(self, file: Path):
        log = file.with_suffix(f".{time.monotonic_ns()}.log")
        log.touch()
        super().__init__(program, "tune", file, "--device", "cpu", output=log, errors=log)

    def said(self) -> str:
        """What it has said so far."""
        return self.output.read_text("utf-8")


def wait_until(reached: Callable[[], bool]) -> None:
    begin = time.monotonic()
    while not reached():
        assert time.monotonic() - begin < 5 * PATIENCE
        time.sleep(0.5)


def finished(plan: study.Study) -> int:
    try:
        return sum(t.finished for t in found(plan))
    except Exception:  # not begun, or the database is away
        return 0


def found(plan: study.Study) -> list[Trial]:
    with closing(Storage(plan, create=False)) as storage:
        return storage.trials()


@contextmanager
def workers_on(file: Path, count: int) -> Iterator[list[Worker]]:
    workers = [Worker(file) for _ in range(count)]
    try:
        yield workers
    finally:
        for process in workers:
            process.kill()
            process.wait()


def kill_in_turn(
    file: Path,
    workers: list[Worker],
    *,
    kills: int,
    pause: float,
    around: Callable[[], AbstractContextManager] = nullcontext,
) -> list[str]:
    """Kill one after the other, ``pause`` seconds after a trial ended, and put one in its place."""
    plan, said = study.read(file), []
    for number in range(kills):
        done = min(finished(plan), plan.trials - 1)
        wait_until(lambda done=done: finished(plan) > done)
        time.sleep(pause)
        victim = number % len(workers)
        with around():
            workers[victim].kill()
            workers[victim].wait()
        said.append(workers[victim].said())
        workers[victim] = Worker(file)
    return said


def work_to_the_end(workers: list[Worker]) -> list[str]:
    for process in workers:
        assert process.wait(timeout=5 * PATIENCE) == 0, process.said()
    return [process.said() for process in workers]


def check_all_there(plan: study.Study, said: list[str]) -> None:
    """Every finished trial is there once, and none was told that is not."""
    trials = found(plan)
    done = [t for t in trials if t.finished]
    assert len(done) == plan.trials and len({str(t.values) for t in done}) == plan.trials
    assert all(t.finished for t in trials if t.values)
    told = [line for text in said for line in text.splitlines() if ": standard " in line]
    numbers = sorted(int(line.split()[1].rstrip(":")) for line in told)
    complete = [t.number for t in done if t.state == "complete"]
    assert len(set(numbers)) == len(numbers) and set(numbers) <= set(complete)


def test_workers_that_are_killed_one_after_another(write):
    file = write(6)
    with workers_on(file, 2) as workers:
        said = kill_in_turn(file, workers, kills=1, pause=0.3) + work_to_the_end(workers)
    check_all_there(study.read(file), said)


def kill_for_ten_minutes(write, around=nullcontext, **study_of) -> list[str]:
    """Kill one of four workers every minute, then all; others finish what was begun."""
    study_of['"train.epochs" = 4'] = '"train.epochs" = 40'
    file = write(10_000, **study_of)
    with workers_on(file, 4) as workers:
        said = kill_in_turn(file, workers, kills=10, pause=55, around=around)
    said += [worker.said() for worker in workers]
    begun = sum(bool(trial.values) for trial in found(study.read(file)))
    file = write(begun, **study_of)
    with workers_on(file, 4) as workers:
        said += work_to_the_end(workers)
    check_all_there(study.read(file), said)
    print(f"{begun} trials; continued: {sum(text.count(': continued') for text in said)}")
    return said


@pytest.mark.nightly
def test_workers_for_ten_minutes(write):
    kill_for_ten_minutes(write)


# -- PostgreSQL -----------------------------------------------------------------------


def postgres_program(name: str) -> str | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [shutil.which(name, path=str(folder)) for folder in folders]
    return next(filter(None, found), None) or shutil.which(name)


class Postgres:
    """A server of its own in a folder, reached by a socket there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.user = "nobody" if os.getuid() == 0 else None  # it refuses to run as root
        if self.user:
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, -1)
        self.run("initdb", "-D", folder / "data", "-U", "tuner", "-A", "trust", "-N")
        self.url = f"postgresql+psycopg://tuner@/postgres?host={folder}"

    def run(self, program: str, *words) -> None:
        subprocess.run(
            [postgres_program(program), *map(str, words)], check=True, cwd=self.folder,
            user=self.user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self.run("pg_ctl", "-D", self.folder / "data", "-l", self.log, "-w", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")


@pytest.fixture
def postgres():
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if postgres_program("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        server = Postgres(Path(folder))
        server.start()
        yield server
        server.stop()


def test_workers_on_a_database_that_stops_under_them(write, postgres):
    file = write(6, head=f'storage = "{postgres.url}"')
    plan = study.read(file)
    workers = [Worker(file) for _ in range(2)]
    try:
        wait_until(lambda: finished(plan) >= 2)
        postgres.stop()
        workers[0].kill()
        wait_until(lambda: any("does not answer" in worker.said() for worker in workers))
        postgres.start()
        workers.append(Worker(file))
        statuses = [worker.wait(timeout=5 * PATIENCE) for worker in workers]
        said = [worker.said() for worker in workers]
    finally:
        for process in workers:
            process.kill()
    assert statuses[0] == -signal.SIGKILL and statuses[-1] == 0, said
    for status, text in zip(statuses[1:], said[1:], strict=True):
        # one that begins while the database is down says so and ends
        assert status == 0 or (status == 1 and text.count("\n") == 1 and "postgresql" in text), text
    check_all_there(plan, said)


@pytest.mark.nightly
def test_workers_on_a_database_that_stops_for_ten_minutes(write, postgres):
    @contextmanager
    def away() -> Iterator[None]:
        postgres.stop()
        yield
        time.sleep(5)
        postgres.start()

    said = kill_for_ten_minutes(write, away, head=f'storage = "{postgres.url}"')
    assert any("does not answer" in text for text in said)


def test_a_database_that_stays_away_is_one_line(write, postgres, monkeypatch):
    plan = replace(study.read(write()), storage=postgres.url)
    monkeypatch.setattr("citrus_lirpa.runs.tuning.backends.PATIENCE", 0.0)
    with closing(Storage(plan, create=True)) as storage:
        storage.complete(storage.begin(), 0.5, 0.25)
        postgres.stop()
        try:
            message = refusal(storage.begin, error=CheckpointError)
            assert "does not answer" in message and "what was finished is kept" in message
        finally:
            postgres.start()
    assert found(plan)[0].scores == (0.5, 0.25)


def test_no_connection_stays_open_between_two_calls(write, postgres):
    psycopg = pytest.importorskip("psycopg")
    plan = replace(study.read(write()), storage=postgres.url)
    with (
        psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as own,
        closing(Storage(plan, create=True)) as storage,
    ):

        def alone() -> bool:
            clients = "FROM pg_stat_activity WHERE backend_type = 'client backend'"
            return own.execute(f"SELECT count(*) {clients}").fetchone() == (1,)

        storage.begin()
        wait_until(alone)  # a server takes a moment to see that a connection was closed
        own.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
        assert "compatible" in refusal(lambda: Storage(plan, create=False), error=CheckpointError)
        wait_until(alone)
