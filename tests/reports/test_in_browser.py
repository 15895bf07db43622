"""The report as a reader sees it: in a browser, on a phone, in the dark and on paper."""

import pytest
from browser import FAINT, OVERFLOW, browser, opened
from command_line import run, sets

HIDDEN = "[...document.querySelectorAll('details > *')].filter(e => !e.checkVisibility()).length"
UNFRAMED = "[...document.images].filter(i => getComputedStyle(i).boxShadow === 'none').length"

#: Tables that a reader has to scroll sideways, but for the matrix of confusions.
CUT = """[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth
  && !e.querySelector('.confusion')).map(e => e.textContent.trim().slice(0, 40))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """Addresses of a report of one run, and of one of two runs."""
    folder = tmp_path_factory.mktemp("browser")
    for seed in (0, 1):
        few = sets("train.epochs=3", f"train.seed={seed}", "loss.attack_steps=2", "data.limit=320")
        made = ("train", "--preset", "digits", *few, "--out", folder / f"run{seed}", "--quiet")
        limits = ("--eps", 0.15, "--method", "crown", "--limit", 40, "--relational", "io")
        for args in (made, ("eval", folder / f"run{seed}", *limits, "--quiet")):
            status, output = run(*args)
            assert status == 0, output
    for name, runs in (("one", ["run0"]), ("two", ["run0", "run1"])):
        out = folder / f"{name}.html"
        status, output = run("report", *(folder / r for r in runs), "--out", out)
        assert status == 0, output
    return {name: (folder / f"{name}.html").as_uri() for name in ("one", "two")}


def test_report_in_a_browser(pages):
    with browser() as started:
        for width, scheme in ((390, "light"), (1280, "dark")):
            for page in opened(started, pages.values(), width, scheme):
                assert page.evaluate(OVERFLOW) <= 0, (page.url, width)
                assert page.evaluate(FAINT) == [], (page.url, scheme)
                assert page.evaluate(UNFRAMED) == 0
                assert page.evaluate(CUT) == [], (page.url, width)
        for page in opened(started, [pages["two"]]):
            assert page.evaluate(HIDDEN) > 0
            page.click("text=What settled the images")
            assert page.is_visible("text=Each stage works on")
            page.emulate_media(media="print")
            assert page.evaluate(HIDDEN) == 0
            assert len(page.pdf().split(b"/Type /Page\n")) > 5
