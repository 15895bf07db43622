"""README and site: every snippet runs, every command parses, every link leads somewhere."""

import importlib
import importlib.util
import re
import shlex
import warnings
from configparser import ConfigParser
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import click
import matplotlib
import pytest
import torch
import yaml
from browser import FAINT, OVERFLOW, browser, opened
from click.testing import CliRunner
from command_line import process
from matplotlib import pyplot
from matplotlib.figure import Figure
from users import photos

import citrus_lirpa
from citrus_lirpa import config, data
from citrus_lirpa.cli import COMMANDS, main
from citrus_lirpa.losses import TRAINING_METHODS
from citrus_lirpa.verify import STAGES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = sorted(page.relative_to(ROOT).as_posix() for page in DOCS.rglob("*.md"))
PAGES = ["README.md", *SITE]
TEXT = {page: (ROOT / page).read_text("utf-8") for page in PAGES}
RESULTS = sorted(page.relative_to(ROOT).as_posix() for page in ROOT.glob("benchmarks/results/*.md"))
MEASURED = "\n".join((ROOT / page).read_text("utf-8") for page in RESULTS)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT[page], re.DOTALL)


def links(page: str) -> list[str]:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)]+)\)", text)


def shell_lines(page: str) -> list[list[str]]:
    """The words of every line of the page's shell blocks, comments left out."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ").replace(" && ", "\n")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def our_commands(page: str) -> list[list[str]]:
    """The arguments of every citrus-lirpa on the page, however it is launched."""
    launchers = ("citrus-lirpa", "cli.py", "citrus_lirpa")
    return [
        line[index + 1 :]
        for line in shell_lines(page)
        for index, word in enumerate(line)
        if word in launchers
    ]


LINES = sorted({" ".join(args) for page in PAGES for args in our_commands(page)})


def supposed() -> None:
    """Write what pages suppose: a network, and a folder of small colour images of four classes."""
    body = "nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))"
    Path("net.py").write_text(f"from torch import nn\n\n\ndef Net():\n    return {body}\n")
    photos({"a": 0, "b": 1, "c": 2, "d": 0}, train=1, test=1)


# -- snippets -----------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    if "onnx" in page:
        pytest.importorskip("onnx")
    if "notebooks" in page:
        pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    supposed()
    code = "\n".join(blocks(page, "python"))
    try:
        with matplotlib.rc_context({"backend": "agg"}), mock.patch.dict(data.DATASETS):
            exec(compile(code, page, "exec"), {"__name__": "__main__"})
    finally:
        pyplot.close("all")


def test_readme_runs_in_a_process_of_its_own():
    """Where nothing has imported auto_LiRPA yet."""
    (code,) = blocks("README.md", "python")
    done = process("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


def test_readme_is_short():
    assert len(TEXT["README.md"].splitlines()) <= 160


@pytest.mark.parametrize("line", LINES)
def test_command_parses(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    supposed()
    name, *arguments = shlex.split(line)
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"there is no command {name}"
    params = command.make_context(name, arguments, **main.context_settings).params
    if name == "train" and params["resume"] is None and params["file"] is None:
        config.resolve(  # names and values of --set are known too
            preset=params["preset"],
            method=params["method"],
            mode=params["mode"],
            overrides=params["overrides"],
        )


def test_a_wrong_command_would_be_found():
    assert len(LINES) >= 30
    command = main.get_command(click.Context(main), "train")
    with pytest.raises(click.UsageError):
        command.make_context("train", ["--no-such-option"], **main.context_settings)


def test_other_lines_name_what_exists():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    named = [e for page in PAGES for e in re.findall(r"'\.\[([\w,]+)\]'", TEXT[page])]
    assert len(named) >= 8 and {e for each in named for e in each.split(",")} <= extras
    files = [
        word
        for page in PAGES
        for words in shell_lines(page)
        for word in words[:2]
        if word.startswith(("examples/", "benchmarks/", "docs/"))
    ]
    assert len(files) >= 3 and all((ROOT / file).is_file() for file in files)


# -- tables -------------------------------------------------------------------------


def test_reference_of_the_command_line_is_complete():
    page = TEXT["docs/reference/cli.md"]
    assert all(f"citrus-lirpa {command}" in page for command in COMMANDS)
    assert all(f"`{preset}`" in page for preset in config.presets())


def test_every_method_and_stage_has_a_row():
    for method in TRAINING_METHODS.values():
        row = rf"^\| .*`{method.name}`.* \| .* \| .*{'' if method.source == '-' else method.source}"
        assert re.search(row, TEXT["docs/methods.md"], re.MULTILINE), method.name
    for stage in (*STAGES, "io", "cross"):
        assert re.search(rf"^\| `{stage}` \|", TEXT["docs/verifier.md"], re.MULTILINE), stage


def figures(row: str) -> set[str]:
    """The percentages, with two decimals, of a row of a table."""
    return set(re.findall(r"(?<![\d.])\d{1,3}\.\d\d(?![\d.])", row))


@pytest.mark.parametrize(("page", "count"), [("README.md", 5), ("docs/results.md", 15)])
def test_results_stand_in_the_benchmarks(page, count):
    rows = [row for row in TEXT[page].splitlines() if row.startswith("|") and figures(row)]
    assert len(rows) >= count
    for row in rows:
        assert any(figures(row) <= figures(other) for other in MEASURED.splitlines()), row


# -- links --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", *RESULTS]
)
def test_links_lead_somewhere(page):
    for link in links(page):
        if "://" in link:
            parts = urlsplit(link)
            assert parts.scheme == "https" and not re.search(r"\s|[<>\"]", link), link
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
        else:
            file, _, anchor = link.partition("#")
            target = (ROOT / page).parent / file if file else ROOT / page
            assert target.exists(), link
            assert page not in SITE or target.resolve().is_relative_to(DOCS), link
            if anchor and page not in SITE:  # mkdocs checks its own
                assert anchor in anchors(target), link


def anchors(page: Path) -> list[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_page_is_in_the_navigation():
    def pages(part) -> list[str]:
        if isinstance(part, str):
            return [f"docs/{part}"]
        entries = part.values() if isinstance(part, dict) else part
        return [page for entry in entries for page in pages(entry)]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(pages(site["nav"])) == SITE


# -- names --------------------------------------------------------------------------


def documented() -> list[str]:
    text = "".join(TEXT[page] for page in SITE if page.startswith("docs/reference/"))
    return re.findall(r"^::: (citrus_lirpa\.[\w.]+)$", text, re.MULTILINE)


def resolve(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_reference_has_every_public_name_once():
    found = [resolve(path) for path in documented()]
    assert len(documented()) == len(set(documented()))
    for name in citrus_lirpa.__all__:
        assert sum(value is getattr(citrus_lirpa, name) for value in found) == 1, name


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_code_that_a_page_names_exists(page):
    """Files below the checkout; registries and tests somewhere in the sources."""
    words = re.findall(r"`([^`\n]+)`", (ROOT / page).read_text("utf-8"))
    folders = "citrus_lirpa|tests|examples|benchmarks|docs"
    for word in words:
        if re.fullmatch(rf"({folders})/[\w./-]*", word):
            assert (ROOT / word).exists(), word
    if page == "CONTRIBUTING.md":
        paths = [ROOT / "citrus_lirpa", ROOT / "tests"]
        sources = "\n".join(p.read_text("utf-8") for f in paths for p in f.rglob("*.py"))
        names = [w for w in words if re.fullmatch(r"[A-Z]{3,}[A-Z_]*|test_\w+", w)]
        assert len(names) >= 6
        for name in names:
            assert re.search(rf"\b{name}\b", sources), name


def test_there_is_one_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == citrus_lirpa.__version__
    changes = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert changes[:2] == ["Unreleased", citrus_lirpa.__version__]


# -- figures ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_those_of_the_pages(drawing):
    used = {Path(link).name for page in SITE for link in links(page) if link.endswith(".png")}
    drawn = {f"{name}.png" for name in drawing.FIGURES} | {"numerics.png"}  # of the benchmarks
    assert used == drawn == {file.name for file in (DOCS / "images").iterdir()}


def test_boxes_of_the_figure_are_those_of_the_loss(drawing):
    net = drawing.train_in_two_dimensions(citrus_lirpa.Citrus(0.35, clip=None), epochs=4)
    x, y = drawing.five_points()
    v = torch.zeros_like(x)
    axes = Figure().subplots()
    drawing.draw_boxes(axes, net, x, y, v, citrus_lirpa.Groups(5)(5))
    widths = sorted(round(patch.get_width(), 4) for patch in axes.patches)
    assert widths == sorted([0.22] * 5 + [round(2 * 0.35 * 0.11, 4)] * 20)
    broken = drawing.count_broken(net, x, y)
    assert broken.shape == (301, 301, 5)
    with torch.no_grad():  # the middle of the grid is no perturbation
        assert broken[150, 150].tolist() == (net(x).argmax(1) != y).tolist()


# -- the site -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install '.[docs]'")
    from mkdocs.__main__ import cli

    folder = tmp_path_factory.mktemp("site")
    command = ["build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, about other people's code
        done = CliRunner().invoke(cli, [*command, "--site-dir", str(folder)])
    assert done.exit_code == 0, done.output[-3000:]
    return folder


def test_site_builds_without_a_warning(site):
    files = {page: site / Path(page).relative_to("docs").with_suffix(".html") for page in SITE}
    pages = {page: file.read_text("utf-8") for page, file in files.items()}
    assert "<math" in pages["docs/maths.md"]
    loaded = re.compile(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=\"?https?:")
    assert not [page for page, html in pages.items() if loaded.search(html)]
    assert not [page for page, html in pages.items() if ":class:" in html or "$$" in html]
    reference = "".join(html for page, html in pages.items() if "/reference/" in page)
    assert all(f'id="{path}"' in reference for path in documented())
    assert reference.count("Parameters:") > 20
    for command in COMMANDS:
        assert f"Usage: citrus-lirpa {command} " in pages["docs/reference/cli.md"]


def test_site_in_a_browser(site):
    """Opened as files: every page fits a phone and a screen and can be read; the search finds."""
    with browser() as started:
        files = sorted(set(site.rglob("*.html")) - {site / "404.html"})
        widest = [site / "index.html", site / "comparison.html", site / "reference" / "cli.html"]
        for width, scheme, some in ((390, "dark", files), (1280, "light", widest)):
            for page in opened(started, [file.as_uri() for file in some], width, scheme):
                assert page.evaluate(OVERFLOW) <= 0, (page.url, width)
                assert page.evaluate(FAINT) == [], (page.url, scheme)
        for page in opened(started, [(site / "index.html").as_uri()]):
            page.click("input.md-search__input")
            page.keyboard.type("UCert")
            page.wait_for_selector("text=/[0-9]+ matching documents/")
