"""What is left to do of a run of a sweep, by what its folder holds."""

import json

import pytest
from results import made_up_record

from citrus_lirpa.bounds.box import PIXELS
from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.runs import sweep
from citrus_lirpa.runs import sweep_plan as workplan
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.training import checkpoint
from citrus_lirpa.verify import Protocol, fingerprint


@pytest.fixture
def work(tmp_path) -> workplan.Work:
    file = tmp_path / "group.toml"
    file.write_text('preset = "digits"\n[set]\n"train.epochs" = 2', encoding="utf-8")
    (one,) = sweep.expand(sweep.read(file))
    return workplan.Work(
        one,
        tmp_path / one.name,
        Protocol(eps=0.1, method="ibp", limit=10, clip=PIXELS),
        eval_arguments=("--method=ibp",),
        shared=("--device", "cpu"),
        source=workplan.Source(tmp_path, False),
    )


def begin(work: workplan.Work, finished: bool | None) -> None:
    """The folder of a run that was begun; with a checkpoint unless ``finished`` is None."""
    RunFolder(work.folder).begin(work.run.config)
    if finished is not None:
        save(work, finished)
    if finished:
        RunFolder(work.folder).curves.touch()


def save(work: workplan.Work, finished: bool) -> None:
    """A checkpoint with new weights."""
    model, _ = checkpoint.make_model(work.run.config)
    state = {"model": model.state_dict(), "finished": finished}
    checkpoint.save(work.folder / checkpoint.FILE_NAME, work.run.config, state)


def due(work: workplan.Work) -> list[str]:
    """The arguments of the pending commands."""
    return [" ".join(step.command[len(workplan.PROGRAM) :]) for step in work.pending()]


def weights(work: workplan.Work) -> str:
    """The fingerprint of the run's network, of no network where nothing is trained."""
    trained = (work.folder / checkpoint.FILE_NAME).is_file()
    return fingerprint(checkpoint.load_model(work.folder)[0]) if trained else "0"


def record(work: workplan.Work, **other) -> None:
    """What ``eval`` leaves at its end."""
    protocol = work.protocol.settings()
    del protocol["limit"]
    found = made_up_record(**protocol | {"images": 10, "weights": weights(work)} | other)
    (work.folder / "eval-ibp.json").write_text(json.dumps(found))


def test_what_is_due_from_the_beginning_of_a_run_to_its_end(work):
    first, second = due(work)
    assert first.startswith("train --preset digits --set train.epochs=2 --out ")
    assert second == f"eval {work.folder} --method=ibp --device cpu"
    begin(work, True)
    assert due(work) == [second]
    record(work)
    assert due(work) == []
    RunFolder(work.folder).curves.unlink()  # as where training was killed before it drew them
    assert due(work) == [f"train --resume {work.folder} --device cpu"]


@pytest.mark.parametrize("finished", [None, False])
def test_a_run_that_was_begun_is_resumed(work, finished):
    begin(work, finished)
    work.check_folder()
    first, second = due(work)
    assert first == f"train --resume {work.folder} --device cpu"
    assert second.startswith("eval ")


def test_a_damaged_checkpoint_is_left_to_train_which_refuses_it(work):
    begin(work, True)
    (work.folder / checkpoint.FILE_NAME).write_bytes(b"x")
    assert due(work)[0] == f"train --resume {work.folder} --device cpu"


@pytest.mark.parametrize(
    "other", [{"eps": 0.2}, {"seed": 1}, {"clip": None}, {"images": 11}, {"group_size": 4}]
)
def test_an_evaluation_with_other_settings_is_repeated(work, other):
    begin(work, True)
    record(work, **other)
    assert due(work) == [f"eval {work.folder} --method=ibp --device cpu"]


def test_a_limit_beyond_the_images_means_all_of_them(work):
    begin(work, True)
    all_images = workplan.Work(**{**vars(work), "protocol": Protocol(eps=0.1, method="ibp")})
    beyond = Protocol(eps=0.1, method="ibp", limit=10_000)
    record(all_images, images=400)
    for protocol in (all_images.protocol, beyond):
        assert due(workplan.Work(**{**vars(work), "protocol": protocol})) == []


def partial(work: workplan.Work, **other) -> None:
    """What an interrupted ``eval`` leaves."""
    folder = work.folder / "eval-ibp.partial"
    folder.mkdir()
    header = {**work.protocol.settings(), "weights": weights(work), **other}
    (folder / "settings.json").write_text(json.dumps(header))


def test_an_interrupted_evaluation_is_resumed(work):
    begin(work, True)
    partial(work)
    resumed = [f"eval {work.folder} --method=ibp --resume --device cpu"]
    assert due(work) == resumed
    record(work)  # its pictures may be missing
    assert due(work) == resumed


def test_an_evaluation_of_a_network_half_trained_is_begun_anew(work):
    """As when somebody looks at a run that a sweep has not finished."""
    anew = [f"eval {work.folder} --method=ibp --device cpu"]
    begin(work, True)
    record(work)
    assert due(work) == []
    save(work, True)  # trained on since
    assert due(work) == anew
    record(work)
    partial(work)
    save(work, True)
    assert due(work) == anew


def test_an_interrupted_evaluation_with_other_settings_is_not(work):
    begin(work, True)
    partial(work, limit=20)
    assert due(work) == [f"eval {work.folder} --method=ibp --device cpu"]
    record(work)
    assert due(work) == []


def test_another_verifiers_verdicts_are_not_the_sweeps(work):
    begin(work, True)
    record(work, imported=3)
    anew = [f"eval {work.folder} --method=ibp --device cpu"]
    assert due(work) == anew
    partial(work, imported=[[0, "certified"]])
    assert due(work) == anew
    record(work, imported=0)
    assert due(work) == []


def test_a_run_whose_checkpoint_is_gone_is_trained_again(work):
    begin(work, True)
    partial(work)
    record(work)
    (work.folder / checkpoint.FILE_NAME).unlink()
    first, second = due(work)
    assert first == f"train --resume {work.folder} --device cpu"
    assert second == f"eval {work.folder} --method=ibp --device cpu"


def test_a_folder_that_is_no_run_is_refused(work):
    work.folder.mkdir()
    work.check_folder()  # empty
    (work.folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not a run folder.*--out"):
        work.check_folder()
