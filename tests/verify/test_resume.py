"""Saved batches: an evaluation goes on where it stopped, and never from what is not its own."""

import functools
import json
import shutil

import configurations
import pytest
import torch
from torch import nn

from citrus_lirpa import BoundedNet
from citrus_lirpa.data.types import DatasetSpec, Split
from citrus_lirpa.errors import CheckpointError, InputError
from citrus_lirpa.verify import Protocol, Saved, evaluate, fingerprint
from citrus_lirpa.verify.resume import from_plain

CPU = torch.device("cpu")
PROTOCOL = Protocol(eps=0.06, method="crown", group_size=3, batch_size=6)
SETTINGS = {"eps": 0.06, "method": "crown", "clip": (0.0, 1.0), "imported": [(3, "certified")]}


@pytest.fixture
def noise():
    """A net of 1x4x4 images, 18 of them, and their data set: three batches of six."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 3))
    net = BoundedNet(model, torch.rand(1, 1, 4, 4)).eval()
    pixels = torch.randint(256, (18, 1, 4, 4)).byte()
    spec = DatasetSpec(
        name="noise", shape=(1, 4, 4), class_names=("a", "b", "c"), loader=lambda *_: None
    )
    return net, Split(pixels, net(pixels / 255).argmax(1)), spec


def found(result):
    """All that an evaluation found, without times."""
    record = result.record()
    del record["seconds"], record["image_seconds"], record["groups"]["seconds"]
    return json.dumps(record), result.uap.u.tolist(), result.strongest.tolist()


refusal = functools.partial(configurations.refusal, error=CheckpointError)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_batches_come_back_as_they_were(tmp_path, noise):
    saved = Saved(tmp_path / "p", SETTINGS, resume=False)
    assert saved.load(0, CPU, from_plain) is None and saved.count() == 0
    whole = evaluate(*noise, PROTOCOL, saved=saved)
    assert names(tmp_path / "p") == ["00000.pt", "00001.pt", "00002.pt", "settings.json"]
    assert saved.count() == 3
    seconds = 0.0
    for number in range(3):
        certificates, uap, spent = Saved(tmp_path / "p", SETTINGS, resume=True).load(
            number, CPU, from_plain
        )
        rows = slice(6 * number, 6 * number + 6)
        assert torch.equal(certificates.rows, whole.certificates.rows[rows])
        assert torch.equal(
            certificates.v,
            whole.certificates.v[
                whole.certificates.attacked[:18].nonzero().flatten().div(6, rounding_mode="floor")
                == number
            ],
        )
        assert torch.equal(certificates.took, whole.certificates.took[rows])
        assert torch.equal(uap.u, whole.uap.u[2 * number : 2 * number + 2])
        assert uap.stage == whole.uap.stage[2 * number : 2 * number + 2]
        seconds += spent
    assert seconds < whole.seconds
    saved.discard()
    assert not (tmp_path / "p").exists()
    saved.discard()  # twice is no error


@pytest.mark.parametrize("kept", [[], [0], [1], [0, 2], [0, 1, 2]])
def test_only_missing_batches_are_computed_again(tmp_path, noise, monkeypatch, kept):
    first = Saved(tmp_path / "p", SETTINGS, resume=False)
    whole = evaluate(*noise, PROTOCOL, saved=first)
    for number in set(range(3)) - set(kept):
        (tmp_path / "p" / f"{number:05d}.pt").unlink()
    stored, store = [], Saved.store
    monkeypatch.setattr(
        Saved,
        "store",
        lambda self, number, *rest: (stored.append(number), store(self, number, *rest)),
    )
    again = evaluate(*noise, PROTOCOL, saved=Saved(tmp_path / "p", SETTINGS, resume=True))
    assert stored == sorted(set(range(3)) - set(kept))
    assert found(again) == found(whole) == found(evaluate(*noise, PROTOCOL))
    if len(kept) == 3:  # the time of the batches counts, not only that of joining them
        assert again.certificates.seconds == whole.certificates.seconds
        assert again.seconds > sum(first.load(n, CPU, from_plain)[2] for n in range(3))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"eps": 0.07}, "(eps: 0.06 there, 0.07 here)"),
        (
            {"method": "ibp", "clip": None},
            "(clip: [0.0, 1.0] there, None here, method: crown there, ibp here)",
        ),
        ({"imported": []}, "(imported: [[3, 'certified']] there, [] here)"),
        ({"extra": 1}, "(extra: None there, 1 here)"),
    ],
)
def test_other_settings_are_refused(tmp_path, noise, changed, words):
    evaluate(*noise, PROTOCOL, saved=Saved(tmp_path / "p", SETTINGS, resume=False))
    before = {path: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    message = refusal(lambda: Saved(tmp_path / "p", {**SETTINGS, **changed}, resume=True))
    assert words in message and str(tmp_path / "p") in message and "--resume" in message
    assert {path: path.read_bytes() for path in (tmp_path / "p").iterdir()} == before
    # without resuming, those of this evaluation are kept, and those of another one are removed
    message = refusal(lambda: Saved(tmp_path / "p", SETTINGS, resume=False))
    assert f"{tmp_path / 'p'} holds 3 finished batches" in message and "--resume" in message
    assert {path: path.read_bytes() for path in (tmp_path / "p").iterdir()} == before
    assert Saved(tmp_path / "p", {**SETTINGS, **changed}, resume=False).count() == 0
    assert names(tmp_path / "p") == ["settings.json"]


def test_nothing_to_resume_begins_anew(tmp_path):
    saved = Saved(tmp_path / "new" / "p", SETTINGS, resume=True)
    assert (
        names(tmp_path / "new" / "p") == ["settings.json"]
        and saved.load(0, CPU, from_plain) is None
    )


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"7", b"\xff\xfe"])
def test_damaged_settings(tmp_path, content):
    Saved(tmp_path, SETTINGS, resume=False)
    (tmp_path / "settings.json").unlink()
    if content is not None:
        (tmp_path / "settings.json").write_bytes(content)
    message = refusal(lambda: Saved(tmp_path, SETTINGS, resume=True))
    assert str(tmp_path) in message and "leave out --resume" in message


@pytest.mark.parametrize("how", ["half", "foreign", "missing", "extra"])
def test_a_damaged_batch_is_named(tmp_path, noise, how):
    saved = Saved(tmp_path, SETTINGS, resume=False)
    whole = evaluate(*noise, PROTOCOL, saved=saved)
    path = tmp_path / "00001.pt"
    if how == "half":
        path.write_bytes(path.read_bytes()[:500])
    else:
        state = torch.load(path, weights_only=True)
        if how == "missing":
            del state["certificates"]["rows"]
        elif how == "extra":
            state["uap"]["more"] = 1
        torch.save([1, 2] if how == "foreign" else state, path)
    again = Saved(tmp_path, SETTINGS, resume=True)
    message = refusal(lambda: evaluate(*noise, PROTOCOL, saved=again))
    assert f"{path} is damaged" in message and "remove it" in message
    path.unlink()  # as it says
    assert found(evaluate(*noise, PROTOCOL, saved=again)) == found(whole)


def test_a_kill_while_the_batches_are_removed_leaves_none_of_them(tmp_path, noise, monkeypatch):
    saved = Saved(tmp_path / "p", SETTINGS, resume=False)
    evaluate(*noise, PROTOCOL, saved=saved)

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(shutil, "rmtree", killed)
        saved.discard()
    assert not (tmp_path / "p").exists() and len(names(tmp_path)) == 1
    Saved(tmp_path / "p", SETTINGS, resume=False).discard()
    assert names(tmp_path) == []


def test_leftovers_are_removed_where_an_evaluation_goes_on(tmp_path):
    Saved(tmp_path, SETTINGS, resume=False)
    (tmp_path / ".00000.pt.1234.tmp").write_bytes(b"half")
    assert Saved(tmp_path, SETTINGS, resume=True).count() == 0
    assert names(tmp_path) == ["settings.json"]


def test_fingerprint_is_of_names_and_values():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    first = fingerprint(model)
    assert len(first) == 64 and fingerprint(model) == first
    model[1].running_mean[0] += 1e-6
    assert fingerprint(model) != first
    model[1].running_mean[0] = 0
    assert fingerprint(model) == first
    assert fingerprint(nn.Sequential(nn.Identity(), *model)) != first  # other names


def test_an_evaluation_takes_a_split_and_a_network_that_is_wrapped(noise):
    net, data, spec = noise
    with pytest.raises(InputError, match="data is a int; expected"):
        evaluate(net, 7, spec, PROTOCOL)
    with pytest.raises(InputError, match="wrap the model first"):
        evaluate(nn.Flatten(), data, spec, PROTOCOL)
