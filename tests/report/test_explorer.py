"""The explorer over HTTP, and clicked through in a real browser."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request

from failwise.cli.report import main
from failwise.errors import SetupError, StoreError
from failwise.report.explorer import make_app
from failwise.report.explorer.curves import curves
from failwise.store import EpisodeStore
from failwise.types import FailureEvent, Outcome

from .runs import write_episode, write_run

TASKS = ("metaworld/pick-place", "metaworld/push")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A run of two arms on two tasks and another store, served on a free port."""
    root = tmp_path_factory.mktemp("site") / "run"
    write_run(root / "proof", [("base", 0.4), ("improved", 0.8)], TASKS, range(30))
    extra = EpisodeStore(root / "more")
    write_episode(extra, "base", "metaworld/push", 77, Outcome.FAILURE, reached=1, size=None)
    app = make_app(root)
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [ours]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{ours.getsockname()[1]}"
        until = time.monotonic() + 30
        while app.state.explorer.catalogue.unread and time.monotonic() < until:
            time.sleep(0.05)
        yield SimpleNamespace(url=url, root=root, catalogue=app.state.explorer.catalogue)
        server.should_exit = True
        thread.join(timeout=10)
    app.state.explorer.catalogue.close()


def get(url: str, **headers: str) -> tuple[int, str, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode("utf-8", "replace"), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def post(url: str, **fields: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, urllib.parse.urlencode(fields).encode()) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def failed(site: SimpleNamespace, store: int = 1) -> Any:
    return next(r for r in site.catalogue._all() if r.store == store and r.outcome == "timeout" and r.looks)


def counted(page: str) -> int:
    found = re.search(r'id="count"[^>]*>(\d+) episode', page)
    assert found
    return int(found[1])


def test_filters_show_what_the_store_holds(site):
    metas = [m for path in ("more", "proof/episodes") for m in EpisodeStore(site.root / path).metas()]
    assert counted(get(site.url)[1]) == len(metas) == 121
    for query, wanted in (
        ("outcome=failed", lambda m: m.outcome != "success"),
        ("outcome=success&arm=improved", lambda m: m.outcome == "success" and m.arm == "improved"),
        ("task=metaworld/push&seed=7", lambda m: m.env_id == "metaworld/push" and m.env_seed == 7),
        ("store=more", lambda m: m.env_seed == 77),
    ):
        assert counted(get(f"{site.url}/?{query}")[1]) == sum(map(wanted, metas)) > 0
    stages = site.catalogue.choices()["stage"]
    assert {"near object", "grasped"} <= set(stages)
    each = [counted(get(f"{site.url}/?stage={urllib.parse.quote(s)}")[1]) for s in stages]
    assert sum(each) == sum(m.outcome != "success" for m in metas), "every failure stopped somewhere"
    assert "No episode is like that" in get(f"{site.url}/?seed=99999")[1]
    assert get(f"{site.url}/?sort=nonsense&page=x")[0] == 200


def test_pages_of_the_list_hold_every_episode_once(site):
    seen: list[str] = []
    for page in range(1, 4):
        seen += re.findall(r'<a href="(/episode/[^"]+)">', get(f"{site.url}/?sort=seed&page={page}")[1])
    assert len(seen) == len(set(seen)) == 121
    assert all(get(site.url + path)[0] == 200 for path in seen[::20])


def test_episodes_that_come_later_are_listed(site):
    before = counted(get(site.url)[1])
    write_episode(EpisodeStore(site.root / "more"), "base", "metaworld/push", 78, Outcome.FAILURE, reached=1, size=None)
    assert counted(get(site.url)[1]) == before + 1
    shutil.rmtree(next((site.root / "more").glob("*000078")))
    assert counted(get(site.url)[1]) == before


def test_videos_come_in_parts(site):
    row = failed(site)
    url = f"{site.url}/episode/{row.store}/{row.id}/corner.mp4"
    status, _, headers = get(url)
    size = int(headers["content-length"])
    assert (status, headers["content-type"], headers["accept-ranges"]) == (200, "video/mp4", "bytes")
    for asked, length, said in (
        ("bytes=0-99", 100, f"bytes 0-99/{size}"),
        (f"bytes={size - 10}-", 10, f"bytes {size - 10}-{size - 1}/{size}"),
        ("bytes=-7", 7, f"bytes {size - 7}-{size - 1}/{size}"),
    ):
        status, _, headers = get(url, Range=asked)
        assert (status, int(headers["content-length"]), headers["content-range"]) == (206, length, said)
    assert get(url, Range=f"bytes={size}-")[0] == 416
    assert get(url.replace("corner", "elsewhere"))[0] == 404


def test_another_run_at_the_same_address_shows_its_own_pictures(site, tmp_path):
    row = failed(site)
    other = tmp_path / "episodes"
    write_episode(EpisodeStore(other), row.arm, row.env_id, row.seed, Outcome.SUCCESS, reached=3, size=64)
    app = make_app(other)
    (name,) = EpisodeStore(other).ids()
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b"", "path": "/"}
    scope["path_params"] = {"store": 0, "episode": name, "camera": "corner"}
    answer = app.state.explorer.video(Request(scope))
    app.state.explorer.catalogue.close()
    _, _, headers = get(f"{site.url}/episode/{row.store}/{row.id}/corner.mp4")
    assert name == row.id
    assert answer.headers["etag"] != headers["etag"]
    assert headers["cache-control"] == "no-cache"


