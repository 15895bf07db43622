"""auto_LiRPA repaired when anybody imports it, so that this package need not import it itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .errors import DependencyError

_NAME = "auto_LiRPA"


class _Repairer(MetaPathFinder, Loader):
    """Finds auto_LiRPA by calling ``load``, which imports and repairs it."""

    def __init__(self, load: Callable[[], object]):
        self.load, self.resting = load, False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != _NAME or self.resting:
            return None
        try:
            self.load()
        except DependencyError:
            return None  # the import goes on, and says itself what it lacks
        module = sys.modules.pop(name)  # which else would be run again
        return ModuleSpec(name, self, loader_state=(module, module.__spec__))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return spec.loader_state[0]

    def exec_module(self, module: ModuleType) -> None:
        spec: Any = module.__spec__
        module.__spec__ = spec.loader_state[1]  # its own again; it has run already


def install(load: Callable[[], object]) -> None:
    """Let ``load`` import auto_LiRPA whenever anybody does."""
    sys.meta_path.insert(0, _Repairer(load))


@contextmanager
def resting() -> Iterator[None]:
    """Inside the block auto_LiRPA is imported as any other package."""
    ours = [finder for finder in sys.meta_path if isinstance(finder, _Repairer)]
    for finder in ours:
        finder.resting = True
    try:
        yield
    finally:
        for finder in ours:
            finder.resting = False
