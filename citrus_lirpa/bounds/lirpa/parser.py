"""Parsing a module: what auto_LiRPA's parser and torch's tracer need meanwhile."""

from __future__ import annotations

import importlib
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...errors import is_users
from .importing import KNOWN_MESSAGES, errors_not_logged, onnx_globals
from .loading import load


@contextmanager
def parsing() -> Iterator[None]:
    """Prepare for ``BoundedModule(...)`` inside the block; restore every global after it.

    Inlining autograd functions (torch >= 2.1) would lose the nodes of custom
    functions, and 0.3 moves ONNX's opset version. The tracer's and the exporter's
    known warnings are silenced; all others pass. Dropout would have the model traced in train
    mode, where BatchNorm refuses single values.
    """
    module: Any = load().BoundedModule
    check = module.check_incompatible_nodes
    module.check_incompatible_nodes = lambda *_: None
    onnx = onnx_globals()
    inlining, opset = onnx.autograd_inlining, onnx.export_onnx_opset_version
    onnx.autograd_inlining = False
    parse = importlib.import_module("auto_LiRPA.parse_graph").parse_module
    defaults, parse.__defaults__ = parse.__defaults__, (None, None)  # no weights are left out
    try:
        with warnings.catch_warnings(), errors_not_logged():
            for message in KNOWN_MESSAGES:
                warnings.filterwarnings("ignore", message=re.escape(message))
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            yield
    finally:
        onnx.autograd_inlining, onnx.export_onnx_opset_version = inlining, opset
        parse.__defaults__ = defaults
        module.check_incompatible_nodes = check


class Origins:
    """Where the nodes of what is parsed stand in a module, by their names.

    Args:
        module: The module.
    """

    def __init__(self, module: torch.nn.Module):
        self._kinds = {name: type(layer).__name__ for name, layer in module.named_modules()}
        self._places: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """Return the layer, its kind and the line of code of a node, as far as they are known."""
        return self._places.get(name, "")

    def note(self, name: str, node: torch._C.Node) -> None:
        """Keep where the node that has a name was traced from."""
        self._places[name] = self.of(node)

    def of(self, node: torch._C.Node) -> str:
        """Return the layer, its kind and the line of code that a node was traced from."""
        layer = node.scopeName().rpartition("/")[2]
        stack = node.sourceRange().partition("/jit/_trace.py(")[0]  # the innermost comes first
        frames = re.findall(r"^(.+)\((\d+)\): ", stack, flags=re.MULTILINE)
        lines = [f"{Path(file).name}:{n}" for file, n in frames if is_users(file)]
        kind = f", {self._kinds[layer]}" if layer in self._kinds else ""
        known = [f"layer '{layer}'{kind}"] * bool(layer) + lines[:1]
        return f" ({', '.join(known)})" if known else ""

    def failing(self, error: Exception) -> dict[str, str]:
        """Return where the operations stand that an error is about, by what they are called.

        They are read off the functions that were running: of torch's exporter, and of auto_LiRPA
        where it makes its nodes and where it first computes them. What the exporter finds out after
        such a function is in its message alone.
        """
        exported = re.match(r"symbolic for (\w+) ", str(error))
        failing = {f"torch.{exported[1]}": ""} if exported else {}
        for frame, _ in traceback.walk_tb(error.__traceback__):
            code, values = frame.f_code.co_name, frame.f_locals
            if code == "_run_symbolic_function":
                kind = values["node"].kind().rpartition("::")[2]
                failing = {f"torch.{kind}": self.of(values["node"])}
            elif code == "_convert_nodes" and "nodesOP" in values:
                operations = values.get("unsupported_ops") or [values["nodesOP"][values["n"]]]
                failing = {_operation(o): self[o.name] for o in reversed(operations)}
            elif code == "get_forward_value":
                node = values["node"]
                failing = {type(node).__name__.removeprefix("Bound"): self[node.name]}
        return dict(sorted(failing.items()))


def _operation(node: Any) -> str:
    """What a node is called in ONNX, or in torch where its exporter has nothing for it."""
    name = node.op.rpartition("::")[2]
    return f"torch.{node.attr['operator']}" if name == "ATen" else name


@contextmanager
def origins(module: torch.nn.Module) -> Iterator[Origins]:
    """Yield where the nodes of what is parsed in the block stand in a module.

    The tracer writes a node's layer into its name; it is read and removed here, so that names stay
    as they were.
    """
    parser = importlib.import_module("auto_LiRPA.parse_graph")
    tracer = importlib.import_module("torch.jit._trace")
    parse, scopes = parser.parse_graph, tracer._trace_module_map
    found = Origins(module)

    def without_scope(name: str) -> str:
        return "/" + name.rpartition("/")[2]

    def parse_graph(graph, *args):
        operations, inputs, outputs = parse(graph, *args)
        traced = [node for node in graph.nodes() for _ in node.outputs()]
        for number, (operation, node) in enumerate(zip(operations, traced, strict=True)):
            name, sources = without_scope(operation.name), [*map(without_scope, operation.inputs)]
            operations[number] = operation._replace(name=name, inputs=sources)
            found.note(name, node)
        return operations, inputs, [*map(without_scope, outputs)]

    parser.parse_graph = parse_graph
    tracer._trace_module_map = {layer: name for name, layer in module.named_modules()}
    try:
        yield found
    finally:
        parser.parse_graph, tracer._trace_module_map = parse, scopes
