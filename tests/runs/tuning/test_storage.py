"""Storages of studies: each of Optuna's traps, and who may join."""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from configurations import refusal

from citrus_lirpa.errors import CheckpointError, ConfigError, DependencyError, InputError
from citrus_lirpa.runs.tuning import backends
from citrus_lirpa.runs.tuning.space import Choice, Range
from citrus_lirpa.runs.tuning.storage import Storage

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")
exc = pytest.importorskip("sqlalchemy.exc")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    """A database with Optuna's tables, which take longer to make than most tests."""
    path = tmp_path_factory.mktemp("database") / "empty.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}").remove_session()
    return path


@pytest.fixture
def in_database(small, tmp_path, empty_database):
    """The small study, in a database."""
    database = shutil.copyfile(empty_database, tmp_path / "study.db")
    return replace(small, storage=f"sqlite:///{database}")


@pytest.fixture(params=["small", "in_database"], ids=["journal", "sqlite"])
def kept(request):
    """The small study, in each kind of storage."""
    return request.getfixturevalue(request.param)


def opened(study) -> Storage:
    return Storage(study, create=True)


def begun(storage: Storage):
    trial = storage.begin()
    return trial, storage.values(trial)


def test_trials_from_begin_to_end(kept):
    storage = opened(kept)
    first, values = begun(storage)
    assert values == kept.recipe()  # which every study tries first
    storage.note(first, "at 0.5", (0.25, 0.5))
    storage.complete(first, 0.75, 0.5)
    second, others = begun(storage)
    storage.prune(second)
    third, _ = begun(storage)
    storage.fail(third, "the loss became nan")
    fourth, _ = begun(storage)
    found = opened(kept).trials()
    assert [trial.state for trial in found] == ["complete", "pruned", "fail", "running"]
    assert [trial.finished for trial in found] == [True, True, True, False]
    assert found[0].scores == (0.75, 0.5) and found[0].notes["at 0.5"] == [0.25, 0.5]
    assert [found[0].values, found[1].values] == [values, others]
    assert found[1].scores is None and found[2].notes == {"failed": "the loss became nan"}
    assert found[3].number == fourth.number == 3


def test_a_trial_that_is_told_twice_counts_once(kept):
    storage = opened(kept)
    trial, _ = begun(storage)
    storage.complete(trial, 0.75, 0.5)
    storage.complete(trial, 0.25, 0.125)
    assert [found.scores for found in storage.trials()] == [(0.75, 0.5)]


def test_only_one_of_several_begins_the_study(kept):
    workers = [opened(kept) for _ in range(3)]
    trials = [begun(worker)[0].number for worker in workers]
    assert trials == [0, 1, 2] == [trial.number for trial in workers[0].trials()]


def test_a_half_written_line_of_a_journal_is_cut(small):
    """A worker that was killed while it wrote, or a full disk."""
    storage = opened(small)
    trial, values = begun(storage)
    other = opened(small)  # a worker that has read the journal so far
    with open(small.storage, "ab") as journal:
        journal.write(b'{"op_code": 4, "worker_id"')
    storage.complete(trial, 0.75, 0.5)
    begun(other)
    for late in (opened(small), other):
        assert [found.state for found in late.trials()] == ["complete", "running"]
        assert late.trials()[0].values == values
    assert Path(small.storage).read_bytes().endswith(b"}\n")


def test_a_journal_of_half_a_line(small):
    Path(small.storage).parent.mkdir(parents=True)
    Path(small.storage).write_bytes(b'{"op_')
    assert begun(opened(small))[1] == small.recipe()


def test_what_optuna_does_without_the_guard(small):
    """The day that this fails, the lock of journals is not needed any more."""
    journal = Path(small.storage)
    journal.parent.mkdir(parents=True)
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="s")
    with open(journal, "ab") as file:
        file.write(b'{"op_code": 4, "worker_id"')
    for _ in range(2):
        with contextlib.suppress(ValueError, AttributeError):
            study.ask()
    with pytest.raises(ValueError):
        optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))


def test_other_objectives_are_refused(kept):
    storage = opened(kept)
    backend = storage._study._storage
    for name, directions in (("one", ["maximize"]), ("two", ["minimize", "maximize"])):
        optuna.create_study(storage=backend, study_name=name, directions=directions)
        message = refusal(opened, replace(kept, name=name), error=ConfigError)
        assert f"study '{name}'" in message and ", ".join(directions) in message
        assert "give this one another name" in message


