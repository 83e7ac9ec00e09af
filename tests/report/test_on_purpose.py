"""The page on failures on purpose: its figures are those of the records, its examples those of the rule."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from failwise.cli import main
from failwise.errors import DataError, StoreError
from failwise.generate import Attempt, Perturbation
from failwise.report import write_report
from failwise.report.on_purpose.charts import BINS, HEIGHT, histogram, magnitudes_of
from failwise.report.on_purpose.counts import cell_rows, coverage_of, sentences_of, tallies_of, yields_of
from failwise.report.on_purpose.gallery import EACH, chosen, gallery_of, moments
from failwise.report.on_purpose.made import Made, is_own, kind, read_made
from failwise.report.on_purpose.words import change_of, kind_of, move_of
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta, FailureEvent, Outcome

from .purposely import OWN_MODE


@pytest.fixture(scope="module")
def made(purposely: Path) -> Made:
    return read_made(purposely)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


def test_coverage_counts_what_the_attempts_say(made: Made, purposely: Path) -> None:
    kept = Counter((a["env_id"], a["cell"]) for a in lines(purposely) if a["result"] == "kept")
    for env_id in ("tiny/push", "tiny/reach"):
        table = coverage_of(made, env_id)
        assert table.kept == sum(n for (task, name), n in kept.items() if task == env_id and name != "own")
        for row in table.rows:
            for stage, square in zip(table.stages, row.squares, strict=True):
                axis = row.label.removeprefix("translation along ") if row.mode == "translation" else ""
                name = f"{row.mode}{'-' if axis else ''}{axis}.{stage}"
                if square is None:
                    assert (env_id, name) not in kept
                else:
                    assert int(square.text.split("/")[0]) == kept[env_id, name]


def test_stages_come_in_the_order_of_the_task_and_wanted_where_it_is_known(made: Made) -> None:
    assert coverage_of(made, "tiny/push").stages == ("near_puck", "near_goal", "success")
    assert coverage_of(made, "tiny/push").wanted == 0, "coverage.json was written for tiny/reach last"
    table = coverage_of(made, "tiny/reach")
    squares = [square for row in table.rows for square in row.squares if square]
    assert table.wanted == 3
    assert all("/" in square.text for square in squares)
    assert [square.short for square in squares] == [int(s.text[0]) < int(s.text[-1]) for s in squares]


def test_yields_add_up_to_every_attempt(made: Made, purposely: Path) -> None:
    rows = yields_of(made.attempts)
    found = [a for a in lines(purposely) if a["cell"] != "own"]
    assert sum(row.attempts for row in rows) == len(found)
    for row in rows:
        mine = [a for a in found if a["cell"].startswith(row.mode)]
        n = Counter(a["result"] for a in mine)
        assert (row.attempts, row.kept, row.harmless) == (len(mine), n["kept"], n["harmless"])
        assert row.recoveries == sum(a["corrections"] for a in mine)
        assert row.share == n["kept"] / len(mine)
    assert sum(len(tallies_of(made, task)) for task in made.tasks) == sum(len(cell_rows(made, t)) for t in made.tasks)


def test_the_headline_counts_failures_recoveries_modes_and_tasks(made: Made, purposely: Path) -> None:
    (claim, evidence), (own, _) = sentences_of(made)
    kept = [a for a in lines(purposely) if a["result"] == "kept" and a["cell"] != "own"]
    verified = sum(a["corrections"] for a in kept)
    assert claim == f"{len(kept)} failures on purpose with {verified} verified recoveries, in 3 modes on 2 tasks."
    assert f"{len(kept)} of {len(made.attempts)} attempts were kept" in evidence
    assert "3 of 3 wanted are there" in evidence
    assert own == "1 of 1 own failure of a policy mended."


def test_sizes_of_harmless_attempts_are_drawn_again_and_left_out_where_that_fails(purposely: Path, tmp_path) -> None:
    made = read_made(purposely)
    harmless = Counter(a.cell.split(".")[0].split("-")[0] for a in made.attempts if a.result == "harmless")
    assert harmless["translation"] and harmless["noop"], "the fixture has some of both"
    charts = {chart.mode: chart for chart in magnitudes_of(made, ["tiny/push"])}
    push = Counter((a.cell.split("-")[0].split(".")[0], a.result) for a in made.attempts if a.env_id == "tiny/push")
    for mode, chart in charts.items():
        found = Counter[str]()
        for part in chart.parts:
            count, name = re.search(r": (\d+) (\w+)$", part.title).groups()
            found[name] += int(count)
        assert found == Counter(
            {r: n for (m, r), n in push.items() if m == mode and r in ("kept", "harmless", "unmended")}
        )
    assert charts["translation"].low == "3" and charts["translation"].high == "10 cm"
    shutil.copytree(purposely, tmp_path / "copy")
    cells = [
        {
            "env_id": "tiny/push",
            "mode": "translation",
            "axis": axis,
            "stage": stage,
            "magnitude": [0.01, 0.5],
            "wanted": 1,
        }
        for axis in "xy"
        for stage in ("near_puck", "near_goal", "success")
    ]
    (tmp_path / "copy" / "coverage.json").write_text(json.dumps(cells))
    changed = {chart.mode: chart for chart in magnitudes_of(read_made(tmp_path / "copy"), ["tiny/push"])}
    assert not any(part.kind == "harmless" for part in changed["translation"].parts), "other bounds, other sizes"
    assert any(part.kind == "harmless" for part in changed["noop"].parts)


def test_a_histogram_stacks_its_kinds() -> None:
    chart = histogram("noop", "noop", "steps", {"kept": [0.0, 0.1, 9.9], "harmless": [0.2]}, span=(0, 10))
    first = [part for part in chart.parts if part.x < 1]
    assert [(p.kind, p.height) for p in first] == [
        ("kept", pytest.approx(HEIGHT * 2 / 3, abs=0.01)),
        ("harmless", pytest.approx(HEIGHT / 3, abs=0.01)),
    ]
    assert first[1].y + first[1].height == pytest.approx(first[0].y, abs=0.02), "one on the other"
    assert first[0].y + first[0].height == pytest.approx(HEIGHT, abs=0.02)
    assert len({part.x for part in chart.parts}) == 2 and BINS == 10
    assert (chart.low, chart.high, chart.n) == ("0", "10 steps", "3 kept, 1 harmless")


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        ((-0.06, 0.0, 0.1234, 0, 0, 0, -1), "−6.0 cm in x, +12.3 cm in z; gripper open"),
        ((0, 0, 0, 0, 0, math.pi / 2, 1), "turn +90° in yaw; gripper closed"),
        ((0.0004, 0, 0, 0.01, 0, 0, 0), "stay; gripper as it is"),
    ],
)
def test_moves_in_words(delta: tuple[float, ...], words: str) -> None:
    assert move_of(delta) == words


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"mode": "translation", "axis": "y", "magnitude": -0.052}, "The pose of this stage is −5.2 cm off along y."),
        (
            {"mode": "rotation", "axis": "yaw", "magnitude": 0.5},
            "The hand is turned by +29 degrees in yaw in this stage.",
        ),
        ({"mode": "noop", "magnitude": 12.4}, "Commands are lost for 12 steps (0.6 s)."),
        ({"mode": "wrong_object", "axis": "other_disc", "magnitude": 1}, "Another thing is taken: other disc."),
        ({"mode": "of_tomorrow", "magnitude": 2}, "of tomorrow, +2.0."),
    ],
)
def test_changes_in_words(about: dict, words: str) -> None:
    assert change_of(Perturbation(stage="near_goal", **about), 20.0) == words


def test_kinds_in_words() -> None:
    assert [kind_of("misaligned_grasp", "x"), kind_of("rotation", "yaw"), kind_of("wrong_object", "other_disc")] == [
        "misaligned grasp along x", "rotation in yaw", "wrong object: other disc",
    ]  # fmt: skip


def failure(seed: int, mode: str, stage: str) -> EpisodeMeta:
    return EpisodeMeta(
        episode_id=f"{mode}-{stage}-{seed}", env_id="tiny/push", task="push", instruction="push", arm=f"{mode}.{stage}",
        env_seed=seed, policy_seed=seed, outcome=Outcome.TIMEOUT, success_once=False, success_at_end=False, n_steps=20,
        step_limit=20, control_hz=10.0, extra={"kind": {"mode": mode, "axis": ""}},
        failure_events=(FailureEvent(mode=mode, stage=stage, onset_step=5, source="injected"),),
    )  # fmt: skip


def test_examples_are_the_lowest_layouts_in_different_stages_whatever_the_order() -> None:
    metas = [failure(s, "noop", "near_puck") for s in (5, 3, 4)] + [failure(9, "noop", "near_goal")]
    metas += [failure(7, "slip", "near_goal")]
    picked = [(place, m.env_seed) for place, m in chosen(metas)]
    assert sorted(picked) == [(0, 3), (0, 7), (1, 9)]
    assert [place for place, _ in picked] == sorted(place for place, _ in picked), "every mode before a second of any"
    assert {m.episode_id for _, m in chosen(metas[::-1])} == {m.episode_id for _, m in chosen(metas)}
    alike = [failure(s, "noop", "near_puck") for s in range(5)]
    assert [m.env_seed for _, m in chosen(alike)] == list(range(EACH))


def test_moments_are_the_nearest_looks_and_no_look_comes_twice() -> None:
    looks = np.array([0, 4, 8, 12])
    assert moments(looks, [("onset", 5), ("end", 13), ("before", -1)]) == [("before", 0), ("onset", 1), ("end", 3)]
    assert moments(looks, [("onset", 0), ("before", -6)]) == [("onset", 0)]


def test_an_example_shows_the_failure_around_its_onset_and_a_recovery_of_its_own(made: Made) -> None:
    gallery = gallery_of(made)
    assert gallery.unreadable == 0
    by_seed = {(m.env_id, m.env_seed, kind(m)[0], is_own(m)): m for m in made.failures}
    assert {(e.env_id, e.mode) for e in gallery.examples if not e.own} == {
        (m.env_id, kind(m)[0]) for m in made.failures if not is_own(m) and m.extra["corrections"]
    }
    for example in gallery.examples:
        meta = by_seed[example.env_id, example.seed, example.mode, example.own]
        (first, *more) = made.recoveries[meta.episode_id]
        onset = next(shot for shot in example.failed if shot.label == "onset")
        assert abs(onset.frame.step - meta.failure_events[0].onset_step) <= 1
        assert example.mended[0].frame.step == first.extra["takeover"]
        assert example.more == len(more)
        cameras = len(meta.cameras)
        assert onset.frame.height == cameras * onset.frame.width
        assert f"from step {first.extra['takeover']} to success" in example.steps
    assert [e.mode for e in gallery.examples if e.own] == [OWN_MODE]


def test_pictures_stay_inside_their_budget_and_examples_come_before_videos(made: Made) -> None:
    whole = gallery_of(made)
    assert sum(bool(e.videos) for e in whole.examples) == len({(e.env_id, e.mode, e.own) for e in whole.examples})
    stills = sum(e.size for e in whole.examples)
    tight = gallery_of(made, budget=stills)
    assert len(tight.examples) == len(whole.examples) and not any(e.videos for e in tight.examples)
    half = gallery_of(made, budget=stills // 2)
    assert 0 < sum(e.size for e in half.examples) <= stills // 2
    assert gallery_of(made, budget=0).examples == ()


def test_the_report_of_such_a_folder_is_its_page_and_changes_no_record(purposely: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(purposely, folder)
    with (folder / "attempts.jsonl").open("a") as file:
        file.write('{"env_id": "tiny/push", "cel')  # somebody is writing just now
    before = (folder / "attempts.jsonl").read_bytes()
    assert main(["report", str(folder)]) == 0
    assert (folder / "attempts.jsonl").read_bytes() == before
    page = (folder / "report.html").read_text()
    assert str(folder / "report.html") in capsys.readouterr().out
    assert len(page) < 9_000_000
    assert "Puck &lt;b&gt;was&lt;/b&gt; passed." in page, "what was recorded is text, never markup"
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page), "nothing is loaded"
    script = re.search(r"<script>(.*?)</script>", page, re.S).group(1)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in page, "the only script that may run"
    again = write_report(folder).read_text()
    assert again == page, "the same folder gives the same page"


def test_a_folder_without_pictures_says_so(purposely: Path, tmp_path: Path) -> None:
    (tmp_path / "attempts.jsonl").write_bytes((purposely / "attempts.jsonl").read_bytes())
    page = write_report(tmp_path).read_text()
    assert "No example here" in page
    assert 'id="coverage"' in page
    assert "<img" not in page


def test_damage_and_emptiness_are_told(purposely: Path, tmp_path: Path) -> None:
    (tmp_path / "attempts.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no attempt yet"):
        write_report(tmp_path)
    (tmp_path / "attempts.jsonl").write_text(
        Attempt(env_id="tiny/push", cell="noop.near_puck", seed=1, result="harmless").model_dump_json() + "\n"
    )
    (tmp_path / "coverage.json").write_text('[{"env_id": 3}]')
    with pytest.raises(StoreError, match="is no list of cells"):
        write_report(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(purposely, folder)
    victim = next(m for m in read_made(folder).failures if m.extra["corrections"])
    for file in Path(EpisodeStore(folder / "episodes").read(victim.episode_id).path).glob("frames*"):
        file.write_bytes(b"broken")
    assert gallery_of(read_made(folder)).unreadable == 1
