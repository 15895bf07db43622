"""A CUDA device that is none, to see without a GPU what would fail or wait on one.

Import this before torch (2.11: it uses private names), in a process of its own on Linux with a C++
compiler, and compute in ``with Pretended() as seen``. Tensors on ``cuda`` then say so to Python and
to torch's C++ code, which chooses operators, casts and checks as for a GPU. Behind each stands a
tensor of the CPU that holds its values: every operator is looked at by CUDA's rules and then runs
there, so results are real, and control flow that depends on them goes on.

It sees mixed devices (which raise, as on a GPU), waits of the host for the device (copies of
pageable memory are among them), and operators that this torch has no CUDA kernel for. It does not
see what real kernels do: their speed, rounding and memory, streams, NCCL, torch.compile.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

#: Autograd asks for CUDA's streams unless it is told that there is no accelerator.
SHIM = """
#include <optional>
namespace c10 { enum class DeviceType : signed char; }
namespace at::accelerator {
std::optional<c10::DeviceType> getAccelerator(bool) { return std::nullopt; }
bool isAccelerator(c10::DeviceType) { return false; }
}
"""


def _load_shim() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "shim.cpp"), Path(folder, "shim.so")
        source.write_text(SHIM)
        compile_ = ["c++", "-std=c++17", "-shared", "-fPIC", "-o", library, source]
        subprocess.run(compile_, check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


if "torch" in sys.modules:
    raise ImportError("import pretend_cuda before torch")
_load_shim()

import pretend_graphs  # noqa: E402
import torch  # noqa: E402
from pretend_graphs import mapped, tensors  # noqa: E402
from torch._C import TensorBase  # noqa: E402
from torch.utils import _foreach_utils  # noqa: E402
from torch.utils._python_dispatch import (  # noqa: E402
    TorchDispatchMode,
    _disable_current_modes,
)

_CUDA = torch.device("cuda", 0)
#: They take tensors of both devices.
_MIXING = {"copy_", "_to_copy", "_foreach_copy_", "detach"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
#: Not marked as pointwise, but they take numbers of the CPU too.
_TAKING_NUMBERS = {"fill_", "masked_fill", "masked_fill_", "where", "lerp", "clamp"}
#: The size of their result is only known to the device.
_SIZED_BY_VALUES = {
    "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "equal", "item", "_local_scalar_dense",
}  # fmt: skip
#: Operators of cuDNN, and how the CPU computes them.
_BY_CUDNN = {
    "cudnn_batch_norm": lambda x, *rest: (
        *torch.ops.aten.native_batch_norm(x, *rest),
        torch.empty(0, dtype=torch.uint8),
    ),
    "cudnn_batch_norm_backward": lambda x, g, w, mean, var, m, v, eps, _: (
        torch.ops.aten.native_batch_norm_backward(g, x, w, mean, var, m, v, True, eps, [True] * 3)
    ),
}


class Seen:
    """What was seen on the device.

    Attributes:
        waits: How often the host waited, by reason and line.
        mixed: Operations on tensors of both devices.
        operators: All operators that ran on it.
    """

    def __init__(self) -> None:
        self.waits: collections.Counter[str] = collections.Counter()
        self.mixed: list[str] = []
        self.operators: set[torch._ops.OpOverload] = set()

    def wait(self, reason: str) -> None:
        """Count a wait."""
        self.waits[f"{reason} at {_line()}"] += 1
        pretend_graphs.wait(f"{reason} at {_line()}")

    def without_kernel(self) -> list[str]:
        """Return the operators that this torch has no CUDA kernel for."""
        has = torch._C._dispatch_has_computed_kernel_for_dispatch_key
        return sorted({op.name() for op in self.operators if not has(op.name(), "CUDA")})


SEEN = Seen()


def _line() -> str:
    """The innermost line of the package on the stack; else that of auto_LiRPA."""
    frame, lines = sys._getframe(1), []
    while frame is not None:
        file = frame.f_code.co_filename
        for package in ("citrus_lirpa/", "auto_LiRPA/"):
            if package in file:
                lines.append(f"{package}{file.rpartition(package)[2]}:{frame.f_lineno}")
        frame = frame.f_back
    own = [line for line in lines if line.startswith("citrus_lirpa/")]
    return (own or lines or ["?"])[0]


# -- tensors ------------------------------------------------------------------------------


class _Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, host: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=_CUDA,
        )

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _on_device(host: torch.Tensor) -> torch.Tensor:
    """A tensor on the device with the values of ``host``, of the very type torch.Tensor."""
    with torch._C._DisableTorchDispatch():
        tensor = torch.empty(0, dtype=host.dtype)
    TensorBase.data.__set__(tensor, _Wrapper(host))
    tensor.host = host
    return tensor


def _is_there(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_cuda


def _host(value):
    return value.host if _is_there(value) else value


def _baked(value):
    """As ``_host``, but numbers of the CPU that are tensors are those of now."""
    if isinstance(value, torch.Tensor) and not _is_there(value):
        return value.clone()
    return _host(value)


def _set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    TensorBase.data.__set__(tensor, value)  # Module.to moves parameters so
    if _is_there(value):
        tensor.host = value.host
    else:
        tensor.__dict__.pop("host", None)


def _as_subclass(tensor: torch.Tensor, cls: type):
    made = TensorBase.as_subclass(tensor, cls)
    if _is_there(tensor):
        made.host = tensor.host
    return made


def _deepcopy(tensor: torch.Tensor, memo: dict):
    if not _is_there(tensor):
        return _PLAIN["__deepcopy__"](tensor, memo)
    if id(tensor) not in memo:
        with torch.no_grad():
            copied = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        memo[id(tensor)] = copied
    return memo[id(tensor)]


def _reading(name: str):
    """The method of tensors that brings the values of one on the device to the host."""

    def method(tensor: torch.Tensor, *args, **kwargs):
        if not _is_there(tensor):
            return _PLAIN[name](tensor, *args, **kwargs)
        SEEN.wait(name)
        return _PLAIN[name](_host(tensor).detach(), *args, **kwargs)

    return method


class _Generator(torch.Generator):
    """Of either device."""

    #: Those of the device by the place of their state, which is all that operators are given.
    there: ClassVar[dict[int, torch.Generator]] = {}

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device)
        if made.place.type == "cuda":
            cls.there[made._cdata] = made
        return made

    @property
    def device(self):
        return self.place


_PLAIN = {
    "__deepcopy__": torch.Tensor.__deepcopy__,
    "__reduce_ex__": torch.Tensor.__reduce_ex__,
    "__repr__": torch.Tensor.__repr__,
    "tolist": TensorBase.tolist,
    "Parameter": torch.nn.Parameter.__new__,
}


def _new(cls, *args, **kwargs):
    with _disable_current_modes():  # an empty tensor of the CPU, which nothing sees
        return TensorBase.__new__(cls, *args, **kwargs)


def _parameter(cls, data=None, requires_grad=True):
    if cls is not torch.nn.Parameter or not _is_there(data):
        return _PLAIN["Parameter"](cls, data, requires_grad)
    made = _PLAIN["Parameter"](cls, torch.empty(0, dtype=data.dtype), requires_grad)
    made.data = data.detach()
    return made


# -- operators -----------------------------------------------------------------------------


def _run(func, args, kwargs):
    name = func._schema.name.rpartition("::")[2]
    if name == "_has_compatible_shallow_copy_type":
        return True
    given = tensors((args, kwargs))
    there, wanted = any(map(_is_there, given)), kwargs.get("device")
    to_device = there if wanted is None else torch.device(wanted).type == "cuda"
    if there:
        _check_places(func, name, args, given)
    if there or to_device:
        SEEN.operators.add(func)
    if why := _why_waits(name, args, kwargs, there, to_device):
        SEEN.wait(why)
    graph = pretend_graphs.Graph.capturing if there or to_device else None
    plain, options = mapped(_host if graph is None else _baked, (args, dict(kwargs)))
    if to_device and wanted is not None:
        options["device"] = torch.device("cpu")
        options.pop("pin_memory", None)
    compute = _BY_CUDNN.get(name, func)
    call = functools.partial(compute, *plain, **options)
    if to_device and torch.Tag.nondeterministic_seeded in func.tags:
        call = functools.partial(_drawn, compute, plain, options)
    out = call() if graph is None else graph.run(call, (plain, options))
    known = {id(_host(tensor)): tensor for tensor in given}

    def placed(value):
        if id(value) in known:
            return known[id(value)]  # computed in place
        return _on_device(value) if to_device and isinstance(value, torch.Tensor) else value

    return mapped(placed, out)


def _drawn(compute, plain, options):
    """Random numbers of the device: by its own generator, or by the one that is passed."""
    given = options.get("generator")
    if given is not None:
        if given._cdata not in _Generator.there:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return compute(*plain, **options)
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(GENERATOR.get_state())
    try:
        return compute(*plain, **options)
    finally:
        GENERATOR.set_state(torch.default_generator.get_state())
        if GENERATOR is not torch.default_generator:
            torch.default_generator.set_state(before)


def _check_places(func, name: str, args, given) -> None:
    """Raise where tensors of the host are among those of the device, unless CUDA takes them."""
    others = [tensor for tensor in given if not _is_there(tensor)]
    if not others or name in _MIXING:
        return
    if name in _INDEXING:  # indices may be the host's, and a number that is put
        fits = _is_there(args[0]) and all(_is_there(v) or not v.ndim for v in args[2:3])
    else:
        numbers = torch.Tag.pointwise in func.tags or name in _TAKING_NUMBERS
        fits = (numbers or name.startswith("_foreach")) and all(not t.ndim for t in others)
    if not fits:
        what = ", ".join(f"{t.device.type}{tuple(t.shape)}" for t in given)
        SEEN.mixed.append(f"{name}({what}) at {_line()}")
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({SEEN.mixed[-1]})"
        )


def _why_waits(name: str, args, kwargs, there: bool, to_device: bool) -> str | None:
    """Why the host waits for the device, if it does."""
    if name in ("_to_copy", "copy_"):
        ends = (to_device, _is_there(args[0])) if name == "_to_copy" else map(_is_there, args[:2])
        return "copy" if len(set(ends)) == 2 else None
    if not there:
        return None
    if name in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        number = len(args) > 2 and not _is_there(args[2])
        if masks and not (number and len(indices) == 1):  # else it is masked_fill
            return "mask"
        return "copy" if number or not all(map(_is_there, indices)) else None
    if name in ("masked_fill", "masked_fill_"):
        return "value" if _is_there(args[2]) else None
    if name == "repeat_interleave":
        return None if kwargs.get("output_size") else "value"
    return "value" if name in _SIZED_BY_VALUES else None


# -- torch ---------------------------------------------------------------------------------


class Pretended(TorchDispatchMode):
    """Pretends the device inside the block.

    Args:
        one_generator: Draw the device's random numbers from the CPU's generator, so that
            results are those of the CPU.
    """

    def __init__(self, one_generator: bool = False):
        super().__init__()
        self.one_generator = one_generator

    def __enter__(self) -> Seen:
        global SEEN, GENERATOR
        SEEN = Seen()
        GENERATOR = torch.default_generator if self.one_generator else _Generator()
        super().__enter__()
        return SEEN

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


GENERATOR = torch.default_generator


def _load(*args, map_location=None, **options):
    there = map_location is not None and torch.device(map_location).type == "cuda"
    with _disable_current_modes():
        content = _TORCH_LOAD(*args, map_location="cpu" if there else map_location, **options)
    if not there:
        return content
    return mapped(lambda v: _on_device(v) if isinstance(v, torch.Tensor) else v, content)


def _traced(*args, **options):
    with _disable_current_modes():  # auto_LiRPA traces on the CPU
        return _TRACE(*args, **options)


_TORCH_LOAD, _TRACE = torch.load, torch.jit._get_trace_graph


def _patch_torch() -> None:
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is a copy
    torch.autograd.set_multithreading_enabled(False)
    _foreach_utils._foreach_supported_types.append(_Wrapper)
    for name in ("__reduce_ex__", "__repr__", "tolist"):
        setattr(torch.Tensor, name, _reading(name))
    torch.Tensor.__deepcopy__, torch.Tensor.as_subclass = _deepcopy, _as_subclass
    torch.Tensor.data = property(TensorBase.data.__get__, _set_data)
    torch.Tensor.data_ptr = lambda tensor: TensorBase.data_ptr(_host(tensor))
    torch.nn.Parameter.__new__, torch.Tensor.__new__ = _parameter, _new
    torch.Generator, torch.load, torch.jit._get_trace_graph = _Generator, _load, _traced
    answers = {
        "_lazy_init": None, "is_available": True, "is_initialized": True, "device_count": 1,
        "current_device": 0, "set_device": None, "get_device_name": "a pretended GPU",
        "_is_in_bad_fork": False, "empty_cache": None,
        "reset_peak_memory_stats": None, "max_memory_allocated": 0,
        "is_bf16_supported": True, "get_device_capability": (9, 0),
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    torch.cuda.synchronize = lambda *_: SEEN.wait("synchronize")
    torch.cuda.manual_seed = torch.cuda.manual_seed_all = lambda seed: GENERATOR.manual_seed(seed)
    torch.cuda.mem_get_info = lambda *_: (1 << 35, 1 << 36)
    torch.cuda.get_rng_state = lambda *_: GENERATOR.get_state()
    torch.cuda.set_rng_state = lambda state, *_: GENERATOR.set_state(state)


_patch_torch()
pretend_graphs.Graph.generator = staticmethod(lambda: GENERATOR)
pretend_graphs.install()
