"""Every error that this package raises on purpose.

A message names the value, what was expected and the fix, on one line. The command line prints
the message alone and exits with ``exit_code``.
"""

from __future__ import annotations

import difflib
import os
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Folders with code that is not the user's, and how names of such files begin.
_LIBRARIES = {"auto_LiRPA", "dist-packages", "site-packages"}
_FOLDERS = (Path(__file__).parent, sysconfig.get_path("stdlib"), sysconfig.get_path("scripts"))
_NOT_THE_USERS = ("<frozen", *(f"{folder}{os.sep}" for folder in _FOLDERS))


class CitrusError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        exit_code: Status with which a command exits.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).splitlines()))  # values may hold line ends


class InputError(CitrusError, ValueError):
    """A value passed to a function or a command cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A preset, TOML key, override or registry name is unknown or malformed."""


class DataError(CitrusError):
    """A data set is absent, damaged, or holds something unexpected."""


class ModelError(CitrusError):
    """A model cannot be bounded soundly by auto_LiRPA."""

    exit_code = 2


class CheckpointError(CitrusError):
    """A checkpoint or run folder is missing, damaged, foreign, or cannot be written."""


class OccupiedError(CheckpointError):
    """A folder that is to be written holds something else."""

    exit_code = 2


class DependencyError(CitrusError):
    """auto_LiRPA (or another library) is missing or of an unsupported version."""


class DistributedError(CitrusError):
    """The processes of one job did not find each other, or one of them was lost."""


class NonFiniteLossError(CitrusError):
    """Training produced a NaN or infinite loss or gradient."""


class SoundnessError(CitrusError):
    """A certificate contradicts an attack, or its proof does not hold: never to be hidden."""


class OutOfTime(CitrusError):
    """A computation that cannot end halfway was given up at its deadline."""


class Interrupted(CitrusError):
    """Work stopped on request, after saving.

    Attributes:
        number: The signal that asked for it, 0 where it is not known.
    """

    exit_code = 130
    number = 0


class Terminated(Interrupted):
    """Work stopped after SIGTERM, which a scheduler sends before it kills."""


#: Parts of messages where memory ran out: of torch and Linux, then of cuBLAS and cuDNN, which do
#: not name the cause where they get no workspace.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_device_allocation_failed",
    "unable to find an engine to execute",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` reports that the device or the host ran out of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(hint in text for hint in _OUT_OF_MEMORY)
    )


def reason(error: BaseException) -> str:
    """Return another library's message on one line of at most 200 characters, or else its type."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def without_path(error: Exception) -> str:
    """Return the system's message about a file, which the caller names."""
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def foreign(error: type[CitrusError], what: str, fix: str = "") -> Iterator[None]:
    """Turn what other people's code raises in the block into ``error``; memory errors pass.

    Args:
        error: The class, raised as "WHAT: ITS CLASS: ITS MESSAGE, at THE USER'S LINE; FIX".
        what: What went wrong, such as "FILE cannot be read".
        fix: What to do; empty for nothing.
    """
    try:
        yield
    except CitrusError:
        raise
    except Exception as cause:  # such code has no class of its own for what can go wrong
        if is_out_of_memory(cause):
            raise
        line = users_line(traceback.extract_tb(cause.__traceback__))
        end = f"{line and f', {line}'}{fix and f'; {fix}'}"
        kind, words = type(cause).__name__, reason(cause)
        said = kind if words == kind else f"{kind}: {words}"
        raise error(f"{what}: {said}{end}") from cause


def users_line(frames: Sequence[traceback.FrameSummary]) -> str:
    """Say which line of the user's is the innermost: "at FILE:NUMBER (CODE)"; empty for none."""
    for frame in reversed(frames):
        if frame.line and is_users(frame.filename):
            return f"at {_near(frame.filename)}:{frame.lineno} ({frame.line[:100]})"
    return ""


def is_users(file: str) -> bool:
    """Return whether a file of code is the user's: not Python's, nor an installed package's."""
    return not (_LIBRARIES & {*Path(file).parts} or file.startswith(_NOT_THE_USERS))


def _near(file: str) -> str:
    try:
        return file.removeprefix(f"{os.getcwd()}{os.sep}")
    except OSError:  # the working folder is gone
        return file


def unknown(
    kind: str, name: object, known: Iterable[str], shown: Iterable[str] | None = None
) -> str:
    """Return a message for an unknown name: the nearest known one, then all of them.

    Args:
        kind: What the name is of, such as "preset".
        name: The unknown name.
        known: All known names.
        shown: What to list in place of ``known``, where these are too many.
    """
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    guess = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'{guess} (known: {', '.join(shown or known) or 'none'})"


def differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    *,
    most: int | None = None,
    lenient: bool = False,
) -> str:
    """Name the entries that differ, with both values unless they are hashes; empty for none.

    Args:
        there: Values by name, as they were, in tables and tables within these.
        here: As they are.
        most: Names in the message; None for all.
        lenient: Whether an entry that is off (None, 0, false, empty) may be missing in one.
    """
    there, here = _flat(there), _flat(here)
    different = [k for k in sorted(there.keys() | here.keys()) if there.get(k) != here.get(k)]
    if lenient:
        both = there.keys() & here.keys()
        different = [k for k in different if k in both or there.get(k) or here.get(k)]
    named = [
        f"other {k}"
        if len(str(here.get(k))) == 64
        else f"{k}: {there.get(k)} there, {here.get(k)} here"
        for k in different[:most]
    ]
    return ", ".join(named + ["..."] * (len(named) < len(different)))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by the keys on the way to them."""
    if not isinstance(values, Mapping):
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def require(holds: object, message: str, error: type[CitrusError] = InputError) -> None:
    """Raise ``error`` with ``message`` unless ``holds``."""
    if not holds:
        raise error(message)


def expect(
    holds: object, name: str, value: object, expected: str, error: type[CitrusError] = InputError
) -> None:
    """Raise ``error`` unless ``holds``: "NAME is VALUE; expected EXPECTED"."""
    if not holds:
        raise error(f"{name} is {shown(value)}; expected {expected}")


def expect_known(
    kind: str, name: object, known: Iterable[str], error: type[CitrusError] = ConfigError
) -> None:
    """Raise ``error`` unless ``name`` is one of the ``known`` names of things of this kind."""
    known = list(known)
    if not isinstance(name, str) or name not in known:
        raise error(unknown(kind, name if isinstance(name, str) else shown(name), known))


def shown(value: Any) -> str:
    """Return ``value`` on one short line, strings in quotes; a large tensor by its shape."""
    if isinstance(value, str):
        return repr(value[:80])
    if hasattr(value, "numel"):  # a tensor; this module does not import torch
        if value.is_meta or value.numel() > 8 or value.is_sparse:
            return f"a tensor {tuple(value.shape)} of {value.dtype} on {value.device}"
        value = value.flatten().tolist()
    return " ".join(str(value).split())[:80]
