"""How a training, an evaluation or an attack is launched, and how its caller hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Observer:
    """What to call at which point. Of several processes of a job, only the first one calls.

    Attributes:
        progress: Whether to draw bars of the progress on stderr.
        on_warning: Gets one line on what is likely to go wrong with a training.
        on_network: Gets the network of a training before its first step.
        on_start: Called without arguments before the first step of a training.
        on_epoch: Gets the record of each epoch of a training.
        on_set_aside: Gets the folder that earlier results were moved to.
        on_result: Gets the result before anything is written, so that it is not lost where
            nothing can be written.
        draw: Gets the result and the files, to write their pictures while the folder is locked.
    """

    progress: bool = False
    on_warning: Callable[[str], object] = _ignore
    on_network: Callable[[Any], object] = _ignore
    on_start: Callable[[], object] = _ignore
    on_epoch: Callable[[dict[str, Any]], object] = _ignore
    on_set_aside: Callable[[Path], object] = _ignore
    on_result: Callable[[Any], object] = _ignore
    draw: Callable[[Any, Any], object] = _ignore

    def warn(self, line: str | None) -> None:
        """Pass a warning on, if there is one."""
        if line:
            self.on_warning(line)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How work in a folder is launched.

    Attributes:
        device: Where to compute.
        resume: Whether to continue work that was interrupted.
        requeue: Whether the folder decides: begin, continue, or take what is finished.
        observer: What to call meanwhile.
    """

    device: torch.device
    resume: bool = False
    requeue: bool = False
    observer: Observer = Observer()

    def continues(self, begun: Callable[[], bool]) -> bool:
        """Return whether work is continued; ``begun`` tells whether the folder holds any."""
        return self.resume or (self.requeue and begun())
