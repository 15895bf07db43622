"""Attacks: gradient descent on inputs; one perturbation for a group, a class or a data set."""

from .kappa import kappa
from .pgd import PGD, ascend
from .sgd_uap import SgdUap, UapResult, try_uap
from .uap import GroupAttack, GroupAttackResult

__all__ = [
    "PGD",
    "GroupAttack",
    "GroupAttackResult",
    "SgdUap",
    "UapResult",
    "ascend",
    "kappa",
    "try_uap",
]
