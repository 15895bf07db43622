"""front: tables, pictures, pages and configurations of studies, and what cannot be compared."""

import json
import re
from pathlib import Path

import pytest
from command_line import is_png, run, said
from configurations import JUDGED, refusal

from citrus_lirpa.errors import CheckpointError, ConfigError, InputError
from citrus_lirpa.reports import fronts
from citrus_lirpa.reports.page.fronts import make_front_page
from citrus_lirpa.runs.tuning import study
from citrus_lirpa.runs.tuning.points import Judged, judged_key
from citrus_lirpa.runs.tuning.storage import Storage
from citrus_lirpa.training.config import RunConfig, resolve

pytest.importorskip("optuna", reason="Optuna is not installed")

FIRST = [(0.5, 0.25), (0.75, 0.125), (0.5, 0.125)]
SECOND = [(0.25, 0.5), (0.625, 0.1875)]


def tuned(file: Path, scores: list) -> Path:
    """Fill the storage of a study as its workers would."""
    plan = study.read(file)
    storage = Storage(plan, create=True)
    for one in scores:
        trial = storage.begin()
        storage.values(trial)
        storage.note(trial, "seconds", 1800.0)
        storage.complete(trial, *one)
    return file


def judge(file: Path, number: int, seed: int, standard: float, ucert: float) -> None:
    plan = study.read(file)
    settings = plan.front.protocol.settings()
    note = Judged(standard, ucert).to_json(settings)
    Storage(plan, create=False).note_of_study(judged_key(number, seed), note)


@pytest.fixture
def two(write) -> list[Path]:
    ibp = {'"loss.attack_steps" = 1\n': ""}
    return [
        tuned(write(9, name="first"), FIRST),
        tuned(write(9, 'method = "ibp"', name="second", **ibp), SECOND),
    ]


def test_two_fronts_by_hand(two):
    found = fronts.read_fronts(two, (0.0, 0.0))
    first, second = found.tuned
    assert [p.number for p in found.front(first)] == [0, 1]
    assert [(p.study, p.number) for p in found.combined] == [
        ("second", 0), ("first", 0), ("second", 1), ("first", 1)
    ]  # fmt: skip
    own = [0.75 * 0.125 + 0.5 * 0.125, 0.625 * 0.1875 + 0.25 * 0.3125]
    both = 0.75 * 0.125 + 0.625 * 0.0625 + 0.5 * 0.0625 + 0.25 * 0.25
    assert [found.volume(one) for one in (first, second)] == pytest.approx(own)
    alone = [both - own[1], both - own[0]]
    assert [found.alone(one) for one in (first, second)] == pytest.approx(alone)
    assert fronts.front_rows(found)[1:] == [
        ("second", "0", "0.00", "25.00", "50.00", "1"),
        ("first", "0", "25.00", "50.00", "25.00", "1"),
        ("second", "1", "50.00", "62.50", "18.75", "1"),
        ("first", "1", "62.50", "75.00", "12.50", "1"),
    ]
    assert fronts.summary_rows(found)[1][:7] == ("first", "CITRUS", "3", "0", "0", "2", "1.50")
    assert "trials while searching" in found.setting() and "50 held-out images" in found.setting()


def test_the_reference_point(two):
    found = fronts.read_fronts(two[:1], (0.5, 0.125))
    assert found.volume(found.tuned[0]) == 0
    found = fronts.read_fronts(two[:1], (0.25, 0.0))
    assert found.volume(found.tuned[0]) == pytest.approx(0.5 * 0.125 + 0.25 * 0.125)
    message = refusal(fronts.read_fronts, two, (0.3, 0.0), error=InputError)
    assert "lies inside the front: trial 0 of second has 0.2500,0.5000" in message
    refusal(fronts.read_fronts, two, (0.0, 2.0), error=InputError)


def test_means_over_seeds_once_all_are_judged(write):
    file = tuned(write(9, more=JUDGED), FIRST)
    for number, seed, *scores in ((0, 0, 0.5, 0.5), (0, 1, 0.75, 0.5), (1, 0, 0.75, 0.25)):
        judge(file, number, seed, *scores)
        assert not fronts.read_fronts([file], (0.0, 0.0)).judged
    judge(file, 1, 1, 1.0, 0.25)
    found = fronts.read_fronts([file], (0.0, 0.0))
    assert found.judged and "judged networks" in found.setting()
    assert "all test images" in found.setting() and "up to crown-ibp" in found.setting()
    assert fronts.front_rows(found)[1:] == [
        ("small", "0", "0.00", "62.50 ± 17.68", "50.00 ± 0.00", "2"),
        ("small", "1", "62.50", "87.50 ± 17.68", "25.00 ± 0.00", "2"),
    ]
    # figures of other settings do not count
    text = file.read_text().replace('method = "crown-ibp"', 'method = "crown"')
    file.write_text(text)
    assert not fronts.read_fronts([file], (0.0, 0.0)).judged


