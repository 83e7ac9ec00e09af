"""The page on failures on purpose as a person uses it: filters by pointer and keyboard, on a desk and on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from failwise.report import write_report

SEEN = "[...document.querySelectorAll('.example')].filter(e => !e.hidden).map(e => [e.dataset.task, e.dataset.mode])"


@pytest.fixture(scope="module")
def report(purposely: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "failures"
    shutil.copytree(purposely, folder)
    return write_report(folder)


@pytest.fixture(params=[1200, 390], ids=["desk", "phone"])
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The open page; anything on the console, raised, or asked of the network fails the test."""
    made = browser.new_page(viewport={"width": request.param, "height": 800})
    wrong: list[str] = []
    made.on("console", lambda m: wrong.append(m.text))
    made.on("pageerror", lambda e: wrong.append(str(e)))
    made.on("request", lambda r: wrong.extend([] if r.url.startswith(("data:", "file:")) else [r.url]))
    made.goto(report.as_uri())
    yield made
    made.close()
    assert wrong == []


def test_it_says_what_there_is_and_fits_the_screen(page):
    verdict = page.locator(".verdicts").first
    assert verdict.bounding_box()["y"] < 400, "seen without scrolling"
    assert "verified recoveries" in verdict.inner_text()
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate("[...document.images].filter(i => i.complete && i.naturalWidth === 0).length") == 0


def test_a_choice_shows_that_task_and_mode_and_nothing_else(page):
    everything = page.evaluate(SEEN)
    assert {tuple(e) for e in everything} >= {
        ("tiny/push", "noop"),
        ("tiny/reach", "noop"),
        ("tiny/push", "translation"),
    }
    page.select_option("select[name=task]", "tiny/push")
    assert page.evaluate(SEEN) == [e for e in everything if e[0] == "tiny/push"]
    page.select_option("select[name=mode]", "noop")
    expected = [e for e in everything if e == ["tiny/push", "noop"]]
    assert page.evaluate(SEEN) == expected
    assert page.inner_text("#shown") == f"{len(expected)} of {len(everything)} examples shown"
    rows = "[...document.querySelectorAll('#yield tbody')].filter(b => !b.hidden).map(b => b.dataset.task)"
    assert page.evaluate(rows) == ["tiny/push"], "the yield of that task, and not that of all"
    assert not page.is_visible("article[data-task='tiny/reach']")
    assert page.is_visible("[data-none=own-examples]"), "none of the own ones is of that mode"
    page.click("button[type=reset]")
    page.wait_for_function(f"({SEEN}).length === {len(everything)}")
    assert page.evaluate(rows) == [""], "all tasks together"


def test_a_name_in_the_coverage_leads_to_its_examples(page):
    page.click("#coverage a[data-choose='tiny/push'][data-choose-mode='translation']")
    assert {tuple(e) for e in page.evaluate(SEEN)} == {("tiny/push", "translation")}
    assert page.evaluate("location.hash") == "#gallery"
    assert page.input_value("select[name=mode]") == "translation"


def test_the_keyboard_reaches_the_filter_and_the_strips(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "task":
            break
    before = len(page.evaluate(SEEN))
    page.keyboard.press("ArrowDown")
    assert page.input_value("select[name=task]") == "tiny/push"
    assert 0 < len(page.evaluate(SEEN)) < before
    page.focus(".film")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_videos_play(page):
    page.evaluate("document.querySelector('.videos').parentElement.open = true")
    page.wait_for_function("document.querySelector('video').readyState >= 1", timeout=10000)
    assert page.evaluate("document.querySelector('video').error") is None
    assert page.evaluate("document.querySelector('video').duration") > 0


def test_links_inside_the_page_lead_somewhere(page):
    links = "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))"
    assert page.evaluate(f"{links}.length") > 5
    assert page.evaluate(f"{links}.filter(to => !document.querySelector(to))") == []


def test_without_its_script_everything_is_there(browser, report):
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(report.as_uri())
    assert not plain.is_visible("#filter")
    assert plain.locator(".example").count() == plain.locator(".example:visible").count() > 4
    context.close()
