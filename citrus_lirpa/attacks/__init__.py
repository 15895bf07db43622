"""Attacks: projected gradient descent on inputs, and one perturbation for a group."""

from .pgd import PGD
from .uap import GroupAttack, GroupAttackResult

__all__ = ["PGD", "GroupAttack", "GroupAttackResult"]
