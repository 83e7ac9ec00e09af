"""Recoveries: the failed state comes again exactly, only what succeeded is verified, and nothing is counted twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from failwise.errors import SetupError
from failwise.generate import RecoveryItem, recover
from failwise.learn.data import load_chunks
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore

ENV = "tiny/reach"


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """Episodes of an agent that acts at random: all of them fail, and end somewhere."""
    out = tmp_path_factory.mktemp("failures")
    items = [RolloutItem(ENV, s, s, "random", "random:3") for s in range(6)]
    metas = collect(items, out, workers=1, options=RolloutOptions(look_every=4), quiet=True)
    return out, [m for m in metas if m.outcome != "success"]


def items_for(failures, takeover=10, limit=60):
    store, metas = failures
    return [RecoveryItem(str(store), m.episode_id, ENV, m.env_seed, takeover, limit) for m in metas]


def test_the_expert_mends_what_can_be_mended(failures, tmp_path):
    metas = recover(items_for(failures), tmp_path, workers=1)
    assert len(metas) == len(failures[1]) >= 4
    assert sum(m.outcome == "success" for m in metas) >= len(metas) - 1
    for meta in metas:
        assert meta.success_once == (meta.outcome == "success")
        assert meta.extra["takeover"] == 10
        assert meta.failure_events[0].onset_step == 10


def test_the_first_part_is_the_failed_episode_itself(failures, tmp_path):
    metas = recover(items_for(failures), tmp_path, workers=1)
    for meta in metas:
        recovery = EpisodeStore(tmp_path).read(meta.episode_id)
        failed = EpisodeStore(failures[0]).read(meta.extra["recovers"])
        np.testing.assert_array_equal(recovery.actions()[:10], failed.actions()[:10])
        np.testing.assert_allclose(recovery.states()[:11], failed.states()[:11], atol=1e-6)
        assert set(recovery.actors()[:10]) == {"policy"} and set(recovery.actors()[10:]) == {"recovery"}
        assert recovery.look_steps().min() == 10, "pictures, hence samples, only where the expert acts"


def test_samples_are_the_experts_actions_only(failures, tmp_path):
    metas = recover(items_for(failures), tmp_path, workers=1)
    data = load_chunks(tmp_path, 4, lambda m: m.outcome == "success")
    assert data.step.min() >= 10
    assert len(data.episodes) == sum(m.outcome == "success" for m in metas)


def test_several_attempts_at_one_failure_are_all_kept(failures, tmp_path):
    both = items_for(failures) + [replace(i, takeover=3, attempt=2) for i in items_for(failures)]
    metas = recover(both, tmp_path, workers=1)
    assert len({m.episode_id for m in metas}) == len(EpisodeStore(tmp_path).metas()) == len(both)
    assert {(m.arm, m.extra["takeover"]) for m in metas} == {("recovery-1", 10), ("recovery-2", 3)}


def test_an_expert_without_time_verifies_nothing(failures, tmp_path):
    metas = recover(items_for(failures, takeover=5, limit=1), tmp_path, workers=1)
    assert all(m.outcome == "timeout" and m.n_steps == 6 for m in metas)


def test_a_replay_that_departs_is_an_error_and_not_verified(failures, tmp_path):
    wrong = [replace(i, env_seed=i.env_seed + 1000) for i in items_for(failures)]
    metas = recover(wrong, tmp_path, workers=1)
    assert len(metas) == len(wrong)
    assert all(m.outcome == "error" and "departs from its record" in m.error for m in metas)


def test_the_same_call_repeats_nothing(failures, tmp_path):
    recover(items_for(failures), tmp_path, workers=1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("meta.json")}
    recover(items_for(failures), tmp_path, workers=1)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("meta.json")} == before


def test_without_an_expert_there_is_one_clear_line(failures, tmp_path, monkeypatch):
    from failwise.generate import recoveries

    env = recoveries.environment(ENV)
    monkeypatch.setattr(env, "spec", replace(env.spec, has_expert=False))
    with pytest.raises(SetupError, match="has no expert"):
        recover(items_for(failures), tmp_path, workers=1)
