"""Certification: of single inputs, and of groups that share one perturbation."""

from .certificates import Certificates
from .evaluation import Evaluation, Protocol, evaluate
from .groups import UapBounds, certify_uap
from .milp import SOLVERS
from .relational import RELATIONAL
from .resume import Saved, fingerprint, fingerprint_of_images
from .single import certify
from .stages import STAGES

__all__ = [
    "RELATIONAL", "SOLVERS", "STAGES", "Certificates", "Evaluation", "Protocol", "Saved",
    "UapBounds", "certify", "certify_uap", "evaluate", "fingerprint",
    "fingerprint_of_images",
]  # fmt: skip
