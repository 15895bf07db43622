"""Certification: of single inputs, and of groups that share one perturbation."""

from .evaluate import Evaluation, evaluate
from .incomplete import Certificates, certify
from .uap import UapBounds, certify_uap

__all__ = ["Certificates", "Evaluation", "UapBounds", "certify", "certify_uap", "evaluate"]
