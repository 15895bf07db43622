"""compare: figures from files, tables, the Pareto front and its picture, one line a mistake."""

import csv
import json
import math
from pathlib import Path

import command_line
import pytest
from click.testing import CliRunner
from command_line import is_png
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from citrus_lirpa.cli import main
from citrus_lirpa.errors import InputError
from citrus_lirpa.losses import TRAINING_METHODS
from citrus_lirpa.reports import compare, compare_tables, pareto
from citrus_lirpa.reports.compare import Run, Setting
from citrus_lirpa.reports.palette import METHODS

EVALUATION = {
    "data": "cifar10", "images": 1000, "eps": 2 / 255, "method": "bab", "relational": "cross",
    "group_size": 5, "time_limit": 10.0, "clip": None, "standard_accuracy": 0.64,
    "certified_accuracy": {"ibp": 0.3, "crown-ibp": 0.4, "bab": 0.501},
    "uap_accuracy": {"certified": 0.528, "attacked": 0.531, "gap": 0.003},
}  # fmt: skip


EPOCH = {"epoch": 1, "eps": 0.1, "loss": 2.0, "accuracy": 0.5, "certified": None, "seconds": 90.0}


def evaluate(folder: Path, **changes) -> None:
    record = EVALUATION | changes
    (folder / f"eval-{record['method']}.json").write_text(json.dumps(record), "utf-8")


