"""Finding what no trace can follow: Python values of data, and an option that torch leaves out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import ModelError, users_line

#: What makes a Python value, or a constant, of a tensor's data.
_CONVERSIONS = {
    "__bool__": "bool", "is_nonzero": "bool", "equal": "bool", "allclose": "bool",
    "__contains__": "bool", "__int__": "int", "__index__": "int", "__float__": "float",
    "__complex__": "complex", "item": "number", "tolist": "list", "numpy": "array",
    "__array__": "array", "tensor": "constant", "new_tensor": "constant",
}  # fmt: skip


class DataWatch(TorchFunctionMode):
    """A block in which nothing computed from ``x`` may become a Python value.

    A trace keeps the value that the example gave, and with it one branch of an ``if``. Sizes
    of tensors are Python numbers here, and values that come from weights alone may be used.

    Args:
        x: The input of the network, which is passed on in the block.
    """

    def __init__(self, x: Tensor):
        super().__init__()
        self._kept: list[Tensor] = []  # so that no storage is used again
        self._places: set[int] = set()
        self._follow(x)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``; raise ModelError where a trace could not follow it on watched data."""
        inputs = list(_tensors([*args, *(kwargs or {}).values()]))
        watched = any(_place(tensor) in self._places for tensor in inputs)
        name = getattr(func, "__name__", "")
        if watched and name in _CONVERSIONS:
            raise ModelError(_refusal(_CONVERSIONS[name]))
        divisor = (kwargs or {}).get("divisor_override", args[6] if len(args) > 6 else None)
        if watched and name == "avg_pool2d" and divisor is not None:
            raise ModelError(
                f"the model's forward calls avg_pool2d{_place_of_use()} with {left_out(divisor)}"
            )
        result = func(*args, **(kwargs or {}))
        if watched:
            for tensor in (*(inputs[:1] if _in_place(name) else ()), *_tensors([result])):
                self._follow(tensor)
        return result

    def _follow(self, tensor: Tensor) -> None:
        if (place := _place(tensor)) and place not in self._places:
            self._kept.append(tensor)
            self._places.add(place)


def _in_place(name: str) -> bool:
    """Whether an operation of that name writes into its first argument: add_, __iadd__."""
    if name.startswith("__"):
        return name == "__setitem__" or name.startswith("__i")
    return name.endswith("_")


def _place(tensor: Tensor) -> int:
    """Where a tensor's values are, the same for all its views; 0 where it has none."""
    with torch._C.DisableTorchFunction():
        try:
            return tensor.untyped_storage().data_ptr()
        except (NotImplementedError, RuntimeError):  # sparse, or of a subclass without values
            return 0


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(list(value.values()))


def left_out(divisor: int) -> str:
    """Say of an average pooling's divisor that a trace does not have it."""
    return (
        f"divisor_override={divisor}, which torch leaves out where it traces the model; pool "
        "without it, and scale the result"
    )


def _refusal(kind: str) -> str:
    return (
        f"the model's forward makes a Python {kind} of its data{_place_of_use()}, which bounds "
        "cannot follow; use operations on tensors, as torch.where or torch.clamp for an if, and "
        "move checks and scaling of the data outside the model"
    )


def _place_of_use() -> str:
    """Return the user's line that is running, with a space in front; empty for none."""
    line = users_line(traceback.extract_stack())
    return line and f" {line}"
