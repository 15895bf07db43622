"""Every difference between versions of auto_LiRPA, torch and NumPy, in one place.

auto_LiRPA 0.3 (PyPI) and 0.7 (upstream's repository) were written for older torch.
``load`` imports whichever is found, without its side effects, and repairs what the
installed torch and NumPy broke; ``parsing`` is held while a ``BoundedModule`` is built.
Each repair is applied only where the name or the behaviour is missing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import re
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import DependencyError
from .dataflow import LIBRARIES
from .lirpa_import import (
    KNOWN_MESSAGES,
    import_quietly,
    onnx_globals,
    own_modules,
    unsupported_named,
)
from .lirpa_nodes import keep_known_intervals, keep_overflow_apart, pool_in_order, repair_nodes
from .lirpa_operators import register

INSTALL_HINT = "pip install --no-deps auto-LiRPA==0.3"
SUPPORTED_LIRPA = ("0.3", "0.7")
TESTED_TORCH = ("2.5", "2.15")

_DISTRIBUTIONS = {"yaml": "pyyaml"}  # import name -> name on PyPI, where they differ
_LEGACY_NAMES = {  # 0.7 -> 0.3
    "interm_bounds": "intermediate_layer_bounds",
    "activation_bound_option": "relu",
}
# Sparse alpha always: 0.3's dense alpha crashes where over 90 % of a layer is unstable.
_LEGACY_OPTIONS = {"minimum_sparsity": 1.0}


@dataclass(frozen=True)
class Lirpa:
    """The loaded auto_LiRPA; ``legacy`` means 0.3, with its older argument names."""

    version: str
    legacy: bool
    BoundedModule: type
    BoundedTensor: type
    PerturbationLpNorm: type


@functools.cache
def load() -> Lirpa:
    """Import auto_LiRPA quietly and repair it for the torch and NumPy at hand.

    Raises:
        DependencyError: Something is missing, or its version is not supported.
    """
    if _release(torch.__version__) < _release(TESTED_TORCH[0]):
        raise DependencyError(
            f"torch {torch.__version__} found, {TESTED_TORCH[0]} or newer needed: "
            f'pip install "torch>={TESTED_TORCH[0]}"'
        )
    try:
        package = import_quietly()
    except ImportError as error:
        raise DependencyError(_import_advice(error)) from error
    version = _version(package)
    if f"{_release(version)[0]}.{_release(version)[1]}" not in SUPPORTED_LIRPA:
        raise DependencyError(
            f"auto_LiRPA {version} found, {'.x or '.join(SUPPORTED_LIRPA)}.x needed: {INSTALL_HINT}"
        )
    _print_to_the_log()
    _register_onnx_symbolics()
    _make_nodes_subscriptable()
    for kind in (package.BoundedModule, package.BoundDataParallel):
        _accept_remove_duplicate(kind)
    operators = importlib.import_module("auto_LiRPA.bound_ops")
    _leave_requires_grad_alone(operators.BoundParams)
    _open_alpha_gradient(operators.BoundRelu)
    repair_nodes(operators)
    keep_overflow_apart(operators, package.BoundedModule)
    register(operators, importlib.import_module("auto_LiRPA.bound_op_map").bound_op_map)
    if _release(version) < (0, 4):
        keep_known_intervals(package.BoundedModule)
        pool_in_order(operators.BoundAveragePool)
    return Lirpa(
        version=version,
        legacy=_release(version) < (0, 4),
        BoundedModule=package.BoundedModule,
        BoundedTensor=package.BoundedTensor,
        PerturbationLpNorm=package.PerturbationLpNorm,
    )


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

    Kinds of operations are among the names, for the first node of each kind. The tracer writes the
    layer of a node into its scope, from where it is taken here: names of nodes stay what they are
    without.
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


def repair_options(bounded: Any) -> None:
    """Give a user's own ``BoundedModule`` the options without which α-CROWN crashes on 0.3."""
    if load().legacy:
        bounded.bound_opts.update(_LEGACY_OPTIONS)


def _origin(node: torch._C.Node, kinds: Mapping[str, str]) -> str:
    """The layer, its kind and the line of code that a node was traced from, as far as known."""
    layer = node.scopeName().rpartition("/")[2]
    stack = node.sourceRange().partition("/jit/_trace.py(")[0]  # the innermost call comes first
    frames = re.findall(r"^(.+)\((\d+)\): ", stack, flags=re.MULTILINE)
    lines = [f"{Path(file).name}:{n}" for file, n in frames if not file.startswith(LIBRARIES)]
    kind = f", {kinds[layer]}" if layer in kinds else ""
    known = [f"layer '{layer}'{kind}"] * bool(layer) + lines[:1]
    return f" ({', '.join(known)})" if known else ""


def bound_options(*, conv_mode: str = "patches", alpha_iterations: int = 20) -> dict[str, Any]:
    """Return ``bound_opts`` for the constructor of the loaded ``BoundedModule``."""
    options = bound_kwargs(activation_bound_option="adaptive")
    options["conv_mode"] = conv_mode
    options["optimize_bound_args"] = {"iteration": alpha_iterations, "lr_alpha": 0.25}
    if load().legacy:
        options.update(_LEGACY_OPTIONS)
    return options


