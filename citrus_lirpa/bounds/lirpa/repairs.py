"""Repairs of auto_LiRPA for the torch at hand, each only where it is needed.

Each docstring begins with the version that needs it; "both" are 0.3 and 0.7.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import types
from typing import Any

import torch

from .importing import onnx_globals, own_modules


def repair(package: types.ModuleType, operators: types.ModuleType) -> None:
    """Repair auto_LiRPA, whose nodes are the classes of ``operators``, for this torch."""
    _print_to_the_log()
    _register_onnx_symbolics()
    _make_nodes_subscriptable()
    for kind in (package.BoundedModule, package.BoundDataParallel):
        _accept_remove_duplicate(kind)
    _leave_requires_grad_alone(operators.BoundParams)
    _open_alpha_gradient(operators.BoundRelu)


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
