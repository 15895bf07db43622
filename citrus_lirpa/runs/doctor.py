"""The report and the checks of ``citrus-lirpa doctor``."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from .._version import __version__
from ..bounds import lirpa as _compat
from ..bounds.box import Box
from ..bounds.margins import logit_margins
from ..bounds.net import METHODS, BoundedNet
from ..data.datasets import find_datasets
from ..errors import SoundnessError
from ..imports import import_torchvision
from ..losses import Ibp

#: The last line, where no check failed.
PASSED = "all checks passed"
_CPU = torch.device("cpu")


def run_checks(data_dir: Path) -> Iterator[str]:
    """Yield the lines of ``citrus-lirpa doctor``; raise CitrusError where a check fails."""
    lirpa = _compat.load().version
    yield f"citrus-lirpa {__version__}, Python {platform.python_version()}, {platform.system()}"
    yield f"torch {torch.__version__} (tested {' to '.join(_compat.TESTED_TORCH)})"
    torchvision = import_torchvision().__version__
    yield f"auto_LiRPA {lirpa}, NumPy {numpy.__version__}, torchvision {torchvision}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    yield f"GPU: {device}; CPU threads: {torch.get_num_threads()}"
    for name, status in find_datasets(data_dir).items():
        yield f"data set {name}: {status}"
    for name in ["cpu", *["cuda"] * torch.cuda.is_available()]:
        for check in (check_containment, check_alpha, check_gradients):
            yield check(torch.device(name)) + (", on the GPU" if name == "cuda" else "")
    yield PASSED


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python, and of what bounds are computed with."""
    return {
        "citrus_lirpa": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "auto_lirpa": _compat.load().version,
        "numpy": numpy.__version__,
    }


def facts(data_dir: Path) -> dict[str, Any]:
    """Return what the lines of ``run_checks`` state, once all checks have passed."""
    return {
        **versions(),
        "system": platform.system(),
        "torchvision": import_torchvision().__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "data_sets": find_datasets(data_dir),
        "passed": True,
    }


def _small_net(device: torch.device) -> tuple[BoundedNet, Box, torch.Tensor]:
    """Return a fixed ReLU network with many unstable neurons, 8 boxes and their classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 36, 20),
            nn.ReLU(),
            nn.Linear(20, 10),
        )
        x = torch.rand(8, 1, 8, 8).to(device)
    net = BoundedNet(model.to(device), x).eval()
    with torch.no_grad():
        return net, Box.around(x, 0.1), net(x).argmax(1)


# Each check returns a line to print, or raises SoundnessError.


def check_containment(device: torch.device = _CPU) -> str:
    """Check that the bounds of every method contain the margins of sampled points."""
    net, wide, y = _small_net(device)
    generator = torch.Generator().manual_seed(2)
    share = torch.rand((200, *wide.lower.shape), generator=generator).round(decimals=1).to(device)
    for box in (wide, Box.around(wide.centre, 1e-6)):  # the tiny one shows small errors
        with torch.no_grad():
            points = torch.lerp(box.lower, box.upper, share).flatten(0, 1)
            lowest = logit_margins(net(points), y.repeat(200)).view(200, len(y), -1).amin(dim=0)
            for method in METHODS:
                excess = float((net.margins(box, y, method) - lowest).max())
                if not excess <= 1e-4:
                    raise SoundnessError(
                        f"{method} bounds are unsound here: {excess:.2g} above a sampled output; "
                        "do not trust certificates of this combination of torch and auto_LiRPA"
                    )
    return f"bounds contain 3200 sampled outputs: {', '.join(METHODS)}"


def check_alpha(device: torch.device = _CPU) -> str:
    """Check that α-CROWN is tighter than CROWN: with some versions of torch it is not."""
    net, box, y = _small_net(device)
    with torch.no_grad():
        gain = float((net.margins(box, y, "alpha-crown") - net.margins(box, y, "crown")).mean())
    if not gain > 1e-6:
        raise SoundnessError(
            f"α-CROWN does not improve on CROWN (by {gain:.2g}): its gradients are silently zero "
            "with this combination of torch and auto_LiRPA"
        )
    return f"alpha-crown is tighter than crown, by {gain:.3g} on average"


def check_gradients(device: torch.device = _CPU) -> str:
    """Check that weight gradients through IBP agree with central differences."""
    net, box, y = _small_net(device)
    net.module.double()
    net = BoundedNet(net.module, box.lower.double())
    x, loss = box.centre.double(), Ibp()
    loss(net, x, y, 0.01).backward()
    step, worst = 1e-6, 0.0
    for weight in net.parameters():
        flat = weight.data.view(-1)
        grad = (torch.zeros_like(weight) if weight.grad is None else weight.grad).view(-1)
        i = int(grad.abs().argmax())
        ends = []
        for sign in (1, -1):
            flat[i] += sign * step
            ends.append(loss(net, x, y, 0.01).item())
            flat[i] -= sign * step
        numeric = (ends[0] - ends[1]) / (2 * step)
        error = abs(numeric - float(grad[i])) / max(1e-3, abs(numeric))
        worst = error if not error <= worst else worst  # NaN is the worst
    if not worst < 1e-4:
        raise SoundnessError(
            f"weight gradients through IBP are off by a factor of {worst:.2g} from finite "
            "differences with this combination of torch and auto_LiRPA"
        )
    return f"IBP weight gradients agree with finite differences (worst {worst:.1g})"