def test_what_is_not_there_is_said(site):
    for path in (
        "/episode/1/nobody",
        "/episode/9/x",
        "/compare?a=1/x&b=1/y",
        "/compare",
        "/static/app.py",
        "/static/..%2fx",
    ):
        status, page, _ = get(site.url + path)
        assert status == 404, path
        assert "Traceback" not in page
    with_no_frames = next(r for r in site.catalogue._all() if not r.looks)
    assert "No pictures were recorded" in get(f"{site.url}/episode/{with_no_frames.store}/{with_no_frames.id}")[1]
    assert get(f"{site.url}/episode/{with_no_frames.store}/{with_no_frames.id}/thumbnail.jpg")[0] == 404


def test_labels_go_into_the_store_and_only_from_our_own_form(site):
    row = failed(site)
    page = f"{site.url}/episode/{row.store}/{row.id}"
    token = re.search(r'name="token" value="([^"]+)"', get(page)[1])[1]
    store = EpisodeStore(site.root / "proof" / "episodes")
    good = {"mode": "dropped", "onset": "5", "stage": "grasped", "evidence": "the puck fell"}
    assert post(page + "/label", token="guessed", **good)[0] == 403
    assert post(page + "/label", **good)[0] == 403
    for bad in ({"onset": "999"}, {"onset": "x"}, {"mode": " "}):
        status, said = post(page + "/label", token=token, **{**good, **bad})
        assert status == 400
        assert "not labelled" in said
    assert store.labels(row.id) == ()
    status, said = post(page + "/label", token=token, **good)
    assert status == 200
    assert "Your label was kept" in said
    event = FailureEvent(mode="dropped", stage="grasped", onset_step=5, source="labelled", evidence="the puck fell")
    assert store.labels(row.id) == (event,)
    assert event in store.read(row.id).meta.failure_events
    assert any(mark.step == 5 for mark in curves(store.read(row.id)).marks)
    later = event.model_copy(update={"mode": "stuck", "onset_step": 9})
    store.label(row.id, later)
    (name, _) = re.findall(r'name="remove" value="([^"]+)"', get(page)[1])
    assert post(page + "/label", token=token, remove=name)[0] == 200
    assert store.labels(row.id) == (later,)
    assert post(page + "/label", token=token, remove=name)[0] == 200, "a double click, or another tab"
    assert store.labels(row.id) == (later,), "takes nothing else back"
    store.unlabel(row.id, later)


