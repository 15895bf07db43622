"""What files and networks of strangers cannot do, and that secrets are never printed.

ruff and bandit forbid the calls that unpickle, unpack or run what a file says (`make lint`).
"""

import importlib.util
import io
import pickle
import tarfile
import urllib.request
from pathlib import Path

import pytest
from command_line import run
from fuzzing import Trap
from torchvision import datasets

from citrus_lirpa import data
from citrus_lirpa.errors import DataError

ROOT = Path(__file__).parents[2]

# -- data sets ----------------------------------------------------------------------


@pytest.mark.parametrize("which", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_changed_batch_of_cifar10_is_never_unpickled(tmp_path, which, monkeypatch):
    """Its batches are pickles; torchvision compares their checksums before it reads the first."""
    trap, folder = tmp_path / "executed", tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    harmless = pickle.dumps({"data": [], "labels": [], "label_names": []})
    for name in data.DATASETS["cifar10"].files:
        (tmp_path / name).write_bytes(harmless)
    (folder / which).write_bytes(pickle.dumps({"data": Trap(trap)}))
    for part in (True, False):
        with pytest.raises(DataError, match="damaged"):
            data.load("cifar10", train=part, data_dir=tmp_path, download=False)
    assert not trap.exists()
    pickle.loads((folder / which).read_bytes())  # the trap works
    assert trap.exists()


def test_an_archive_with_another_checksum_is_not_unpacked(tmp_path, monkeypatch):
    """One that would write outside its folder, under the name of the real one."""
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name in ("../../evil", "cifar-10-batches-py/evil"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))

    def offline(*_args, **_options):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError, match="no network"):
        data.load("cifar10", train=True, data_dir=folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "data", "cifar-10-python.tar.gz"]


def test_everything_downloaded_has_a_checksum():
    assert all(len(md5) == 32 for _, md5 in datasets.MNIST.resources)
    assert len(datasets.CIFAR10.tgz_md5) == 32
    batches = [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list]
    assert all(len(md5) == 32 for _, md5 in batches) and len(datasets.CIFAR10.meta["md5"]) == 32


# -- secrets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxy", ["http://me:hunter2@127.0.0.1:9", "http://me:hunter2@127.0.0.1:port"]
)
def test_secrets_of_the_environment_are_never_printed(tmp_path, monkeypatch, proxy):
    """Neither those of a proxy that refuses a download nor other variables; output and files."""
    for name in ("http_proxy", "https_proxy", "API_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # which remembers proxies
    monkeypatch.chdir(tmp_path)
    for words in (["train", "--preset", "mnist-0.1", "--out", "run"], ["doctor"]):
        _, output = run(*words, "--data-dir", "data")
        assert "hunter2" not in output and (words == ["doctor"] or "download failed" in output)
    texts = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(b"hunter2" in text for text in texts)


# -- the audit ----------------------------------------------------------------------


def test_the_audit_reports_what_it_found():
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools" / "audit.py")
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    unknown = {"name": "a", "skip_reason": "not found"}
    fine = {"name": "b", "version": "1", "vulns": []}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    lines, status = audit.verdict({"dependencies": [unknown]})
    assert status == 0 and "skipped" in lines[0]
    assert audit.verdict({"dependencies": [unknown, fine]}) == (
        ["1 packages audited, 1 unknown, 0 vulnerabilities"], 0
    )  # fmt: skip
    lines, status = audit.verdict({"dependencies": [fine, bad]})
    assert status == 1 and lines[0] == "c 2: CVE-1, fixed in 3"
