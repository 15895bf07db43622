"""Randomized smoothing: probabilistic ℓ2 certificates of the network under Gaussian noise.

The smoothed network answers with the class that the network gives most often to the input plus
noise. It is another network than the one without noise, and what is certified of it holds with a
stated confidence, not surely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import distributed
from ..bounds.checks import check_count, check_positive, is_number
from ..bounds.precision import full_precision
from ..bounds.tracing import modes_restored
from ..errors import expect
from ..imports import to_frame
from .resume import Saved

if TYPE_CHECKING:
    from pandas import DataFrame

#: Noise samples drawn and classified together. Counts depend on it, by the order of the draws.
_BLOCK = 1000
#: Inputs of one batch, which is saved as a whole.
_BATCH = 10
#: The prediction of an input about which the samples say too little.
ABSTAIN = -1


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How a network is smoothed and certified: all that the figures depend on.

    Args:
        sigma: Standard deviation σ of the noise, in pixels.
        n0: Samples that choose the class.
        n: Samples that bound its probability.
        alpha: Probability that a certificate is wrong, at most, for each input.
        seed: Of the noise; each input has a stream of its own.

    Raises:
        InputError: A value cannot be used.
    """

    sigma: float
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self.sigma, "sigma")
        check_count(self.n0, "n0")
        check_count(self.n, "n", self.n0)
        check_count(self.seed, "seed", 0, 2**32 - 1)
        usable = is_number(self.alpha) and 0 < self.alpha < 1
        expect(usable, "alpha", self.alpha, "a probability between 0 and 1")


@dataclass(frozen=True)
class Smoothed:
    """What is certified of N inputs under smoothing, each with probability at least 1 - α.

    Args:
        y: (N,) labels.
        predicted: (N,) classes of the smoothed network; ``ABSTAIN`` where the samples say too
            little.
        radius: (N,) ℓ2 radii within which the smoothed network keeps this class; 0 where it
            abstains.
        counts: (N,) how many of the n samples gave this class.
    """

    y: Tensor
    predicted: Tensor
    radius: Tensor
    counts: Tensor

    def accuracy(self, radius: float = 0.0) -> float:
        """Return the share of inputs that are certified right at an ℓ2 radius."""
        right = (self.predicted == self.y) & (self.radius >= radius)
        return int(right.sum()) / len(self.y)

    def covered(self, eps: float, pixels: int) -> float:
        """Return the share of inputs certified right in the ∞-ball of radius ε.

        The ∞-ball lies within the ℓ2 ball of radius ε√d for d pixels. Each such input is safe
        from any perturbation of this size, a universal one included.

        Args:
            eps: ε in pixels.
            pixels: d, pixels times channels.
        """
        return self.accuracy(eps * math.sqrt(pixels))

    def __repr__(self) -> str:
        abstained = int((self.predicted == ABSTAIN).sum())
        return (
            f"Smoothed({len(self.y)} inputs: {100 * self.accuracy():.2f} % right, median radius "
            f"{float(self.radius.median()):.3f}, {abstained} abstained)"
        )

    def to_frame(self) -> DataFrame:
        """Return a pandas frame with a row for each input.

        Columns: label, predicted (-1 for abstained), radius, count.

        Raises:
            DependencyError: pandas is not installed.
        """
        return to_frame(
            {
                "label": self.y,
                "predicted": self.predicted,
                "radius": self.radius,
                "count": self.counts,
            }
        )


def smooth(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    smoothing: Smoothing,
    *,
    saved: Saved | None = None,
    progress: bool = False,
) -> Smoothed:
    """Predict and certify inputs by the smoothed network.

    Processes that came together (:mod:`.distributed`) share the inputs. Each input has a stream
    of noise of its own, so that one process, several, and a resumed one draw the same on devices
    of the same kind.

    Source: Cohen et al. 2019, Certified Adversarial Robustness via Randomized Smoothing,
    algorithm CERTIFY: with probability at least 1 - α, the class is the smoothed network's
    within the ℓ2 radius σ Φ⁻¹(p), where p is the exact (Clopper-Pearson) lower bound of the
    class's probability. It abstains unless p > 1/2.

    Args:
        model: Maps inputs to logits; run in eval mode.
        x: (N, ...) inputs.
        y: (N,) labels.
        smoothing: The noise, and how often it is drawn.
        saved: Keeps each finished batch on disk, and gives those that are there already.
        progress: Whether to show a bar.

    Raises:
        InputError: There are not as many labels as inputs.
    """
    expect(len(x) == len(y) > 0, "number of inputs", len(x), f"that of the labels, {len(y)}, not 0")
    batches = torch.arange(len(x)).split(_BATCH)
    with tqdm(total=len(x), desc="smoothing", unit="image", disable=not progress) as bar:

        def certified(number: int) -> Tensor:
            rows = batches[number].tolist()
            votes = saved.load(number, x.device, _votes) if saved is not None else None
            if votes is None:
                votes = torch.tensor([_certify(model, x[i], i, smoothing) for i in rows])
                if saved is not None:
                    saved.store(number, {"votes": votes})
            bar.update(len(rows))
            return votes

        def elsewhere(more: int) -> None:
            bar.update(min(more * _BATCH, len(x) - bar.n))

        with torch.no_grad(), full_precision(x.device, transforms=True), modes_restored(model):
            model.eval()
            parts = distributed.share(certified, len(batches), x.device, elsewhere)
    predicted, counts = torch.cat(parts).cpu().T
    radius = [_radius(count, smoothing) for count in counts.tolist()]
    radii = torch.tensor(radius, dtype=torch.float64)
    return Smoothed(y.cpu(), predicted.masked_fill(radii <= 0, ABSTAIN), radii, counts)


def _votes(batch: dict[str, Any]) -> Tensor:
    """Read a batch: the class and the votes for it, of each input."""
    return batch["votes"] + 0  # TypeError unless it is numbers


def _radius(count: int, smoothing: Smoothing) -> float:
    """Return the ℓ2 radius that ``count`` of n samples certify; 0 for none."""
    from scipy.stats import binomtest  # its import takes a second

    test = binomtest(count, smoothing.n, alternative="greater")
    share = float(test.proportion_ci(1 - smoothing.alpha, method="exact").low)
    return smoothing.sigma * NormalDist().inv_cdf(share) if share > 0.5 else 0.0


def _certify(model: nn.Module, x: Tensor, number: int, smoothing: Smoothing) -> tuple[int, int]:
    """Return the class that n0 samples choose, and how many of n others give it."""
    # torch's generator on the CPU takes 32 bits of a seed: streams differ in these
    stream = (smoothing.seed * 2_654_435_761 + number) % 2**32
    generator = torch.Generator(x.device).manual_seed(stream)

    def votes(samples: int) -> Tensor:
        parts = []
        for begin in range(0, samples, _BLOCK):
            size = (min(_BLOCK, samples - begin), *x.shape)
            noise = torch.randn(size, generator=generator, dtype=x.dtype, device=x.device)
            logits = model(x + smoothing.sigma * noise)
            parts.append(torch.bincount(logits.argmax(1), minlength=logits.shape[1]))
        return torch.stack(parts).sum(0)

    best = int(votes(smoothing.n0).argmax())
    return best, int(votes(smoothing.n)[best])
