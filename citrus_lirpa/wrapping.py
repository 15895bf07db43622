"""Tracing a user's module into auto_LiRPA's BoundedModule without disturbing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from . import _compat
from .errors import InputError, ModelError, is_out_of_memory
from .models import Normalise

#: Above this many values in one layer, convolutions are bounded as patches, not matrices.
_MATRIX_MODE_LIMIT = 4_096


def split_normalise(model: nn.Module) -> tuple[nn.Module | None, nn.Module]:
    """A leading Normalise layer and the rest, sharing everything with ``model``."""
    if isinstance(model, nn.Sequential) and len(model) > 1 and isinstance(model[0], Normalise):
        return model[0], model[1:]
    return None, model


def wrap(core: nn.Module, example: Tensor, conv_mode: str) -> nn.Module:
    """A BoundedModule of ``core`` that shares its parameters, buffers and training mode."""
    lirpa = _compat.load()
    modes = {module: module.training for module in core.modules()}
    core.eval()  # built in train mode, running statistics would move
    try:
        with explained("this model's graph"), torch.no_grad():
            logits = core(example[:1])
            if logits.ndim != 2 or logits.shape[1] < 2:
                raise ModelError(
                    f"the model returns shape {tuple(logits.shape)} for one input; "
                    "expected logits (1, K) with K >= 2"
                )
        with explained("this model's graph"), _compat.parsing():
            bounded = lirpa.BoundedModule(
                core,
                example[:1],
                bound_opts=_compat.bound_options(conv_mode=conv_mode),
                device=example.device,
            )
    finally:
        for module, mode in modes.items():
            module.training = mode
    _share_buffers(bounded, core)
    bounded.train(core.training)
    return bounded


def _share_buffers(bounded: nn.Module, core: nn.Module) -> None:
    """Point auto_LiRPA's clones of the buffers back at the module's own."""
    own = dict(core.named_buffers())
    for node in nodes(bounded):
        name = getattr(node, "ori_name", None)
        if "buffer" in node._buffers and name in own:
            node._buffers["buffer"] = own[name]


def nodes(bounded: nn.Module) -> list[nn.Module]:
    """The operations of a BoundedModule's graph, in network order."""
    return list(bounded._modules.values())


def fed_by_addition(node: nn.Module) -> bool:
    """Whether a convolution's or linear layer's input is a sum of two computed values."""
    if type(node).__name__ not in ("BoundConv", "BoundLinear"):
        return False
    source = node.inputs[0]
    while type(source).__name__ in ("BoundRelu", "BoundBatchNormalization", "BoundFlatten"):
        source = source.inputs[0]
    return type(source).__name__ == "BoundAdd" and all(n.from_input for n in source.inputs)


def count_classes(bounded: nn.Module) -> int:
    """K of the logits (N, K); ModelError for any other output."""
    shape = bounded.final_node().output_shape
    if len(shape) != 2 or shape[1] < 2:
        raise ModelError(f"the model returns shape {tuple(shape)}; expected logits (N, K), K >= 2")
    return int(shape[1])


def conv_mode(model: nn.Module, example: Tensor) -> str:
    """Matrices for small layers (several times faster there), patches for large ones."""
    sizes = [0]

    def note(_module, _inputs, output):
        if isinstance(output, Tensor):
            sizes.append(output[0].numel())

    hooks = [m.register_forward_hook(note) for m in model.modules()]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), explained("the example batch"):
            model.eval()(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return "matrix" if max(sizes) <= _MATRIX_MODE_LIMIT else "patches"


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever auto_LiRPA raises into one ModelError line; memory errors pass."""
    try:
        yield
    except (InputError, ModelError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or "no reason given"
        raise ModelError(
            f"auto_LiRPA cannot handle {what}: {type(error).__name__}: {reason}"
        ) from error
