"""Perturbations common to all inputs, which a loss keeps from batch to batch."""

from __future__ import annotations

from torch import Tensor, nn

from .. import distributed
from ..attacks.pgd import uniform_start
from ..bounds.checks import Scalar, is_number
from ..errors import expect, require


class Universal(nn.Module):
    """Perturbations that ascend a loss while the weights descend it.

    The backward pass that differentiates the loss in the weights gives the gradient of the
    perturbations as well; each then moves by step_size · ε along its sign, within the ball. They
    are kept as shares of ε, so that they grow with its ramp, and are part of the loss's state.

    Source: Shafahi et al. 2020, Universal Adversarial Training.

    Args:
        step_size: Step as a share of ε, in (0, 2].
    """

    def __init__(self, step_size: float):
        super().__init__()
        usable = is_number(step_size) and 0 < step_size <= 2
        expect(usable, "step_size", step_size, "more than 0 and at most 2, as a share of ε")
        self.step_size = step_size
        self.shares: Tensor | None = None

    def forward(self, count: int, x: Tensor, eps: Scalar) -> Tensor:
        """Return the perturbations (count, ...) with graph, at first random corners of the ball.

        The backward pass of a loss that contains them moves them.

        Args:
            count: Number of perturbations.
            x: Inputs (B, ...) that they are made for.
            eps: Radius ε.

        Raises:
            InputError: The perturbations are kept from inputs of another shape.
        """
        if self.shares is None:
            self.shares = uniform_start((count, *x.shape[1:]), x).sign()
        check_kept(self.shares, (count, *x.shape[1:]))
        self.shares = self.shares.to(x)
        shares = self.shares.detach().requires_grad_()  # a hook of its own for each call
        shares.register_hook(self._ascend)
        return shares * eps

    def _ascend(self, gradient: Tensor) -> None:
        gradient = distributed.averaged(gradient)
        if self.shares is None:  # a state without perturbations was loaded since
            return
        moved = self.shares.to(gradient) + self.step_size * gradient.sign()
        self.shares.copy_(moved.clamp(-1, 1))  # in their place, where CUDA graphs read them

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the perturbations as shares of ε, for ``state_dict``."""
        return {} if self.shares is None else {"shares": self.shares.clone()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Load the perturbations; TypeError unless they are shares of ε."""
        self.shares = loaded_shares(state.get("shares"))


def check_kept(shares: Tensor, shape: tuple[int, ...]) -> None:
    """Raise InputError unless the perturbations that a loss keeps have a ``shape``, (M, ...)."""
    require(
        tuple(shares.shape) == shape,
        f"this loss keeps perturbations {tuple(shares.shape)} of other inputs; expected {shape}: "
        "make a new loss",
    )


def loaded_shares(shares: object) -> Tensor | None:
    """Return perturbations of a loaded state; TypeError unless they are shares of ε, or None."""
    if shares is None:
        return None
    if isinstance(shares, Tensor) and bool((shares.abs() <= 1).all()):
        return shares.clone()
    raise TypeError("perturbations are shares of ε, from -1 to 1")
