"""Repair auto_LiRPA whenever anybody imports it; this package need not import it first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .errors import DependencyError

_NAME = "auto_LiRPA"


class _Repairer(MetaPathFinder, Loader):
    """Finds auto_LiRPA by calling ``load``, which imports and repairs it."""

    def __init__(self, load: Callable[[], object]):
        self.load, self.bypassed = load, False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != _NAME or self.bypassed:
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


def install(load: Callable[[], object]) -> None:
    """Let ``load`` import and repair auto_LiRPA whenever anybody imports it."""
    sys.meta_path.insert(0, _Repairer(load))
    if _NAME in sys.modules:  # imported before this package
        with suppress(DependencyError):
            load()


@contextmanager
def bypassed() -> Iterator[None]:
    """Import auto_LiRPA like any other package inside the block."""
    ours = [finder for finder in sys.meta_path if isinstance(finder, _Repairer)]
    for finder in ours:
        finder.bypassed = True
    try:
        yield
    finally:
        for finder in ours:
            finder.bypassed = False
