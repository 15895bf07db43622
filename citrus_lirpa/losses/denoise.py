"""The loss of denoisers, which take Gaussian noise off images in front of a classifier."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..bounds.box import PIXELS, Ball
from ..bounds.checks import Range, Scalar, check_positive, check_tensor, check_within
from ..bounds.net import BoundedNet
from ..bounds.unbounded import UnboundedNet
from ..errors import expect, require
from .base import POINT_RADIUS, Loss, LossTerms
from .noise import normal


class Denoise(Loss):
    """The distance between an image and what is left of it with Gaussian noise, denoised.

    Without a classifier it is the mean squared error of the pixels (MSE), with one the
    cross-entropy of its logits on the denoised image and its class of the clean one (STAB).
    Labels and ε do not matter.

    Source: Salman et al. 2020, Denoised Smoothing: A Provable Defense for Pretrained Classifiers,
    equations 3 and 4.

    Args:
        sigma: Standard deviation σ of the noise, in pixels.
        classifier: A trained network from images to logits, in eval mode and without gradients,
            or its path, which :func:`~.training.setup.build` reads; None for MSE.
        clip: Valid range of the images, without noise; None for no limits.
    """

    needs_ramp, steps_alike = False, True

    def __init__(
        self,
        *,
        sigma: float = 0.25,
        classifier: nn.Module | str | None = None,
        clip: Range | None = PIXELS,
    ):
        super().__init__(clip)
        check_positive(sigma, "sigma")
        self.sigma, self.classifier = sigma, classifier

    def forward(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of a batch, whatever ε is.

        Args:
            net: UnboundedNet of a network from images to images of the same shape.
            x: Images (B, ...).
            y: Labels (B,), which count for the accuracy alone.
            eps: Not used.

        Returns:
            The loss. Its logits are the classifier's of the denoised images, (B, 0) without one.

        Raises:
            InputError: A value cannot be used.
        """
        kind = type(net).__name__
        require(
            isinstance(net, UnboundedNet), f"the denoiser is a {kind}; expected an UnboundedNet"
        )
        check_tensor(x, "x")
        expect(x.ndim > 1 and len(x) > 0, "x", x, "a batch of images")
        if self.clip is not None:
            check_within(x, self.clip)
        return self.terms(net, x, y, eps)  # type: ignore[arg-type]

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of noisy images."""
        denoised = net(x + self.sigma * normal(x))
        expected = f"images as the noisy ones, {tuple(x.shape)}"
        expect(denoised.shape == x.shape, "what the denoiser returns", denoised, expected)
        judge, box = self.classifier, Ball(POINT_RADIUS, self.clip).box(x)
        if judge is None:
            return LossTerms(F.mse_loss(denoised, x), x.new_empty(len(x), 0), box)
        read = "a network; build(config, device) reads it from its path"
        expect(isinstance(judge, nn.Module), "classifier", judge, read)
        logits = judge(denoised)  # type: ignore[operator]
        return LossTerms(F.cross_entropy(logits, judge(x).argmax(1)), logits, box)  # type: ignore[operator]
