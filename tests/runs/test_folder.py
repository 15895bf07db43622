"""Run folders: begun, found again, and left alone where they are in use."""

import pytest

from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.training.config import resolve


def test_begun_and_found(tmp_path):
    config = resolve(preset="digits", overrides=["train.epochs=3"])
    RunFolder(tmp_path / "new" / "run").begin(config)
    assert RunFolder(tmp_path / "new" / "run").begun_config() == config  # without a checkpoint yet
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").begin(config)
    with pytest.raises(CheckpointError, match="no run folder"):
        RunFolder(tmp_path / "new").begun_config()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_in_use_is_refused(tmp_path, kind):
    path = tmp_path / "run"
    file = path / "notes" if kind == "folder" else path
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(CheckpointError) as caught:
        RunFolder(path).begin(resolve(preset="digits"))
    assert str(path) in str(caught.value) and "another --out" in str(caught.value)
    assert file.read_text() == "mine"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]
