"""README snippets and examples run; every command stands in the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from citrus_lirpa import __version__
from citrus_lirpa.cli import COMMANDS
from citrus_lirpa.training import config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_snippet_runs(number: int) -> None:
    assert SNIPPETS[number].startswith("import")
    run("-W", "error", "-c", SNIPPETS[number])


def test_every_command_and_preset_stands_in_the_readme() -> None:
    for command in COMMANDS:
        assert f"citrus-lirpa {command}" in README
    for preset in config.presets():
        assert f"`{preset}`" in README


def test_relative_links_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9-]", "", title.lower().replace(" ", "-")) for title in titles}
    for link in links:
        file, _, anchor = link.partition("#")
        assert (ROOT / file).exists(), link
        assert file or anchor in anchors, link


def figures(row: str) -> set[str]:
    """The percentages, with two decimals, of a row of a table."""
    return set(re.findall(r"(?<![\d.])\d{1,3}\.\d\d(?![\d.])", row))


def test_results_in_the_readme_stand_in_the_benchmarks() -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text("utf-8").splitlines()
    rows = [row for row in README.splitlines() if row.startswith("|") and figures(row)]
    assert len(rows) >= 12
    for row in rows:
        assert any(figures(row) <= figures(other) for other in measured), row


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"])
def test_links_of_other_pages_exist(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        file = (ROOT / name).parent / link.partition("#")[0]
        assert "://" in link or file.exists(), link


def test_code_that_contributing_names_exists() -> None:
    """Files below the checkout, and registries and functions somewhere in the sources."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    words = re.findall(r"`([^`\n]+)`", text)
    files = [
        w for w in words if re.fullmatch(r"(citrus_lirpa|tests|examples|benchmarks)/[\w./]*", w)
    ]
    assert len(files) >= 12
    for file in files:
        assert (ROOT / file).exists(), file
    folders = (ROOT / "citrus_lirpa", ROOT / "tests")
    sources = "\n".join(p.read_text("utf-8") for f in folders for p in f.rglob("*.py"))
    names = [w for w in words if re.fullmatch(r"_?[A-Z]{2,}[A-Z_]*|_\w+(\.\w+)?|test_\w+", w)]
    assert len(names) >= 12
    for name in names:
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", sources), name


def test_there_is_one_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == __version__
    changes = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert changes[:2] == ["Unreleased", __version__]
