"""A real browser for pages: what it reports, and what it measures in them."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

#: Text whose contrast with the ground behind it is below what WCAG 2 asks for (level AA).
FAINT = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const known = new Map();
  const ground = e => {
    if (!e) return [255, 255, 255];
    if (!known.has(e)) {
      const c = parse(getComputedStyle(e).backgroundColor);
      const opaque = c.length < 4 || c[3] === 1;
      known.set(e, opaque ? c : c[3] > 0 ? null : ground(e.parentElement));  // mixed: not judged
    }
    return known.get(e);
  };
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e), behind = ground(e);
    if (!behind || !e.checkVisibility({opacityProperty: true})) continue;
    const ink = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(parse(ink)), light(behind)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) faint.push(`${e.textContent.trim().slice(0, 40)}: ${ratio}`);
  }
  return faint;
}"""
BROKEN = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
OVERFLOW = "document.documentElement.scrollWidth - innerWidth"


@contextmanager
def browser() -> Iterator:
    """Start Debian's chromium; skips where it or the package that drives it is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright: pip install '.[test]'")
    if (program := shutil.which("chromium")) is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def opened(started, urls: Iterable, width: int = 1280, scheme: str = "light") -> Iterator:
    """Open one page after the other in one tab, and expect of each that it reports no error.

    Every picture is shown. A tab for each page would take twice as long.
    """
    page = started.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    for url in urls:
        page.goto(url)
        yield page
        assert (faults, page.evaluate(BROKEN)) == ([], []), url
    page.close()