def test_another_space_is_refused(small):
    begun(opened(small))
    wider = {**small.space, "loss.tau_ratio": Range(low=0.5, high=1.0)}
    message = refusal(opened, replace(small, space=wider), error=ConfigError)
    assert (
        "study 'small'" in message and "space.loss.tau_ratio.low: 0.05 there, 0.5 here" in message
    )
    for change in (
        {"seed": 3},
        {"stop_at": (0.25,)},
        {"protocol": replace(small.protocol, limit=7)},
    ):
        refusal(opened, replace(small, **change), error=ConfigError)
    assert len(opened(replace(small, trials=99)).trials()) == 1  # more trials are no other study


def test_a_study_of_a_version_that_had_fewer_options_goes_on(kept):
    storage, earlier = opened(kept), kept.definition()
    # which is what leaving them out means
    assert earlier["search"].pop("total_time") is None
    assert earlier["config"]["train"].pop("init_from") == ""
    storage.note_of_study("citrus-lirpa", earlier)
    assert opened(kept).trials() == storage.trials()


def test_a_study_of_another_program_is_refused(kept):
    backend = opened(kept)._study._storage
    study = optuna.create_study(
        storage=backend, study_name="mine", directions=["maximize", "maximize"]
    )
    study.tell(study.ask(), [1.0, 2.0])
    assert "is another one than here" in refusal(
        opened, replace(kept, name="mine"), error=ConfigError
    )


def test_a_creator_that_was_killed_before_it_said_what_the_study_is(kept):
    backend = opened(kept)._study._storage
    optuna.create_study(storage=backend, study_name="new", directions=["maximize", "maximize"])
    new = replace(kept, name="new")
    assert begun(opened(new))[0].number == 0
    assert opened(new).notes()["citrus-lirpa"] == new.definition()


def test_no_two_workers_draw_the_same(kept):
    drawn = [begun(opened(kept))[1] for _ in range(6)]  # each as a worker that has just started
    assert len({str(values) for values in drawn}) == 6
    for key, parameter in kept.space.items():
        if isinstance(parameter, Range):
            assert len({values[key] for values in drawn}) == 6
            assert all(parameter.low <= values[key] <= parameter.high for values in drawn)


def test_the_seed_decides_what_is_drawn(small, tmp_path):
    def drawn(seed: int, name: str) -> list:
        study = replace(small, seed=seed, storage=str(tmp_path / name))
        return [begun(opened(study))[1] for _ in range(3)]

    assert drawn(0, "a") == drawn(0, "b") != drawn(1, "c")


def test_a_draw_that_was_interrupted_goes_on(kept):
    storage = opened(kept)
    storage.begin()
    trial = storage.begin()
    lr = kept.space["train.lr"]
    drawn = storage._handle(trial).suggest_float("train.lr", lr.low, lr.high, log=True)
    values = opened(kept).values(trial)
    assert values["train.lr"] == drawn and values.keys() == kept.space.keys()
    assert opened(kept).values(trial) == values


def test_lists_and_whole_numbers_outlast_a_storage(kept):
    space = {
        "train.milestones": Choice(choices=[[1, 2], [3], []]),
        "loss.worst": Range(low=0, high=2, whole=True),
        "loss.reduction": Choice(choices=["sum", "max"]),
    }
    study = replace(kept, space=space)
    storage = opened(study)
    drawn = [begun(storage)[1] for _ in range(5)]
    assert all(values["train.milestones"] in ([1, 2], [3], []) for values in drawn)
    assert all(type(values["loss.worst"]) is int for values in drawn)
    assert [trial.values for trial in opened(study).trials()] == drawn


def test_a_trial_without_figures_never_counts_as_one_that_reaches_what_is_asked(kept):
    study = replace(kept, least=replace(kept.least, standard=0.5, ucert=0.25))
    storage = opened(study)
    for scores in ((0.75, 0.5), (0.75, 0.125), (0.25, 0.5), None):
        trial, _ = begun(storage)
        storage.prune(trial) if scores is None else storage.complete(trial, *scores)
    constraints = [trial.constraints for trial in storage._study.trials]
    feasible = [all(value <= 0 for value in found.values()) for found in constraints]
    assert feasible == [True, False, False, False]
    assert [found.keys() for found in constraints] == [{"standard", "ucert"}] * 4
    assert [trial.number for trial in storage._study.best_trials] == [0]


