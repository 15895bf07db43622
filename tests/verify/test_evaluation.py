"""The evaluation of a network on a test set: its record, batches and strongest perturbation."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from networks import CLASSES, attack_quickly, without_dual_engine

from citrus_lirpa import certify
from citrus_lirpa.data.types import DatasetSpec, Split
from citrus_lirpa.errors import InputError, SoundnessError
from citrus_lirpa.verify import STAGES, Protocol, evaluate

SETTLED = ("undecided", "broken", "wrong")


def data_of(net, count):
    """6x6 images of which the middle 4x4 pixels count, a third of the labels wrong."""
    pixels = torch.randint(-255, 511, (count, 1, 6, 6)).clamp(0, 255).byte()
    y = net(pixels[:, :, 1:5, 1:5] / 255).argmax(1)
    y[::3] = (y[::3] + 1) % CLASSES
    return Split(pixels, y), DatasetSpec(
        name="noise", shape=(1, 4, 4), class_names=("a", "b", "c"), loader=lambda *_: None
    )


@pytest.mark.parametrize("engine", [True, False])
def test_the_record_is_json_and_says_what_was_found(deep, engine):
    if not engine:
        without_dual_engine(deep)
    data, spec = data_of(deep, 20)
    deep.train()
    protocol = Protocol(eps=0.06, group_size=4, limit=14, batch_size=5, time_limit=60)
    result = evaluate(deep, data, spec, protocol)
    assert deep.training and result.protocol is protocol
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    x, y = data.images[:14, :, 1:5, 1:5] / 255, data.labels[:14]
    assert torch.equal(result.x, x) and torch.equal(result.y, y)
    correct = deep(x).argmax(1) == y
    assert record["standard_accuracy"] == pytest.approx(int(correct.sum()) / 14)
    settings = {"images": 14, "eps": 0.06, "method": "bab", "relational": "cross",
                "group_size": 4, "time_limit": 60, "batch_size": 5, "seed": 0,
                "clip": None}  # fmt: skip
    assert settings.items() <= record.items() and "limit" not in record

    verdicts = record["verdicts"]
    assert len(verdicts) == 14 and set(verdicts) <= {*STAGES, "attacked", "undecided", "wrong"}
    assert [v == "wrong" for v in verdicts] == (~correct).tolist()
    for i, stage in enumerate(STAGES):
        proved = sum(v in STAGES[: i + 1] for v in verdicts)
        assert record["certified_accuracy"][stage] == pytest.approx(proved / 14)
    shares = list(record["certified_accuracy"].values())
    assert shares == sorted(shares) and 0 < shares[-1] < record["standard_accuracy"]
    attacked = verdicts.count("attacked")
    under = record["standard_accuracy"] - attacked / 14
    assert attacked and record["accuracy_under_single_attacks"] == pytest.approx(under)

    groups, uap = record["groups"], record["uap_accuracy"]
    assert [len(values) for values in groups.values()] == [4] * 4
    safe = sum(groups["safe_at_least"]), sum(groups["safe_at_most"])
    assert uap["certified"] == pytest.approx(safe[0] / 14)
    assert uap["attacked"] == pytest.approx(safe[1] / 14)
    assert uap["gap"] == pytest.approx(uap["attacked"] - uap["certified"])
    assert shares[-1] <= uap["certified"] <= uap["attacked"] <= record["standard_accuracy"]
    assert (uap["gap"] == pytest.approx(0)) == engine  # without it images stay undecided
    assert record["not_fitting"] == dict.fromkeys(STAGES, 0)
    assert record["unsupported"] == ({} if engine else {"bab": "no dual engine"})

    settled = record["shares"]
    assert list(settled) == [*STAGES, "group stage", *SETTLED]
    assert sum(settled.values()) == 14 and min(settled.values()) >= 0
    assert all(settled[stage] == verdicts.count(stage) for stage in STAGES)
    assert settled["wrong"] == verdicts.count("wrong")
    assert settled["group stage"] == safe[0] - sum(v in STAGES for v in verdicts)
    assert settled["undecided"] == safe[1] - safe[0]
    assert settled["broken"] == int(correct.sum()) - safe[1]

    seconds = record["seconds"]
    assert set(seconds) == {"attack", *STAGES, "group attack", "group stage", "total"}
    assert sum(seconds.values()) - seconds["total"] <= seconds["total"]
    assert len(record["image_seconds"]) == 14
    assert sum(record["image_seconds"]) <= seconds["total"] + 14 * 5e-5


def test_shares_add_up_whatever_was_found(deep, monkeypatch):
    attack_quickly(monkeypatch)
    data, spec = data_of(deep, 12)
    for method, relational, eps in (("ibp", "none", 0.02), ("crown", "io", 0.1),
                                    ("bab", "cross", 0.15), ("ibp", "cross", 0.0)):  # fmt: skip
        protocol = Protocol(eps=eps, method=method, relational=relational, group_size=3)
        result = evaluate(deep, data, spec, protocol)
        shares = result.shares()
        assert sum(shares.values()) == 12 and min(shares.values()) >= 0
        assert list(shares) == [*STAGES[: STAGES.index(method) + 1], "group stage", *SETTLED]
        if relational == "none":
            assert shares["group stage"] == 0
        if eps == 0:
            assert (shares["ibp"], shares["wrong"]) == (8, 4)


def same(a, b):
    """What two evaluations found, without the times."""

    def plain(result):
        record = result.record()
        del record["seconds"], record["image_seconds"], record["groups"]["seconds"]
        return record

    assert plain(a) == plain(b)
    for name in ("lower", "upper", "size", "u", "broken"):
        assert torch.equal(getattr(a.uap, name), getattr(b.uap, name))
    assert torch.equal(a.certificates.margin, b.certificates.margin)
    assert torch.equal(a.strongest, b.strongest)
    return True


def test_an_evaluation_repeats_itself(deep):
    data, spec = data_of(deep, 17)
    protocol = Protocol(eps=0.06, method="crown", group_size=3, batch_size=7)
    first = evaluate(deep, data, spec, protocol)
    torch.manual_seed(77)
    assert same(first, evaluate(deep, data, spec, protocol))  # the seed is the protocol's
    other = evaluate(deep, data, spec, replace(protocol, seed=1))
    assert not torch.equal(other.uap.u, first.uap.u)


@pytest.mark.parametrize(
    ("count", "group_size", "batch_size", "sizes"),
    [
        (17, 3, 7, [6, 6, 5]),
        (16, 3, 7, [6, 6, 4]),
        (14, 3, 7, [6, 8]),  # a rest of two is no group: it goes with the batch before it
        (15, 3, 7, [6, 6, 3]),
        (10, 5, 3, [5, 5]),
        (6, 5, 256, [6]),
        (12, 2, 6, [6, 6]),
        (13, 2, 6, [6, 7]),
    ],
)
def test_batches_hold_whole_groups(monkeypatch, deep, count, group_size, batch_size, sizes):
    data, spec = data_of(deep, count)
    found = []

    def watched(net, x, *rest, **options):
        found.append(len(x))
        return certify(net, x, *rest, **options)

    monkeypatch.setattr(sys.modules["citrus_lirpa.verify.batches"], "certify", watched)
    attack_quickly(monkeypatch)
    protocol = Protocol(
        eps=0.02, method="ibp", relational="none", group_size=group_size, batch_size=batch_size
    )
    result = evaluate(deep, data, spec, protocol)
    assert found == sizes and sum(result.uap.size.tolist()) == count
    assert len(result.uap.size) == -(-count // group_size)
    assert torch.equal(result.certificates.correct, deep(result.x).argmax(1) == result.y)


def test_the_strongest_perturbation_is_the_best_of_the_groups(net):
    data, spec = data_of(net, 12)
    protocol = Protocol(eps=0.1, group_size=3, method="ibp", clip=(0.0, 1.0))
    result = evaluate(net, data, spec, protocol)
    x, y = result.x, result.y
    clean = net(x).argmax(1)
    rates = []
    for u in result.uap.u:
        moved = net((x + u).clamp(0, 1)).argmax(1)
        rates.append(int(((moved != y) & (clean == y)).sum()) / int((clean == y).sum()))
    assert result.fooling_rate == pytest.approx(max(rates))
    assert 0 < result.fooling_rate <= 1
    assert result.strongest.shape == (1, 4, 4)
    moved = net((x + result.strongest).clamp(0, 1)).argmax(1)
    assert torch.equal(result.predictions[0], clean)
    assert torch.equal(result.predictions[1], moved)
    assert result.record()["clip"] == [0.0, 1.0]


def test_imported_verdicts_of_some_batches(net):
    """Whatever batch they fall into, also where a batch has none, or only broken images."""
    data, spec = data_of(net, 12)
    protocol = Protocol(eps=0.0, method="ibp", group_size=2, batch_size=4)
    imported = {1: "attacked", 2: "undecided", 7: "certified", 9: "certified"}
    result = evaluate(net, data, spec, protocol, imported=imported)
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    assert result.certificates.methods == ("ibp", "imported")
    expected = ["wrong" if i % 3 == 0 else "ibp" for i in range(12)]
    expected[1], expected[7] = "attacked", "imported"  # 9 is misclassified
    assert record["verdicts"] == expected
    assert sum(record["shares"].values()) == 12 and record["shares"]["imported"] == 1
    assert "imported" not in evaluate(net, data, spec, protocol).record()["shares"]


def test_an_imported_proof_that_the_attack_refutes_stops_the_evaluation(net):
    data, spec = data_of(net, 12)
    protocol = Protocol(eps=0.5, method="ibp", group_size=2, batch_size=4)
    verdicts = evaluate(net, data, spec, protocol).record()["verdicts"]
    number = verdicts.index("attacked")
    with pytest.raises(SoundnessError, match="imported verdicts"):
        evaluate(net, data, spec, protocol, imported={number: "certified"})


@pytest.mark.parametrize("options", [{"eps": -1.0}, {"time_limit": -1.0}, {"time_limit": math.nan}])
def test_a_protocol_refuses_before_anything_is_done(options):
    """The other options stand with the tests of the command."""
    with pytest.raises(InputError, match="-1|nan"):
        Protocol(**{"eps": 0.1, **options})
