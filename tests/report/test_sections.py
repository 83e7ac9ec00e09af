"""What the page adds from the episodes: where in the workspace, and risk over time."""

from __future__ import annotations

import re

import numpy as np
import pytest

from failwise.evaluate import compare, describe, write_comparison
from failwise.report import write_report
from failwise.report.over_time import over_time_sections
from failwise.report.workspace import MARGIN, SIDE, workspace_sections
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore, episode_id
from failwise.types import Actor, EpisodeMeta, Outcome, StepRecord

TASK = "metaworld/push"


def meta(arm: str, seed: int, good: bool, place: tuple[float, float], who: str = "object") -> EpisodeMeta:
    layout = {"object": [0.0, 0.5, 0.02], "goal": [0.1, 0.8, 0.02]} | {who: [*place, 0.02]}
    return EpisodeMeta(
        episode_id=episode_id(TASK, arm, seed), env_id=TASK, task="push", instruction="push", arm=arm, env_seed=seed,
        policy_seed=seed, outcome=Outcome.SUCCESS if good else Outcome.TIMEOUT, success_once=good, success_at_end=good,
        first_success_step=19 if good else None, n_steps=20, step_limit=20, control_hz=10.0, extra={"layout": layout},
    )  # fmt: skip


def marks(html: str) -> dict[int, str]:
    return {int(seed): kind for seed, kind in re.findall(r"<title>seed (\d+): (\w+)</title>", html)}


def test_every_layout_is_on_the_map_of_its_arm_once_and_where_it_was():
    places = [(x / 10, 0.6 + y / 10) for x in range(3) for y in range(3)]
    base = [meta("base", s, s % 2 == 0, p) for s, p in enumerate(places)]
    arm = [meta("arm", s, s % 3 == 0, p) for s, p in enumerate(places)]
    (section,) = workspace_sections([*base, *arm], compare([*base, *arm], "base"))
    expected = {
        s: {(1, 1): "both", (1, 0): "lost", (0, 1): "won", (0, 0): "neither"}[s % 2 == 0, s % 3 == 0] for s in range(9)
    }
    assert marks(section.html) == expected
    assert "object, 20 cm &times; 20 cm" in section.html
    corner = section.html.index("<title>seed 0:")
    path = section.html.rindex("<path", 0, corner)
    x, y = map(float, re.match(r'<path d="M([\d.]+) ([\d.]+)', section.html[path:]).groups())
    assert (round(x) - MARGIN, SIDE - MARGIN - round(y)) == pytest.approx((0, 0), abs=5), (
        "the first corner, bottom left"
    )


def test_without_a_baseline_successes_and_failures_are_told_apart_and_the_goal_stands_in_for_a_fixed_object():
    metas = [meta("base", s, s > 2, (s / 10, 0.7), who="goal") for s in range(6)]
    (section,) = workspace_sections(metas, describe(metas))
    assert marks(section.html) == {s: "success" if s > 2 else "failure" for s in range(6)}
    assert "goal, 50 cm" in section.html


def test_no_layouts_no_map():
    metas = [meta("base", s, True, (0, 0)).model_copy(update={"extra": {}}) for s in range(6)]
    assert workspace_sections(metas, describe(metas)) == []
    fixed = [meta("base", s, True, (0.0, 0.5)) for s in range(6)]
    assert workspace_sections(fixed, describe(fixed)) == [], "what never moves shows nothing"


def record(store: EpisodeStore, seed: int, good: bool, risk: float) -> EpisodeMeta:
    about = meta("base", seed, good, (seed / 10, 0.6))
    with store.begin(about.episode_id) as writer:
        for step in range(20):
            info = {"risk": risk + step / 100, "unknown": 1.0} if step % 4 == 0 else {}
            state = np.zeros(2, np.float32)
            writer.step(StepRecord(step, state, state, 0.0, {"success": good}, Actor.POLICY, step % 4, info))
        writer.commit(about)
    return about


def test_risk_over_time_is_the_median_of_each_outcome(tmp_path):
    store = EpisodeStore(tmp_path / "episodes")
    risks = {4: 0.0, 5: 0.1, 6: 0.2, 7: 0.7, 8: 0.8}  # of the successes: mean .36, median .2
    metas = [record(store, s, s >= 4, risks.get(s, 0.8)) for s in range(9)]
    (section,) = over_time_sections(store, ["base"])
    assert "risk of failure, 0 to 1, over 20 steps" in section.html
    assert "unknown" not in section.html
    found = dict(re.findall(r'<path d="(M[^"Z]+)"[^>]*><title>(\w+): ', section.html))
    first = {kind: float(path.split()[1]) for path, kind in found.items()}
    assert first["success"] == pytest.approx(120 * (1 - 0.2), abs=0.1)
    areas = re.findall(r'<path d="(M[^"]+ Z)"', section.html)
    edges = [{float(y) for x, y in re.findall(r"([\d.]+) ([\d.]+)", area) if float(x) == 6.0} for area in areas]
    failures, successes = edges  # at the first moment
    assert sorted(successes) == pytest.approx([120 * (1 - 0.7), 120 * (1 - 0.1)]), "the quartiles, not the extremes"
    assert sorted(failures) == pytest.approx([120 * (1 - 0.8)])
    assert first["failure"] == pytest.approx(120 * (1 - 0.8), abs=0.1)
    assert over_time_sections(store, ["nobody"]) == []
    write_comparison(describe(metas), tmp_path)
    page = write_report(tmp_path).read_text()
    assert "Where in the workspace" in page
    assert "Risk and guidance over time" in page


def test_a_moment_that_few_episodes_reach_has_no_point(tmp_path):
    store = EpisodeStore(tmp_path / "episodes")
    for seed in range(2):
        record(store, seed, True, 0.5)
    (section,) = over_time_sections(store, ["base"])
    assert "<title>success" not in section.html
    record(store, 2, True, 0.5)
    (section,) = over_time_sections(store, ["base"])
    assert "<title>success" in section.html


def test_episodes_say_where_things_were_at_the_start(tmp_path):
    (found,) = collect([RolloutItem("tiny/push", 3, 3, "random", "random")], tmp_path, workers=1, quiet=True)
    from failwise.envs import make_env

    env = make_env("tiny/push")
    env.reset(seed=3)
    assert {k: pytest.approx(v, abs=1e-4) for k, v in found.extra["layout"].items()} == {
        k: v.tolist() for k, v in env.layout().items()
    }
