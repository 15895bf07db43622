"""The layout: which module may import which, and what no module may contain."""

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

import citrus_lirpa

FOLDER = Path(citrus_lirpa.__file__).parent
#: From high to low: a module imports from lower rows only (and from its own subpackage).
LAYERS = [
    ["__main__", "_api"],
    ["cli"],
    ["workplan"],
    ["page"],
    ["doctor", "effects", "report", "pareto", "sweep"],
    ["compare", "plots"],
    ["train"],
    ["runs"],
    ["networks"],
    ["subjects", "vnnlib"],
    ["onnx_files"],
    ["checkpoint"],
    ["loggers"],
    ["config"],
    ["losses", "resuming", "regularisers", "initialisation", "batchnorm", "verify"],
    ["attacks"],
    ["bounds"],
    ["selfcheck", "tails", "plan"],
    ["pieces"],
    ["wrapping"],
    ["_compat"],
    ["onnx_graph", "onnx_limits", "properties"],
    ["onnx_layers"],
    ["_quiet"],
    ["sealed", "locks"],
    ["_hook", "schedules", "margins", "boxes", "tables", "data", "models", "precision"],
    ["checks", "allocator", "readers", "records", "zoo", "processes", "safetensors_files"],
    ["files", "frames"],
    ["interrupts", "distributed"],
    ["plain"],
    ["errors", "_version"],
]
LEVEL = {unit: -i for i, row in enumerate(LAYERS) for unit in row}
FILES = sorted(FOLDER.rglob("*.py"))
TREES = {file.relative_to(FOLDER).as_posix(): ast.parse(file.read_text("utf-8")) for file in FILES}
MODULES = [name for name in TREES if name != "__init__.py"]  # the package itself imports all


def unit(name: str) -> str:
    """The row entry of a file: its subpackage, or its own name."""
    return name.partition("/")[0].removesuffix(".py")


def for_types_only(tree: ast.AST) -> set[ast.AST]:
    """Everything below ``if TYPE_CHECKING:``, which never runs."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If)]
    blocks = [n for n in blocks if isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING"]
    return {node for block in blocks for line in block.body for node in ast.walk(line)}


def imported(name: str) -> list[tuple[str, ast.AST]]:
    """Absolute dotted names that the file imports, with the statement of each."""
    package = ["citrus_lirpa", *name.split("/")[:-1]]
    found = []
    idle = for_types_only(TREES[name])
    for node in (node for node in ast.walk(TREES[name]) if node not in idle):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{module}.{alias.name}", node) for alias in node.names]
    return found


def own(name: str) -> set[str]:
    """Units of this package that the file imports."""
    parts = [target.split(".") for target, _ in imported(name)]
    return {part[1] for part in parts if part[0] == "citrus_lirpa" and part[1] != "__version__"}


def importers(package: str) -> set[str]:
    return {
        name for name in TREES for target, _ in imported(name) if target.split(".")[0] == package
    }


# -- who imports whom ---------------------------------------------------------------


def test_every_module_has_its_place():
    assert {unit(name) for name in MODULES} == set(LEVEL)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    wrong = [other for other in own(name) - {unit(name)} if LEVEL[other] >= LEVEL[unit(name)]]
    assert wrong == []


def test_the_reader_of_imports_sees_them():
    assert own("cli/train.py") >= {"_compat", "config", "runs", "train"}
    assert own("losses/citrus.py") >= {"attacks", "bounds", "boxes", "errors", "losses", "margins"}


@pytest.mark.parametrize("leaf", ["data.py", "models.py", "readers.py"])
def test_leaves_import_only_errors(leaf):
    assert own(leaf) - {"readers"} == {"errors"}


def test_auto_lirpa_is_touched_where_it_is_wrapped_only():
    naming = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and re.fullmatch(r"auto_LiRPA(\.\w+)*", str(node.value))
    }
    assert importers("auto_LiRPA") | naming <= {
        f"{m}.py" for m in ("_compat", "_hook", "_quiet", "wrapping")
    }
    assert naming


def test_click_is_imported_by_the_command_line_only():
    assert {name.partition("/")[0] for name in importers("click")} == {"cli"}


def test_matplotlib_is_imported_by_the_modules_that_draw_only():
    assert importers("matplotlib") == {"page/charts.py", "plots.py", "pareto.py"}


@pytest.mark.parametrize("name", ["page/charts.py", "plots.py", "pareto.py"])
def test_matplotlib_is_imported_where_a_plot_is_drawn(name):
    functions = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.FunctionDef)]
    inside = {node for function in functions for node in ast.walk(function)}
    statements = [s for t, s in imported(name) if t.split(".")[0] == "matplotlib"]
    assert statements and all(statement in inside for statement in statements)


def test_only_declared_dependencies_are_imported():
    setup = (FOLDER.parent / "setup.cfg").read_text("utf-8")
    outside = {t.split(".")[0] for name in TREES for t, _ in imported(name)}
    outside -= {*sys.stdlib_module_names, "citrus_lirpa"}
    for package in outside:
        name = {"PIL": "pillow"}.get(package, package.replace("_", "-"))
        assert re.search(rf"^    {name}\b", setup, re.MULTILINE), package


# -- what no module contains --------------------------------------------------------


def does_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(k, ast.Name) and k.id in ("Exception", "BaseException") for k in kinds)


def offences(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"{node.lineno}: assert")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "print":
                found.append(f"{node.lineno}: print")
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                found.append(f"{node.lineno}: bare except")
            elif all(does_nothing(n) for n in node.body):
                found.append(f"{node.lineno}: silent except")
            elif catches_all(node) and not any(isinstance(n, ast.Raise) for n in ast.walk(node)):
                found.append(f"{node.lineno}: swallows every error")
    return found


@pytest.mark.parametrize("name", TREES)
def test_no_assert_no_print_no_silent_except(name):
    assert offences(TREES[name]) == []


@pytest.mark.parametrize(
    "text",
    ["assert x", "print(1)", "try:\n x\nexcept:\n raise", "try:\n x\nexcept OSError:\n pass",
     "try:\n x\nexcept OSError:\n ...", "try:\n x\nexcept Exception:\n y = 1",
     "try:\n x\nexcept (OSError, BaseException):\n y = 1"],
)  # fmt: skip
def test_offences_are_found(text):
    assert len(offences(ast.parse(text))) == 1
    assert offences(ast.parse("try:\n x\nexcept Exception as e:\n raise OSError from e")) == []


# -- the public names ---------------------------------------------------------------


def test_public_names():
    names = citrus_lirpa.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(citrus_lirpa, name) for name in names)


@pytest.mark.parametrize("name", sorted(set(citrus_lirpa.__all__) - {"METHODS", "__version__"}))
def test_public_name_has_a_docstring(name):
    value = getattr(citrus_lirpa, name)
    text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert text and not text.startswith(f"{name}(")  # not the one dataclasses write


@pytest.mark.parametrize("name", TREES)
def test_module_has_a_docstring(name):
    assert ast.get_docstring(TREES[name])
