"""What a notebook shows: readable reprs, data frames, plots on Axes, progress bars."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from results import RECORDS

from citrus_lirpa import (
    BoundedNet,
    Box,
    Citrus,
    CrownIbp,
    Groups,
    History,
    LossTerms,
    Sabr,
    UapResult,
)
from citrus_lirpa.data.datasets import DATASETS
from citrus_lirpa.errors import DependencyError, InputError
from citrus_lirpa.losses import LOSSES
from citrus_lirpa.reports import pareto, plots
from citrus_lirpa.reports.compare import Run, Setting

DIGITS = DATASETS["digits"]
TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial.ipynb"


@pytest.fixture
def uap() -> UapResult:
    y = torch.arange(4)
    return UapResult(torch.full((1, 1, 8, 8), 0.1), y, y, torch.tensor([0, 7, 2, 8]))


@pytest.fixture(autouse=True)
def figures_closed():
    yield
    pyplot.close("all")


# -- reprs --------------------------------------------------------------------------


def test_repr_of_a_box():
    box = Box.around(torch.tensor([[0.05, 0.5], [0.5, 0.5]]), 0.1)
    assert repr(box) == "Box((2, 2), radius 0.075 to 0.1)"
    assert repr(box.rows(slice(1, 2))) == "Box((1, 2), radius 0.1)"
    assert repr(box.rows(slice(0, 0))) == "Box(lower (0, 2), upper (0, 2))"
    assert repr(Box(torch.zeros(2), torch.zeros(3))) == "Box(lower (2,), upper (3,))"
    assert "radius" in repr(Box(box.lower.requires_grad_(), box.upper))


def test_repr_of_a_net():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(),
                                torch.nn.Linear(3, 2))  # fmt: skip
    net = BoundedNet(model, torch.zeros(2, 1, 2, 2))
    start = "BoundedNet((1, 2, 2) -> 2 classes, 1 ReLU layer, 23 parameters on cpu, "
    assert repr(net) == start + "train mode)"
    assert repr(net.eval()) == start + "eval mode)"


def test_reprs_of_results(evaluation, uap):
    assert repr(evaluation) == (
        "Evaluation(8 images, ε = 0.1, groups of 5: standard 75.00 %, certified alone 37.50 %, "
        "UCert 50.00 %, under attack 50.00 %)"
    )
    assert repr(evaluation.certificates) == (
        "Certificates(3 of 8 inputs certified; ibp 1, crown-ibp 2, attacked 1, undecided 2, "
        "wrong 2)"
    )
    assert repr(evaluation.uap) == (
        "UapBounds(2 groups, 8 inputs: UCert 50.00 %, under attack 50.00 %)"
    )
    assert repr(uap) == (
        "UapResult(one perturbation of (1, 8, 8), 4 images: 4 correct, 2 of them broken, "
        "fooling rate 50.00 %)"
    )


def test_repr_of_a_history():
    assert repr(History()) == "History(no epochs)"
    assert repr(History(RECORDS[:1])) == (
        "History(1 epoch; the last: ε = 0, loss 2.25, accuracy 12.50 %)"
    )
    assert repr(History(RECORDS)) == (
        "History(2 epochs; the last: ε = 0.1, loss 1.062, accuracy 87.65 %, certified 50.00 %)"
    )


def test_repr_of_loss_terms():
    box = Box(torch.zeros(4, 3), torch.ones(4, 3))
    terms = LossTerms(torch.tensor(1.5), torch.zeros(2, 3), box)
    assert repr(terms) == "LossTerms(total 1.5, 2 inputs, 4 boxes)"
    margins = torch.tensor([[1.0], [-1.0], [1.0], [1.0]])
    terms = LossTerms(torch.tensor(1.5), torch.zeros(2, 3), box, margins)
    assert repr(terms) == "LossTerms(total 1.5, 2 inputs, 4 boxes, 75.00 % certified)"


def test_reprs_of_losses_name_their_values():
    assert "tau_ratio=0.4" in repr(Citrus(0.4)) and "count=4" in repr(Citrus(0.4))
    assert "Groups(size=3" in repr(Citrus(0.4, pairing=Groups(3)))
    assert repr(CrownIbp(0.1)) == "CrownIbp(clip=(0.0, 1.0), max_eps=0.1)"
    assert "tau_ratio=0.7" in repr(Sabr(0.7)) and "steps=8" in repr(Sabr(0.7))


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_shows_an_address(name):
    options = {
        parameter.name: 0.5
        for parameter in inspect.signature(LOSSES[name]).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
    }
    loss = LOSSES[name](0.1, **options)
    assert repr(loss).startswith(f"{type(loss).__name__}(") and " at 0x" not in repr(loss)
    assert all(f"{option}=0.5" in repr(loss) for option in options)


# -- data frames --------------------------------------------------------------------


def test_frame_of_an_evaluation(evaluation):
    pytest.importorskip("pandas")
    evaluation.certificates.margin[7] = -torch.inf  # never bounded
    frame = evaluation.to_frame()
    assert list(frame.columns) == [
        "image", "group", "label", "predicted", "with_strongest",
        "correct", "attacked", "certified", "verdict", "margin", "seconds",
    ]  # fmt: skip
    assert frame["group"].tolist() == [0] * 5 + [1] * 3
    assert frame["verdict"].tolist() == evaluation.certificates.verdicts()
    assert frame.loc[2, "with_strongest"] == 9 and frame.loc[2, "label"] == 2
    assert frame["margin"].isna().tolist() == [False] * 7 + [True]
    assert frame["certified"].sum() == 3 and frame["certified"].dtype == bool
    groups = evaluation.uap.to_frame()
    assert groups["safe_at_least"].tolist() == [3, 1] and groups["size"].sum() == 8
    assert groups["stage"].tolist() == ["io", "single"]


def test_frame_of_a_history():
    pytest.importorskip("pandas")
    frame = History(RECORDS).to_frame()
    assert list(frame.columns) == list(RECORDS[0])
    assert frame["loss"].tolist() == [2.25, 1.0625]
    assert frame["certified"].isna().tolist() == [True, False]
    assert len(History().to_frame()) == 0


def test_frame_of_an_attack(uap):
    pytest.importorskip("pandas")
    frame = uap.to_frame()
    assert frame["broken"].tolist() == [False, True, False, True]
    assert frame["moved"].tolist() == [0, 7, 2, 8]


def test_without_pandas_the_error_says_what_to_do(monkeypatch, uap):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyError, match="pip install pandas"):
        uap.to_frame()


# -- plots --------------------------------------------------------------------------


def test_new_axes_are_those_of_pyplot(evaluation, uap):
    left, right = plots.draw_curves(History(RECORDS))
    assert left.figure is right.figure is pyplot.gcf()  # which a notebook shows
    top, bottom = plots.draw_stages(evaluation)
    assert top.figure is bottom.figure is pyplot.gcf() is not left.figure
    assert plots.draw_strongest(evaluation, DIGITS) is pyplot.gcf()
    assert plots.draw_uap(uap, torch.rand(4, 1, 8, 8), 0.1, None, DIGITS) is pyplot.gcf()


def test_given_axes_are_drawn_on(evaluation):
    axes = Figure().subplots(2, 2).flatten()
    assert plots.draw_curves(RECORDS, axes[:2]) == (axes[0], axes[1])
    assert plots.draw_stages(evaluation, axes[2:]) == (axes[2], axes[3])
    assert [len(panel.patches) for panel in axes] == [0, 0, 5, 5]
    assert len(axes[1].get_lines()) == 2
    assert pyplot.get_fignums() == []  # no global state is touched


def test_given_figures_are_drawn_on(evaluation, uap):
    figure = Figure()
    assert plots.draw_strongest(evaluation, DIGITS, figure) is figure and len(figure.axes) == 6
    figure = Figure()
    x = torch.rand(4, 1, 8, 8)
    assert plots.draw_uap(uap, x, 0.1, None, DIGITS, figure) is figure
    assert [a.get_title() for a in figure.axes[:3]] == ["u, |u| ≤ 0.1", "1", "3"]


def test_compared_runs_on_new_and_given_figures():
    setting = Setting("digits", 0.1, 100, 5, None)
    shared = dict(source="-", setting=setting, training_seconds=1.0, stage="bab")
    shared |= dict(relational="cross", time_limit=1.0, certified_accuracy=0.5)
    runs = [
        Run(f"run{i}", method, **shared, standard_accuracy=0.9 - i / 10,
            certified_uap_accuracy=0.6 + i / 10, attacked_uap_accuracy=0.8)
        for i, method in enumerate(("CITRUS", "IBP"))
    ]  # fmt: skip
    figure = Figure()
    assert pareto.draw_pareto(runs, figure) is figure and pyplot.get_fignums() == []
    assert pareto.draw_pareto(runs) is pyplot.gcf()
    places = [
        [text.get_position() for text in drawn.axes[0].texts] for drawn in (figure, pyplot.gcf())
    ]
    assert places[0] == places[1] and len(places[0]) >= 2  # labels are placed alike


def test_what_cannot_be_drawn_is_refused(uap):
    with pytest.raises(InputError, match="no epoch to draw"):
        plots.draw_curves(History())
    with pytest.raises(InputError, match="1 Axes are given; expected two"):
        plots.draw_curves(RECORDS, [Figure().subplots()])
    harmless = UapResult(uap.u, uap.y, uap.clean, uap.clean)
    assert plots.draw_uap(harmless, torch.rand(4, 1, 8, 8), 0.1, None, DIGITS) is None


# -- the tutorial -------------------------------------------------------------------

EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient

book = nbformat.read(sys.argv[1], 4)
for cell in book.cells:  # training in a quarter of the time, and fewer images
    source = cell.source.replace('"citrus", epochs=40', '"citrus", epochs=10')
    source = source.replace('"ce", epochs=20', '"ce", epochs=5')
    cell.source = source.replace('limit=200', 'limit=60')
where = {"metadata": {"path": sys.argv[2]}}
NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
nbformat.write(book, sys.argv[3])
"""