def make(folder: Path, loss: str = 'name = "citrus"', **changes) -> Path:
    """A run of two epochs of 90 and 45.3 seconds, with one evaluation."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f"[loss]\n{loss}\n", "utf-8")
    lines = [json.dumps(EPOCH), json.dumps(EPOCH | {"epoch": 2, "seconds": 45.3})]
    (folder / "metrics.jsonl").write_text("\n".join(lines), "utf-8")
    evaluate(folder, **changes)
    return folder


def ucert(certified: float, attacked: float) -> dict:
    return {"uap_accuracy": {"certified": certified, "attacked": attacked}}


@pytest.fixture
def three(tmp_path) -> list[Path]:
    """CITRUS, IBP, which is worse, and CE, which is accurate and hardly certified."""
    return [
        make(tmp_path / "plain", 'name = "ce"', standard_accuracy=0.8, **ucert(0.01, 0.2)),
        make(tmp_path / "ours"),
        make(tmp_path / "boxes", 'name = "ibp"', standard_accuracy=0.5, **ucert(0.4, 0.405)),
    ]


def run(*args) -> tuple[int, str]:
    """Exit status and everything printed."""
    return command_line.run("compare", *args)


# -- reading ------------------------------------------------------------------------


def test_a_run_is_read(tmp_path):
    (read,) = compare.read_runs([make(tmp_path / "ours", clip=[0.0, 1.0])])
    assert read == Run(
        run="ours", method="CITRUS", source="Xu & Singh 2024",
        setting=Setting("cifar10", 2 / 255, 1000, 5, (0.0, 1.0)),
        standard_accuracy=0.64, certified_accuracy=0.501, certified_uap_accuracy=0.528,
        attacked_uap_accuracy=0.531, training_seconds=pytest.approx(135.3),
        stage="bab", relational="cross", time_limit=10.0, seed=0,
        recipe='{"loss": {"name": "citrus"}}',
    )  # fmt: skip


def test_runs_may_be_named_by_strings_in_a_list(tmp_path):
    folder = make(tmp_path / "a")
    assert compare.read_runs([str(folder)]) == compare.read_runs([folder])
    with pytest.raises(InputError, match="folders is '.*a'; expected a list of run folders"):
        compare.read_runs(str(folder))


@pytest.mark.parametrize(
    "loss, method, source",
    [
        ('name = "citrus"\ninclude_self = true', "CITRUS+SI", "Xu & Singh 2024"),
        ('name = "citrus"\ninclude_self = false', "CITRUS", "Xu & Singh 2024"),
        ('name = "citrus"\nk = 2', "CITRUS", "Xu & Singh 2024"),
        ('name = "citrus"\ninclude_self = true\nk = 3', "CITRUS+SI, k = 3", "Xu & Singh 2024"),
        ('name = "ibp"\nmethod = "crown-ibp"', "CROWN-IBP", "Zhang et al. 2020"),
        ('name = "ibp"\nmethod = "ibp"', "IBP", "Shi et al. 2021"),
        ('name = "staps"', "STAPS", "Mao et al. 2023"),
        ('name = "my-own"', "my-own", "-"),
    ],
)
def test_methods_have_their_names_in_papers(tmp_path, loss, method, source):
    (read,) = compare.read_runs([make(tmp_path / "run", loss)])
    assert (read.method, read.source) == (method, source)


def test_the_strongest_evaluation_is_taken_or_the_one_asked_for(tmp_path):
    folder = make(tmp_path / "ours", method="crown", certified_accuracy={"ibp": 0.1, "crown": 0.2})
    evaluate(folder, method="alpha-crown", certified_accuracy={"ibp": 0.1, "alpha-crown": 0.3})
    evaluate(folder, method="ibp", certified_accuracy={"ibp": 0.1})
    (strongest,) = compare.read_runs([folder])
    assert (strongest.stage, strongest.certified_accuracy) == ("alpha-crown", 0.3)
    (chosen,) = compare.read_runs([folder], "crown")
    assert (chosen.stage, chosen.certified_accuracy) == ("crown", 0.2)
    assert "20.00" in run(folder, "--method", "crown", "--out", tmp_path)[1]


def test_runs_are_named_below_the_folder_they_have_in_common(tmp_path, monkeypatch):
    folders = [make(tmp_path / "mnist" / "ours"), make(tmp_path / "cifar" / "ours")]
    assert [r.run for r in compare.read_runs(folders)] == ["mnist/ours", "cifar/ours"]
    monkeypatch.chdir(folders[0])
    assert [r.run for r in compare.read_runs([Path(".")])] == ["ours"]


# -- tables -------------------------------------------------------------------------


def test_table(tmp_path, three):
    status, output = run(*three, "--out", tmp_path)
    assert status == 0
    assert output.splitlines() == [
        "cifar10, ε = 2/255, 1000 test images, groups of 5, not clipped",
        "method  source           run      Std  certified  UCert  under attack  minutes",
        "CITRUS  Xu & Singh 2024  ours   64.00      50.10  52.80         53.10      2.3",
        "IBP     Shi et al. 2021  boxes  50.00      50.10  40.00         40.50      2.3",
        "CE      -                plain  80.00      50.10   1.00         20.00      2.3",
        f"results: {tmp_path / 'compare.json'}",
        f"picture: {tmp_path / 'compare.png'}",
    ]


def test_markdown_alone_stands_on_stdout(tmp_path, three):
    odd = make(tmp_path / "a|b", standard_accuracy=0.7, **ucert(0.5, 0.6))
    arguments = ["compare", *map(str, [*three, odd]), "--markdown", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, arguments).stdout.splitlines() == [
        "### cifar10, ε = 2/255, 1000 test images, groups of 5, not clipped",
        "",
        "| method | source | run | Std | certified | UCert | under attack | minutes |",
        "|---|---|---|--:|--:|--:|--:|--:|",
        "| CITRUS | Xu & Singh 2024 | ours | 64.00 | 50.10 | 52.80 | 53.10 | 2.3 |",
        r"| CITRUS | Xu & Singh 2024 | a\|b | 70.00 | 50.10 | 50.00 | 60.00 | 2.3 |",
        "| IBP | Shi et al. 2021 | boxes | 50.00 | 50.10 | 40.00 | 40.50 | 2.3 |",
        "| CE | - | plain | 80.00 | 50.10 | 1.00 | 20.00 | 2.3 |",
    ]


def test_latex_has_the_same_cells(tmp_path, three):
    odd = make(tmp_path / "a_b%", standard_accuracy=0.7, **ucert(0.5, 0.6))
    status, output = run(*three, odd, "--latex", "--out", tmp_path)
    assert status == 0
    assert output.splitlines()[:8] == [
        "% cifar10, ε = 2/255, 1000 test images, groups of 5, not clipped",
        r"\begin{tabular}{lllrrrrr}",
        r"\toprule",
        r"method & source & run & Std & certified & UCert & under attack & minutes \\",
        r"\midrule",
        r"CITRUS & Xu \& Singh 2024 & ours & 64.00 & 50.10 & 52.80 & 53.10 & 2.3 \\",
        r"CITRUS & Xu \& Singh 2024 & a\_b\% & 70.00 & 50.10 & 50.00 & 60.00 & 2.3 \\",
        r"IBP & Shi et al. 2021 & boxes & 50.00 & 50.10 & 40.00 & 40.50 & 2.3 \\",
    ]
    assert output.splitlines()[9:11] == [r"\bottomrule", r"\end{tabular}"]


def test_csv_is_one_table_of_all_settings(tmp_path, three):
    clipped = make(tmp_path / "a,b", clip=[0.0, 1.0])
    arguments = ["compare", *map(str, [*three, clipped]), "--csv", "--out", str(tmp_path)]
    lines = list(csv.DictReader(CliRunner().invoke(main, arguments).stdout.splitlines()))
    assert [(line["run"], line["clip"]) for line in lines] == [
        ("a,b", "0 to 1"), ("ours", ""), ("boxes", ""), ("plain", "")
    ]  # fmt: skip
    line = lines[1]
    assert line["data"] == "cifar10" and float(line["eps"]) == 2 / 255
    assert float(line["certified_uap_accuracy"]) == 0.528 and line["on_pareto_front"] == "True"
    assert "recipe" not in line and line["seed"] == "0"


# -- seeds --------------------------------------------------------------------------


def seeded(folder: Path, seed: int, standard: float, certified: float, extra: str = "") -> Path:
    loss = f'name = "ibp"\n[train]\nseed = {seed}\n{extra}'
    return make(folder, loss, standard_accuracy=standard, **ucert(certified, 0.9))


@pytest.fixture
def seeds(tmp_path) -> list[Path]:
    """Three seeds of one training, one run of another, and one that is evaluated otherwise."""
    folders = [
        seeded(tmp_path / f"ibp-{seed}-small", seed, 0.6 + seed / 100, 0.4 + seed / 50)
        for seed in range(3)
    ]
    folders.append(seeded(tmp_path / "longer", 0, 0.7, 0.3, "epochs = 9"))
    folders.append(seeded(tmp_path / "otherwise", 5, 0.1, 0.1))
    evaluate(folders[-1], time_limit=60.0, standard_accuracy=0.1, **ucert(0.1, 0.9))
    return folders


def test_seeds_are_one_row_with_mean_and_deviation(tmp_path, seeds):
    status, output = run(*seeds, "--seeds", "--out", tmp_path)
    assert status == 0
    title, *lines = output.splitlines()[1:5]
    assert title.split() == [
        "method", "source", "run", "seeds", "Std", "certified", "UCert", "under", "attack",
        "minutes",
    ]  # fmt: skip
    start = "IBP     Shi et al. 2021  "
    assert lines[0].startswith(start)
    assert "ibp-*-small  0, 1, 2  61.00 ± 1.00" in lines[0] and "42.00 ± 2.00" in lines[0]
    assert "50.10 ± 0.00" in lines[0]
    assert "±" not in lines[1] + lines[2]
    record = json.loads((tmp_path / "compare.json").read_text("utf-8"))["tables"][0]
    assert len(record["runs"]) == 5 and len(record["seeds"]) == 3
    three = record["seeds"][0]
    assert three["seeds"] == [0, 1, 2] and three["training_seconds"] == pytest.approx(135.3)
    assert three["standard_accuracy"] == {"mean": pytest.approx(0.61), "std": pytest.approx(0.01)}
    assert record["seeds"][1]["standard_accuracy"] == {"mean": 0.7, "std": None}


def test_seeds_in_latex_and_csv(tmp_path, seeds):
    latex = run(*seeds, "--seeds", "--latex", "--out", tmp_path)[1]
    assert r"{llllrrrrr}" in latex and r"61.00 $\pm$ 1.00" in latex
    arguments = ["compare", *map(str, seeds), "--seeds", "--csv", "--out", str(tmp_path)]
    first, *_ = csv.DictReader(CliRunner().invoke(main, arguments).stdout.splitlines())
    assert first["seeds"] == "0 1 2"
    assert float(first["certified_uap_accuracy_std"]) == pytest.approx(0.02)


def test_one_seed_twice_is_no_second_sample(tmp_path, seeds):
    again = seeded(tmp_path / "again", 1, 0.6, 0.4)
    line = mistake(*seeds, again, "--seeds", "--out", tmp_path / "out")
    assert "ibp-1-small and again are one training, with seed 1, twice" in line
    assert run(*seeds, again, "--out", tmp_path)[0] == 0


# -- settings -----------------------------------------------------------------------


def test_one_table_for_each_setting(tmp_path):
    others = {
        "data": "mnist", "eps": 8 / 255, "images": 500, "group_size": 10, "clip": [0.0, 1.0]
    }  # fmt: skip
    folders = [make(tmp_path / "one"), make(tmp_path / "two")]
    folders += [make(tmp_path / key, **{key: value}) for key, value in others.items()]
    tables = compare_tables.format_tables(compare.read_runs(folders)).split("\n\n")
    heads = {table.splitlines()[0]: len(table.splitlines()) - 2 for table in tables}
    end = "groups of 5, not clipped"
    assert heads == {
        f"cifar10, ε = 2/255, 1000 test images, {end}": 2,
        f"mnist, ε = 2/255, 1000 test images, {end}": 1,
        f"cifar10, ε = 8/255, 1000 test images, {end}": 1,
        f"cifar10, ε = 2/255, 500 test images, {end}": 1,
        "cifar10, ε = 2/255, 1000 test images, groups of 10, not clipped": 1,
        "cifar10, ε = 2/255, 1000 test images, groups of 5, clipped to [0, 1]": 1,
    }


def test_evaluations_that_differ_are_named_beneath(tmp_path):
    folders = [make(tmp_path / "one"), make(tmp_path / "two"), make(tmp_path / "longer")]
    assert "not evaluated alike" not in compare_tables.format_tables(compare.read_runs(folders))
    evaluate(folders[2], time_limit=60.0, relational="io")
    folders.append(make(tmp_path / "cheap", method="ibp", certified_accuracy={"ibp": 0.3}))
    table = compare_tables.format_tables(compare.read_runs(folders))
    assert table.splitlines()[-1] == (
        "not evaluated alike: method is bab, but ibp for cheap; group stage is cross, but io "
        "for longer; seconds a group is 10.0, but 60.0 for longer"
    )


def test_json(tmp_path, three):
    three.append(make(tmp_path / "clipped", clip=[0.0, 1.0]))
    assert run(*three, "--out", tmp_path / "new")[0] == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"compare.json", "compare.png"}
    assert is_png(tmp_path / "new" / "compare.png")
    record = json.loads((tmp_path / "new" / "compare.json").read_text("utf-8"))
    clipped, table = record["tables"]
    rows = table.pop("runs")
    assert table == {
        "data": "cifar10", "eps": 2 / 255, "images": 1000, "group_size": 5, "clip": None,
        "held_out": False, "eps_map": None, "norm": None, "arithmetic": None,
        "differences": None,
    }  # fmt: skip
    assert rows[1] == {
        "run": "boxes", "method": "IBP", "source": "Shi et al. 2021", "standard_accuracy": 0.5,
        "certified_accuracy": 0.501, "certified_uap_accuracy": 0.4, "attacked_uap_accuracy": 0.405,
        "training_seconds": pytest.approx(135.3), "stage": "bab", "relational": "cross",
        "time_limit": 10.0, "seed": 0, "on_pareto_front": False,
    }  # fmt: skip
    assert [(row["run"], row["on_pareto_front"]) for row in rows] == [
        ("ours", True), ("boxes", False), ("plain", True)
    ]  # fmt: skip
    assert clipped["clip"] == [0.0, 1.0] and [r["run"] for r in clipped["runs"]] == ["clipped"]


# -- the picture --------------------------------------------------------------------

#: (standard accuracy, UCert) of runs; c is as certified as b and less accurate, e equals d.
POINTS = {"a": (0.5, 0.7), "b": (0.8, 0.6), "c": (0.7, 0.6), "d": (0.9, 0.1), "e": (0.9, 0.1),
          "f": (0.6, 0.5)}  # fmt: skip


@pytest.fixture
def points(tmp_path) -> list[Run]:
    folders = [
        make(tmp_path / name, f'name = "{loss}"', standard_accuracy=x, **ucert(y, y + 0.05))
        for loss, (name, (x, y)) in zip(
            ["citrus", "citrus", "ibp", "pgd", "uat", "sabr"], POINTS.items(), strict=True
        )
    ]
    return compare.read_runs(folders)


def test_pareto_front(points):
    assert [run.run for run in compare.pareto_front(points)] == ["a", "b", "d", "e"]
    assert compare.pareto_front(points[2:3]) == points[2:3]


def legend(axes) -> dict[str, str]:
    """The entries of the legend and their colours."""
    handles, texts = axes.get_legend().legend_handles, axes.get_legend().get_texts()
    return {
        text.get_text(): to_hex(dot.get_edgecolor()[0])
        for text, dot in zip(texts, handles, strict=True)
    }


def test_picture_shows_points_bars_and_the_front(points):
    figure = pareto.draw_pareto(points)
    (axes,) = figure.axes
    assert axes.get_title() == "cifar10, ε = 2/255, 1000 test images, groups of 5, not clipped"
    front = axes.get_lines()[0].get_xydata().tolist()
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    corners = [(left, 70), (50, 70), (50, 60), (80, 60), (80, 10), (90, 10), (90, bottom)]
    assert list(dict.fromkeys(map(tuple, front))) == [pytest.approx(corner) for corner in corners]
    percents = sorted((100 * x, 100 * y) for x, y in POINTS.values())
    dots = [d for d in axes.collections if isinstance(d, PathCollection) and len(d.get_offsets())]
    assert sorted(tuple(dot.get_offsets()[0]) for dot in dots) == [
        pytest.approx(point) for point in percents
    ]
    bars = [b.get_segments()[0] for b in axes.collections if isinstance(b, LineCollection)]
    assert sorted(tuple(bar.flatten()) for bar in bars) == [
        pytest.approx((x, y, x, y + 5)) for x, y in percents
    ]


@pytest.mark.parametrize("value", [0, 100])
def test_axes_have_no_ticks_below_0_or_above_100_percent(value):
    axes = Figure().subplots()
    axes.scatter(value, value)
    pareto.name_accuracies(axes, 0.14)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        shown = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
        assert low < value < high and value in shown
        assert min(shown) >= 0 and max(shown) <= 100


def test_points_of_the_front_are_filled(points):
    (axes,) = pareto.draw_pareto(points).axes
    dots = [d for d in axes.collections if isinstance(d, PathCollection) and len(d.get_offsets())]
    (drawn,) = compare.by_setting(points).values()
    filled = {run.run for run, dot in zip(drawn, dots, strict=True)
              if (dot.get_facecolor() == dot.get_edgecolor()).all()}  # fmt: skip
    assert filled == {run.run for run in compare.pareto_front(points)}


def test_runs_are_numbered_and_named_beside_the_axes(points):
    (axes,) = pareto.draw_pareto(points).axes
    names = legend(axes)
    assert list(names) == [
        "1  CITRUS (a)", "2  CITRUS (b)", "3  IBP", "4  SABR", "5  PGD", "6  UAT"
    ]  # fmt: skip
    assert names["1  CITRUS (a)"] == names["2  CITRUS (b)"] and len(set(names.values())) == 5
    numbers = {text.get_text(): text.xy for text in axes.texts}
    assert numbers["1"] == pytest.approx((50, 70)) and numbers["3"] == pytest.approx((70, 60))
    assert numbers["5, 6"] == pytest.approx((90, 10))  # d and e lie on each other
    assert len(numbers) == 5


@pytest.mark.parametrize(
    "place", [lambda i: (i % 3, i // 3), lambda i: (i, (-1) ** i * i / 30)], ids=["near", "row"]
)
def test_numbers_of_neighbours_do_not_cover_each_other(tmp_path, place):
    folders = [
        make(tmp_path / name, f'name = "{name}"', standard_accuracy=0.6 + place(i)[0] / 100,
             **ucert(0.5 + place(i)[1] / 100, 0.54))
        for i, name in enumerate(list(TRAINING_METHODS)[:9])
    ]  # fmt: skip
    folders.append(make(tmp_path / "far", 'name = "ce"', standard_accuracy=0.8, **ucert(0.2, 0.3)))
    figure = pareto.draw_pareto(compare.read_runs(folders))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # with itself
    shown = [number for text in axes.texts for number in text.get_text().split(", ")]
    assert sorted(map(int, shown)) == list(range(1, 11))


def test_one_axes_for_each_setting_with_the_same_colours(tmp_path):
    folders = [make(tmp_path / "a"), make(tmp_path / "b", 'name = "ibp"', **ucert(0.1, 0.2))]
    folders += [make(tmp_path / "c", 'name = "ibp"', eps=8 / 255), make(tmp_path / "d", eps=0.1)]
    axes = pareto.draw_pareto(compare.read_runs(folders)).axes
    starts = [panel.get_title().split(", ")[1] for panel in axes]
    assert starts == ["ε = 2/255", "ε = 8/255", "ε = 0.1"]
    first, second, *_ = METHODS
    assert [legend(panel) for panel in axes] == [
        {"1  CITRUS": first, "2  IBP": second}, {"1  IBP": second}, {"1  CITRUS": first}
    ]  # fmt: skip


# -- mistakes -----------------------------------------------------------------------


def mistake(*args) -> str:
    """The one line that is printed."""
    status, output = run(*args)
    (line,) = output.splitlines()
    assert status in (1, 2) and line.startswith("Error: ")
    return line


def test_no_run_folder(tmp_path):
    assert "unknown network of the zoo 'net'" in mistake("zoo:net")
    line = mistake(tmp_path / "absent")
    assert f"{tmp_path / 'absent'} does not exist" in line and "citrus-lirpa train" in line


@pytest.mark.parametrize("path", ["zoo:mnist-0.1-convsmall", "nothing", "net.onnx", "."])
def test_compare_and_report_say_the_same_of_what_is_no_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = mistake(path)
    assert line == command_line.run("report", path)[1].strip()
    network = path not in ("nothing", ".")
    assert ("citrus-lirpa eval, then give" if network else "citrus-lirpa train") in line


def test_a_network_from_elsewhere_stands_beside_runs(tmp_path, three):
    judged = [tmp_path / "judged", tmp_path / "zoo"]
    for folder in judged:
        folder.mkdir()
        evaluate(folder)
    status, output = run(*three, *judged, "--out", tmp_path)
    (row,) = (line.split() for line in output.splitlines() if " judged " in line)
    assert status == 0 and row[:3] == ["-", "-", "judged"] and row[-1] == "-"
    assert " judged " in run(*three, *judged, "--seeds", "--out", tmp_path)[1]


def test_folders_and_patterns_name_the_runs_in_them(tmp_path, three, monkeypatch):
    (tmp_path / "logs").mkdir()
    (tmp_path / "compare.json").write_text("{}", "utf-8")
    (tmp_path / "ours" / "earlier-1").mkdir()
    (tmp_path / "ours" / "earlier-1" / "config.toml").write_text("", "utf-8")
    monkeypatch.chdir(tmp_path)
    whole = run(tmp_path, "--out", tmp_path / "out")[1].splitlines()[:5]
    assert [line.split()[0] for line in whole] == ["cifar10,", "method", "CITRUS", "IBP", "CE"]
    listed = run(*sorted(tmp_path.iterdir()), "--out", tmp_path / "out")[1].splitlines()
    left = [f"{tmp_path / name}" for name in ("compare.json", "logs", "out")]
    assert listed[0] == f"left out, for they hold no run: {', '.join(left)}"
    assert listed[1:6] == whole
    assert run("[op]*", "--out", tmp_path / "out")[1].splitlines()[-4].split()[0] == "CITRUS"
    assert "nothing is called x*; expected run folders" in mistake("x*")
    assert "is not a run folder" in mistake(tmp_path / "logs")
    assert f"{tmp_path / 'ors'} does not exist" in mistake(tmp_path / "ors", three[0])


def test_a_run_given_twice(tmp_path):
    folder = make(tmp_path / "ours")
    again = tmp_path / "ours" / ".." / "ours"
    assert f"{again} is given twice; name each run once" in mistake(folder, again)
    with pytest.raises(InputError):
        compare.read_runs([folder, folder])


def test_a_run_without_an_evaluation(tmp_path):
    folder = make(tmp_path / "ours")
    line = mistake(folder, "--method", "crown")
    assert "no evaluation by crown, only by bab" in line
    assert f"citrus-lirpa eval {folder} --method crown" in line
    (folder / "eval-bab.json").unlink()
    line = mistake(folder)
    assert f"{folder} has no evaluation, " in line
    assert line.endswith(f"citrus-lirpa eval {folder}")


def test_an_unknown_stage(tmp_path):
    with pytest.raises(InputError, match="unknown method 'crwn'; did you mean 'crown'"):
        compare.read_runs([make(tmp_path / "ours")], "crwn")


@pytest.mark.parametrize(
    "file, text, expected",
    [
        ("config.toml", "[loss", "is damaged"),
        ("config.toml", "", "loss is missing"),
        ("config.toml", "[loss]\nname = 3", "loss.name is 3; expected a text"),
        ("metrics.jsonl", "", "is empty; expected a line for each epoch"),
        ("metrics.jsonl", '{"sec', "is damaged"),
        ("metrics.jsonl", "[1]", "holds [1]; expected a table"),
        ("metrics.jsonl", "{}", "epoch is missing"),
        ("metrics.jsonl", json.dumps(EPOCH | {"seconds": -1}), "is -1; expected a number >= 0"),
        ("metrics.jsonl", json.dumps(EPOCH | {"seconds": math.nan}), "is nan; expected a finite"),
        ("eval-bab.json", "{", "is damaged"),
        ("eval-bab.json", "\udcff", "cannot be read"),
        (
            "eval-bab.json",
            json.dumps(EVALUATION | {"images": 0}),
            "images is 0; expected a number > 0",
        ),
        (
            "eval-bab.json",
            json.dumps(EVALUATION | {"standard_accuracy": 64}),
            "is 64; expected a number <= 1",
        ),
        ("metrics.jsonl", None, "cannot be read"),
    ],
)
def test_damaged_files(tmp_path, file, text, expected):
    folder = make(tmp_path / "ours")
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    line = mistake(folder, "--out", tmp_path / "out")
    assert str(folder / file) in line and expected in line
    again = f"evaluate with: citrus-lirpa eval {folder} --method bab"
    remedies = {"config.toml": "restore the file, or train", "metrics.jsonl": "train --resume"}
    assert remedies.get(file, again) in line
    assert not (tmp_path / "out").exists()
