"""How large a report is, how long it takes to write and to open.

python benchmarks/report.py              # about a minute; opening needs Chromium (scripts/browser.sh)

write_s      from a store of 600 episodes (three arms, two tasks, 96x96 pictures) to the page
size_mb      of the page; budget 30 MB
open_s       until headless Chromium has loaded and drawn it, median of five; budget 3 s
serve_first_page_s   from starting the explorer on the same store to its first page
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from failwise.evaluate import compare, write_comparison
from failwise.report import write_report
from failwise.report.explorer import make_app
from failwise.store import EpisodeStore
from figures import announce
from store import CAMERAS, meta

STEPS, LOOK_EVERY = 60, 8


def make_run(folder: Path, episodes: int) -> None:
    """A comparison of three arms with made-up pictures."""
    from failwise.types import Outcome, StepRecord

    random = np.random.default_rng(0)
    store = EpisodeStore(folder / "episodes")
    metas = []
    for seed in range(episodes // 6):
        for task in ("reach", "push"):
            for arm, rate in (("base", 0.4), ("extra", 0.5), ("improved", 0.7)):
                good = bool(random.random() < rate)
                name = f"metaworld.{task}--{arm}--{seed:06d}"
                outcome = Outcome.SUCCESS if good else Outcome.TIMEOUT
                about = meta(name, seed, STEPS, len(range(0, STEPS, LOOK_EVERY)), outcome)
                update = {
                    "env_id": f"metaworld/{task}", "task": task, "arm": arm, "success_once": good,
                    "first_success_step": STEPS - 1 if good else None,
                    "extra": {"layout": {"object": [*random.uniform(0, 0.3, 2), 0.02]}},
                }  # fmt: skip
                about = about.model_copy(update=update)
                with store.begin(name) as writer:
                    for step in range(STEPS):
                        if step % LOOK_EVERY == 0:
                            small = random.integers(0, 255, (12, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
                            writer.look(step, dict.fromkeys(CAMERAS, small))
                        info = {"risk": float(random.random())} if step % 8 == 0 else {}
                        state = np.zeros(4, np.float32)
                        held = {"near": step > 20, "success": good and step == STEPS - 1}
                        writer.step(StepRecord(step, state, state, 0.0, held, chunk_step=step % 8, info=info))
                    writer.commit(about)
                metas.append(about)
    write_comparison(compare(metas, "base", arms=["extra", "improved"]), folder)


def open_s(page: Path, browser: str) -> float:
    """Median seconds until the page is loaded and drawn, each in a browser of its own."""
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as playwright:
        for _ in range(5):
            made = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            tab = made.new_page()
            start = time.perf_counter()
            tab.goto(page.as_uri())
            tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            times.append(time.perf_counter() - start)
            made.close()
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=600)
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        make_run(run, arguments.episodes)
        start = time.perf_counter()
        page = write_report(run)
        figures["write_s"] = time.perf_counter() - start
        figures["size_mb"] = page.stat().st_size / 1e6
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser and find_spec("playwright"):
            figures["open_s"] = open_s(page, browser)
        else:
            print("no Chromium: open_s is left out", file=sys.stderr)
        from starlette.requests import Request

        start = time.perf_counter()
        explorer = make_app(run).state.explorer
        explorer.index(Request({"type": "http", "method": "GET", "headers": [], "query_string": b"", "path": "/"}))
        figures["serve_first_page_s"] = time.perf_counter() - start
        explorer.catalogue.close()
    announce("report", figures, table=True, episodes=arguments.episodes)


if __name__ == "__main__":
    main()