def test_foreign_names_of_this_machine_and_foreign_pages_are_shut_out(site):
    assert get(site.url, Host="evil.example")[0] == 400
    policy = get(site.url)[2]["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_text_from_records_is_text(tmp_path):
    store = EpisodeStore(tmp_path)
    write_episode(
        store, "<b>x", "metaworld/push", 1, Outcome.FAILURE, reached=1, instruction="<script>alert(1)</script>"
    )

    app = make_app(tmp_path)
    explorer = app.state.explorer
    (name,) = store.ids()
    scope = {
        "type": "http",
        "method": "GET",
        "headers": [],
        "query_string": b"",
        "path": "/",
        "path_params": {"store": 0, "episode": name},
    }
    body = bytes(explorer.episode(Request(scope)).body).decode()
    explorer.catalogue.close()
    assert "<script>alert" not in body
    assert "&lt;script&gt;" in body


def test_bad_requests_of_the_verb_are_one_line(tmp_path):
    with pytest.raises(StoreError, match="no episodes in"):
        main([str(tmp_path), "--serve"])
    write_episode(EpisodeStore(tmp_path), "base", "metaworld/push", 1, Outcome.FAILURE, reached=1)
    with pytest.raises(SetupError, match="--port 99999 is no port"):
        main([str(tmp_path), "--serve", "--port", "99999"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SetupError, match="is not free"):
            main([str(tmp_path), "--serve", "--port", str(taken.getsockname()[1])])


@pytest.fixture
def page(browser: Any, site: SimpleNamespace, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page that fails the test when anything is logged to the console, raised, or asked of another machine."""
    made = browser.new_page(viewport={"width": getattr(request, "param", 1200), "height": 900})
    wrong: list[str] = []
    made.on("console", lambda m: wrong.append(f"{m.type}: {m.text}"))
    made.on("pageerror", lambda e: wrong.append(str(e)))
    made.on(
        "request", lambda r: wrong.append(f"asked for {r.url}") if not r.url.startswith((site.url, "data:")) else None
    )
    yield made
    made.close()
    assert wrong == []


def at(page: Any) -> int:
    return int(page.inner_text("[data-step]"))


def until(page: Any, expression: str, seconds: float = 20.0) -> None:
    """Wait until an expression is true; from outside, as the page's own policy forbids evaluating strings in it."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never: {expression}"
        time.sleep(0.05)


def follow(page, selector):
    """Click what leads to another page, and wait until that one is there."""
    with page.expect_navigation():
        page.click(selector)


def test_a_person_finds_watches_compares_and_labels_a_failure(site, page):
    page.goto(site.url)
    page.select_option("select[name=outcome]", "timeout")
    page.select_option("select[name=arm]", "base")
    follow(page, "button:has-text('Show')")
    assert "episode" in page.inner_text("#count")
    follow(page, ".episodes li a >> nth=0")
    until(page, "document.querySelector('video').readyState >= 3")
    page.click("[data-chart] >> nth=0", position={"x": 10, "y": 5})
    first = at(page)
    page.evaluate("document.querySelector('video').play()")
    until(page, f"Number(document.querySelector('[data-step]').value) > {first + 3}")
    page.evaluate("document.querySelector('video').pause()")
    box = page.query_selector("[data-chart]").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 5)
    assert at(page) == pytest.approx(8, abs=1)
    page.click("[data-take]")
    assert page.input_value("[data-onset]") == str(at(page))
    page.fill("input[name=mode]", "slipped")
    follow(page, "button:has-text('Keep label')")
    assert "Your label was kept" in page.inner_text(".said")
    assert "slipped from step" in page.inner_text("ul.labels")
    follow(page, "ul.labels button:has-text('take back')")
    assert page.query_selector("ul.labels") is None
    follow(page, "a.compare >> nth=0")
    assert page.locator("video").count() == 2
    page.click("button:has-text('Play both')")
    until(page, "[...document.querySelectorAll('[data-step]')].every(o => Number(o.value) >= 15)")
    until(page, "document.querySelector('[data-play-both]').textContent === 'Play both'")


def test_the_keyboard_reaches_everything(site, page):
    page.goto(site.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    names = []
    for _ in range(14):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.name || document.activeElement.getAttribute('href') || ''"))
    assert {"task", "arm", "outcome", "stage", "seed", "sort"} <= set(names)
    assert any(name.startswith("/episode/") for name in names)
    page.focus(".episodes a")
    page.keyboard.press("Enter")
    page.wait_for_url("**/episode/**")


@pytest.mark.parametrize("page", [390], indirect=True)
def test_it_fits_a_phone(site, page):
    row = failed(site)
    twin = next(r for r in site.catalogue.twins(row.store, site.catalogue.read(row.store, row.id).meta))
    for path in ("/", f"/episode/{row.store}/{row.id}", f"/compare?a={row.store}/{row.id}&b={twin.store}/{twin.id}"):
        page.goto(site.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
