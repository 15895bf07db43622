"""Attacks: gradient descent on inputs; one perturbation for a group, a class or a data set."""

from .effects import UapResult, try_uap
from .group import GroupAttack, GroupAttackResult, breaks, kappa
from .pgd import PGD, ascend
from .universal import SgdUap

__all__ = [
    "PGD", "GroupAttack", "GroupAttackResult", "SgdUap", "UapResult", "ascend", "breaks", "kappa",
    "try_uap",
]  # fmt: skip
