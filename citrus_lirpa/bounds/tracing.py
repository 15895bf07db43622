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
from .checks import kind_of
from .dataflow import DataWatch
from .lirpa.symbols import whole_curves
from .refused import check_layers, spans

#: Above this many values in one layer, convolutions are bounded as patches, not matrices.
MATRIX_MODE_LIMIT = 4_096
_WHOLE = "pass the module itself, not a program that torch.export made of it"
_ALONE = "bring both to one type and device, and let forward take the images alone"


def wrap(core: nn.Module, example: Tensor) -> nn.Module:
    """Trace ``core``, without its normalisation, into a BoundedModule that shares its weights.

    It follows the module's buffers and modes too. Convolutions are bounded as matrices in small
    networks (several times faster there), as patches in large ones. The example is normalised.

    Raises:
        ModelError: auto_LiRPA cannot trace the module, or its forward looks at its data.
    """
    check_layers(core)
    with modes_restored(core), _not_compiled(core):
        with foreign(ModelError, "the model cannot be set to eval mode", _WHOLE):
            core.eval()  # built in train mode, running statistics would move
        matrices = _largest_layer(core, example[:1]) <= MATRIX_MODE_LIMIT
        options = lirpa.bound_options(conv_mode="matrix" if matrices else "patches")
        with explained("this model's graph"), _explicit_padding(core), _left_in_place(core):
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
        height, width = (s // 2 for s in spans(m))
        m.padding = (height, width)
    try:
        yield
    finally:
        for m in layers:
            m.padding = "same"


@torch.no_grad()
def _largest_layer(core: nn.Module, example: Tensor) -> int:
    """Values in the largest output of a layer, for one input; its data must stay in tensors."""
    sizes = [0]

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output[0].numel())

    hooks = [m.register_forward_hook(note) for m in core.modules()]
    try:
        kinds = (f"; its weights are of {w.dtype} on {w.device}" for w in core.parameters())
        what = f"the model cannot be run on {kind_of(example)}{next(kinds, '')}"
        with DataWatch(example), foreign(ModelError, what, _ALONE):
            output = core(example)
        check_logits(output)
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


def explained(what: str) -> AbstractContextManager[None]:
    """Turn whatever auto_LiRPA raises into a ModelError of one line; memory errors pass."""
    return foreign(ModelError, f"auto_LiRPA cannot handle {what}")
