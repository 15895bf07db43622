"""Incomplete verification of single inputs: a union of bound methods, cheapest first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..bounds import METHODS, as_bounded_net, check_method
from ..boxes import Box, Range, Scalar, check_radius
from ..errors import InputError, ModelError
from ..margins import check_labels
from .memory import allocations_fail_cleanly, in_batches

#: Images bounded at once are ``batch_size`` divided by this: what an image costs in memory.
_COST = {"ibp": 1, "crown-ibp": 4, "crown": 8, "alpha-crown": 16}


@dataclass(frozen=True)
class Certificates:
    """What was proved of N inputs on their ε-boxes, each alone.

    correct: (N,) classified correctly without perturbation; margin: (N,) the best lower
    bound found of the smallest margin; decided_by: (N,) index into ``methods`` of the first
    method that proved it, -1 where none did; seconds: per method; not_fitting: per method,
    the inputs that it could not bound for lack of memory; unsupported: the methods that this
    network's layers do not allow, and why. Their inputs are left to the other methods.
    """

    methods: tuple[str, ...]
    correct: Tensor
    margin: Tensor
    decided_by: Tensor
    seconds: dict[str, float]
    not_fitting: dict[str, int]
    unsupported: dict[str, str] = field(default_factory=dict)

    @property
    def certified(self) -> Tensor:
        """(N,) proved correct everywhere on the ε-box."""
        return self.decided_by >= 0

    def certified_by(self, method: str) -> Tensor:
        """(N,) proved by ``method`` or a cheaper one."""
        return self.certified & (self.decided_by <= self.methods.index(method))


def methods_up_to(method: str) -> tuple[str, ...]:
    """``method`` and the cheaper ones, cheapest first: CROWN-IBP alone can be looser than IBP."""
    check_method(method)
    names = tuple(METHODS)
    return names[: names.index(method) + 1]


def certify(
    net: object,
    x: Tensor,
    y: Tensor,
    eps: Scalar,
    *,
    method: str = "alpha-crown",
    clip: Range | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> Certificates:
    """Try to prove each input's class on its ε-box by every method up to ``method``.

    x: (N, ...) inputs; y: (N,) labels. Every method runs only on the correctly classified
    inputs that no cheaper one proved. A proof is a margin bound above a threshold that
    covers float32 rounding; TF32 is off and BatchNorm in eval mode. ``clip`` cuts the
    boxes to that range: only for perturbed inputs that are themselves cut to it.
    ``batch_size`` images at once under IBP, fewer under methods that need more memory.
    """
    net = as_bounded_net(net)
    check_radius(eps, "ε")
    check_labels(y, net.classes)
    if len(y) != len(x):
        raise InputError(f"{len(x)} inputs but {len(y)} labels")
    if batch_size < 1:
        raise InputError(f"batch size is {batch_size}; expected at least 1")
    methods = methods_up_to(method)
    margin = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    decided_by = torch.full((len(x),), -1, device=x.device)
    seconds, not_fitting, unsupported = {}, {}, {}
    with net.evaluating(), torch.no_grad(), full_precision(), allocations_fail_cleanly(x.device):
        logits = torch.cat([net(part) for part in x.split(batch_size)])
        correct = logits.argmax(1) == y
        threshold = rounding_threshold(logits)
        for i, name in enumerate(methods):
            begin, not_fitting[name] = time.perf_counter(), 0
            rows = (correct & (decided_by < 0)).nonzero().squeeze(1)

            def bound(rows: Tensor, name: str = name) -> Tensor:
                box = Box.around(x[rows], eps, clip)
                return net.margins(box, y[rows], name).min(dim=1).values

            try:
                size = max(1, batch_size // _COST[name])
                for done, lower in _with_bar(bound, rows, size, name, progress):
                    if lower is None:
                        not_fitting[name] += len(done)
                        continue
                    margin[done] = torch.fmax(margin[done], lower)
                    decided_by[done[lower > threshold[done]]] = i
            except ModelError as error:
                if i == 0:
                    raise
                unsupported[name] = str(error)
            seconds[name] = time.perf_counter() - begin
    return Certificates(methods, correct, margin, decided_by, seconds, not_fitting, unsupported)


def _with_bar(
    bound: Callable[[Tensor], Tensor], rows: Tensor, size: int, name: str, progress: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    with tqdm(total=len(rows), desc=name, unit="image", disable=not progress) as bar:
        yield from in_batches(bound, rows, size, bar.update)


def rounding_threshold(logits: Tensor) -> Tensor:
    """(N,) margins above which float32 rounding cannot be what makes a bound positive.

    1e-4 at the usual logits around ten, and in proportion for larger ones; float32 and
    float64 CROWN bounds of ConvSmall differ by at most 3.2e-5 (measured).
    """
    return 1e-5 * logits.abs().max(dim=1).values.clamp(min=10.0)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """TF32 off inside the block: its rounding is far above the threshold."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn
    name, off = "allow_tf32", False
    if hasattr(matmul, "fp32_precision"):  # torch >= 2.9, where mixing both names raises
        conv, name, off = conv.conv, "fp32_precision", "ieee"
    before = getattr(matmul, name), getattr(conv, name)
    setattr(matmul, name, off)
    setattr(conv, name, off)
    try:
        yield
    finally:
        setattr(matmul, name, before[0])
        setattr(conv, name, before[1])
