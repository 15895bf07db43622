"""Imports from outside: auto_LiRPA, packages that are not everywhere, and the user's own code.

``import citrus_lirpa`` imports this, and so do commands before they know what to do: torch is
imported where it is used.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, DependencyError, foreign, reason, require

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor


def import_optional(module: str, fix: str) -> ModuleType:
    """Import a module that may be missing.

    Args:
        module: The full name of the module.
        fix: What to do where it cannot be imported, such as "pip install pandas".

    Raises:
        DependencyError: The module is missing, or does not fit what is installed.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise DependencyError(f"{module} cannot be imported ({reason(error)}): {fix}") from error


def import_torchvision() -> ModuleType:
    """Import torchvision, which is built for one version of torch."""
    import torch

    return import_optional(
        "torchvision",
        f"install the version that matches torch {torch.__version__}; for torch 2.11.0: "
        "pip install torchvision==0.26.0",
    )


def to_frame(columns: Mapping[str, Sequence[Any] | Tensor]) -> DataFrame:
    """Make a data frame of columns of equal length by name; tensors are (N,), on any device."""
    pandas = import_optional("pandas", "pip install pandas")
    return pandas.DataFrame(
        {
            name: list(column) if isinstance(column, Sequence) else column.detach().cpu().numpy()
            for name, column in columns.items()
        }
    )


# -- auto_LiRPA ---------------------------------------------------------------------------

_LIRPA = "auto_LiRPA"


class _Repairer(MetaPathFinder, Loader):
    """Finds auto_LiRPA by calling ``load``, which imports and repairs it."""

    def __init__(self, load: Callable[[], object]):
        self.load, self.bypassed = load, False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != _LIRPA or self.bypassed:
            return None
        try:
            self.load()
        except DependencyError:
            return None  # the usual import follows, and reports what is missing
        module = sys.modules.pop(name)  # or it would be executed again
        return ModuleSpec(name, self, loader_state=(module, module.__spec__))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return spec.loader_state[0]

    def exec_module(self, module: ModuleType) -> None:
        spec: Any = module.__spec__
        module.__spec__ = spec.loader_state[1]  # restored; the module was executed by ``load``


def repair_on_import(load: Callable[[], object]) -> None:
    """Let ``load`` import and repair auto_LiRPA whenever anybody imports it."""
    sys.meta_path.insert(0, _Repairer(load))
    if _LIRPA in sys.modules:  # imported before this package
        with suppress(DependencyError):
            load()


@contextmanager
def unrepaired() -> Iterator[None]:
    """Import auto_LiRPA like any other package inside the block."""
    ours = [finder for finder in sys.meta_path if isinstance(finder, _Repairer)]
    for finder in ours:
        finder.bypassed = True
    try:
        yield
    finally:
        for finder in ours:
            finder.bypassed = False


# -- the user's own code ------------------------------------------------------------------

#: What the user has named to be run; "*" for everything.
_PERMITTED: set[str] = set()


def is_code(source: str) -> bool:
    """Return whether a name is one of code: ``FILE.py:NAME``, ``MODULE:NAME``, ``ctrain:NAME``."""
    return bool(re.fullmatch(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*", source))


def trust_option(*names: object) -> str:
    """Return " --trust-code", which lets commands run code, if one of the names is code, or ""."""
    return " --trust-code" if any(is_code(str(name)) for name in names) else ""


def permit_code(source: str) -> str:
    """Let code run that the user has named; return its name, with the whole path of a file.

    It is ``path/file.py:name``, ``package.module:name`` or ``ctrain:name``; "*" permits all code.
    """
    where, _, name = source.rpartition(":")
    if where.endswith(".py"):
        source = f"{Path(where).expanduser().resolve()}:{name}"
    _PERMITTED.add(source)
    return source


def permitted() -> frozenset[str]:
    """Return what the user has named so far, for a process elsewhere to permit as well."""
    return frozenset(_PERMITTED)


def code_hash(source: str) -> str:
    """Return the SHA-256 of a file of code; empty for a module, which may be many files.

    Raises:
        ConfigError: The file cannot be read.
    """
    where = source.rpartition(":")[0]
    if not where.endswith(".py"):
        return ""
    try:
        return hashlib.sha256(Path(where).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read ({error.strerror}); expected FILE.py:NAME"
        ) from error


def load_code(source: str) -> Callable[..., Any]:
    """Run the file or module that ``source`` names, and return its function or class.

    Args:
        source: What ``permit_code`` returned, in this process or an earlier one.

    Raises:
        ConfigError: The user has not named it in this process, it fails, or it has no such function
            or class.
    """
    check_permitted(source)
    where, _, name = source.rpartition(":")
    with foreign(ConfigError, f"{where} fails"):
        module = _module(where)
    made = getattr(module, name, None)
    require(callable(made), f"{where} has no function or class {name}", ConfigError)
    return made  # type: ignore[return-value]


def check_permitted(source: str, sha256: str = "") -> None:
    """Raise ConfigError where the user has not named this code in this process, or it changed."""
    require(
        bool({source, "*"} & _PERMITTED),
        f"{source} is code that the run names; add --trust-code to run it",
        ConfigError,
    )
    found = code_hash(source)
    require(
        not sha256 or found == sha256,
        f"{source.rpartition(':')[0]} has changed since the run was made; restore it, or name it "
        "anew by --model or --data",
        ConfigError,
    )


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        return importlib.import_module(where)
    name = f"citrus_lirpa_user_{hashlib.sha256(where.encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, where)
        if spec is None or spec.loader is None:
            raise ImportError(f"{where} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        folder = str(Path(where).parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)  # for its imports of files beside it
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
