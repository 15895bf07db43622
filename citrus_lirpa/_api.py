"""The public names, imported with all that they need; the package gives them lazily."""

from contextlib import suppress

from .attacks import PGD, GroupAttack, SgdUap, UapResult, try_uap
from .bounds import lirpa as _compat
from .bounds.box import Box
from .bounds.margins import robust_cross_entropy
from .bounds.net import METHODS, BoundedNet
from .errors import CitrusError, DependencyError
from .losses import (
    Adversarial,
    CcIbp,
    Citrus,
    CrossEntropy,
    CrownIbp,
    ExpIbp,
    Ibp,
    LossTerms,
    MtlIbp,
    Sabr,
    Taps,
    Uat,
)
from .losses.cross_input import Groups, Shifts, cross_input_boxes
from .training.initialisation import shi_initialise
from .training.loop import History, fit
from .training.regularisers import shi_regulariser
from .verify import Certificates, Evaluation, Protocol, UapBounds, certify, certify_uap, evaluate

__all__ = [
    "METHODS", "PGD", "Adversarial", "BoundedNet", "Box", "CcIbp", "Certificates", "Citrus",
    "CitrusError", "CrossEntropy", "CrownIbp", "Evaluation", "ExpIbp", "GroupAttack", "Groups",
    "History", "Ibp", "LossTerms", "MtlIbp", "Protocol", "Sabr", "SgdUap", "Shifts", "Taps", "Uat",
    "UapBounds", "UapResult", "certify", "certify_uap", "cross_input_boxes", "evaluate", "fit",
    "robust_cross_entropy", "shi_initialise", "shi_regulariser", "try_uap",
]  # fmt: skip

# A missing auto_LiRPA is reported, with the command that installs it, by the first call
# that needs it; the names can be imported without.
with suppress(DependencyError):
    _compat.load()
