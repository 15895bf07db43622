"""The front door: public names, earlier paths, what is imported when, and the rooms' contracts."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
from command_line import process

import citrus_lirpa

PACKAGE = Path(citrus_lirpa.__file__).parent
ROOT = Path(__file__).parents[2]
#: What the README, the documentation and the examples have told users to import.
DOCUMENTED = {
    "citrus_lirpa": "compare config data models pareto plots runs zoo",
    "citrus_lirpa.attacks": "PGD GroupAttack SgdUap UapResult try_uap",
    "citrus_lirpa.bounds": "METHODS BoundedNet as_bounded_net",
    "citrus_lirpa.compare": "read_runs",
    "citrus_lirpa.config": "resolve presets",
    "citrus_lirpa.data": "DATASETS DatasetSpec Split load",
    "citrus_lirpa.errors": "CitrusError DependencyError",
    "citrus_lirpa.losses": "Citrus CrossEntropy Ibp LOSSES LossTerms Sabr Taps Uat",
    "citrus_lirpa.models": "MODELS Normalise build_model",
    "citrus_lirpa.pareto": "draw_pareto",
    "citrus_lirpa.plots": "draw_curves draw_stages draw_strongest draw_uap",
    "citrus_lirpa.runs": "build",
    "citrus_lirpa.verify": "Certificates Evaluation Protocol UapBounds certify evaluate",
    "citrus_lirpa.zoo": "find names",
}


def find(path: str) -> object:
    """The package, one of its modules, or a module under its short name."""
    package, _, name = path.partition(".")
    return getattr(citrus_lirpa, name) if name else importlib.import_module(package)


# -- names --------------------------------------------------------------------------


def test_public_names_exist_and_say_what_they_are():
    for name in citrus_lirpa.__all__:
        value = getattr(citrus_lirpa, name)
        if name != "METHODS":
            text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
            assert text and not text.startswith(f"{name}("), name  # not the one dataclasses write
    assert set(citrus_lirpa.__all__) <= set(dir(citrus_lirpa))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        citrus_lirpa.nothing  # noqa: B018


def test_editors_see_the_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = [alias.asname for line in block.body for alias in line.names]
    assert sorted(names) == citrus_lirpa.__all__


@pytest.mark.parametrize("path", DOCUMENTED)
def test_documented_imports_work(path):
    for name in DOCUMENTED[path].split():
        assert hasattr(find(path), name), name


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("onnx_files", "formats.onnx", "load_onnx save_onnx"),
        ("schedules", "training.schedules", "ramp"),
    ],
)
def test_moved_modules_are_found_for_one_release(old, new, names):
    module = importlib.import_module(f"citrus_lirpa.{old}")
    for name in names.split():
        with pytest.warns(
            DeprecationWarning, match=f"citrus_lirpa.{old} is citrus_lirpa.{new} now"
        ):
            value = getattr(module, name)
        assert value is getattr(importlib.import_module(f"citrus_lirpa.{new}"), name)


# -- what is imported, and when -----------------------------------------------------


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import citrus_lirpa", "torch numpy click"),
        ("from citrus_lirpa import CitrusError", "torch"),
        (
            "from citrus_lirpa.cli import main; main(['--help'], standalone_mode=False)",
            "torch auto_LiRPA",
        ),
        (
            "from citrus_lirpa.cli import COMMANDS, main\n"
            "for name in COMMANDS: main([name, '--help'], standalone_mode=False)",
            "torch numpy pydantic auto_LiRPA",
        ),
        (
            "from citrus_lirpa import *\nfrom citrus_lirpa import compare, data, pareto, plots",
            "click matplotlib auto_LiRPA pandas onnx torchvision",
        ),
    ],
)
def test_nothing_is_imported_before_it_is_needed(code, absent):
    check = f"import sys; print([name for name in {absent.split()} if name in sys.modules])"
    done = process("-W", "error", "-c", f"{code}\n{check}")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_no_stage_of_a_certification_waits_for_sympy():
    """torch imports it for the first gradient with weights, in seconds of the stage's time."""
    code = (
        "import sys, torch\nfrom citrus_lirpa import BoundedNet, certify\n"
        "m = torch.nn\nx, begun = torch.rand(4, 2), []\n"
        "net = m.Sequential(m.Linear(2, 6), m.ReLU(), m.Linear(6, 3)).eval()\n"
        "note = lambda stage: begun or begun.append(set(sys.modules))\n"
        "certify(BoundedNet(net, x), x, net(x).argmax(1), 0.1, method='crown', announce=note)\n"
        "print('sympy' in set(sys.modules) - begun[0])"
    )
    done = process("-c", code)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False", done.stderr


def test_only_declared_dependencies_are_imported():
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    statements = [
        node
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
    ]
    names = [a.name for node in statements if isinstance(node, ast.Import) for a in node.names]
    names += [n.module for n in statements if isinstance(n, ast.ImportFrom) and not n.level]
    outside = {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names}
    assert "torch" in outside and "citrus_lirpa" not in outside
    for package in outside:
        name = {"PIL": "pillow"}.get(package, package.replace("_", "-"))
        assert re.search(rf"^    {name}\b", setup, re.MULTILINE), package


def test_rooms_keep_their_contracts():
    """pyproject.toml states them: layers, no circles, click and auto_LiRPA in one room each."""
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    code = "import sys; from importlinter import cli; sys.exit(cli.lint_imports(no_cache=True))"
    done = process("-c", code)
    assert done.returncode == 0 and "5 kept, 0 broken" in done.stdout, done.stdout + done.stderr
