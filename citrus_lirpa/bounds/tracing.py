"""Tracing a user's module into auto_LiRPA's BoundedModule without disturbing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, foreign, is_out_of_memory, reason
from . import lirpa
from .dataflow import DataWatch, left_out
from .lirpa.symbols import whole_curves

#: Above this many values in one layer, convolutions are bounded as patches, not matrices.
MATRIX_MODE_LIMIT = 4_096


def wrap(core: nn.Module, example: Tensor) -> nn.Module:
    """Trace ``core``, without its normalisation, into a BoundedModule that shares its weights.

    It follows the module's buffers and modes too. Convolutions are bounded as matrices in small
    networks (several times faster there), as patches in large ones. The example is normalised.

    Raises:
        ModelError: auto_LiRPA cannot trace the module, or its forward looks at its data.
    """
    _check_layers(core)
    with (
        modes_restored(core),
        _not_compiled(core),
        explained("this model's graph"),
        _explicit_padding(core),
        _left_in_place(core),
    ):
        core.eval()  # built in train mode, running statistics would move
        matrices = _largest_layer(core, example[:1]) <= MATRIX_MODE_LIMIT
        options = lirpa.bound_options(conv_mode="matrix" if matrices else "patches")
        bounded, origins = _built(core, example, options)
    for node in nodes(bounded):
        node.origin = origins[node.name]
    _share_buffers(bounded, core)
    return bounded


def _built(
    core: nn.Module, example: Tensor, options: dict[str, Any]
) -> tuple[nn.Module, lirpa.Origins]:
    """Return the BoundedModule, and where its nodes come from."""
    with (
        lirpa.parsing(),
        whole_curves(gelu=lirpa.load().legacy),
        lirpa.origins(core) as origins,
    ):
        try:
            bounded = lirpa.load().BoundedModule(
                core, example[:1], bound_opts=options, device=example.device
            )
        except Exception as error:  # of any class: what it takes for granted fails, too
            failing = {} if is_out_of_memory(error) else origins.failing(error)
            if not failing:
                raise
            raise ModelError(_unsupported(failing, error)) from error
    return bounded, origins


def check_paddings(bounded: nn.Module) -> None:
    """Raise ModelError for paddings that auto_LiRPA takes for those by a constant."""
    for node in nodes(bounded):
        mode = node.attr.get("mode") if type(node).__name__ == "BoundPad" else None
        if mode in _PADS:
            raise ModelError(
                f"auto_LiRPA {lirpa.load().version} cannot bound padding by {_PADS[mode]}"
                f"{place(node)}; pad by zero"
            )


_PADS = {"reflect": "reflection", "edge": "replication", "wrap": "the other side"}


def place(node: Any) -> str:
    """Return where a node stands in the user's module, to be put behind its name."""
    names = (getattr(source, "ori_name", "") for source in node.inputs)
    weights = next((name for name in names if "." in name), "")  # all that an own graph has
    layer = f" (layer '{weights.rpartition('.')[0]}')" if weights else ""
    return getattr(node, "origin", "") or layer


@contextlib.contextmanager
def modes_restored(module: nn.Module) -> Iterator[None]:
    """Restore every submodule's training mode after the block."""
    modes = {m: m.training for m in module.modules()}
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


