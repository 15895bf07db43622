"""Certification: of single inputs, and of groups that share one perturbation."""

from .cascade import STAGES, certify
from .certificates import Certificates
from .evaluate import Evaluation, Protocol, evaluate
from .milp import SOLVERS
from .saved import Saved, fingerprint, fingerprint_of_images
from .uap import RELATIONAL, UapBounds, certify_uap

__all__ = [
    "RELATIONAL", "SOLVERS", "STAGES", "Certificates", "Evaluation", "Protocol", "Saved",
    "UapBounds", "certify", "certify_uap", "evaluate", "fingerprint",
    "fingerprint_of_images",
]  # fmt: skip
