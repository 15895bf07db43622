"""Losses under Gaussian noise, which train networks that are to be smoothed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import distributed
from ..bounds.box import PIXELS, Ball, clamp
from ..bounds.checks import Range, Scalar, check_count, check_positive
from ..bounds.net import BoundedNet
from ..bounds.norms import shortened, unit_vectors
from ..bounds.radius import largest_as_tensor
from .base import POINT_RADIUS, Loss, LossTerms, at_points
from .checks import check_max_eps


class Gaussian(Loss):
    """Cross-entropy on inputs with Gaussian noise; ε does not matter.

    Source: Cohen et al. 2019, Certified Adversarial Robustness via Randomized Smoothing,
    section 3.3.

    Args:
        sigma: Standard deviation σ of the noise, in pixels.
        clip: Valid range of the inputs, without noise; None for no limits.
    """

    needs_ramp, steps_alike = False, True

    def __init__(self, *, sigma: float = 0.25, clip: Range | None = PIXELS):
        super().__init__(clip)
        check_positive(sigma, "sigma")
        self.sigma = sigma

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the noisy inputs."""
        return at_points(net, x, x + self.sigma * normal(x), y, self.clip)


class SmoothAdv(Loss):
    """Cross-entropy on adversarial examples of the smoothed network, with Gaussian noise.

    The attack ascends -log of the mean probability of the label over noise samples, by steps
    along the ℓ2-normalised gradient in an ℓ2 ball; the same samples are trained on. The ball
    grows with the ramp of ε, and has its full radius at ``max_eps``.

    Source: Salman et al. 2019, Provably Robust Deep Learning via Adversarially Trained Smoothed
    Classifiers, equation 6 (SmoothAdv-PGD).

    Args:
        max_eps: The ε that the ramp ends with.
        sigma: Standard deviation σ of the noise, in pixels.
        radius: ℓ2 radius of the attack.
        samples: Noise samples of each input, m.
        attack_steps: Gradient steps, of 2 · radius / attack_steps each.
        clip: Valid range of the inputs, without noise; None for no limits.
    """

    needs_ramp, steps_alike = False, True

    def __init__(
        self,
        max_eps: float,
        *,
        sigma: float = 0.25,
        radius: float = 0.5,
        samples: int = 2,
        attack_steps: int = 10,
        clip: Range | None = PIXELS,
    ):
        super().__init__(clip)
        check_max_eps(max_eps)
        check_positive(sigma, "sigma")
        check_positive(radius, "radius")
        check_count(samples, "samples")
        check_count(attack_steps, "attack_steps")
        self.max_eps, self.sigma, self.radius = max_eps, sigma, radius
        self.samples, self.attack_steps = samples, attack_steps

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the attacked inputs, noise added."""
        noise = self.sigma * torch.stack([normal(x) for _ in range(self.samples)])
        radius = self.radius * largest_as_tensor(eps) / self.max_eps
        v = self._attack(net, x, y, noise, radius)
        logits = net((x + v + noise).flatten(0, 1))
        loss = F.cross_entropy(logits, y.repeat(self.samples))
        mean = logits.unflatten(0, noise.shape[:2]).mean(0)
        box = Ball(POINT_RADIUS, self.clip).box(x)
        return LossTerms(loss, mean, box)

    def _attack(
        self, net: BoundedNet, x: Tensor, y: Tensor, noise: Tensor, radius: Tensor
    ) -> Tensor:
        step, v = 2 * radius / self.attack_steps, torch.zeros_like(x)
        with net.evaluating(), torch.enable_grad():
            logits, index = net.frozen(), y.expand(len(noise), -1).unsqueeze(2)
            for _ in range(self.attack_steps):
                v.requires_grad_(True)
                shares = logits((x + v + noise).flatten(0, 1)).log_softmax(1)
                of_label = shares.unflatten(0, noise.shape[:2]).gather(2, index).squeeze(2)
                (gradient,) = torch.autograd.grad(-of_label.logsumexp(0).sum(), v)
                v = shortened(v.detach() + step * unit_vectors(gradient), radius)
                v = clamp(x + v, self.clip) - x
        return v


def normal(x: Tensor) -> Tensor:
    """Draw standard normal noise shaped as this process's rows ``x`` of a batch."""
    return distributed.draw_rows(
        lambda rows: torch.randn(rows, *x.shape[1:], dtype=x.dtype, device=x.device), len(x)
    )