@contextlib.contextmanager
def rng_kept(device: torch.device) -> Iterator[None]:
    """Restore the state of torch's global random generators after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


_OF_IMAGES = "use convolutions and pooling of images (N, C, H, W)"
_EVENLY = "use an output size that divides the height and the width"
NOT_ENLARGED = "use Conv2d, which keeps images as large as they are or makes them smaller"
OTHERS = "use ReLU, LeakyReLU, Tanh or Sigmoid and affine layers"
#: What to write instead of an operation that auto_LiRPA does not know, by its name.
_INSTEAD = {
    "AveragePool": _OF_IMAGES,
    "Conv": _OF_IMAGES,
    "ConvTranspose": NOT_ENLARGED,
    "Erf": "write GELU as nn.GELU",
    "InstanceNormalization": "use BatchNorm",
    "LogSoftmax": "return the logits before it, which give the same classes",
    "MaxPool": _OF_IMAGES,
    "RNN": OTHERS,
    "Resize": NOT_ENLARGED,
    "torch.adaptive_avg_pool2d": _EVENLY,
    "torch.adaptive_max_pool2d": _EVENLY,
}


def _unsupported(failing: dict[str, str], error: Exception) -> str:
    what = ", ".join(f"'{name}'{place}" for name, place in failing.items())
    known = [_INSTEAD[name] for name in failing if name in _INSTEAD]
    bare = known or isinstance(error, NotImplementedError) or not str(error)
    why = "" if bare else f": {type(error).__name__}: {reason(error)}"
    return f"auto_LiRPA {lirpa.load().version} cannot bound {what}{why}; {[*known, OTHERS][0]}"


@contextlib.contextmanager
def _left_in_place(core: nn.Module) -> Iterator[None]:
    """Leave weights and buffers where they are in memory: auto_LiRPA traces them on the CPU."""
    parameters = [(weight, weight.detach()) for weight in core.parameters()]
    buffers = [(m, name, b) for m in core.modules() for name, b in m._buffers.items()]
    try:
        yield
    finally:
        for weight, data in parameters:
            if weight.device.type != "cpu":
                weight.data = data
        for m, name, buffer in buffers:
            m._buffers[name] = buffer


@contextlib.contextmanager
def _not_compiled(core: nn.Module) -> Iterator[None]:
    """Run layers, on which ``compile()`` was called, as they are written for the block."""
    compiled: dict[Any, Any] = {m: call for m in core.modules() if (call := m._compiled_call_impl)}
    for m in compiled:
        m._compiled_call_impl = None
    try:
        yield
    finally:
        for m, call in compiled.items():
            m._compiled_call_impl = call


@contextlib.contextmanager
def _explicit_padding(core: nn.Module) -> Iterator[None]:
    """Write ``padding="same"``, which auto_LiRPA does not know, in numbers for the block."""
    layers = [m for m in core.modules() if isinstance(m, nn.Conv2d) and m.padding == "same"]
    for m in layers:
        height, width = (s // 2 for s in _spans(m))
        m.padding = (height, width)
    try:
        yield
    finally:
        for m in layers:
            m.padding = "same"


def _spans(layer: nn.Conv2d) -> list[int]:
    """How many values a convolution's kernel reaches beyond one, along each axis."""
    return [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]


def _check_wrapper(name: str, module: nn.Module) -> None:
    """Refuse wrappers within a model that cannot be traced, or whose weights would be copies."""
    parallel = isinstance(module, nn.DataParallel) and len(module.device_ids) > 1
    if parallel or isinstance(module, nn.parallel.DistributedDataParallel):
        kind, inner = f"a {type(module).__name__}", "module"
    elif hasattr(module, "_orig_mod"):
        kind, inner = "made by torch.compile", "_orig_mod"
    else:
        return
    raise ModelError(
        f"layer '{name}' is {kind}, which cannot be bounded inside a model; put its .{inner} there"
    )


