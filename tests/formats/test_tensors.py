"""Files with a checksum: any changed byte is found; files without one are read as before."""

import hashlib
import random
import zipfile

import pytest
import torch

from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.formats import atomic as files
from citrus_lirpa.formats import tensors
from citrus_lirpa.training import checkpoint, zoo
from citrus_lirpa.training.config import resolve

CONTENT = {"weights": torch.arange(7.0), "step": 3, "names": ["a", "ε"]}


@pytest.fixture
def path(tmp_path):
    tensors.save(tmp_path / "file.pt", CONTENT)
    return tmp_path / "file.pt"


def same(found) -> bool:
    return torch.equal(found["weights"], CONTENT["weights"]) and found["names"] == ["a", "ε"]


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        tensors.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged or no checkpoint: ") and "\n" not in message
    return message


def test_it_is_an_archive_that_torch_reads_and_its_comment_is_the_sum(path):
    assert same(tensors.load(path)) and same(torch.load(path, weights_only=True))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        comment = archive.comment
    body = path.read_bytes()[: -len(comment)]
    assert comment == b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def test_any_flipped_byte_is_found(path):
    raw = path.read_bytes()
    draw = random.Random(0)
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        refusal(path)
    path.write_bytes(raw)
    assert same(tensors.load(path))


def test_any_cut_and_any_addition_is_found(path):
    raw = path.read_bytes()
    for length in [*range(0, len(raw), 61), *range(len(raw) - 100, len(raw))]:
        path.write_bytes(raw[:length])
        refusal(path)
    for more in (b"\0", b"x" * 100, raw):
        path.write_bytes(raw + more)
        if more != raw:  # the same file twice ends in a sum, which is not that of both
            refusal(path)
        else:
            assert "SHA-256" in refusal(path)


def test_the_sum_cannot_be_mistaken_for_a_file_without_one(path):
    raw = bytearray(path.read_bytes())
    end = raw.rfind(b"PK\x05\x06")
    for kept in (raw[: end + 22], raw[: end + 20] + b"\0\0" + raw[end + 22 :]):
        path.write_bytes(kept)
        assert "does not end as it should" in refusal(path) or "SHA-256" in refusal(path)


def test_a_file_of_an_earlier_version_is_read_and_its_members_are_checked(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(CONTENT, path)
    assert same(tensors.load(path))
    raw = bytearray(path.read_bytes())
    raw[raw.find(CONTENT["weights"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(raw)
    assert "checksum mismatch" in refusal(path)


def test_an_earlier_checkpoint_and_the_zoo_are_read(tmp_path):
    config = resolve(preset="digits")
    model = checkpoint.make_model(config)[0].state_dict()
    content = {"format": checkpoint.FORMAT, "config": config.to_toml(), "model": model}
    torch.save(content, tmp_path / checkpoint.FILE_NAME)
    assert checkpoint.load(tmp_path)[0] == config
    files = {name: zoo.find(f"{zoo.PREFIX}{name}") for name in zoo.names()}
    assert b"sha256:" not in files["mnist-0.1-convsmall-citrus"].read_bytes()[-100:]
    for file in files.values():
        checkpoint.load_model(file)


def test_an_interruption_while_saving_is_one(tmp_path, monkeypatch):
    """torch.save to a file would make a RuntimeError of it."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tensors.save(tmp_path / "file.pt", CONTENT)
    assert list(tmp_path.iterdir()) == []
