"""Reports in a browser: nothing is asked for, nothing runs, and nothing sticks out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Page, chromium
from made import collected
from test_html import harmful

from lem_train.report.html import report_html

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed here")

SCHEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
WIDTHS = pytest.mark.parametrize("width", [360, 800, 1400])

# What reaches over the page's right edge, unless it is inside of what can be scrolled.
_OUTSIDE = """
JSON.stringify([...document.querySelectorAll('main *')].filter(element =>
  element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll, .row, svg')
).map(element => element.outerHTML.slice(0, 80)))
"""
# Letters of charts that leave their chart, or that lie over one another.
_LETTERS = """
(() => { const found = []
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect()
  const texts = [...svg.querySelectorAll('text:not(.cell)')]
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()])
  for (const [text, box] of boxes)
    if (box.left < frame.left - 1 || box.right > frame.right + 1) found.push('out: ' + text)
  boxes.forEach(([text, a], at) => boxes.slice(at + 1).forEach(([other, b]) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left)
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)
    if (wide > 1 && high > 3) found.push(svg.ariaLabel + ': ' + text + ' over ' + other)
  }))
}
return JSON.stringify(found) })()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    made = {
        "seven": collected(),
        "large": collected(iterations=2_000, layers=62, probes=8, words=130, every=25),
        "one": collected(phases=1, iterations=3),
        "harmful": harmful(),
    }
    files = {name: folder / f"{name}.html" for name in made}
    for name, run in made.items():
        files[name].write_text(report_html(run), encoding="utf-8")
    return files


@WIDTHS
@SCHEMES
@pytest.mark.parametrize("name", ["seven", "large", "one", "harmful"])
def test_a_report_is_quiet_and_fits(
    page: Page, reports: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    page.said.clear()
    page.asked.clear()
    page.show(reports[name], width, dark)
    assert page.value("innerWidth") == width
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value("document.querySelectorAll('details').forEach(d => d.open = true)") is None
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(_OUTSIDE) == "[]"
    assert page.said == []
    assert page.asked == [reports[name].as_uri()]


@WIDTHS
@pytest.mark.parametrize("name", ["seven", "large", "one"])
def test_words_in_charts_stay_in_them_and_apart(
    page: Page, reports: dict[str, Path], name: str, width: int
) -> None:
    page.show(reports[name], width, dark=False)
    assert page.value(_LETTERS) == "[]"


def test_what_means_harm_does_not_run(page: Page, reports: dict[str, Path]) -> None:
    page.show(reports["harmful"], 800, dark=False)
    assert page.value("document.title") != "run"
    assert page.value("document.images.length + document.scripts.length") == 0


@SCHEMES
def test_the_scheme_is_the_readers(page: Page, reports: dict[str, Path], dark: bool) -> None:
    page.show(reports["one"], 800, dark)
    colour = page.value("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(18, 22, 27)" if dark else "rgb(255, 255, 255)")


def test_a_finger_gets_letters_of_a_readable_size(page: Page, reports: dict[str, Path]) -> None:
    page.show(reports["seven"], 360, dark=False)
    sizes = page.value("document.querySelector('svg text').getBoundingClientRect().height")
    assert sizes >= 10
