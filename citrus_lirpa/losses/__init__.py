"""Training losses: ``loss(net, x, y, eps)`` returns :class:`LossTerms`.

``LOSSES`` maps a name to a function whose keyword arguments are the loss's options in
configuration files. A new loss is one file and one entry.
"""

from __future__ import annotations

from ..attacks import PGD
from ..boxes import Groups, Pairing, Shifts
from ..errors import ConfigError, unknown
from .base import LossTerms
from .citrus import Citrus
from .ibp import Ibp

PAIRINGS = ("shifts", "groups")


def citrus(
    *,
    tau_ratio: float,
    pairing: str = "shifts",
    partners: int = Shifts.count,
    include_self: bool = False,
    method: str = "ibp",
    reduction: str = "sum",
    attack_steps: int = PGD.steps,
    attack_step_size: float = PGD.step_size,
    attack_restarts: int = PGD.restarts,
) -> Citrus:
    """CITRUS from plain values; ``groups`` of partners + 1 inputs, or ``shifts``."""
    if pairing not in PAIRINGS:
        raise ConfigError(unknown("pairing", pairing, PAIRINGS))
    pairs: Pairing = (
        Shifts(partners, include_self)
        if pairing == "shifts"
        else Groups(partners + 1, include_self)
    )
    attack = PGD(attack_steps, attack_step_size, attack_restarts)
    return Citrus(tau_ratio, attack=attack, pairing=pairs, method=method, reduction=reduction)


def ibp(*, method: str = "ibp") -> Ibp:
    """Plain certified training on the whole ε-box."""
    return Ibp(method=method)


LOSSES = {"citrus": citrus, "ibp": ibp}

__all__ = ["LOSSES", "Citrus", "Ibp", "LossTerms"]
