"""The scripts of benchmarks/, imported as where Python starts one of them."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a script by its name; none of them stays among the modules."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield pytest.importorskip
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]
