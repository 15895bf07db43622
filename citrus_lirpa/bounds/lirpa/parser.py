"""Parsing a module: what auto_LiRPA's parser and torch's tracer need meanwhile."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...errors import is_users
from .importing import KNOWN_MESSAGES, onnx_globals, unsupported_named
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
        with warnings.catch_warnings(), unsupported_named():
            for message in KNOWN_MESSAGES:
                warnings.filterwarnings("ignore", message=re.escape(message))
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            yield
    finally:
        onnx.autograd_inlining, onnx.export_onnx_opset_version = inlining, opset
        parse.__defaults__ = defaults
        module.check_incompatible_nodes = check


@contextmanager
def origins(module: torch.nn.Module) -> Iterator[dict[str, str]]:
    """Yield where the nodes of what is parsed in the block stand in a module, by their names.

    The first node of each kind of operation is found by its kind, too. The tracer writes a node's
    layer into its name; it is read and removed here, so that names stay as they were.
    """
    parser = importlib.import_module("auto_LiRPA.parse_graph")
    tracer = importlib.import_module("torch.jit._trace")
    parse, scopes = parser.parse_graph, tracer._trace_module_map
    found: dict[str, str] = {}

    def without_scope(name: str) -> str:
        return "/" + name.rpartition("/")[2]

    def parse_graph(graph, *args):
        operations, inputs, outputs = parse(graph, *args)
        kinds = {name: type(layer).__name__ for name, layer in module.named_modules()}
        traced = [_origin(node, kinds) for node in graph.nodes() for _ in node.outputs()]
        for number, (node, origin) in enumerate(zip(operations, traced, strict=True)):
            name, sources = without_scope(node.name), [*map(without_scope, node.inputs)]
            operations[number], found[name] = node._replace(name=name, inputs=sources), origin
            found.setdefault(node.op.rpartition("::")[2], origin)
        return operations, inputs, [*map(without_scope, outputs)]

    parser.parse_graph = parse_graph
    tracer._trace_module_map = {layer: name for name, layer in module.named_modules()}
    try:
        yield found
    finally:
        parser.parse_graph, tracer._trace_module_map = parse, scopes


def _origin(node: torch._C.Node, kinds: Mapping[str, str]) -> str:
    """The layer, its kind and the line of code that a node was traced from, as far as known."""
    layer = node.scopeName().rpartition("/")[2]
    stack = node.sourceRange().partition("/jit/_trace.py(")[0]  # the innermost call comes first
    frames = re.findall(r"^(.+)\((\d+)\): ", stack, flags=re.MULTILINE)
    lines = [f"{Path(file).name}:{n}" for file, n in frames if is_users(file)]
    kind = f", {kinds[layer]}" if layer in kinds else ""
    known = [f"layer '{layer}'{kind}"] * bool(layer) + lines[:1]
    return f" ({', '.join(known)})" if known else ""
