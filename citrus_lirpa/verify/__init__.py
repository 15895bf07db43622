"""Certification: of single inputs, and of groups that share one perturbation."""

from .certificates import Certificates
from .evaluation import Evaluation, evaluate
from .groups import UapBounds, certify_uap
from .identity import fingerprint, fingerprint_of_images
from .milp import SOLVERS
from .protocol import Protocol
from .record import EvaluationRecord
from .relational import RELATIONAL
from .resume import Saved
from .single import certify
from .smoothing import Smoothed, Smoothing, smooth
from .stages import STAGES

__all__ = [
    "RELATIONAL", "SOLVERS", "STAGES", "Certificates", "Evaluation", "EvaluationRecord",
    "Protocol", "Saved", "Smoothed", "Smoothing", "UapBounds", "certify", "certify_uap", "evaluate",
    "fingerprint", "fingerprint_of_images", "smooth",
]  # fmt: skip
