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
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("net", ["lirpa", "bounded"])
def test_example_trains_on_both_kinds_of_model(net: str) -> None:
    output = run("-W", "error", "examples/lirpa_training.py", "--net", net, "--epochs", "12")
    accuracy, certified = re.search(
        r"standard accuracy ([\d.]+)%, certified UAP accuracy ([\d.]+)%", output
    ).groups()
    assert float(accuracy) > 85
    assert float(certified) > 10
