"""Charts and pictures: they show the numbers, and files are whole or not there."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import is_png
from matplotlib.figure import Figure
from results import RECORDS
from torch import nn

from citrus_lirpa import BoundedNet, Protocol, evaluate
from citrus_lirpa.data.datasets import DATASETS
from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.reports import palette, pictures, plots

DIGITS = DATASETS["digits"]


# -- what they show -----------------------------------------------------------------


def test_curves_show_the_records():
    figure = Figure()
    plots.draw_curves(RECORDS, figure.subplots(1, 2))
    lines = {
        line.get_label(): list(map(tuple, line.get_xydata()))
        for axes in figure.axes
        for line in axes.get_lines()
    }
    assert lines == {
        "loss": [(1, 2.25), (2, 1.0625)],
        "ε": [(1, 0.0), (2, 0.1)],
        "clean accuracy": [(1, 12.5), (2, 87.654)],
        "boxes certified": [(2, 50.0)],  # nothing was bounded in the first epoch
    }


def test_a_single_epoch_is_a_dot_at_a_whole_number():
    figure = Figure()
    loss, shares = plots.draw_curves(
        [{"epoch": 1, "eps": 0.0, "loss": 0.0, "accuracy": None}], figure.subplots(1, 2)
    )
    assert loss.get_lines()[0].get_marker() == "o"
    assert shares.get_lines() == [] and not shares.get_visible()  # as of a denoiser
    figure.draw_without_rendering()
    assert loss.get_position().width > 0.6  # the room of both
    left, right = loss.get_xlim()
    assert [x for x in loss.get_xticks() if left <= x <= right] == [1]


def test_strongest_shows_what_was_broken(evaluation):
    figure = plots.draw_strongest(evaluation, DIGITS, Figure())
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["u, |u| ≤ 0.1", "2", "3", "", "with u: 9", "with u: 9"]
    assert "breaks 33.33 % of 6 correct images" in figure.get_suptitle()
    for axes in figure.axes:  # white pixels at an edge are told from the paper
        framed = axes.axison and all(spine.get_visible() for spine in axes.spines.values())
        assert framed == bool(axes.get_images())
    shown = figure.axes[4].get_images()[0].get_array()
    assert torch.allclose(torch.tensor(shown), (evaluation.x[2, 0] + 0.1).clamp(0, 1))


def test_perturbations_are_shown_from_black_to_white():
    u = torch.tensor([-0.1, 0.0, 0.1])
    assert plots.as_pixels(u, 0.1).tolist() == pytest.approx([0, 0.5, 1])
    assert plots.as_pixels(0 * u.numpy(), 0.0).tolist() == [0.5, 0.5, 0.5]


def bars(axes) -> list[tuple[float, float]]:
    """(left end, width) of every bar, from left to right."""
    return [(patch.get_x(), patch.get_width()) for patch in axes.patches]


def test_stages_show_shares_and_times(evaluation):
    images, seconds = plots.draw_stages(evaluation, Figure().subplots(2, 1))
    labels = [text.get_text() for text in images.get_legend().get_texts()]
    assert labels == [
        "ibp 12.5 %",
        "crown-ibp 25 %",
        "group stage 12.5 %",
        "broken 25 %",
        "wrong 25 %",
    ]
    assert bars(images) == [(0, 12.5), (12.5, 25), (37.5, 12.5), (50, 25), (75, 25)]
    assert images.get_xlim() == (0, 100) and images.get_xlabel() == "% of images"
    labels = [text.get_text() for text in seconds.get_legend().get_texts()]
    assert labels == [
        "attack 0.5 s",
        "ibp 0.25 s",
        "crown-ibp 12.3 s",
        "group attack 2 s",
        "group stage 1 s",
    ]
    widths = [width for _, width in bars(seconds)]
    assert widths == pytest.approx([0.5, 0.25, 12.34, 2, 1])
    assert seconds.get_xlim() == pytest.approx((0, 16.09))
    for axes in (images, seconds):  # each bar begins where the one before it ends
        ends = [left + width for left, width in bars(axes)]
        assert [left for left, _ in bars(axes)][1:] == pytest.approx(ends[:-1])
        colours = [patch.get_facecolor() for patch in axes.patches]
        assert len(set(colours)) == len(colours)
    both = [axes.patches[place].get_facecolor() for axes, place in ((images, 0), (seconds, 1))]
    assert both[0] == both[1]  # a stage has one colour


# -- files --------------------------------------------------------------------------


def test_pictures_are_written_whole(tmp_path, evaluation):
    folder = tmp_path / "new"
    spec = DATASETS["cifar10"]
    coloured = replace(
        evaluation, x=torch.rand(8, *spec.shape), strongest=torch.full(spec.shape, -0.1)
    )
    written = [
        pictures.plot_curves(RECORDS, folder / "curves.png"),
        pictures.plot_stages(evaluation, folder / "stages.png"),
        pictures.plot_uap(evaluation, DIGITS, folder / "uap.png"),
        pictures.plot_uap(coloured, spec, folder / "coloured.png"),
    ]
    assert all(map(is_png, written)) and sorted(folder.iterdir()) == sorted(written)


def test_nothing_broken_is_no_picture(tmp_path, evaluation):
    path = tmp_path / "uap.png"
    path.write_bytes(b"of an earlier evaluation")
    harmless = replace(evaluation, predictions=(evaluation.y, evaluation.y))
    assert pictures.plot_uap(harmless, DIGITS, path) is None
    assert not path.exists()


def test_failing_to_draw_keeps_the_earlier_picture(tmp_path, monkeypatch):
    def savefig(self, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "curves.png"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(CheckpointError, match="disk full.*earlier file is kept"):
        pictures.plot_curves(RECORDS, path)
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]


def test_pictures_and_pages_have_one_palette():
    sheet = Path(palette.__file__).with_name("page") / "style.css"
    light = sheet.read_text("utf-8").split("@media")[0]
    assert dict(re.findall(r"--(\w+): (#\w{6})", light)).items() >= palette.COLOURS.items()


def test_perturbations_of_tables_are_drawn_as_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
    x = torch.rand(6, 1, 1, 20)
    net, y = BoundedNet(model.eval(), x), model(x).argmax(1)
    protocol = Protocol(eps=0.9, group_size=3, method="ibp", relational="none")
    spec = replace(DIGITS, shape=(1, 1, 20), class_names=("no", "yes"))
    figure = plots.draw_strongest(evaluate(net, (x, y), spec, protocol), spec, Figure())
    assert figure.axes[0].images[0].get_array().shape == (1, 20)
