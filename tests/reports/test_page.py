"""citrus-lirpa report: one page that holds what the files say, and nothing from elsewhere."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run, said, sets

from citrus_lirpa.errors import CheckpointError, InputError
from citrus_lirpa.reports.page import charts, images, make_page
from citrus_lirpa.runs.perturbations import PerturbationRecord

VOID = {"meta", "img", "br", "link", "input"}
NASTY = "<script>alert(1)</script>&\"'{{ 7 * 7 }}"


class Page(HTMLParser):
    """Elements that were opened, their attributes, all text, and whether all were closed."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, tag: str, name: str) -> list[str]:
        return [v for t, n, v in self.attributes if (t, n) == (tag, name)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that was trained, evaluated and attacked."""
    folder = tmp_path_factory.mktemp("page") / "run"
    few = sets("train.epochs=4", "train.eps=0.03", "train.lr=0.01", "loss.attack_steps=3",
               "data.limit=640")  # fmt: skip
    for args in (
        ("train", "--preset", "digits", *few, "--out", folder, "--quiet"),
        ("eval", folder, "--eps", 0.15, "--method", "crown", "--limit", 58, "--time-limit", 0.2,
         "--relational", "io", "--quiet"),
        ("attack", folder, "--eps", 0.15, "--epochs", 1, "--limit", 200, "--class-wise",
         "--quiet"),
    ):  # fmt: skip
        status, output = run(*args)
        assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def whole(finished) -> str:
    """The page of this run."""
    return make_page([finished])


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def record(folder: Path) -> dict:
    return json.loads((folder / "eval-crown.json").read_text())


# -- the page -----------------------------------------------------------------------


def test_report_writes_a_page_that_says_what_the_files_say(folder):
    status, output = run("report", folder)
    assert (status, output) == (0, f"report: {folder / 'report.html'}\n")
    page, found = Page((folder / "report.html").read_text("utf-8")), record(folder)
    assert page.text.startswith("run: citrus-lirpa report")
    uap = found["uap_accuracy"]
    for share in (found["standard_accuracy"], uap["certified"], uap["attacked"], uap["gap"]):
        assert f"{100 * share:.2f}" in page.text
    for stage, time in found["seconds"].items():
        if stage != "total":
            settled = found["shares"].get(stage, "")
            assert f"{stage} {settled}".strip() in page.text and f"{time:,.1f}" in page.text
    assert f"{found['shares']['undecided']} of 58 images undecided" in page.text
    heads = ("Results", "What settled the images", "Training", "Confusion under attack",
             "The strongest universal perturbation", "Its effect on each class",
             "The worst groups", "Configuration", "Groups of 5")  # fmt: skip
    assert all(head in page.text for head in heads)
    assert re.search(r"tau_ratio [\d.]+ ", page.text) and "epochs 4" in page.text
    assert "Not in this report" not in page.text
    assert f"citrus-lirpa train --config {folder}/config.toml" in page.text


def test_nothing_comes_from_elsewhere(whole):
    text, page = whole, Page(whole)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.values("img", "src")
    assert all(src.startswith("data:image/png;base64,") for src in page.values("img", "src"))
    links = [value for _, name, value in page.attributes if name.endswith("href")]
    assert all(link.startswith("#") for link in links)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "://" not in text and "@import" not in text and not re.search(r"url\((?!#)", text)
    policy = [v for v in page.values("meta", "content") if "default-src 'none'" in v]
    assert policy and "script-src" not in policy[0]
    assert len(text.encode()) < 2_000_000
    for needed in ("prefers-color-scheme: dark", "@media print", "max-width: 640px"):
        assert needed in text
    assert "width=device-width, initial-scale=1" in page.values("meta", "content")


def test_names_are_escaped(folder, tmp_path):
    nasty = tmp_path / NASTY.replace("/", "÷")
    shutil.move(folder, nasty)
    config = (nasty / "config.toml").read_text("utf-8")
    (nasty / "config.toml").write_text(
        config.replace('init_from = ""', f"init_from = '''{NASTY}'''"), "utf-8"
    )
    page = Page(make_page([nasty]))
    assert "script" not in page.tags
    assert nasty.name in page.text and NASTY in page.text and "49" not in NASTY


def test_evaluations_are_chosen_by_method(folder):
    status, _ = run("eval", folder, "--eps", 0.1, "--method", "ibp", "--relational", "none",
                    "--limit", 20, "--quiet")  # fmt: skip
    assert status == 0
    assert "ε = 0.15" in Page(make_page([folder])).text
    assert "ε = 0.1 " in Page(make_page([folder], "ibp")).text
    assert "by bab" in said(*run("report", folder, "--method", "bab"), 1)


def test_colour_perturbations_show_their_channels_and_idle_groups_say_so(folder):
    file = folder / "uap-crown.npz"
    arrays = dict(np.load(file))
    for name, axis in (("images", 1), ("u", 1), ("group_u", 1)):
        arrays[name] = arrays[name].repeat(3, axis)
    arrays["group_u"][0] = 0
    np.savez(file, **arrays)
    (folder / "uap.npz").unlink()
    page = Page(make_page([folder]))
    assert {f"its {c} channel" for c in ("red", "green", "blue")} <= set(page.values("img", "alt"))
    assert page.text.count("no attack breaks it") == 1


def test_one_notation_of_eps_and_options_that_do_not_break(folder):
    values = record(folder) | {"eps": 8 / 255, "versions": {"torch": "2.0"}}
    (folder / "eval-crown.json").write_text(json.dumps(values))
    text = make_page([folder])
    assert "0.0314" not in text and "0.0313" not in text
    assert "<span>--eps 8/255</span>" in text and "<span>--batch-size 256</span>" in text
    assert (
        f"network, SHA-256 {values['weights']}" in Page(text).text
        and "torch 2.0" in Page(text).text
    )


def test_results_of_other_weights_are_not_shown(folder):
    status, output = run("eval", folder, "--eps", 0.15, "--method", "ibp", "--limit", 20, "--quiet")
    assert status == 0, output
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["model"]["2.weight"] += 1
    torch.save(state, folder / "checkpoint.pt")
    for command in (("report", folder), ("compare", folder)):
        message = said(*run(*command), 1)
        assert "eval-crown.json is of other weights" in message and "citrus-lirpa eval" in message


# -- several runs -------------------------------------------------------------------


def other(folder: Path, name: str, **changes: float) -> Path:
    """A copy of the run with other accuracies."""
    copy = Path(shutil.copytree(folder, folder.parent / name))
    values = record(copy)
    values["standard_accuracy"] = changes["standard"]
    values["uap_accuracy"].update(certified=changes["certified"], attacked=changes["attacked"])
    (copy / "eval-crown.json").write_text(json.dumps(values))
    return copy


def test_several_runs_are_compared(folder, tmp_path, monkeypatch):
    best = other(folder, "best", standard=0.95, certified=0.9, attacked=0.92)
    worst = other(folder, "worst", standard=0.1, certified=0.05, attacked=0.06)
    monkeypatch.chdir(tmp_path)
    status, output = run("report", worst, best)
    assert (status, output) == (0, "report: report.html\n")
    text = Path("report.html").read_text("utf-8")
    page = Page(text)
    assert "2 runs compared" in page.text and "Pareto front" in page.text
    assert page.text.index("best CITRUS 95.00 90.00 92.00") < page.text.index("worst CITRUS 10.00")
    assert {"run-1", "run-2"} <= set(page.values("article", "id"))
    assert set(page.values("a", "href")) == {"#run-1", "#run-2"} and "details" in page.tags
    assert not page.values("details", "open") and Page(make_page([best])).values("details", "open")
    front = [v for v in page.values("a", "class") if v == "badge front"]
    assert len(front) == 2  # in the table, and beside the chart
    one = len(make_page([best]))
    assert len(text) < 2.2 * one


def test_a_folder_of_runs_stands_for_them(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "runs" / "a")
    shutil.copytree(folder, tmp_path / "runs" / "b")
    (tmp_path / "runs" / "logs").mkdir()
    status, output = run("report", tmp_path / "runs", "--out", tmp_path / "page.html")
    assert status == 0 and output == f"report: {tmp_path / 'page.html'}\n"
    assert "<title>a, b" in (tmp_path / "page.html").read_text("utf-8")


def test_runs_of_different_settings_are_compared_apart(folder):
    copy = other(folder, "clipped", standard=0.9, certified=0.8, attacked=0.8)
    values = record(copy) | {"clip": [0.0, 1.0]}
    (copy / "eval-crown.json").write_text(json.dumps(values))
    page = Page(make_page([folder, copy]))
    assert page.text.count("highest UCert first") == 2 and "Pareto" not in page.text
    assert "Pareto front" in Page(make_page([folder, other(
        folder, "b", standard=0.9, certified=0.8, attacked=0.8)])).text  # fmt: skip
    assert "uap-crown.npz is of another" in page.text  # which was not clipped
    with pytest.raises(InputError, match="given twice"):
        make_page([folder, folder])


def test_charts_follow_the_page(folder):
    """Their colours are the page's variables, their text is text, their ids are their own."""
    runs = [other(folder, str(k), standard=s, certified=c, attacked=c + 0.1)
            for k, (s, c) in enumerate([(0.9, 0.5), (0.8, 0.7), (0.7, 0.4)])]  # fmt: skip
    text = make_page(runs)
    assert text == make_page(runs)  # nothing in it is drawn by chance
    page = Page(text)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([\w-]+)", text)) <= set(ids)
    charts = re.findall(r"<svg role=.*?</svg>", text)
    assert len(charts) == 7  # two a run, and the front
    variables = set(re.findall(r"--(\w+):", text))
    for chart in charts:
        assert not re.search(r"#[0-9a-f]{6}\b(?!\")|font-family|<style", chart)
        assert set(re.findall(r"var\(--(\w+)\)", chart)) <= variables
    assert "standard accuracy (%)" in page.text and "boxes certified" in page.text
    assert "0: standard 90.00 %, UCert 50.00 %" in page.text  # beside the pointer
    assert [charts[0].count(f'href="#run-{k}"') for k in (1, 2, 3)] == [1, 1, 1]


# -- missing and damaged pieces -----------------------------------------------------


@pytest.mark.parametrize(
    ("file", "said_missing", "gone"),
    [
        ("metrics.jsonl", "training curves", "Training loss"),
        ("uap-crown.npz", "uap-crown.npz", "The worst groups"),
        ("uap.npz", "citrus-lirpa attack", "By its own"),
        ("config.toml", "comes from elsewhere", "tau_ratio"),
        ("eval-crown.json", "citrus-lirpa eval", "UCert, proved"),
    ],
)
def test_what_is_missing_is_said(folder, whole, file, said_missing, gone):
    assert gone in Page(whole).text
    (folder / file).unlink()
    page = Page(make_page([folder]))
    assert "Not in this report" in page.text
    assert said_missing in page.text.split("Not in this report")[1].split("Results")[0]
    assert gone not in page.text


def test_a_denoiser_has_no_accuracies_and_the_command_that_puts_it_in_front(folder):
    epoch = {"epoch": 1, "seconds": 1.0, "loss": 0.5, "eps": 0.1}
    epoch |= {"accuracy": None, "certified": None}
    (folder / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('name = "mlp"', 'name = "denoiser"'))
    (folder / "eval-crown.json").unlink()
    text = Page(make_page([folder])).text
    assert f"--denoiser {folder}" in text and "citrus-lirpa eval" not in text
    assert "training time" in text and "boxes certified" not in text


def test_epochs_of_a_denoiser_are_one_chart():
    (chart,) = charts.curves([{"epoch": 1, "loss": 1.0, "eps": 0.1}], "run-1")
    assert chart.title == "Training loss and ε"


def test_images_held_out_from_training_are_called_so(folder, whole):
    assert "58 test images" in Page(whole).text
    values = record(folder) | {"held_out": True}
    (folder / "eval-crown.json").write_text(json.dumps(values))
    text = Page(make_page([folder])).text
    assert "58 held-out images" in text and "test images" not in text and " --held-out" in text


def test_a_run_that_is_only_begun(folder, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(folder / "config.toml", begun)
    page = Page(make_page([begun]))
    assert "CITRUS on digits" in page.text and "mlp" in page.text
    # what is missing, and the configuration
    assert [page.tags.count(tag) for tag in ("section", "details")] == [1, 1]
    both = Page(make_page([begun, folder]))
    assert "2 runs compared" in both.text


def test_perturbations_of_another_evaluation_are_not_shown(folder):
    values = record(folder) | {"eps": 0.2}
    (folder / "eval-crown.json").write_text(json.dumps(values))
    page = Page(make_page([folder]))
    assert "uap-crown.npz is of another" in page.text and "uap.npz is of another" in page.text
    assert page.values("img", "src") == []


def test_damaged_files_are_refused_in_one_line(folder, tmp_path):
    assert "no folder" in said(*run("report", tmp_path / "none"), 1)
    (tmp_path / "empty").mkdir()
    assert "neither config.toml nor" in said(*run("report", tmp_path / "empty"), 1)
    for file, content in (
        ("metrics.jsonl", b"{"),
        ("metrics.jsonl", b'{"epoch": 1}\n'),
        ("config.toml", b"["),
        ("eval-crown.json", b"[]"),
        ("uap-crown.npz", b"PK\x03\x04"),
        ("uap.npz", b"no archive"),
    ):
        before = (folder / file).read_bytes()
        (folder / file).write_bytes(content)
        assert str(folder / file) in said(*run("report", folder), 1)
        (folder / file).write_bytes(before)
    assert "mnist-0.1-convsmall-eval" in said(*run("report", "zoo:mnist-0.1-convsmall"), 1)
    assert "net-eval" in said(*run("report", tmp_path / "net.onnx"), 1)
    for name in ("net.safetensors", "net.pth"):
        (tmp_path / name).write_bytes(b"no weights")
        line = said(*run("report", tmp_path / name), 1)
        assert f"{name} is a network, not its results" in line and f"{name}-eval" in line
    assert not (folder / "report.html").exists()


def test_pictures_stop_at_the_budget(folder, monkeypatch):
    monkeypatch.setattr(images, "BUDGET", 2000)
    page = Page(make_page([folder]))
    uris = page.values("img", "src")
    assert 0 < sum(map(len, uris)) <= 2000
    assert "pictures are left out" in page.text and "left out" in page.text


# -- the arrays behind it -----------------------------------------------------------


def test_effects_agree_with_the_evaluation(folder):
    effect, found = PerturbationRecord.load(folder / "uap-crown.npz"), record(folder)
    assert effect.fooling_rate == pytest.approx(found["strongest_fooling_rate"])
    assert effect.correct.mean() == pytest.approx(found["standard_accuracy"])
    assert np.abs(effect.u).max() <= 0.15 + 1e-6 and not effect.clip
    survivors = found["groups"]["safe_at_most"]
    assert len(effect.groups) == 6
    shown = [survivors[g] for g in effect.groups]
    assert max(shown) <= min(n for g, n in enumerate(survivors[:-1]) if g not in effect.groups)
    for row, group in enumerate(effect.groups):
        numbers = effect.members[row][effect.members[row] >= 0]
        assert numbers.tolist() == list(range(5 * group, min(5 * group + 5, 58)))
        wrong = effect.member_classes[row][: len(numbers)] != effect.labels[numbers]
        both = wrong | ~effect.correct[numbers]
        assert len(numbers) - both.sum() == survivors[group]


def test_effects_of_an_attack_are_those_it_prints(folder):
    effect, values = (
        PerturbationRecord.load(folder / "uap.npz"),
        json.loads((folder / "uap.json").read_text()),
    )
    assert effect.fooling_rate == pytest.approx(values["fooling_rate"])
    assert len(effect.u) == 10 and len(effect.groups) == 0 and len(effect.labels) == 400
    assert 0 < len(effect.examples()) <= 8
    assert all(effect.broken[i] for i in effect.examples())


def test_effects_of_wrong_shapes_are_refused(folder):
    file = folder / "uap-crown.npz"
    arrays = dict(np.load(file))
    for name, value in (("clean", arrays["clean"][1:]), ("u", arrays["u"][0]),
                        ("images", arrays["images"][:, :, 1:]), ("eps", np.zeros(2)),
                        ("clean", arrays["clean"] / 2), ("labels", arrays["labels"].astype(str)),
                        ("images", arrays["images"] / 2)):  # fmt: skip
        np.savez(file, **{**arrays, name: value})
        with pytest.raises(CheckpointError, match="damaged"):
            PerturbationRecord.load(file)


def test_many_classes_have_their_mistakes_in_place_of_a_matrix(folder, whole):
    assert "confusion" in Page(whole).values("table", "class")
    values = record(folder) | {"data": "tinyimagenet"}
    (folder / "eval-crown.json").write_text(json.dumps(values))
    page = Page(make_page([folder]))
    assert "confusion" not in page.values("table", "class")
    assert "Most frequent changes" in page.text and "n01443537" in page.text
