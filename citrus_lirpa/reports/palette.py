"""Colours of charts, pictures and pages: those of style.css in light mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

#: The variables of style.css that charts use.
COLOURS = {
    "ink": "#1c2430",
    "soft": "#5d6673",
    "line": "#e4e2da",
    "card": "#ffffff",
    "accent": "#b4540a",
    "undecided": "#f2c14e",
    "broken": "#d4594c",
    "wrong": "#a6adb6",
    "p0": "#b7ded6",
    "p1": "#8fcabf",
    "p2": "#66b5a7",
    "p3": "#3f9e90",
    "p4": "#1f8678",
    "p5": "#0b6b5f",
    "p6": "#064f47",
}
#: Colours of the stages that prove, in their order.
PROVED = tuple(COLOURS[f"p{i}"] for i in range(7))
#: Colours of attacks, which prove nothing.
ATTACKS = {"attack": "#d9d4c8", "group attack": "#bdb6a6"}
#: Colours of training methods, in the order of their first run.
METHODS = (
    "#b4540a", "#1f8678", "#3b6fb6", "#8a4fa3", "#c0a020",
    "#c2476b", "#5b8c2a", "#2aa1c0", "#7a5c46", "#4b4f9e",
)  # fmt: skip
#: Markers of these, one for ten colours.
_MARKERS = "osD^"


def style_of(number: int) -> dict[str, Any]:
    """Return colour and marker of the method, or study, of a number."""
    return {"color": METHODS[number % 10], "marker": _MARKERS[number // 10 % len(_MARKERS)]}


@contextmanager
def house_style(changes: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Draw in this style, whatever matplotlib is set to, but for ``changes`` of its rcParams."""
    from matplotlib import style

    own = {
        "axes.edgecolor": COLOURS["soft"],
        "axes.labelcolor": COLOURS["soft"],
        "axes.spines.right": False,
        "axes.spines.top": False,
        "grid.color": COLOURS["line"],
        "legend.frameon": False,
        "text.color": COLOURS["ink"],
        "xtick.color": COLOURS["soft"],
        "ytick.color": COLOURS["soft"],
        **changes,
    }
    with style.context(["default", own]):
        yield
