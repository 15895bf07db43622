"""The training methods by name, with their names in papers and their options.

To add one, write its loss in a file of this folder and one row in ``TRAINING_METHODS``. What it
needs in every setting, such as another initialisation, goes into training/methods.toml.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import Any

from ..attacks import PGD
from ..errors import require
from .adversarial import Adversarial, CrossEntropy, Uat
from .base import Loss
from .citrus import Citrus
from .colt import Colt
from .cross_input import make_pairing
from .denoise import Denoise
from .game import UapGame
from .ibp import CrownIbp, Ibp
from .mtl_ibp import CcIbp, ExpIbp, MtlIbp
from .noise import Gaussian, SmoothAdv
from .sabr import Sabr
from .taps import LATENT_STEPS, Taps


@dataclass(frozen=True)
class Method:
    """A training method.

    Args:
        name: Name of the method in configurations.
        title: Name of the method in papers.
        source: The paper that it is from, or "-".
        make: (max_eps, *, options) -> loss. max_eps is the largest ε of the training, and the
            options are those of a configuration, with their types and defaults.
    """

    name: str
    title: str
    source: str
    make: Callable[..., Loss]


def from_options(kind: type[Loss], **values: Any) -> Callable[..., Loss]:
    """Derive the ``make`` of a method from the class of its loss.

    Its options are the parameters of the class, but for ``clip``, as trainings are on pixels,
    and for ``attack``, in whose place stand the steps and step size of its default.

    Args:
        kind: Class of the loss.
        values: Parameters that are no options themselves: a fixed value, or a function that
            makes the value from options of its own, which are keyword-only.
    """
    own = signature(kind, eval_str=True).parameters
    if "attack" in own:
        values.setdefault("attack", attack_options(kind.default_attack))
    options = [Parameter("max_eps", Parameter.POSITIONAL_OR_KEYWORD, annotation=float)]
    for name in (name for name in own if name not in ("max_eps", "clip", "norm")):
        if name not in values:
            options.append(own[name].replace(kind=Parameter.KEYWORD_ONLY))
        elif callable(values[name]):
            options += signature(values[name], eval_str=True).parameters.values()
    typed = Signature(options)

    def make(max_eps: float, norm: float = math.inf, **given: Any) -> Loss:
        typed.bind(max_eps, **given)  # TypeError for an option that is unknown or missing
        arguments: dict[str, Any] = {"max_eps": max_eps} if "max_eps" in own else {}
        if norm != math.inf:
            require("norm" in own, "norm 2 is for the methods ibp, sabr and citrus")
            arguments["norm"] = norm
        for name, value in values.items():
            if callable(value):
                names = signature(value).parameters.keys() & given.keys()
                value = value(**{option: given.pop(option) for option in names})
            arguments[name] = value
        return kind(**arguments, **given)

    declared: Any = make
    declared.__signature__ = typed
    declared.__annotations__ = {option.name: option.annotation for option in options}
    declared.explained_by = (kind, *filter(callable, values.values()))
    return make


def attack_options(attack: PGD) -> Callable[..., PGD]:
    """Return a function that makes a PGD from options whose defaults are those of ``attack``."""

    def make_attack(
        *, attack_steps: int = attack.steps, attack_step_size: float = attack.step_size
    ) -> PGD:
        """Make the attack.

        Args:
            attack_steps: Gradient steps of the attack.
            attack_step_size: Length of a step, as a share of the attack's radius.
        """
        return PGD(attack_steps, attack_step_size)

    return make_attack


def _restarted_attack(
    *,
    attack_steps: int = PGD.steps,
    attack_step_size: float = PGD.step_size,
    attack_restarts: int = PGD.restarts,
) -> PGD:
    """Make the attack.

    Args:
        attack_steps: Gradient steps of the attack.
        attack_step_size: Length of a step, as a share of the attack's radius.
        attack_restarts: Starts of the attack; the strongest perturbation of an input counts.
    """
    return PGD(attack_steps, attack_step_size, attack_restarts)


def _required_ratio(*, tau_ratio: float) -> float:
    """Return the ratio, which has no default.

    Args:
        tau_ratio: τ/ε: the radius of the boxes as a share of ε, in (0, 1].
    """
    return tau_ratio


def _latent_steps(*, latent_steps: int = LATENT_STEPS) -> int:
    """Return the steps.

    Args:
        latent_steps: Gradient steps of the attack on the last layers.
    """
    return latent_steps


def _path(*, classifier: str = "") -> str | None:
    """Return the path; the training reads the network.

    Args:
        classifier: Path of the trained network whose answers a denoiser is to keep; empty for
            the mean squared error of the pixels.
    """
    return classifier or None


TRAINING_METHODS = {
    method.name: method
    for method in (
        Method(
            "citrus",
            "CITRUS",
            "Xu & Singh 2024",
            from_options(
                Citrus, tau_ratio=_required_ratio, pairing=make_pairing, attack=_restarted_attack
            ),
        ),
        Method("ibp", "IBP", "Shi et al. 2021", from_options(Ibp)),
        Method("crown-ibp", "CROWN-IBP", "Zhang et al. 2020", from_options(CrownIbp)),
        Method("sabr", "SABR", "Müller et al. 2023", from_options(Sabr)),
        Method(
            "taps",
            "TAPS",
            "Mao et al. 2023",
            from_options(Taps, steps=_latent_steps, tau_ratio=None, attack=None),
        ),
        Method(
            "staps",
            "STAPS",
            "Mao et al. 2023",
            from_options(Taps, steps=_latent_steps, tau_ratio=_required_ratio),
        ),
        Method("colt", "COLT", "Balunović & Vechev 2020", from_options(Colt)),
        Method("mtl-ibp", "MTL-IBP", "De Palma et al. 2024", from_options(MtlIbp)),
        Method("cc-ibp", "CC-IBP", "De Palma et al. 2024", from_options(CcIbp)),
        Method("exp-ibp", "EXP-IBP", "De Palma et al. 2024", from_options(ExpIbp)),
        Method(
            "pgd",
            "PGD",
            "Madry et al. 2018",
            from_options(Adversarial, attack=attack_options(PGD(steps=10, step_size=0.25))),
        ),
        Method("uat", "UAT", "Shafahi et al. 2020", from_options(Uat, per_class=False)),
        Method("cw-uat", "CW-UAT", "Benz et al. 2021", from_options(Uat, per_class=True)),
        Method("uap-game", "UAP game", "Pérolat et al. 2018", from_options(UapGame)),
        Method("gaussian", "Gaussian noise", "Cohen et al. 2019", from_options(Gaussian)),
        Method("smoothadv", "SmoothAdv", "Salman et al. 2019", from_options(SmoothAdv)),
        Method(
            "denoiser", "Denoiser", "Salman et al. 2020", from_options(Denoise, classifier=_path)
        ),
        Method("ce", "CE", "-", from_options(CrossEntropy)),
    )
}
#: The functions that make the losses, by the names of their methods.
LOSSES: dict[str, Callable[..., Loss]] = {
    name: method.make for name, method in TRAINING_METHODS.items()
}
