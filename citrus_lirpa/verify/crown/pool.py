"""The parts of a problem, and the place where the open ones are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .ascent import Ascent


class Domains(NamedTuple):
    """D parts of a problem: a combination of rows, restricted by the signs of split neurons.

    Attributes:
        rows: (D, s) a margin of each member.
        signs: (D, M) of split neurons, 1 for z >= 0, -1 for z <= 0, and 0 for the others.
        parameter: (D, M) α and β, from which the bounds of its halves are ascended.
        logits: (D, s) of the members' weights, likewise.
        value: (D,) the bound.
        choice: (D,) the neuron to split next, -1 where none is left.
    """

    rows: Tensor
    signs: Tensor
    parameter: Tensor
    logits: Tensor
    value: Tensor
    choice: Tensor

    @property
    def size(self) -> int:
        """D."""
        return len(self.rows)

    def at(self, which: Tensor) -> Domains:
        """Return some of the domains."""
        return Domains(*(part[which] for part in self))

    @staticmethod
    def cat(parts: Sequence[Domains]) -> Domains:
        """Return the domains of all parts."""
        return Domains(*map(torch.cat, zip(*parts, strict=True)))

    def after(self, found: Ascent, scores: Tensor) -> Domains:
        """Return the same domains after an ascent of their bounds.

        Halves start from its last parameters, not the best: fewer are needed so.

        Args:
            found: The ascent.
            scores: (D, M) of the neurons, -1 of those that cannot be split; the best comes next.
        """
        best, choice = pad(scores, (0, 1), value=-1.0).max(1)  # of none where none is left
        parameter, logits = found.last
        return Domains(
            self.rows,
            self.signs,
            parameter.view_as(self.parameter),
            logits,
            found.value,
            torch.where(best >= 0, choice, -1),
        )

    def best(self, found: Ascent) -> Domains:
        """Return the same domains with the parameters of the best bounds of an ascent."""
        return self._replace(parameter=found.parameter.view_as(self.parameter), logits=found.logits)

    def halves(self) -> Domains:
        """Return every domain twice: its chosen neuron on, and off."""
        twice = Domains(*(torch.cat([part, part]) for part in self))
        at = torch.arange(twice.size, device=self.rows.device)
        twice.signs[at, twice.choice] = torch.where(at < self.size, 1, -1).to(self.signs.dtype)
        twice.parameter[at, twice.choice] = 0  # it was an α, and is a β from now on
        return twice


class Pool:
    """Open domains, of which the most promising are taken first.

    They fill the beginning of tensors that grow by doubling. A round moves only the domains that
    are added, those that are taken, and those that fill the gaps.

    Args:
        first: The first domains.
    """

    def __init__(self, first: Domains):
        self._room, self.count = first, first.size

    @property
    def rows(self) -> Tensor:
        """The combinations (D, s) of all domains."""
        return self._room.rows[: self.count]

    @property
    def numbers(self) -> int:
        """How many α and β are kept."""
        return self.count * self._room.parameter.shape[1]

    @property
    def share(self) -> float:
        """How much of all combinations is open, where each half counts one half."""
        return float((0.5 ** (self._room.signs[: self.count] != 0).sum(1)).sum())

    @property
    def least(self) -> float:
        """The least bound of a domain; infinity where there is none."""
        return min(self._room.value[: self.count].tolist(), default=math.inf)

    @property
    def splits(self) -> bool:
        """Whether every domain has a neuron left to split."""
        return bool((self._room.choice[: self.count] >= 0).all())

    def add(self, new: Domains) -> None:
        """Put domains in."""
        begin, self.count = self.count, self.count + new.size
        if self.count > self._room.size:
            more = 2 * self.count - self._room.size
            self._room = Domains(
                *(torch.cat([part, part.new_empty(more, *part.shape[1:])]) for part in self._room)
            )
        for part, added in zip(self._room, new, strict=True):
            part[begin : self.count] = added

    def take(self, count: int) -> Domains:
        """Take the domains with the best bounds out, at most ``count``."""
        best = self._room.value[: self.count].topk(min(count, self.count)).indices
        taken = self._room.at(best)
        self.count -= len(best)
        staying = torch.ones_like(best, dtype=torch.bool)  # of those at the end
        staying[best[best >= self.count] - self.count] = False
        last = staying.nonzero().squeeze(1) + self.count
        for part in self._room:
            part[best[best < self.count]] = part[last]
        return taken
