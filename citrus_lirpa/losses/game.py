"""Universal adversarial training as a game: fictitious play against remembered perturbations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import distributed
from ..attacks.pgd import check_step_size, uniform_start
from ..bounds.box import PIXELS, clamp
from ..bounds.checks import Range, Scalar, check_count
from ..bounds.net import BoundedNet
from .base import Loss, LossTerms, at_points
from .universal import check_kept, loaded_shares


class UapGame(Loss):
    """Cross-entropy on inputs under draws from all universal perturbations made so far.

    It is fictitious play: the network answers the mean of the perturbations in memory, from which
    each input draws one; a new perturbation answers the network of its time. It begins at a
    random corner of the ball and climbs the gradient of one batch after another, for ``climb``
    batches; then it joins the memory, and the next one begins. The memory keeps the newest
    ``memory`` of them, as shares of ε, and is part of the loss's state.

    Source: Pérolat et al. 2018, Playing the Game of Universal Adversarial Perturbations,
    algorithm 1.

    Args:
        climb: Batches that each perturbation climbs.
        memory: Perturbations that are kept.
        step_size: First step of a perturbation as a share of ε; it falls to 0 while it climbs.
        clip: Valid range of the inputs; None for no limits.
    """

    needs_ramp = False

    def __init__(
        self,
        *,
        climb: int = 50,
        memory: int = 100,
        step_size: float = 0.25,
        clip: Range | None = PIXELS,
    ):
        super().__init__(clip)
        check_count(climb, "climb")
        check_count(memory, "memory")
        check_step_size(step_size)
        self.climb, self.memory, self.step_size = climb, memory, step_size
        self._kept: Tensor | None = None  # (M, ...): the last one still climbs
        self._climbed = 0

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the inputs, each under a perturbation from memory."""
        kept = self._improved(net, x, y, eps)
        drawn = distributed.draw_rows(
            lambda rows: torch.randint(len(kept), (rows,), device=x.device), len(x)
        )
        points = clamp(x + (kept * eps)[drawn], self.clip)
        return at_points(net, x, points, y, self.clip, kept * eps)

    def _improved(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> Tensor:
        """Let the newest perturbation climb this batch; return all of them, as shares of ε."""
        kept = x.new_empty(0, *x.shape[1:]) if self._kept is None else self._kept.to(x)
        check_kept(kept, (len(kept), *x.shape[1:]))
        if self._climbed % self.climb == 0:
            corner = uniform_start((1, *x.shape[1:]), x).sign()
            kept = torch.cat([kept, corner])[-self.memory :]
        share = kept[-1:].detach().clone().requires_grad_(True)
        with net.evaluating(), torch.enable_grad():
            loss = F.cross_entropy(net.frozen()(clamp(x + share * eps, self.clip)), y)
            (gradient,) = torch.autograd.grad(loss, share)
        left = 1 - self._climbed % self.climb / self.climb
        moved = share.detach() + self.step_size * left * distributed.averaged(gradient).sign()
        self._kept = torch.cat([kept[:-1], moved.clamp(-1, 1)])
        self._climbed += 1
        return self._kept

    def get_extra_state(self) -> dict[str, Tensor | int]:
        """Return the perturbations as shares of ε, and the batches climbed, for ``state_dict``."""
        return {} if self._kept is None else {"kept": self._kept, "climbed": self._climbed}

    def set_extra_state(self, state: dict[str, Tensor | int]) -> None:
        """Load what ``get_extra_state`` returned; TypeError for anything else."""
        climbed = state.get("climbed", 0)
        if not isinstance(climbed, int):
            raise TypeError("the batches climbed are a whole number")
        self._kept, self._climbed = loaded_shares(state.get("kept")), climbed
