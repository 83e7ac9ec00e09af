"""The page: self-contained, complete, safe against hostile text, and written from whatever a run holds."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from failwise.errors import DataError, SetupError
from failwise.evaluate import compare, write_comparison
from failwise.report import Section, write_report
from failwise.report.view import ranges
from failwise.store import EpisodeStore
from failwise.types import Outcome

from .runs import write_episode, write_run

ARMS = (("base", 0.5), ("afil", 0.8), ("self imitation", 0.55))
TASKS = ("metaworld/push", "metaworld/pick-place")
SEEDS = range(300000, 300008)
VOID = {"meta", "link", "img", "br", "hr", "line", "circle", "rect", "input"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps attributes, text and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def values(self, key: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == key]


def read(path: Path) -> tuple[Reader, str]:
    page, html = Reader(), path.read_text(encoding="utf-8")
    page.feed(html)
    assert page.open == []
    return page, " ".join(" ".join(page.text).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "proof"
    write_run(folder, ARMS, TASKS, SEEDS)
    write_report(folder)
    return folder


def test_the_page_asks_for_nothing_from_outside_and_runs_no_script(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    page, _ = read(run / "report.html")
    assert all(source.startswith("data:image/") for source in page.values("src"))
    assert all(target.startswith(("#", "data:")) for target in page.values("href"))
    assert not re.search(r"https?://|@import|url\(", html)
    assert "script" not in {tag for tag, _, _ in page.attributes}
    assert "<script" not in html
    assert "default-src 'none'" in html


def test_the_page_holds_every_arm_task_seed_and_verdict(run: Path) -> None:
    _, text = read(run / "report.html")
    for name in [arm for arm, _ in ARMS] + list(TASKS):
        assert name in text
    chips = re.findall(r"<li>[▲▼]?(\d+)</li>", (run / "report.html").read_text(encoding="utf-8"))
    assert sorted(chips) == sorted(str(seed) for seed in SEEDS for _ in TASKS for _ in ARMS[1:])
    assert "exact McNemar p" in text
    assert text.index("Skip to the verdict") < text.index("exact McNemar p") < text.index("Success rate")
    assert "models/afil" in text
    assert "300000–300007" in text


def test_links_images_and_regions_are_accessible(run: Path) -> None:
    page, _ = read(run / "report.html")
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.values("href") if target.startswith("#")} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)
    images = [tag for tag, key, _ in page.attributes if tag == "img" and key == "src"]
    alts = [value for tag, key, value in page.attributes if tag == "img" and key == "alt" and value]
    assert len(images) == len(alts) > 0
    graphics = sum(1 for tag, key, _ in page.attributes if tag == "svg" and key == "role")
    assert graphics == sum(1 for tag, key, value in page.attributes if tag == "svg" and key == "aria-label" and value)


def test_filmstrips_show_the_same_seed_twice_baseline_first(run: Path) -> None:
    page, _ = read(run / "report.html")
    labels = [v for t, k, v in page.attributes if k == "aria-label" and ", seed " in v and t == "div"]
    assert labels
    assert len(labels) % 2 == 0
    for above, below in zip(labels[::2], labels[1::2], strict=True):
        assert above.startswith("base, ")
        assert not below.startswith("base, ")
        place = re.compile(r"(metaworld/\S+), seed (\d+): (\w+)")
        (task, seed, one), (other_task, other_seed, two) = place.findall(above)[0], place.findall(below)[0]
        assert (task, seed) == (other_task, other_seed)
        assert (one == "success") != (two == "success")
    source = next(s for s in page.values("src") if s.startswith("data:image/jpeg"))
    assert base64.b64decode(source.split(",")[1])[:2] == b"\xff\xd8"


def test_failing_episodes_are_counted_where_they_stopped(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "episodes")
    metas = []
    for seed, (reached, outcome) in enumerate(
        [
            (0, Outcome.TIMEOUT),
            (1, Outcome.TIMEOUT),
            (1, Outcome.FAILURE),
            (3, Outcome.TIMEOUT),
            (2, Outcome.ERROR),
        ]
        + [(3, Outcome.SUCCESS)] * 2
    ):
        for arm in ("base", "new"):
            metas.append(write_episode(store, arm, "tiny/push", seed, outcome, reached=reached, size=None))
    write_comparison(compare(metas, "base"), tmp_path)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    rows = dict(re.findall(r'<th scope="row">([^<]+)</th>\s*<td class="number c0">(\d+)', html))
    assert rows == {
        "near object": "1",
        "grasped": "2",
        "each condition held once, but not all at the end": "1",
        "could not go on (error)": "1",
    }


def test_hostile_instructions_and_arm_names_stay_text(tmp_path: Path) -> None:
    hostile = "</style><script>alert('x')</script><img src=https://evil.example/x onerror=alert(1)>"
    store = EpisodeStore(tmp_path / "episodes")
    metas = [
        write_episode(store, arm, "tiny/push", seed, outcome, reached=1, instruction=hostile)
        for seed in range(6)
        for arm, outcome in (("base", Outcome.TIMEOUT), ('b"><b onclick=x>', Outcome.SUCCESS))
    ]
    write_comparison(compare(metas, "base"), tmp_path)
    page, text = read(write_report(tmp_path))
    tags = {tag for tag, _, _ in page.attributes}
    assert "script" not in tags
    assert not any(key.startswith("on") for _, key, _ in page.attributes)
    assert all(source.startswith("data:") for source in page.values("src"))
    assert hostile in text


@pytest.mark.parametrize("size", [48, None])
def test_a_collected_store_alone_shows_outcomes_by_task(tmp_path: Path, size: int | None) -> None:
    metas = write_run(tmp_path / "base", [("policy", 0.5)], TASKS, SEEDS, size=size, compared=False)
    page, text = read(write_report(tmp_path / "base"))
    successes = sum(meta.outcome == Outcome.SUCCESS for meta in metas)
    assert f"policy succeeded in {successes} of {len(metas)} episodes over 2 tasks" in text
    assert all(task in text for task in TASKS)
    assert "better" not in text
    assert bool([s for s in page.values("src") if s.startswith("data:image/jpeg")]) == (size is not None)
    assert ("Filmstrips" in text) == (size is not None)


def test_a_comparison_without_episodes_still_makes_a_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text((run / "comparison.json").read_text())
    _, text = read(write_report(tmp_path))
    assert "exact McNemar p" in text
    assert "Filmstrips" not in text


def test_unpaired_seeds_are_on_the_page(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "episodes")
    metas = [
        write_episode(store, arm, "tiny/push", seed, Outcome.TIMEOUT, reached=0, size=None)
        for arm, seeds in (("base", range(6)), ("new", range(8)))
        for seed in seeds
    ]
    write_comparison(compare(metas, "base"), tmp_path)
    _, text = read(write_report(tmp_path))
    assert "tiny/push: only new ran seeds 6–7" in text


def test_damaged_recordings_are_counted_and_do_not_stop_the_report(tmp_path: Path) -> None:
    metas = write_run(tmp_path, [("base", 0.0), ("new", 0.0)], ["tiny/push"], range(6))
    for meta in metas[:2]:
        for file in (tmp_path / "episodes" / meta.episode_id).iterdir():
            if file.name != "meta.json":
                file.write_bytes(b"not what was written")
    _, text = read(write_report(tmp_path))
    assert "2 episodes counted above could not be read back" in text


def test_further_sections_bring_html_and_figures(run: Path, tmp_path: Path) -> None:
    figure = tmp_path / "curve.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(figure)
    sections = [
        Section("Candidates", html="<table><tr><td>afil-0.5</td></tr></table>"),
        Section("Learning curve", figure=figure, alt="success over rounds"),
    ]
    page, text = read(write_report(run, sections))
    assert "Candidates" in text
    assert "afil-0.5" in text
    assert "success over rounds" in page.values("alt")
    assert any(source.startswith("data:image/png") for source in page.values("src"))
    with pytest.raises(DataError, match="would load something from outside"):
        Section("Plot", html='<img src="https://example.org/x.png">')
    with pytest.raises(DataError, match="say in alt"):
        Section("Plot", figure=figure)
    with pytest.raises(DataError, match="cannot be read"):
        write_report(run, [Section("Plot", figure=tmp_path / "gone.png", alt="nothing")])


def test_a_folder_that_is_no_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no run folder at"):
        write_report(tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds neither comparison\.json nor an episode"):
        write_report(tmp_path)
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(DataError, match="not a failwise-comparison-1"):
        write_report(tmp_path)


def test_writing_twice_gives_the_same_page(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert not list(run.glob("*.tmp"))


def test_seed_ranges_are_written_as_runs() -> None:
    assert ranges([3, 5, 6, 7, 9]) == "3, 5–7, 9"
    assert ranges([]) == ""
