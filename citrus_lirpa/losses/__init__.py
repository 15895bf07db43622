"""Training losses: ``loss(net, x, y, eps)`` returns :class:`LossTerms`.

:mod:`.registry` names the methods of training that they belong to, with their options.
"""

from .adversarial import Adversarial, CrossEntropy, Uat
from .base import Loss, LossTerms
from .citrus import Citrus
from .colt import Colt
from .cross_input import Groups, Shifts, cross_input_boxes
from .denoise import Denoise
from .game import UapGame
from .ibp import CrownIbp, Ibp
from .mtl_ibp import CcIbp, ExpIbp, MtlIbp
from .noise import Gaussian, SmoothAdv
from .registry import LOSSES, TRAINING_METHODS, Method
from .sabr import Sabr
from .taps import Taps

__all__ = [
    "LOSSES", "TRAINING_METHODS", "Adversarial", "CcIbp", "Citrus", "Colt", "CrossEntropy",
    "CrownIbp", "Denoise", "ExpIbp", "Gaussian", "Groups", "Ibp", "Loss", "LossTerms", "Method",
    "MtlIbp", "Sabr", "Shifts", "SmoothAdv", "Taps", "UapGame", "Uat", "cross_input_boxes",
]  # fmt: skip
