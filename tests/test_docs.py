"""README snippets and examples run; every command stands in the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from citrus_lirpa import config
from citrus_lirpa.cli import COMMANDS

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("net", ["lirpa", "bounded"])
def test_example_trains_on_both_kinds_of_model(net: str) -> None:
    output = run("-W", "error", "examples/lirpa_training.py", "--net", net, "--epochs", "12")
    accuracy, certified = re.search(
        r"standard accuracy ([\d.]+)%, certified UAP accuracy ([\d.]+)%", output
    ).groups()
    assert float(accuracy) > 85
    assert float(certified) > 10
