"""The report's page in a real browser: light, dark, on a phone; nothing is asked of a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, keep
from test_report import drawn, many

from tuner.report_page import write_report

MODES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
    },
}
# The colour of the text of a figure, and that of the page, which is of the mode.
COLOURS = """() => [
  getComputedStyle(document.querySelector(".canvas .xtick text")).fill,
  getComputedStyle(document.body).color,
]"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    drawn(folder)
    made = many(folder)
    assert made.best is not None
    best = replace(made.best, grid="champion/grid.png", label="<b>bold</b>")
    return write_report(replace(made, best=best), (), storage="runs")


@pytest.mark.parametrize("mode", MODES)
def test_the_page_is_read_in_every_mode(browser: Any, page_file: Path, mode: str) -> None:
    context = browser.new_context(**MODES[mode])
    page = context.new_page()
    troubles: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true }")
    canvases = page.locator(".canvas").all()
    for canvas in canvases:
        canvas.scroll_into_view_if_needed()
        canvas.locator(".main-svg").first.wait_for()
    assert len(canvases) == 6
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    text, ink = page.evaluate(COLOURS)
    assert text == ink
    assert ink == ("rgb(233, 235, 238)" if mode == "dark" else "rgb(26, 29, 33)")
    keep(page, f"report-{mode}", whole=True)
    assert troubles == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    context.close()


def test_the_keyboard_reaches_the_parts_of_the_page(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the report"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#copies")
    page.close()
