"""checkpoint: atomic writing, and one line for every file that is no good checkpoint."""

import errno
import os
import pickle

import pytest
import torch
from fuzzing import Trap
from torch import nn

from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.formats import atomic as files
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training.config import resolve


def config(*overrides: str):
    return resolve(preset="digits", overrides=["model.hidden=[4]", *overrides])


def state(settings) -> dict:
    return {"model": checkpoint.make_model(settings)[0].state_dict(), "step": 3}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run" / checkpoint.FILE_NAME
    checkpoint.save(path, config(), state(config()))
    return path


def refusal(path, call=checkpoint.load_model) -> str:
    """What ``call(path)`` says: one line, without terminal codes, that names the file."""
    with pytest.raises(CheckpointError) as caught:
        call(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message and "\x1b" not in message
    return message


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- round trip ---------------------------------------------------------------------


def test_round_trip(tmp_path):
    settings, content = config("train.eps=8/255"), state(config())
    checkpoint.save(tmp_path / "c.pt", settings, content)
    read, found = checkpoint.load(tmp_path / "c.pt")
    assert read == settings and found["step"] == 3
    assert found["model"].keys() == content["model"].keys()
    assert all(torch.equal(found["model"][k], v) for k, v in content["model"].items())


def test_load_model_takes_a_folder_or_a_file(saved):
    for path in (saved, saved.parent):
        model, spec, settings = checkpoint.load_model(path)
        assert not model.training and spec.name == "digits" and settings == config()
        _, content = checkpoint.load(saved)
        assert all(torch.equal(model.state_dict()[k], v) for k, v in content["model"].items())


def test_crop_of_the_configuration_reaches_the_model():
    model, spec = checkpoint.make_model(config("data.crop=6"))
    assert spec.shape == (1, 6, 6)
    assert model(torch.zeros(2, 1, 6, 6)).shape == (2, 10)


# -- writing ------------------------------------------------------------------------


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(file):
    file.write(b"half")
    file.flush()
    full_disk()


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_full_disk_keeps_the_earlier_file(tmp_path, monkeypatch, where):
    path = tmp_path / "file"
    files.write_text(path, "earlier")
    write = half_written if where == "write" else lambda file: file.write(b"later")
    if where != "write":
        monkeypatch.setattr(files.os, where, full_disk)
    message = refusal(path, lambda p: files.write_atomically(p, write))
    assert "No space left" in message and "earlier file is kept" in message
    assert path.read_text() == "earlier" and names(tmp_path) == ["file"]


def test_full_disk_without_an_earlier_file(tmp_path):
    message = refusal(tmp_path / "f", lambda p: files.write_atomically(p, half_written))
    assert "kept" not in message and names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_writer_that_is_stopped_leaves_the_earlier_file(saved, error):
    before = saved.read_bytes()

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        files.write_atomically(saved, write)
    assert saved.read_bytes() == before and names(saved.parent) == [saved.name]


def test_a_power_cut_leaves_no_empty_or_missing_file(tmp_path, monkeypatch):
    """The content is on the disk before the file has its name, and the name before we go on."""
    events = []
    replace, fsync = os.replace, os.fsync

    def note_replace(source, target):
        events.append(f"move to {os.path.basename(target)}")
        replace(source, target)

    def note_fsync(descriptor):
        events.append(
            f"sync {os.readlink(f'/proc/self/fd/{descriptor}').replace(str(tmp_path), '')}"
        )
        fsync(descriptor)

    monkeypatch.setattr(files.os, "replace", note_replace)
    monkeypatch.setattr(files.os, "fsync", note_fsync)
    files.write_text(tmp_path / "a" / "b" / "file", "text")
    *folders, content, move, name = events
    assert folders == ["sync ", "sync /a"]  # which name a and b
    assert content.startswith("sync /a/b/.file.") and content.endswith(".tmp")
    assert (move, name) == ("move to file", "sync /a/b")


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_put_on_the_disk(tmp_path, monkeypatch, number, raised):
    fsync = os.fsync

    def fails_for_folders(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", fails_for_folders)
    if raised:
        assert "Input/output" in refusal(tmp_path, lambda p: files.write_text(p / "file", "text"))
    else:
        files.write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_leftovers_of_killed_writers(tmp_path):
    (tmp_path / ".a.pt.1234.tmp").touch()
    (tmp_path / ".b.pt.1234.tmp").touch()
    (tmp_path / "a.pt").touch()
    files.remove_leftovers(tmp_path, "a.pt")
    assert names(tmp_path) == [".b.pt.1234.tmp", "a.pt"]
    files.remove_leftovers(tmp_path, "*")
    assert names(tmp_path) == ["a.pt"]
    files.remove_leftovers(tmp_path / "absent", "*")


def test_new_file_obeys_the_umask_and_makes_its_folder(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    before = os.umask(0o027)
    try:
        files.write_text(path, "ε")
        assert os.umask(0o027) == 0o027  # asking for it did not change it
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text(encoding="utf-8") == "ε" and names(path.parent) == ["file"]


# -- reading ------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04 no archive", b"\x80\x04N."])
def test_no_archive(tmp_path, content):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    assert "damaged or no checkpoint" in refusal(path)


@pytest.mark.parametrize(
    "foreign",
    [
        torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).state_dict(), [1, 2], torch.zeros(3), None,
        {"format": "other"}, {"format": checkpoint.FORMAT},
        {"format": checkpoint.FORMAT, "config": 3},
        {"format": checkpoint.FORMAT, "config": "[train"},
        {"format": checkpoint.FORMAT, "config": config().to_toml()},
        {"format": checkpoint.FORMAT, "config": config().to_toml(), "model": 3},
    ],
    ids=["module", "state_dict", "list", "tensor", "none", "format", "empty", "config", "toml",
         "no model", "number for model"],
)  # fmt: skip
def test_foreign_torch_file(tmp_path, foreign):
    path = tmp_path / "foreign.pt"
    torch.save(foreign, path)
    refusal(path)


@pytest.mark.parametrize("archive", [True, False])
def test_nothing_in_a_file_is_executed(tmp_path, archive):
    trap, path = tmp_path / "executed", tmp_path / "evil.pt"
    content = {"format": checkpoint.FORMAT, "config": config().to_toml(), "model": Trap(trap)}
    if archive:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    refusal(path)
    assert not trap.exists()
    if archive:  # the trap works: only weights_only keeps it shut
        torch.load(path, weights_only=False)
        assert trap.exists()


def test_weights_of_another_model(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, config(), state(config("model.hidden=[5]")))
    message = refusal(path)
    assert "does not fit" in message and "(4,) torch.float32 (there (5,) torch.float32)" in message
    checkpoint.save(path, config(), state(config("model.hidden=[4, 4]")))
    message = refusal(path)
    assert "does not fit" in message and "it has in addition" in message


def test_what_does_not_fit_is_said_in_few_words():
    own = nn.Linear(2, 2).state_dict()
    assert checkpoint.misfit(own, own) == ""
    other = {"weight": own["weight"].double(), **{str(n): 0 for n in range(5)}}
    assert checkpoint.misfit(own, other) == (
        "it lacks bias; it has in addition 0, 1, 2 and 2 more; "
        "of another kind are weight (2, 2) torch.float32 (there (2, 2) torch.float64)"
    )
    assert checkpoint.misfit(own, {**own, "bias": 3}) == (
        "of another kind are bias (2,) torch.float32 (there int)"
    )


def test_unknown_names_in_the_configuration(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    text = config().to_toml().replace('"mlp"', '"mlpp"')
    torch.save({"format": checkpoint.FORMAT, "config": text, **state(config())}, path)
    assert "mlpp" in refusal(path)