def _check_layers(core: nn.Module) -> None:
    for name, module in core.named_modules():
        _check_wrapper(name, module)
        unknown = (nn.GroupNorm, nn.LayerNorm) if lirpa.load().legacy else nn.GroupNorm
        if isinstance(module, unknown):
            raise ModelError(
                f"layer '{name}' is a {type(module).__name__}, which auto_LiRPA "
                f"{lirpa.load().version} cannot bound; use BatchNorm"
            )
        same = isinstance(module, nn.Conv2d) and module.padding == "same"
        if same and any(span % 2 for span in _spans(module)):
            raise ModelError(
                f"layer '{name}' has padding=\"same\" and a kernel that it pads unevenly; use an "
                "odd kernel, or ZeroPad2d before it"
            )
        if isinstance(module, nn.AvgPool2d) and module.divisor_override is not None:
            raise ModelError(
                f"layer '{name}' is an AvgPool2d with {left_out(module.divisor_override)}"
            )
        if isinstance(module, nn.Conv1d) and lirpa.load().legacy:
            raise ModelError(
                f"layer '{name}' is a Conv1d, which auto_LiRPA 0.3 cannot bound; write it as a "
                "Conv2d with kernel (1, k), or install auto_LiRPA 0.7"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            _check_batchnorm(name, module)


def _check_batchnorm(name: str, layer: Any) -> None:
    if not layer.track_running_stats:
        raise ModelError(
            f"BatchNorm layer '{name}' has track_running_stats=False, so that the logits of an "
            "image depend on the other images of its batch; make it with track_running_stats=True "
            "and train again"
        )
    if layer.momentum is None:
        raise ModelError(
            f"BatchNorm layer '{name}' has momentum=None, which auto_LiRPA cannot follow; set a "
            "number, such as layer.momentum = 0.1"
        )


@torch.no_grad()
def _largest_layer(core: nn.Module, example: Tensor) -> int:
    """Values in the largest output of a layer, for one input; its data must stay in tensors."""
    sizes = [0]

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output[0].numel())

    hooks = [m.register_forward_hook(note) for m in core.modules()]
    try:
        with DataWatch(example):
            check_logits(core(example))
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def check_logits(output: object) -> Tensor:
    """Return the output of a model; raise ModelError if it is no tensor."""
    if isinstance(output, Tensor):
        return output
    raise ModelError(
        f"the model returns a {type(output).__name__}; expected one tensor of logits (N, K), in "
        "train mode too: wrap it in a module whose forward returns the logits alone"
    )


def _share_buffers(bounded: nn.Module, core: nn.Module) -> None:
    """Point auto_LiRPA's clones of the buffers back at the module's own."""
    own = dict(core.named_buffers())
    for node in nodes(bounded):
        name = getattr(node, "ori_name", None)
        if "buffer" in node._buffers and name in own:
            node._buffers["buffer"] = own[name]


def mode_pairs(bounded: nn.Module, core: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return parts of the graph and the layers whose training mode each is to follow, in order.

    Dropout has no layer to follow: bounds are of the network without it.
    """
    layers, pairs = dict(core.named_modules()), [(bounded, core)]
    for node in nodes(bounded):
        if type(node).__name__ == "BoundBatchNormalization":
            layer = node.inputs[3].ori_name.rpartition(".")[0]  # "...N.running_mean"
            if layer in layers:
                pairs.append((node, layers[layer]))
    return pairs


def nodes(bounded: nn.Module) -> list[Any]:
    """Return the nodes of a BoundedModule's graph, in its own order."""
    return list(bounded._modules.values())


def input_node(bounded: nn.Module) -> Any:
    """Return the node of the images."""
    return bounded[bounded.input_name[0]]


def fed_by_addition(node: nn.Module) -> bool:
    """Return whether a convolution or linear layer takes a sum of two computed values."""
    if type(node).__name__ not in ("BoundConv", "BoundLinear"):
        return False
    source = node.inputs[0]
    while type(source).__name__ in ("BoundRelu", "BoundBatchNormalization", "BoundFlatten"):
        source = source.inputs[0]
    return type(source).__name__ == "BoundAdd" and all(n.from_input for n in source.inputs)


def count_classes(bounded: nn.Module) -> int:
    """Return K of the logits (N, K); raise ModelError for any other output."""
    shape = bounded.final_node().output_shape
    if len(shape) != 2 or shape[1] < 2:
        how = "; for loss fusion (CrossEntropyWrapper), pass the model inside, or its BoundedModule"
        fusion = how if len(bounded.input_name) > 1 else ""
        raise ModelError(
            f"the model returns shape {tuple(shape)}; expected logits (N, K), K >= 2{fusion}"
        )
    return int(shape[1])


def explained(what: str, fix: str = "") -> AbstractContextManager[None]:
    """Turn whatever auto_LiRPA raises into a ModelError of one line; memory errors pass."""
    return foreign(ModelError, f"auto_LiRPA cannot handle {what}", fix)
