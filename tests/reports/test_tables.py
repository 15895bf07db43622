"""report: the numbers of the tables, and pictures that are whole or not there."""

from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from results import RECORDS

from citrus_lirpa.data.datasets import DATASETS
from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.reports import tables as report


def is_png(path) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return picture.format == "PNG" and min(picture.size) > 100


# -- tables -------------------------------------------------------------------------


def test_epoch_line():
    assert report.epoch_line(RECORDS[1]) == (
        "epoch 2: ε 0.1000, loss 1.062, training accuracy 87.65 %, boxes certified 50.00 %, 0.1 s"
    )
    assert report.epoch_line(RECORDS[0]) == (
        "epoch 1: ε 0.0000, loss 2.250, training accuracy 12.50 %, boxes certified -, 0.1 s"
    )  # these are of a version that knew no κ
    for kappa, said in ((None, "-, 0.1 s"), (0, "-, κ ≥ 0, 0.1 s"), (7, "-, κ ≥ 7, 0.1 s")):
        assert report.epoch_line({**RECORDS[0], "kappa": kappa}).endswith(f"certified {said}")


def test_evaluation_table(evaluation):
    head, *rows = report.evaluation_table(evaluation).splitlines()
    assert head == "8 test images, ε = 0.1, groups of 5, not clipped, 13.0 s"
    assert [" ".join(row.split()) for row in rows] == [
        "standard accuracy 75.00 %",
        "certified by ibp 12.50 % 0.2 s",
        "certified by crown-ibp 37.50 % 12.3 s, 2 images did not fit into memory",
        "UCert (certified average UAP accuracy) 50.00 % lower bound, proved; group stage 3.0 s",
        "UAP accuracy under attack 50.00 % upper bound; 0 images between the two",
    ]
    assert len({row.index("%") for row in rows}) == 1  # one column
    assert rows[0] == rows[0].rstrip()
    protocol = replace(evaluation.protocol, clip=(0.0, 1.0), group_size=4)
    clipped = report.evaluation_table(replace(evaluation, protocol=protocol))
    assert "groups of 4, clipped to [0, 1]" in clipped and "not clipped" not in clipped
    wide = replace(evaluation.uap, lower=torch.tensor([1, 0]))
    assert "upper bound; 3 images between" in report.evaluation_table(replace(evaluation, uap=wide))


def test_evaluation_table_names_the_stages_that_are_not_possible(evaluation):
    certificates = replace(evaluation.certificates, unsupported={"crown-ibp": "it has BoundTanh"})
    table = report.evaluation_table(replace(evaluation, certificates=certificates))
    (row,) = [line for line in table.splitlines() if line.startswith("certified by crown-ibp")]
    assert row.split("%")[1].strip().startswith("not possible: it has BoundTanh")


# -- pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1]])
def test_curves(tmp_path, records):
    path = tmp_path / "new" / "curves.png"
    assert report.plot_curves(records, path) == path
    assert is_png(path) and [p.name for p in path.parent.iterdir()] == ["curves.png"]


def test_curves_show_the_records(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "_write", lambda figure, path: drawn.append(figure))
    report.plot_curves(RECORDS, tmp_path / "curves.png")
    lines = {
        line.get_label(): list(map(tuple, line.get_xydata()))
        for axes in drawn[0].axes
        for line in axes.get_lines()
    }
    assert lines == {
        "loss": [(1, 2.25), (2, 1.0625)],
        "ε": [(1, 0.0), (2, 0.1)],
        "clean accuracy": [(1, 12.5), (2, 87.654)],
        "boxes certified": [(2, 50.0)],  # nothing was bounded in the first epoch
    }


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_uap_picture(tmp_path, evaluation, name):
    spec = DATASETS[name]
    coloured = replace(
        evaluation, x=torch.rand(8, *spec.shape), strongest=torch.full(spec.shape, -0.1)
    )
    path = tmp_path / "uap.png"
    assert report.plot_uap(coloured, spec, path) == path and is_png(path)


def test_uap_picture_shows_what_was_broken(tmp_path, monkeypatch, evaluation):
    drawn = []
    monkeypatch.setattr(report, "_write", lambda figure, path: drawn.append(figure))
    report.plot_uap(evaluation, DATASETS["digits"], tmp_path / "uap.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ["u, |u| ≤ 0.1", "2", "3", "", "with u: 9", "with u: 9"]
    assert "breaks 33.3% of 6 correct images" in drawn[0].get_suptitle()
    shown = drawn[0].axes[4].get_images()[0].get_array()
    assert torch.allclose(torch.tensor(shown), (evaluation.x[2, 0] + 0.1).clamp(0, 1))


def bars(axes) -> list[tuple[float, float]]:
    """(left end, width) of every bar, from left to right."""
    return [(patch.get_x(), patch.get_width()) for patch in axes.patches]


def test_stages_picture(tmp_path, evaluation):
    path = tmp_path / "new" / "stages.png"
    assert report.plot_stages(evaluation, path) == path
    assert is_png(path) and [p.name for p in path.parent.iterdir()] == ["stages.png"]


def test_stages_picture_shows_shares_and_times(tmp_path, monkeypatch, evaluation):
    drawn = []
    monkeypatch.setattr(report, "_write", lambda figure, path: drawn.append(figure))
    report.plot_stages(evaluation, tmp_path / "stages.png")
    images, seconds = drawn[0].axes
    labels = [text.get_text() for text in images.get_legend().get_texts()]
    assert labels == ["ibp 12.5", "crown-ibp 25", "group stage 12.5", "broken 25", "wrong 25"]
    assert bars(images) == [(0, 12.5), (12.5, 25), (37.5, 12.5), (50, 25), (75, 25)]
    assert images.get_xlim() == (0, 100) and images.get_xlabel() == "% of images"
    labels = [text.get_text() for text in seconds.get_legend().get_texts()]
    assert labels == ["attack 0.5", "ibp 0.25", "crown-ibp 12.3", "group attack 2", "group stage 1"]
    widths = [width for _, width in bars(seconds)]
    assert widths == pytest.approx([0.5, 0.25, 12.34, 2, 1])
    assert seconds.get_xlim() == pytest.approx((0, 16.09))
    for axes in (images, seconds):  # each bar begins where the one before it ends
        ends = [left + width for left, width in bars(axes)]
        assert [left for left, _ in bars(axes)][1:] == pytest.approx(ends[:-1])
        colours = [patch.get_facecolor() for patch in axes.patches]
        assert len(set(colours)) == len(colours)
    both = [axes.patches[labels].get_facecolor() for axes, labels in ((images, 0), (seconds, 1))]
    assert both[0] == both[1]  # a stage has one colour
    title = drawn[0].get_suptitle()
    assert title == "UCert 50.00 %, under attack 50.00 %, ε = 0.1"


def test_nothing_broken_is_no_picture(tmp_path, evaluation):
    path = tmp_path / "uap.png"
    path.write_bytes(b"of an earlier evaluation")
    harmless = replace(evaluation, predictions=(evaluation.y, evaluation.y))
    assert report.plot_uap(harmless, DATASETS["digits"], path) is None
    assert not path.exists()


def test_failing_to_draw_keeps_the_earlier_picture(tmp_path, monkeypatch):
    def savefig(self, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "curves.png"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(CheckpointError, match="disk full.*earlier file is kept"):
        report.plot_curves(RECORDS, path)
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]