def test_tutorial_notebook_runs(tmp_path):
    for package in ("nbclient", "ipykernel", "ipywidgets", "pandas"):
        pytest.importorskip(package)
    import nbformat

    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, TUTORIAL, tmp_path, tmp_path / "done.ipynb"],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "PYTHONPATH": str(TUTORIAL.parents[1])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = [cell for cell in nbformat.read(tmp_path / "done.ipynb", 4).cells if "outputs" in cell]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    kinds = [kind for o in outputs for kind in o.get("data", {})]
    assert kinds.count("image/png") == 4  # one picture for each cell that draws
    assert kinds.count("application/vnd.jupyter.widget-view+json") == 3  # progress bars
    assert kinds.count("text/html") >= 4  # frames
    texts = [o.data["text/plain"] for o in outputs if o.output_type == "execute_result"]
    (history, plain, *_) = texts
    assert history.startswith("History(5 epochs") and "fooling rate" in plain
    (result,) = [text for text in texts if text.startswith("Evaluation(")]
    proved, attacked = map(float, re.findall(r"(?:UCert|attack) ([\d.]+) %", result))
    assert 20 < proved <= attacked


def test_tutorial_notebook_is_kept_with_its_outputs():
    """Readers on the web see them; bars and paths of the machine that made them are left out."""
    text = TUTORIAL.read_text("utf-8")
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    kinds = [kind for c in code for o in c["outputs"] for kind in o.get("data", {})]
    assert kinds.count("image/png") == 4 and kinds.count("text/html") >= 4
    assert "widget" not in text and "stderr" not in text and "/tmp" not in text
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