def bound_kwargs(**kwargs: Any) -> dict[str, Any]:
    """Translate auto_LiRPA 0.7's argument names to those of the loaded version."""
    if not load().legacy:
        return kwargs
    return {_LEGACY_NAMES.get(name, name): value for name, value in kwargs.items()}


# ---------------------------------------------------------------- versions and errors


def _release(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version string; local and pre-release parts ignored."""
    numbers = [int(digits) for digits in re.findall(r"\d+", version)[:2]]
    return (*numbers, 0, 0)[:2]


def _version(package: types.ModuleType) -> str:
    """Read the module's own version: on PYTHONPATH the metadata may be another's."""
    if hasattr(package, "__version__"):
        return package.__version__
    try:
        return importlib.metadata.version("auto-LiRPA")
    except importlib.metadata.PackageNotFoundError:
        return "(unknown)"


def _import_advice(error: ImportError) -> str:
    missing = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not missing:
        return f"auto_LiRPA cannot be imported ({error}); install a working one: {INSTALL_HINT}"
    if missing == "auto_LiRPA":
        return f"auto_LiRPA is not installed: {INSTALL_HINT}"
    distribution = _DISTRIBUTIONS.get(missing, missing)
    return f"auto_LiRPA needs {error.name}, which is missing: pip install {distribution}"


# --------------------------------------------------------------------------- repairs


def _print_to_the_log() -> None:
    """Both print ("Early stop at 10th iter") to the standard output, whatever the verbosity.

    ``import *`` must not hand this ``print`` on: users' scripts import so.
    """
    log = logging.getLogger("auto_LiRPA")

    def print_to_log(*values: object, sep: str | None = " ", **_: Any) -> None:
        log.info((sep or " ").join(str(value) for value in values))

    for module in own_modules():
        names = [name for name in vars(module) if not name.startswith("_")]
        vars(module).setdefault("__all__", names)
        vars(module).setdefault("print", print_to_log)


def _register_onnx_symbolics() -> None:
    """Both, torch >= 2.9: unregistered, ``x**2`` is parsed wrongly and CROWN is unsound.

    Hardtanh, ReLU6, Dropout, ZeroPad2d and Upsample raise without it.
    """
    folder = onnx_globals().__class__.__module__.rpartition("._globals")[0]
    for opset in range(7, 21):
        importlib.import_module(f"{folder}.symbolic_opset{opset}")


def _make_nodes_subscriptable() -> None:
    """0.3 reads attributes as ``node[key]``, which torch 2 removed: not subscriptable."""
    if not hasattr(torch._C.Node, "__getitem__"):
        torch._C.Node.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)


def _accept_remove_duplicate(module: type) -> None:
    """0.3, torch 2: ``named_parameters`` passes a keyword unknown to it: TypeError.

    Its loop never repeats a member, whatever the keyword says.
    """
    original = module._named_members
    if "remove_duplicate" in inspect.signature(original).parameters:
        return

    def named_members(self, get_members_fn, prefix="", recurse=True, remove_duplicate=True):
        return original(self, get_members_fn, prefix, recurse)

    module._named_members = named_members


def _leave_requires_grad_alone(params: type) -> None:
    """Both set ``requires_grad`` of the *user's* parameters to ``training``, silently.

    An evaluation freezes the whole model, and building thaws layers meant to be frozen.
    """
    if "requires_grad_" not in params.forward.__code__.co_names:
        return

    def forward(self) -> torch.Tensor:
        return self.param_init if getattr(self, "initializing", False) else self.param

    params.forward = forward


def _open_alpha_gradient(relu: type) -> None:
    """Both, torch >= 2.14: alpha starts on a bound of ``clamp``, whose gradient is now 0.

    Nothing would be optimised and alpha-CROWN would silently equal CROWN.
    """
    with torch.enable_grad():
        alpha = torch.zeros(1, requires_grad=True)
        slope = relu._relu_mask_alpha(-torch.ones(1), torch.ones(1), alpha, None)[0]
        (gradient,) = torch.autograd.grad(slope.sum(), alpha)
    if gradient.item() == 0:
        relu._relu_mask_alpha = staticmethod(relu_mask_alpha)


def relu_mask_alpha(lower, upper, lower_alpha, upper_alpha, leaky_alpha: float = 0.0):
    """Return the lower slopes of a ReLU for both sides, and whether all of it is inactive."""

    def slope(alpha: torch.Tensor | None) -> torch.Tensor | None:
        if alpha is None:
            return None
        inside = (alpha >= leaky_alpha) & (alpha <= 1)
        clipped = torch.where(inside, alpha, alpha.detach().clamp(leaky_alpha, 1))
        return torch.where(lower >= 0, 1.0, torch.where(upper <= 0, leaky_alpha, clipped))

    inactive = (upper <= 0).all() if leaky_alpha <= 0 else False
    return slope(lower_alpha), slope(upper_alpha), inactive
