"""CUDA graphs on the pretended GPU of pretend_cuda.py, which imports this.

While one is captured, every operator on the device is recorded with its tensors and with all that
the host gave it. ``replay`` runs them again, and puts each result where the capture's was. As with
a real graph, what the host decided is in it for good, a wait of the host while capturing raises,
and the capture itself changes nothing: its results hold NaN until the first replay.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import _disable_current_modes


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to all within lists, tuples and dicts, faster than torch's tree_map."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([mapped(function, one) for one in value])
    if kind is dict:
        return {key: mapped(function, one) for key, one in value.items()}
    return function(value)


def tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors within lists, tuples and dicts."""
    found: list[torch.Tensor] = []
    mapped(lambda one: found.append(one) if isinstance(one, torch.Tensor) else None, value)
    return found


class Graph:
    """Stands in for torch.cuda.CUDAGraph.

    Attributes:
        capturing: The one that is captured now.
        count: How often graphs were captured and replayed.
        generator: Returns the device's random generator.
    """

    capturing: ClassVar[Graph | None] = None
    count: ClassVar[dict[str, int]] = {"captured": 0, "replayed": 0}
    generator: Callable[[], torch.Generator]

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[[], Any], Any]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._made: set[int] = set()

    def run(self, call: Callable[[], Any], arguments: Any) -> Any:
        """Run an operator on the device, whose tensors of the CPU these are, and record it."""
        for tensor in tensors(arguments):
            memory = tensor.untyped_storage()
            if memory.data_ptr() not in self._made | self._before.keys():
                whole = torch.empty(0, dtype=torch.uint8).set_(memory)
                self._before[memory.data_ptr()] = whole, whole.clone()
        out = call()
        made = {tensor.untyped_storage().data_ptr() for tensor in tensors(out)}
        self._made |= made - self._before.keys()
        self._calls.append((call, out))
        return out

    def end(self, state: torch.Tensor) -> None:
        """Undo what the capture computed."""
        for whole, before in self._before.values():
            whole.copy_(before)
        for _, out in self._calls:
            for tensor in tensors(out):
                new = tensor.untyped_storage().data_ptr() in self._made
                if new and tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        Graph.generator().set_state(state)
        Graph.count["captured"] += 1

    def replay(self) -> None:
        """Run all operators again."""
        with _disable_current_modes(), torch.no_grad():
            for call, out in self._calls:
                for place, new in zip(tensors(out), tensors(call()), strict=True):
                    if place is not new:
                        place.copy_(new)
        Graph.count["replayed"] += 1


@contextlib.contextmanager
def _graph(graph: Graph, pool: object = None, stream: object = None) -> Iterator[None]:
    state = Graph.generator().get_state()
    Graph.capturing = graph
    try:
        yield
    finally:
        Graph.capturing = None
        with _disable_current_modes():
            graph.end(state)


class _Stream:
    def __init__(self, *_: object) -> None:
        pass

    def wait_stream(self, _: object) -> None:
        pass


_mode = 0


def wait(reason: str) -> None:
    """Do what torch does where the host waits."""
    if Graph.capturing is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing ({reason})")
    if _mode:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)


def _set_mode(mode: int | str) -> None:
    global _mode
    _mode = {"default": 0, "warn": 1}.get(mode, mode)


def install() -> None:
    """Give torch.cuda what is here."""
    found: dict[str, Any] = {
        "CUDAGraph": Graph, "graph": _graph, "Stream": _Stream,
        "stream": lambda _: contextlib.nullcontext(), "current_stream": lambda *_: _Stream(),
        "graph_pool_handle": lambda: (0, 1), "set_sync_debug_mode": _set_mode,
        "get_sync_debug_mode": lambda: _mode,
        "is_current_stream_capturing": lambda: Graph.capturing is not None,
    }  # fmt: skip
    for name, value in found.items():
        setattr(torch.cuda, name, value)
