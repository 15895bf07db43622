"""Training losses: ``loss(net, x, y, eps)`` returns :class:`LossTerms`.

``LOSSES`` maps a name to a function of the largest ε of the training, whose keyword arguments
are the loss's options in configuration files. A new loss is one file and one entry.
"""

from __future__ import annotations

from collections.abc import Callable

from ..attacks import PGD
from ..bounds.checks import check_count
from ..errors import ConfigError, unknown
from .adversarial import Adversarial, CrossEntropy, Uat
from .base import Loss, LossTerms
from .citrus import Citrus
from .cross_input import Groups, Pairing, Shifts
from .ibp import CrownIbp, Ibp
from .mtl_ibp import CcIbp, ExpIbp, MtlIbp
from .sabr import Sabr
from .taps import Taps

PAIRINGS = ("shifts", "groups")


def citrus(
    max_eps: float,
    *,
    tau_ratio: float,
    pairing: str = "shifts",
    partners: int = Shifts.count,
    include_self: bool = False,
    method: str = "ibp",
    reduction: str = "sum",
    worst: int = 0,
    universal: int = 0,
    alpha: float = 1.0,
    attack_steps: int = PGD.steps,
    attack_step_size: float = PGD.step_size,
    attack_restarts: int = PGD.restarts,
) -> Citrus:
    """CITRUS from plain values; ``groups`` of partners + 1 inputs, or ``shifts``."""
    if pairing not in PAIRINGS:
        raise ConfigError(unknown("pairing", pairing, PAIRINGS))
    check_count(partners, "partners")
    pairs: Pairing = (
        Shifts(partners, include_self)
        if pairing == "shifts"
        else Groups(partners + 1, include_self)
    )
    return Citrus(
        tau_ratio,
        attack=PGD(attack_steps, attack_step_size, attack_restarts),
        pairing=pairs,
        method=method,
        reduction=reduction,
        worst=worst,
        universal=universal,
        alpha=alpha,
    )


def ibp(max_eps: float, *, method: str = "ibp") -> Ibp:
    """Plain certified training on the whole ε-box."""
    return Ibp(method=method)


def crown_ibp(max_eps: float) -> CrownIbp:
    """CROWN-IBP fading into IBP."""
    return CrownIbp(max_eps)


def sabr(
    max_eps: float, *, tau_ratio: float, attack_steps: int = 8, attack_step_size: float = 0.5
) -> Sabr:
    """A small box around each input's adversarial example."""
    return Sabr(tau_ratio, attack=PGD(attack_steps, attack_step_size))


def taps(
    max_eps: float,
    *,
    split: int = -1,
    scale: float = 5.0,
    latent_steps: int = 20,
    link: float = 0.5,
) -> Taps:
    """IBP through the first ``split`` ReLUs, an attack inside its bounds through the rest."""
    return Taps(max_eps, split=split, scale=scale, steps=latent_steps, link=link)


def staps(
    max_eps: float,
    *,
    tau_ratio: float,
    split: int = -1,
    scale: float = 5.0,
    latent_steps: int = 20,
    link: float = 0.5,
    attack_steps: int = 8,
    attack_step_size: float = 0.5,
) -> Taps:
    """TAPS on SABR's box."""
    return Taps(
        max_eps,
        split=split,
        scale=scale,
        steps=latent_steps,
        link=link,
        tau_ratio=tau_ratio,
        attack=PGD(attack_steps, attack_step_size),
    )


def _expressive(kind: type[MtlIbp]) -> Callable[..., MtlIbp]:
    def make(
        max_eps: float,
        *,
        alpha: float,
        attack_ratio: float = 1.0,
        attack_steps: int = 1,
        attack_step_size: float = 10.0,
    ) -> MtlIbp:
        attack = PGD(attack_steps, attack_step_size)
        return kind(alpha, attack=attack, attack_ratio=attack_ratio)

    make.__doc__ = f"{kind.__name__}: IBP mixed with an adversarial example."
    return make


def pgd(max_eps: float, *, attack_steps: int = 10, attack_step_size: float = 0.25) -> Adversarial:
    """Adversarial training."""
    return Adversarial(attack=PGD(attack_steps, attack_step_size))


def uat(max_eps: float, *, step_size: float = 0.25) -> Uat:
    """Universal adversarial training."""
    return Uat(step_size=step_size)


def cw_uat(max_eps: float, *, step_size: float = 0.25) -> Uat:
    """Class-wise universal adversarial training."""
    return Uat(per_class=True, step_size=step_size)


def ce(max_eps: float) -> CrossEntropy:
    """Plain cross-entropy."""
    return CrossEntropy()


LOSSES: dict[str, Callable[..., Loss]] = {
    "citrus": citrus,
    "ibp": ibp,
    "crown-ibp": crown_ibp,
    "sabr": sabr,
    "taps": taps,
    "staps": staps,
    "mtl-ibp": _expressive(MtlIbp),
    "cc-ibp": _expressive(CcIbp),
    "exp-ibp": _expressive(ExpIbp),
    "pgd": pgd,
    "uat": uat,
    "cw-uat": cw_uat,
    "ce": ce,
}

__all__ = [
    "LOSSES",
    "Adversarial",
    "CcIbp",
    "Citrus",
    "CrossEntropy",
    "CrownIbp",
    "ExpIbp",
    "Ibp",
    "Loss",
    "LossTerms",
    "MtlIbp",
    "Sabr",
    "Taps",
    "Uat",
]
