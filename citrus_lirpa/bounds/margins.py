"""Classification margins as a linear specification, and the loss on their bounds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, shown


def wrong_classes(y: Tensor, classes: int) -> Tensor:
    """Return (N, K-1) the classes other than y_n, ascending: the order of all margins."""
    below = torch.arange(classes - 1, device=y.device).expand(len(y), -1)
    return below + (below >= y.unsqueeze(1))


def specification(y: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return C (N, K-1, K) of rows e_y - e_c, c != y, so that C @ logits are the margins."""
    identity = torch.eye(classes, dtype=dtype, device=y.device)
    return identity[y].unsqueeze(1) - identity[wrong_classes(y, classes)]


def logit_margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return (N, K-1) logit_y - logit_c of logits (N, K), c in the order of wrong_classes."""
    others = logits.gather(1, wrong_classes(y, logits.shape[1]))
    return logits.gather(1, y.unsqueeze(1)) - others


def robust_cross_entropy(margins: Tensor) -> Tensor:
    """Compute the cross-entropy of the worst logits that lower bounds of margins allow.

    log(1 + Σ_c exp(-margin_c)), an upper bound of the cross-entropy at every point of the box
    that the margins were bounded on (Xu & Singh, Eq. 2).

    Args:
        margins: (N, K-1) lower bounds.

    Returns:
        (N,) the cross-entropy of each box.

    Raises:
        InputError: The margins are not such a tensor.
    """
    if not isinstance(margins, Tensor) or margins.ndim != 2 or not margins.is_floating_point():
        raise InputError(f"margins are {shown(margins)}; expected a floating-point tensor (N, K-1)")
    worst_logits = F.pad(-margins, (1, 0))
    return torch.logsumexp(worst_logits, dim=1)