def test_the_search_learns_from_all_kinds_of_trials(small):
    storage = opened(small)
    for number in range(20):  # more than are drawn at random
        trial, values = begun(storage)
        if number % 4 == 1:
            storage.prune(trial)
        elif number % 7 == 6:
            storage.fail(trial, "no")
        else:
            storage.complete(trial, values["loss.tau_ratio"], 1 - values["loss.tau_ratio"] ** 2)
    for objective in range(2):
        found = storage.importance(objective)
        assert found.keys() == small.space.keys() and sum(found.values()) == pytest.approx(1)
        assert max(found, key=found.get) == "loss.tau_ratio"


def test_too_few_trials_for_an_importance(small):
    storage = opened(small)
    storage.complete(begun(storage)[0], 0.5, 0.5)
    assert storage.importance(0) == {}


# -- storages that cannot be used -----------------------------------------------------


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("abc://x", InputError, "no URL of a known database"),
        ("postgresql://:x:y", InputError, "no URL of a known database"),
        ("mysql+mysqldb://h/d", DependencyError, "the driver of mysql"),
        ("sqlite:////none/there.db", CheckpointError, "does not answer (unable to open"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/d", CheckpointError, "does not answer"),
    ],
)
def test_databases_that_cannot_be_used(small, url, error, words):
    if "psycopg" in url:
        pytest.importorskip("psycopg", reason="psycopg is not installed")
    message = refusal(opened, replace(small, storage=url), error=error)
    assert words in message and "secret" not in message and len(message) < 400


def test_workers_that_make_the_tables_at_the_same_moment(small, tmp_path, monkeypatch):
    kind, calls = optuna.storages.RDBStorage, []
    make = kind.__init__

    def racing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            cause = Exception("duplicate key value violates unique constraint")
            raise exc.IntegrityError("CREATE TABLE studies", {}, cause)
        make(*args, **kwargs)

    monkeypatch.setattr(kind, "__init__", racing)
    plan = replace(small, storage=f"sqlite:///{tmp_path / 'study.db'}")
    with contextlib.closing(Storage(plan, create=True)) as storage:
        assert storage.trials()[0].state == "waiting" and len(calls) == 2


def test_a_database_of_something_else(small, tmp_path):
    (tmp_path / "x.db").write_bytes(os.urandom(4096))
    message = refusal(
        opened, replace(small, storage=f"sqlite:///{tmp_path / 'x.db'}"), error=CheckpointError
    )
    assert "not a database" in message


@pytest.mark.parametrize("content", ["hello\n", "[1]\n{}\n", '{"op_code": 99}\n', "{}\nx\n"])
def test_files_that_are_no_journal(small, tmp_path, content):
    file = tmp_path / "journal"
    file.write_text(content)
    message = refusal(opened, replace(small, storage=str(file)), error=CheckpointError)
    assert f"{file} is not a journal of a study, or damaged" in message
    assert file.read_text() == content


def test_a_folder_is_no_journal(small, tmp_path):
    refusal(opened, replace(small, storage=str(tmp_path)), error=CheckpointError)


def test_a_study_that_was_not_begun(kept):
    message = refusal(lambda: Storage(kept, create=False), error=CheckpointError)
    assert "there is no study 'small'" in message and "citrus-lirpa tune FILE" in message
    assert not Path(kept.storage).exists()


def test_without_optuna(small, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    message = refusal(opened, small, error=DependencyError)
    assert "optuna cannot be imported" in message and "citrus-lirpa[tune]" in message


def test_a_database_that_answers_again_is_waited_for(in_database, monkeypatch, caplog):
    storage = opened(in_database)
    lost = optuna.exceptions.StorageInternalError("the connection was lost")
    monkeypatch.setattr(backends, "_PAUSE", 0.0)
    calls = iter([lost, lost, None])
    original = storage._study.ask

    def flaky():
        if (error := next(calls)) is not None:
            raise error
        return original()

    monkeypatch.setattr(storage._study, "ask", flaky)
    assert storage.begin().number == 0
    assert [record.message for record in caplog.records].count(
        f"{storage.shown} does not answer (the connection was lost); trying again"
    ) == 1  # fmt: skip
    monkeypatch.setattr(backends, "PATIENCE", 0.0)
    calls = iter([lost])
    assert "what was finished is kept" in refusal(storage.begin, error=CheckpointError)
