"""Random cases for what must refuse nonsense: how many are tried, and what may come out."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from citrus_lirpa.errors import CitrusError

#: Seconds after which a single case counts as hanging; the slowest take a few.
PATIENCE = 60


#: Random cases, the same ones every time; a seed cannot be shrunk.
random_cases = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def sizes(few: int, many: int):
    """Parametrises ``cases``: few and always the same in CI, many and random every night."""
    nightly = pytest.param(many, marks=pytest.mark.nightly, id="nightly")
    return pytest.mark.parametrize("cases", [pytest.param(few, id="few"), nightly])


def random_test(few: int, many: int, **strategies):
    """A test of so many random cases, the same ones every time: few in CI, many every night."""

    def decorate(check):
        @sizes(few, many)
        def test(cases):
            settings(random_cases, max_examples=cases)(given(**strategies)(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def explore(cases: int, check, strategy) -> None:
    """``check`` on so many cases of the strategy; a failure is shrunk and printed."""
    few = cases < 100
    options = settings(random_cases, max_examples=cases, derandomize=few, phases=list(Phase))

    def patient(case) -> None:
        with patience():
            check(case)

    options(given(strategy)(patient))()


def edits(most: int = 8):
    """Changes of bytes: (kind, where as a share, value)."""
    kinds = st.sampled_from(["flip", "set", "cut", "insert", "repeat"])
    share = st.floats(0, 1, exclude_max=True)
    return st.lists(st.tuples(kinds, share, st.integers(0, 255)), min_size=1, max_size=most)


def edited(raw: bytes, changes) -> bytes:
    out = bytearray(raw)
    for kind, share, value in changes:
        at = int(share * max(1, len(out)))
        if kind == "cut":
            del out[at : at + value + 1]
        elif kind == "insert":
            out[at:at] = bytes([value]) * (value % 9 + 1)
        elif kind == "repeat":
            out[at:at] = out[at : at + value]
        elif out[at : at + 1]:
            out[at] = value if kind == "set" else out[at] ^ (1 << value % 8)
    return bytes(out)


def explore_bytes(cases: int, files: list[Path], use, most: int = 8) -> None:
    """``use(file)`` refuses, or makes sense of, each of the ``files`` with other bytes."""
    whole = {file: file.read_bytes() for file in files}

    def check(case) -> None:
        file, changed = case
        file.write_bytes(edited(whole[file], changed))
        try:
            refused(lambda: use(file))
        finally:
            file.write_bytes(whole[file])

    explore(cases, check, st.tuples(st.sampled_from(files), edits(most)))


@contextlib.contextmanager
def patience():
    """TimeoutError where the block takes longer than anything that ends."""

    def hangs(*_) -> None:
        raise TimeoutError(f"no end after {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(call) -> bool:
    """Whether ``call`` is refused, in one line; any other error is a defect and goes on."""
    try:
        call()
    except CitrusError as error:
        assert str(error) and "\n" not in str(error), repr(error)
        return True
    return False


@st.composite
def arguments(draw, good: dict[str, dict], bad: dict[str, dict], most: int = 2):
    """Arguments by name, as names of the values in the tables: all ``good`` but ``most``."""
    wrong = draw(st.sets(st.sampled_from(sorted(bad)), max_size=most))
    return {
        name: (name in wrong, draw(st.sampled_from(sorted((bad if name in wrong else good)[name]))))
        for name in good
    }


def values(case: dict[str, tuple[bool, str]], good: dict[str, dict], bad: dict[str, dict]) -> dict:
    """What a drawn case stands for, made anew."""
    return {name: (bad if wrong else good)[name][label]() for name, (wrong, label) in case.items()}


class Trap:
    """Pickled as a call of os.mkdir."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def once(**named) -> dict:
    """A table of values that are the same at every use."""
    return {label: (lambda value=value: value) for label, value in named.items()}