def test_the_command(two, tmp_path):
    out = tmp_path / "out"
    status, output = run("front", *two, "--out", out)
    assert status == 0 and "the front of all" in output and f"page: {out / 'front.html'}" in output
    record = json.loads((out / "front.json").read_text())
    assert [one["name"] for one in record["studies"]] == ["first", "second"]
    assert [p["on_combined_front"] for p in record["studies"][0]["points"]] == [True, True, False]
    assert is_png(out / "front.png")
    files = sorted(path.name for path in (out / "front").iterdir())
    assert files == ["first-0000.toml", "first-0001.toml", "second-0000.toml", "second-0001.toml"]
    for name in files:
        plan = study.read(two[0] if name.startswith("first") else two[1])
        trial = Storage(plan, create=False).trials()[int(name[-6])]
        assert resolve(file=out / "front" / name) == plan.config(trial.values)
    assert not run("train", "--config", out / "front" / files[0], "--out", out / "run")[0]
    status, output = run("front", two[0], "--out", out, "--json")
    assert json.loads(output[output.index("{") :])["files"]["page"] == str(out / "front.html")
    assert "### the front of all\n\n| study |" in run("front", *two, "--out", out, "--markdown")[1]


def test_the_page(two):
    found = fronts.read_fronts(two, (0.0, 0.0))
    page = make_front_page(found)
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert "<svg role=" in page and "default-src 'none'" in page and "<script" not in page
    configs = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    texts = [text.replace("&#34;", '"') for text in configs]
    points = [(one, p) for one in found.tuned for p in found.front(one)]
    assert [RunConfig.from_toml(text) for text in texts] == [one.config(p) for one, p in points]


def test_what_decides(write):
    file = tuned(write(9), [(i / 16, 1 - i / 16) for i in range(8)])
    found = fronts.read_fronts([file], (0.0, 0.0))
    rows = fronts.importance_rows(found)[1:]
    assert {row[1] for row in rows} == study.read(file).space.keys()
    assert sum(float(row[3]) for row in rows) == pytest.approx(100, abs=0.1)
    assert "what decides" in fronts.format_fronts(found)
    assert "What decides" in make_front_page(found)


def test_what_cannot_be_compared(write, two):
    def compared(*files, error=InputError):
        return refusal(fronts.read_fronts, files, (0.0, 0.0), error=error)

    assert "two studies are named first" in compared(two[0], two[0])
    other = write(name="other", more='[search]\nmethod = "ibp"\nlimit = 40')
    assert "not evaluated alike (limit: 50, 40)" in compared(two[0], tuned(other, FIRST))
    other = write(name="more", **{'"data.held_out" = 300': '"data.held_out" = 200'})
    assert "(held-out images: 300, 200)" in compared(two[0], tuned(other, FIRST))
    message = compared(write(name="none"), error=CheckpointError)
    assert "there is no study 'none'" in message
    asks = tuned(write(name="asks", head="", more="[least]\nstandard = 0.9"), FIRST)
    assert "has no finished trial that reaches what it asks" in compared(
        asks, error=CheckpointError
    )
    two[0].write_text(two[0].read_text().replace("trials = 9", "trials = 9\nseed = 5"))
    assert "is another one than here" in compared(two[0], error=ConfigError)


def test_bad_input_is_one_line(two, tmp_path):
    for words, status in (
        (("front", tmp_path / "none.toml"), 2),
        (("front", *two, "--reference", "0.9"), 2),
        (("front", *two, "--reference", "0.9,0.9"), 2),
        (("front", two[0], two[0]), 2),
        (("front", two[0], "--out", "/dev/null/x"), 1),
    ):
        said(*run(*words), status)
    status, output = run("front", *two, "--reference", "a,b")
    assert status == 2 and "'a' is not a number; expected one like 0.1 or 8/255" in output
