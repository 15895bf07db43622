"""The words and numbers that reports print."""

from dataclasses import replace

import pytest
import torch
from results import RECORDS

from citrus_lirpa.attacks import UapResult
from citrus_lirpa.data.datasets import DATASETS
from citrus_lirpa.reports import tables


@pytest.mark.parametrize(
    "eps, text",
    [(2 / 255, "2/255"), (0.00784313725, "2/255"), (0.1, "0.1"), (0.2, "0.2"), (0.0125, "0.0125"),
     (0.123456, "0.1235"), (0.0, "0")],
)  # fmt: skip
def test_radius(eps, text):
    assert tables.radius(eps) == text


def test_columns_are_aligned_and_markdown_is_escaped():
    rows = [("name", "size"), ("a|b", "5"), ("c", "")]
    assert tables.table(rows, ("<", ">6")).splitlines() == [
        "name    size", "a|b        5", "c"
    ]  # fmt: skip
    assert tables.table(rows, ("<", ">6"), "markdown").splitlines() == [
        "| name | size |", "|---|--:|", r"| a\|b | 5 |", "| c |  |"
    ]  # fmt: skip


def test_epoch_line():
    assert tables.epoch_line(RECORDS[1]) == (
        "epoch 2: ε 0.1000, loss 1.062, training accuracy 87.65 %, boxes certified 50.00 %, 0.1 s"
    )
    assert tables.epoch_line(RECORDS[0]) == (
        "epoch 1: ε 0.0000, loss 2.250, training accuracy 12.50 %, boxes certified -, 0.1 s"
    )  # these are of a version that knew no κ
    for kappa, said in ((None, "-, 0.1 s"), (0, "-, κ ≥ 0, 0.1 s"), (7, "-, κ ≥ 7, 0.1 s")):
        assert tables.epoch_line({**RECORDS[0], "kappa": kappa}).endswith(f"certified {said}")
    denoised = {**RECORDS[0], "accuracy": None, "certified": None}
    assert tables.epoch_line(denoised) == "epoch 1: ε 0.0000, loss 2.250, 0.1 s"


def test_evaluation_table(evaluation):
    head, *rows = tables.evaluation_table(evaluation).splitlines()
    assert head == "8 test images, ε = 0.1, groups of 5, not clipped, 13.0 s"
    assert [" ".join(row.split()) for row in rows] == [
        "standard accuracy 75.00 %",
        "certified by ibp 12.50 % 0.2 s",
        "certified by crown-ibp 37.50 % 12.3 s, 2 images did not fit into memory, "
        "1 image left open for lack of time",
        "UCert (certified average UAP accuracy) 50.00 % lower bound, proved; groups took 3.0 s",
        "UAP accuracy under attack 50.00 % upper bound; 0 images between the two",
    ]
    assert len({row.index("%") for row in rows}) == 1  # one column
    assert rows[0] == rows[0].rstrip()
    protocol = replace(evaluation.protocol, clip=(0.0, 1.0), group_size=4)
    clipped = tables.evaluation_table(replace(evaluation, protocol=protocol))
    assert "groups of 4, clipped to [0, 1]" in clipped and "not clipped" not in clipped
    for lower, left in (([1, 0], "3 images"), ([2, 1], "1 image")):
        wide = replace(evaluation.uap, lower=torch.tensor(lower))
        table = tables.evaluation_table(replace(evaluation, uap=wide))
        assert f"; {left} between the two" in table


def test_evaluation_table_names_the_stages_that_are_not_possible(evaluation):
    certificates = replace(evaluation.certificates, unsupported={"crown-ibp": "it has BoundTanh"})
    table = tables.evaluation_table(replace(evaluation, certificates=certificates))
    (row,) = [line for line in table.splitlines() if line.startswith("certified by crown-ibp")]
    assert row.split("%")[1].strip().startswith("not possible: it has BoundTanh")


def test_uap_table():
    y = torch.tensor([0, 0, 1, 1])
    clean, moved = torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 1, 0])
    spec = replace(DATASETS["digits"], class_names=("zero", "one"))
    result = UapResult(torch.zeros(1, 1, 8, 8), y, clean, moved)
    assert tables.uap_table(result, 2 / 255, (0.0, 1.0), spec).splitlines() == [
        "4 test images, ε = 2/255, one perturbation, clipped to [0, 1]",
        "class    images     clean    with u    fooled",
        "all           4   75.00 %   50.00 %   33.33 %",
    ]
    result = UapResult(torch.zeros(2, 1, 8, 8), y, clean, moved)
    head, *_, zero, one = tables.uap_table(result, 0.1, None, spec).splitlines()
    assert head == "4 test images, ε = 0.1, one perturbation a class, not clipped"
    assert zero.split() == ["zero", "2", "100.00", "%", "50.00", "%", "50.00", "%"]
    assert one.split() == ["one", "2", "50.00", "%", "50.00", "%", "0.00", "%"]
