"""The public names, imported with all that they need; the package gives them lazily."""

from contextlib import suppress

from . import _compat
from .attacks import PGD, GroupAttack, SgdUap, UapResult, try_uap
from .bounds import METHODS, BoundedNet
from .boxes import Box, Groups, Shifts, cross_input_boxes
from .errors import CitrusError, DependencyError
from .initialisation import shi_initialise
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
from .margins import robust_cross_entropy
from .regularisers import shi_regulariser
from .train import History, fit
from .verify import (
    Certificates,
    Evaluation,
    Protocol,
    UapBounds,
    certify,
    certify_uap,
    evaluate,
)

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
