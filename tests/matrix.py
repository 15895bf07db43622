"""The test suite on the oldest and newest versions that setup.cfg allows: `make test-matrix`.

    python tests/matrix.py [ROW ...]

Each row is a virtual environment of its own below .matrix (5 GB each; kept, so that the next run
is faster), with its log beside it. Upstream auto_LiRPA is taken from PYTHONPATH, and its rows are
left out where there is none. Ends with a Markdown table, and with status 1 unless every row passed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".matrix"
RELEASE = "auto-LiRPA==0.3"
UPSTREAM_NEEDS = ("graphviz", "sortedcontainers")
PARALLEL = ("--numprocesses", "2", "--dist", "worksteal")
#: torchvision of the oldest torch; those of the others are in constraints.txt, or found by pip.
OLDEST_TORCHVISION = "torchvision==0.20.*"


@dataclass(frozen=True)
class Row:
    """torch: requirements; constrained: by constraints.txt; upstream: auto_LiRPA of PYTHONPATH."""

    torch: tuple[str, ...]
    constrained: bool = False
    upstream: bool = False


def rows() -> dict[str, Row]:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    oldest = re.search(r"^torch>=([\d.]+)$", setup["options"]["install_requires"], re.MULTILINE)
    return {
        "pinned": Row(("torch", "torchvision"), constrained=True),
        "pinned-upstream": Row(("torch", "torchvision"), constrained=True, upstream=True),
        "oldest": Row((f"torch=={oldest.group(1)}.*", OLDEST_TORCHVISION)),
        "newest": Row(("torch", "torchvision")),
        "newest-upstream": Row(("torch", "torchvision"), upstream=True),
    }


def upstream() -> str | None:
    """The entry of PYTHONPATH that holds auto_LiRPA."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return next((e for e in entries if e and (Path(e) / "auto_LiRPA").is_dir()), None)


def install(row: Row, folder: Path) -> Path:
    """The environment's Python; a finished environment is used again."""
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        call(sys.executable, "-m", "venv", "--clear", folder)
        constraints = ("--constraint", ROOT / "constraints.txt") if row.constrained else ()
        pip = (python, "-m", "pip", "install")
        call(*pip, *constraints, *row.torch, "--editable", f"{ROOT}[test]")
        if row.upstream:
            call(*pip, *UPSTREAM_NEEDS)
        else:
            call(*pip, "--no-deps", RELEASE)
        ready.touch()
    return python


def call(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def versions(python: Path, environment: dict[str, str]) -> str:
    code = (
        "import sys, torch, numpy, torchvision; from importlib import metadata as m\n"
        "import citrus_lirpa, auto_LiRPA\n"
        "found = getattr(auto_LiRPA, '__version__', None) or m.version('auto-LiRPA')\n"
        "print('%d.%d' % sys.version_info[:2], torch.__version__, torchvision.__version__, "
        "numpy.__version__, found, sep=' | ')"
    )
    run = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    return run.stdout.strip() or "cannot be imported | | | |"


def test(name: str, row: Row) -> tuple[str, bool]:
    """The row's line of the table, and whether it passed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if row.upstream:
        environment["PYTHONPATH"] = str(upstream())
    python = install(row, FOLDER / name)
    log = FOLDER / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(
            [python, "-m", "pytest", *PARALLEL], cwd=ROOT, env=environment, stdout=file, stderr=file
        ).returncode
    last = log.read_text("utf-8").strip().splitlines()[-1].strip("= ")
    return f"| {name} | {versions(python, environment)} | {last} |", status == 0


def main(chosen: list[str]) -> int:
    known = rows()
    for name in chosen:
        if name not in known:
            print(f"Error: unknown row '{name}'; expected one of {', '.join(known)}")
            return 2
    lines, passed = [], True
    for name in chosen or known:
        if known[name].upstream and upstream() is None:
            lines.append(f"| {name} | - | - | - | - | - | left out: no auto_LiRPA on PYTHONPATH |")
            continue
        print(f"{name}: log in {FOLDER / name}.log", flush=True)
        line, ok = test(name, known[name])
        lines.append(line)
        passed = passed and ok
    print("| row | Python | torch | torchvision | NumPy | auto_LiRPA | tests |")
    print("|---|---|---|---|---|---|---|", *lines, sep="\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
