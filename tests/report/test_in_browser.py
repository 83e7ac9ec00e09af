"""The report as a person opens it: in a browser, from a file, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from failwise.report import write_report

from .runs import write_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("report") / "proof"
    write_run(run, [("base", 0.4), ("extra", 0.5), ("improved", 0.8)], ["metaworld/push", "metaworld/reach"], range(40))
    return write_report(run)


@pytest.fixture(params=[1200, 390], ids=["desk", "phone"])
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The open report; anything on the console, raised, or asked of the network fails the test."""
    made = browser.new_page(viewport={"width": request.param, "height": 800})
    wrong: list[str] = []
    made.on("console", lambda m: wrong.append(m.text))
    made.on("pageerror", lambda e: wrong.append(str(e)))
    made.on("request", lambda r: wrong.extend([] if r.url.startswith(("data:", "file:")) else [r.url]))
    made.goto(report.as_uri())
    yield made
    made.close()
    assert wrong == []


def test_it_says_the_verdict_first_and_fits_the_screen(page):
    verdict = page.locator(".verdicts").first
    assert verdict.bounding_box()["y"] < 400, "seen without scrolling"
    assert "improved is better than base" in verdict.inner_text()
    width = page.viewport_size["width"]
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_picture_shows(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_timeout(200)
    broken = "[...document.images].filter(i => i.complete && i.naturalWidth === 0).length"
    assert page.evaluate("document.images.length") > 10
    assert page.evaluate(broken) == 0


def test_the_keyboard_reaches_it(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#arms"
    page.focus("details:not([open]) > summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open") is True


def test_links_inside_the_page_lead_somewhere(page):
    links = "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))"
    assert page.evaluate(f"{links}.length") > 5
    assert page.evaluate(f"{links}.filter(to => !document.querySelector(to))") == []
