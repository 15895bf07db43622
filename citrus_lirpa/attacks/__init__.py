"""Attacks: gradient descent on inputs; one perturbation for a group, a class or a data set."""

from .group import GroupAttack, GroupAttackResult, kappa
from .pgd import PGD, ascend
from .universal import SgdUap, UapResult, try_uap

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
