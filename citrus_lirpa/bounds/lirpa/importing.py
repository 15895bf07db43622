"""Importing auto_LiRPA without what its import does to the process.

Both versions change warning filters, log handlers, TorchScript's flags and the user's data
folder; 0.3 also needs two names that torch 2 and NumPy 2 removed, while it is imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import logging
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stderr,
)
from typing import Any

import torch

from ...imports import unrepaired

KNOWN_MESSAGES = (
    "`torch.jit.script` is deprecated",
    "ONNX Preprocess",
    "ONNX export mode",
    "Constant folding",  # "... not applied", for ZeroPad2d
    "Exporting a model to ONNX with a batch_size",  # of recurrent layers
)
_RECURSION_LIMIT = 5_000


def import_quietly() -> types.ModuleType:
    """Import auto_LiRPA and undo what its import does to the process (both versions)."""
    with ExitStack() as stack:
        stack.enter_context(unrepaired())
        stack.enter_context(_known_warnings_dropped())
        stack.enter_context(_loggers_untouched())
        stack.enter_context(_jit_flags_restored())
        stack.enter_context(_recursion_limited())
        stack.enter_context(_no_data_folder())
        stack.enter_context(_opset_setter())
        stack.enter_context(_arraysetops())
        return importlib.import_module("auto_LiRPA")


@contextmanager
def _known_warnings_dropped() -> Iterator[None]:
    """Both versions put ``simplefilter("once")`` before all filters, for everybody.

    A filter set beforehand would be overruled by theirs, so the warnings are recorded
    and those not known are issued again under the user's own filters.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught or ():
        if not str(warning.message).startswith(KNOWN_MESSAGES):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


class _Console(logging.StreamHandler[Any]):
    """Prints on the current standard output, unless the root logger has a console itself."""

    def emit(self, record: logging.LogRecord) -> None:
        root = logging.getLogger()
        if all(isinstance(handler, logging.FileHandler) for handler in root.handlers):
            self.setStream(sys.stdout)
            super().emit(record)


@contextmanager
def _loggers_untouched() -> Iterator[None]:
    """Both versions call ``logging.basicConfig``: only their own logger gets that console.

    They also import torch's extension builder, which complains where CUDA's compiler
    is installed on a machine without a GPU, older torch on stderr.
    """
    builder = logging.getLogger("torch.utils.cpp_extension")
    level = builder.level
    builder.setLevel(logging.ERROR)
    console = _Console()

    def configure(**options: Any) -> None:
        console.setFormatter(logging.Formatter(options.get("format"), options.get("datefmt")))
        logging.getLogger("auto_LiRPA.utils").addHandler(console)

    try:
        with redirect_stderr(io.StringIO()):
            importlib.import_module(builder.name)
        with _swapped(vars(logging), "basicConfig", configure):
            yield
    finally:
        builder.setLevel(level)


@contextmanager
def errors_not_logged() -> Iterator[None]:
    """Both versions log operations that they do not support, which the error's message names."""
    logger = logging.getLogger("auto_LiRPA.utils")

    def drop(_: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


@contextmanager
def _jit_flags_restored() -> Iterator[None]:
    """Both versions turn TorchScript's profiling off for the whole process.

    Their own functions keep the executor without profiling: with it, the first calls
    differ from later ones in the last bit, so a resumed run would differ too.
    """
    setters = (torch._C._jit_set_profiling_executor, torch._C._jit_set_profiling_mode)
    before = [setter(False) for setter in setters]  # a setter returns the old value
    script, found = torch.jit.script, []

    def script_too(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        found.append(script(function, **options))
        if options:  # the compiler's own call, of a function that another one calls
            return found[-1]
        return _plain_on_gpus(function, found[-1])

    try:
        with _swapped(vars(torch.jit), "script", script_too):
            yield
        for function in found:
            function.get_debug_state()  # creates the executor, of the kind now set
    finally:
        for setter, value in zip(setters, before, strict=True):
            setter(value)


def _plain_on_gpus(
    function: Callable[..., Any], scripted: Callable[..., Any]
) -> Callable[..., Any]:
    """Return what calls a function as it is on GPUs, and as it was scripted on CPUs.

    Both versions script a dozen small functions. On a GPU the first calls would compile kernels;
    plain functions need no compiler. On CPUs they differ in the last bit of gradients.
    """

    @functools.wraps(function)
    def either(*args: Any) -> Any:
        on_gpu = any(isinstance(value, torch.Tensor) and value.is_cuda for value in args)
        return (function if on_gpu else scripted)(*args)

    return either


@contextmanager
def _recursion_limited() -> Iterator[None]:
    """Both versions let Python recurse a million times: a nested JSON file could end the process.

    What is left is enough for networks of a thousand layers.
    """
    before = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(max(before, _RECURSION_LIMIT))


def own_modules() -> list[types.ModuleType]:
    """Return auto_LiRPA's modules."""
    names = [name for name in sys.modules if name.partition(".")[0] == "auto_LiRPA"]
    return [sys.modules[name] for name in names]


def _no_data_folder() -> AbstractContextManager[None]:
    """Both versions create a folder in the user's data directory, which only examples use."""
    if importlib.util.find_spec("appdirs") is None:
        return nullcontext()  # auto_LiRPA's own import says so
    appdirs = importlib.import_module("appdirs")
    return _swapped(vars(appdirs), "user_data_dir", lambda *_, **__: tempfile.gettempdir())


def _opset_setter() -> AbstractContextManager[None]:
    """0.3 imports ``_set_opset_version``, which torch 2 removed: ImportError."""
    helper = importlib.import_module("torch.onnx.symbolic_helper")
    if hasattr(helper, "_set_opset_version"):
        return nullcontext()

    def set_opset_version(version: int) -> None:
        onnx_globals().export_onnx_opset_version = version

    return _swapped(vars(helper), "_set_opset_version", set_opset_version)


def _arraysetops() -> AbstractContextManager[None]:
    """0.3 imports ``isin`` (unused) from a module NumPy 2 removed: ModuleNotFoundError."""
    name = "numpy.lib.arraysetops"
    if importlib.util.find_spec(name) is not None:
        return nullcontext()
    stand_in = types.ModuleType(name)
    vars(stand_in)["isin"] = importlib.import_module("numpy").isin
    return _swapped(sys.modules, name, stand_in)


@contextmanager
def _swapped(namespace: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """Set ``namespace[name]`` for the time of the block."""
    before = {name: namespace[name]} if name in namespace else {}
    namespace[name] = value
    try:
        yield
    finally:
        del namespace[name]
        namespace.update(before)


def onnx_globals() -> Any:
    """Return the exporter's GLOBALS, which torch 2.9 moved."""
    try:
        module = importlib.import_module("torch.onnx._internal.torchscript_exporter._globals")
    except ModuleNotFoundError:
        module = importlib.import_module("torch.onnx._globals")
    return module.GLOBALS
