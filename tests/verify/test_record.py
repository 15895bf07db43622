"""record: what eval-METHOD.json holds comes back as it was written, in this version or earlier."""

import json
from pathlib import Path

import pytest
from results import made_up_evaluation

from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.training import zoo
from citrus_lirpa.verify import EvaluationRecord

FILE = Path("eval-bab.json")


def made() -> EvaluationRecord:
    return made_up_evaluation().as_record(
        run="r", data="digits", weights="w", imported=0, identity="i"
    )


def test_the_file_has_its_entries_in_order():
    values = made().to_json()
    assert list(values) == [
        "run", "data", "images", "eps", "method", "relational", "group_size", "time_limit",
        "solver", "clip", "batch_size", "seed", "held_out", "standard_accuracy",
        "certified_accuracy", "accuracy_under_single_attacks", "uap_accuracy",
        "strongest_fooling_rate", "seconds", "shares", "not_fitting", "late", "unsupported",
        "verdicts", "image_seconds", "groups", "weights", "imported", "identity",
    ]  # fmt: skip
    assert values["uap_accuracy"] == {"certified": 0.5, "attacked": 0.5, "gap": 0.0}
    assert values["groups"] == {
        "safe_at_least": [3, 1], "safe_at_most": [3, 1], "stage": ["io", "single"],
        "seconds": [1.0, 0.0],
    }  # fmt: skip
    alone = made_up_evaluation().record()
    assert alone == {key: values[key] for key in values if key in alone}
    assert values.keys() - alone.keys() == {"run", "data", "weights", "imported", "identity"}


def test_a_record_comes_back():
    values = json.loads(json.dumps(made().to_json(), allow_nan=False))
    assert EvaluationRecord.from_json(values, FILE, "") == made()


@pytest.mark.parametrize("name", zoo.names())
def test_records_of_the_zoo_come_back(name):
    values = zoo.evaluation(name)
    record = EvaluationRecord.from_json(values, FILE, "")
    assert record.groups is None and record.verdicts is None
    assert record.to_json() == {"held_out": False, **values}  # earlier versions did not write it


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"group_size": 9}, "group_size is 9, of 8 images"),
        ({"images": 80}, "groups.safe_at_least has 2 entries; expected 16"),
        ({"groups": {"stage": []}}, "groups.safe_at_least is missing"),
        ({"verdicts": "bab"}, "verdicts is 'bab'; expected a list"),
        ({"held_out": 1}, "held_out is 1; expected true or false"),
        ({"images": True}, "images is True; expected a whole number"),
        ({"eps": "2/255"}, "eps is '2/255'; expected a number"),
        ({"clip": [0]}, "clip.1 is missing"),
        ({"shares": {"ibp": "many"}}, "shares.ibp is 'many'; expected a whole number"),
        ({"seconds": {"ibp": None}}, "seconds.ibp is None; expected a number"),
        ({"certified_accuracy": {}}, "certified_accuracy is {}; expected more entries"),
        ({"certified_accuracy": {"a": None}}, "certified_accuracy.a is None; expected a number"),
        ({"uap_accuracy": 0.5}, "uap_accuracy is 0.5; expected a table"),
        ({"uap_accuracy": {"certified": 0.5}}, "uap_accuracy.attacked is missing"),
        ({"accuracy_under_single_attacks": "x"}, "accuracy_under_single_attacks is 'x'"),
    ],
)
def test_records_that_are_refused(changes, problem):
    with pytest.raises(CheckpointError) as caught:
        EvaluationRecord.from_json(made().to_json() | changes, FILE, "evaluate again")
    line = str(caught.value)
    assert line.startswith(f"{FILE}: {problem}") and line.endswith("; evaluate again")


@pytest.mark.parametrize(
    "key", ["data", "images", "eps", "method", "relational", "group_size", "time_limit", "clip",
            "standard_accuracy", "certified_accuracy", "uap_accuracy"]
)  # fmt: skip
def test_what_every_version_wrote_must_be_there(key):
    values = made().to_json()
    del values[key]
    with pytest.raises(CheckpointError, match=f"{key} is missing; evaluate again"):
        EvaluationRecord.from_json(values, FILE, "evaluate again")
