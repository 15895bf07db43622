"""The sdist and the wheel hold the whole package, and install in a clean environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import citrus_lirpa

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "citrus_lirpa"
EVERYWHERE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
AT_THE_TOP = {"build", "data", "dist", "runs", "shared", "site"}
CHECK = """
import sys
from pathlib import Path
import citrus_lirpa
from citrus_lirpa import config, data, zoo
assert Path(citrus_lirpa.__file__).is_relative_to(sys.prefix), citrus_lirpa.__file__
assert (Path(citrus_lirpa.__file__).parent / "py.typed").is_file()
presets, networks = config.presets(), zoo.names()
for preset in presets:
    config.resolve(preset=preset, method="sabr")
for name in networks:
    zoo.find(f"zoo:{name}"), zoo.evaluation(name)
digits = data.load("digits", train=True, data_dir=Path("none"), download=False)
print(citrus_lirpa.__version__, len(presets), len(networks), len(digits))
"""


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outside(folder: str, names: list[str]) -> set[str]:
    """Names in a folder of the checkout that are no part of the source."""
    left_out = EVERYWHERE(folder, names)
    return left_out | AT_THE_TOP if Path(folder) == ROOT else left_out


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with sdist and wheel, made from a copy of the checkout."""
    pytest.importorskip("build", reason="the package 'build' is not installed")
    folder = tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, folder / "source", ignore=outside)
    # no isolation: nothing is fetched; the wheel is made from the sdist
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "source")
    return folder


def test_both_hold_every_file_of_the_package(built):
    wanted = {
        file.relative_to(ROOT).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {"citrus_lirpa/py.typed", "citrus_lirpa/training/zoo_files/index.json"} < wanted
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        names = set(wheel.namelist())
    assert wanted <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"citrus_lirpa"}
    with tarfile.open(*built.glob("*.tar.gz")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    more = {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "constraints.txt", "Makefile"}
    assert wanted | more | {"tests/product/test_dist.py", "examples/resnet18.py"} <= names


@pytest.mark.parametrize("kind", ["*.whl", pytest.param("*.tar.gz", marks=pytest.mark.nightly)])
def test_it_installs_in_a_clean_environment(built, kind, tmp_path):
    """Dependencies are those of this environment, seen behind the new one's own packages.

    The wheel was made from the sdist, as pip would do again.
    """
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    here = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (here / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--ignore-installed"]
    run(*pip, *options, *built.glob(kind))
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for words in ([python, "-c", CHECK], [tmp_path / "env" / "bin" / "citrus-lirpa", "--version"]):
        done = subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert citrus_lirpa.__version__ in done.stdout
