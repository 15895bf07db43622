"""Certification: of single inputs, and of groups that share one perturbation."""

from .cascade import STAGES, Certificates, certify
from .evaluate import Evaluation, evaluate
from .uap import RELATIONAL, UapBounds, certify_uap

__all__ = [
    "RELATIONAL", "STAGES", "Certificates", "Evaluation", "UapBounds", "certify", "certify_uap",
    "evaluate",
]  # fmt: skip
