"""Charts of a page: what plots and pareto draw, as SVG in the page's colours.

Matplotlib's SVG names its colours, fonts and sources for a file of its own. Inside a page the
colours are variables of the style sheet, so that they follow light and dark mode, the font is
the page's, and nothing but the page is referred to.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..compare import Run
from ..figures import plain_axes
from ..front_plot import draw_fronts
from ..fronts import Fronts
from ..palette import COLOURS, house_style
from ..pareto import draw_runs
from ..plots import draw_curves
from ..tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What the style has different on a page.
_ON_PAGE = {
    "svg.fonttype": "none",
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
#: What a page has no use for: sources, styles that would hold for the whole page, names of all
#: parts, a size in print, fonts, rotations by nothing, links to a new window, empty parts.
_USELESS = re.compile(
    r"<metadata>.*?</metadata>|<style.*?</style>| xmlns(:\w+)?=\"[^\"]*\"| id=\"[\w.]+_\d+\""
    r"| (width|height)=\"[\d.]+pt\"| version=\"[\d.]+\"| font-family: [^;\"]*;?"
    r"| transform=\"rotate\(-0 [^\"]*\"| target=\"_blank\"|<g id=\"[\w.]+\" ?/>"
)


@dataclass(frozen=True)
class Chart:
    """A title, and the SVG element below it."""

    title: str
    svg: str


def curves(epochs: Sequence[dict[str, Any]], name: str) -> list[Chart]:
    """Draw loss with ε, and accuracies if there are any, over the epochs of metrics.jsonl."""
    with house_style(_ON_PAGE):
        pairs = [plain_axes(1, 1, (4.8, 2.9)) for _ in range(2)]
        draw_curves(epochs, [axes for _, (axes,) in pairs])
        drawn = [figure for figure, (axes,) in pairs if axes.get_visible()]
        return [_chart(figure, f"{name}-{i}") for i, figure in enumerate(drawn)]


def pareto(runs: Sequence[Run], numbers: dict[str, int], name: str) -> Chart:
    """Draw standard accuracy against UCert of the runs of a setting, with the front.

    ``numbers`` are those of the runs on the page, by their names.
    """
    with house_style(_ON_PAGE):
        figure, (axes,) = plain_axes(1, 1, (4.8, 3.2))
        colours = {run.method: {"color": COLOURS["accent"], "s": 60} for run in runs}
        dots = draw_runs(axes, runs, [numbers[run.run] for run in runs], colours)
        axes.set_title("UCert against standard accuracy")
        for dot, run in zip(dots, runs, strict=True):
            dot.set_urls([f"#run-{numbers[run.run]}"])
        chart = _chart(figure, name)
    svg = chart.svg
    for run in runs:
        link = f'<a href="#run-{numbers[run.run]}">'
        shares = [percent(s, " %") for s in (run.standard_accuracy, run.certified_uap_accuracy)]
        what = f"{run.run}: standard {shares[0]}, UCert {shares[1]}"
        svg = svg.replace(link, f"{link}<title>{escape(what)}</title>")
    return Chart(chart.title, svg)


def fronts(found: Fronts) -> Chart:
    """Draw the fronts of studies."""
    with house_style(_ON_PAGE):
        figure, (axes,) = plain_axes(1, 1, (6.4, 4.2))
        draw_fronts(axes, found)
        axes.set_title("UCert against standard accuracy")
        return _chart(figure, "fronts")


def _rounded(number: re.Match[str]) -> str:
    value = float(number[0])
    return f"{value:.2g}" if value < 1 else f"{value:.1f}".removesuffix(".0")


def _chart(figure: Figure, name: str) -> Chart:
    """Take the title of the first axes away, and draw the figure; ``name`` keeps its ids apart."""
    import matplotlib

    axes = figure.axes[0]
    title = axes.get_title()
    axes.set_title("")
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"\s+", " ", svg[svg.index("<svg") :]).replace("> <", "><")
    svg = _USELESS.sub("", svg).replace("<defs></defs>", "").replace("xlink:href", "href")
    svg = re.sub(r"(?<![>\d.])\d+\.\d{2,}", _rounded, svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Chart(title, svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))
