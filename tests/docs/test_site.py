"""The documentation: every snippet runs, every command parses, every link leads somewhere."""

import importlib.util
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import urlsplit

import click
import matplotlib
import pytest
import torch
import yaml
from matplotlib import pyplot
from matplotlib.figure import Figure

import citrus_lirpa
from citrus_lirpa import data
from citrus_lirpa.cli import COMMANDS, main
from citrus_lirpa.training import config

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
TEXT = {page: (DOCS / page).read_text("utf-8") for page in PAGES}
LINKS = [
    (page, link)
    for page in PAGES
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", TEXT[page], flags=re.DOTALL))
]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT[page], re.DOTALL)


def shell_lines(page: str) -> list[list[str]]:
    """The words of every line of the page's shell blocks, comments left out."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def our_commands(page: str) -> list[list[str]]:
    """The arguments of every citrus-lirpa on the page, however it is launched."""
    launchers = ("citrus-lirpa", "cli.py")
    return [
        line[index + 1 :]
        for line in shell_lines(page)
        for index, word in enumerate(line)
        if word in launchers
    ]


LINES = [(page, " ".join(args)) for page in PAGES for args in our_commands(page)]


# -- snippets -----------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    if "onnx" in page:
        pytest.importorskip("onnx")
    if "notebooks" in page:
        pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "DATASETS", dict(data.DATASETS))
    code = "\n".join(blocks(page, "python"))
    try:
        with matplotlib.rc_context({"backend": "agg"}):
            exec(compile(code, page, "exec"), {"__name__": "__main__"})
    finally:
        pyplot.close("all")


def test_pages_have_snippets():
    assert len([page for page in PAGES if blocks(page, "python")]) >= 6
    assert len(LINES) >= 20


@pytest.mark.parametrize(("page", "line"), LINES)
def test_command_parses(page, line):
    name, *arguments = shlex.split(line)
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"{page}: there is no command {name}"
    params = command.make_context(name, arguments).params
    if name == "train" and params["resume"] is None:
        config.resolve(  # names and values of --set are known too
            preset=params["preset"],
            method=params["method"],
            mode=params["mode"],
            overrides=params["overrides"],
        )


def test_a_wrong_command_would_be_found():
    command = main.get_command(click.Context(main), "train")
    with pytest.raises(click.UsageError):
        command.make_context("train", ["--no-such-option"])


def test_other_lines_name_what_there_is():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    seen = 0
    for page in PAGES:
        for words in shell_lines(page):
            if words[:2] == ["pip", "install"] and words[-1].startswith(".["):
                assert set(words[-1][2:-1].split(",")) <= extras, words
                seen += 1
            if words[0] == "python" and words[1].startswith(("examples/", "benchmarks/", "docs/")):
                assert (ROOT / words[1]).is_file(), words
                seen += 1
    assert seen >= 4


# -- links --------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "link"), [x for x in LINKS if "://" not in x[1]])
def test_internal_link_leads_to_a_file(page, link):
    target = link.partition("#")[0]
    assert not target or (DOCS / page).parent.joinpath(target).is_file()


@pytest.mark.parametrize("link", sorted({x[1] for x in LINKS if "://" in x[1]}))
def test_external_link_is_well_formed(link):
    parts = urlsplit(link)
    assert parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc)
    assert not re.search(r"\s|[<>\"]", link)


def test_every_page_is_in_the_navigation():
    def pages(part) -> list[str]:
        if isinstance(part, str):
            return [part]
        entries = part.values() if isinstance(part, dict) else part
        return [page for entry in entries for page in pages(entry)]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(pages(site["nav"])) == PAGES


# -- reference ----------------------------------------------------------------------


def documented() -> list[str]:
    text = "".join(TEXT[page] for page in PAGES if page.startswith("reference/"))
    return re.findall(r"^::: (citrus_lirpa\.[\w.]+)$", text, re.MULTILINE)


def resolve(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_reference_has_every_public_name_once():
    found = [resolve(path) for path in documented()]
    assert len(documented()) == len(set(documented()))
    for name in citrus_lirpa.__all__:
        assert sum(value is getattr(citrus_lirpa, name) for value in found) == 1, name


# -- figures ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_those_of_the_pages(figures):
    used = {Path(link).name for _, link in LINKS if link.endswith(".png")}
    drawn = {f"{name}.png" for name in figures.FIGURES} | {"numerics.png"}  # of the benchmarks
    assert used == drawn == {file.name for file in (DOCS / "images").iterdir()}


def test_boxes_of_the_figure_are_those_of_the_loss(figures):
    net = figures.train_in_two_dimensions(citrus_lirpa.Citrus(0.35, clip=None), epochs=4)
    x, y = figures.five_points()
    v = torch.zeros_like(x)
    axes = Figure().subplots()
    figures.draw_boxes(axes, net, x, y, v, citrus_lirpa.Groups(5)(5))
    widths = sorted(round(patch.get_width(), 4) for patch in axes.patches)
    assert widths == sorted([0.22] * 5 + [round(2 * 0.35 * 0.11, 4)] * 20)
    broken = figures.count_broken(net, x, y)
    assert broken.shape == (301, 301, 5)
    with torch.no_grad():  # the middle of the grid is no perturbation
        assert broken[150, 150].tolist() == (net(x).argmax(1) != y).tolist()


# -- the site -----------------------------------------------------------------------


def test_site_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {page: (tmp_path / page).with_suffix(".html").read_text("utf-8") for page in PAGES}
    assert "<math" in pages["maths.md"]
    loaded = re.compile(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=\"?https?:")
    assert not [page for page, html in pages.items() if loaded.search(html)]
    assert not [page for page, html in pages.items() if ":class:" in html or "$$" in html]
    reference = "".join(html for page, html in pages.items() if page.startswith("reference/"))
    assert all(f'id="{path}"' in reference for path in documented())
    for command in COMMANDS:
        assert f"Usage: citrus-lirpa {command} " in pages["reference/cli.md"]
