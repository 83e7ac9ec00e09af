"""The policy's own failures get the labels of failures on purpose: why, since when, and ways out that work."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from failwise.cli import main
from failwise.envs import make_env
from failwise.errors import DataError, SetupError
from failwise.generate import GenerateOptions, mend_own, read_attempts
from failwise.generate.mending import EPISODES, RECOVERIES
from failwise.generate.plan import Run, stages_of
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore, StoredEpisode

ENV = "metaworld/push"
OPTIONS = GenerateOptions(corrections=1, look_every=0, workers=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two failures of random actions, cut short, and a success of the expert."""
    out = tmp_path_factory.mktemp("own")
    short = RolloutOptions(env_options={"step_limit": 40})
    collect([RolloutItem(ENV, s, s, "random", "random:4") for s in (1, 2)], out, workers=1, quiet=True, options=short)
    collect([RolloutItem(ENV, 3, 3, "expert", "expert")], out, workers=1, quiet=True)
    return out


@pytest.fixture(scope="module")
def mended(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mended")
    mend_own(source, [ENV], out, OPTIONS)
    return out


def test_every_failure_is_tried_once_and_successes_are_recorded_beside_them(source: Path, mended: Path) -> None:
    attempts = read_attempts(mended)
    assert {a.seed: a.result for a in attempts} == {1: "kept", 2: "kept", 3: "succeeded"}
    mend_own(source, [ENV], mended, OPTIONS)
    assert read_attempts(mended) == attempts, "the same command again has nothing to do"


def test_two_policies_on_one_layout_are_two_failures(source: Path, tmp_path: Path) -> None:
    short = RolloutOptions(env_options={"step_limit": 45})
    collect([RolloutItem(ENV, 1, 1, "other", "random:4")], tmp_path / "other", workers=1, quiet=True, options=short)
    for store, policies in ((source, ["random"]), (tmp_path / "other", ["other", "random"])):
        options = replace(OPTIONS, successes=False)
        mend_own(store, [ENV], tmp_path / "out", options)
        assert sorted(a.policy for a in read_attempts(tmp_path / "out") if a.seed == 1) == policies
    metas = [m for m in EpisodeStore(tmp_path / "out" / EPISODES).metas() if m.env_seed == 1 and "own" in m.extra]
    assert {m.arm: m.n_steps for m in metas} == {"own-random": 40, "own-other": 45}
    ways_out = [m for m in EpisodeStore(tmp_path / "out" / RECOVERIES).metas() if m.env_seed == 1]
    assert {m.extra["recovers"] for m in ways_out} == {m.episode_id for m in metas}


def test_what_somebody_else_did_is_not_the_policys_own(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metas = EpisodeStore(source).metas()
    for about in ("takeover", "watch"):
        helped = [m.model_copy(update={"extra": {**m.extra, about: {}}}) for m in metas]
        monkeypatch.setattr(EpisodeStore, "metas", lambda self, helped=helped: helped)
        with pytest.raises(DataError, match="no failed episode"):
            mend_own(source, [ENV], tmp_path, OPTIONS)


def test_a_success_is_recorded_without_an_event_and_with_its_stages(mended: Path) -> None:
    (meta,) = [m for m in EpisodeStore(mended / EPISODES).metas() if m.env_seed == 3]
    assert (meta.arm, meta.outcome, meta.failure_events) == ("own-expert", "success", ())
    assert "kind" not in meta.extra
    spans = sorted(meta.extra["stages"].values())
    assert spans[0][0] == 0 and spans[-1][1] == meta.n_steps
    assert all(before[1] == after[0] for before, after in pairwise(spans))


def test_successes_are_left_out_on_demand(source: Path, tmp_path: Path) -> None:
    mend_own(source, [ENV], tmp_path, replace(OPTIONS, successes=False, corrections=1))
    assert sorted(a.seed for a in read_attempts(tmp_path)) == [1, 2]


def test_a_replay_that_departs_from_its_record_is_no_source_of_ways_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = StoredEpisode.actions
    monkeypatch.setattr(StoredEpisode, "actions", lambda self: -episode(self))
    mend_own(source, [ENV], tmp_path, OPTIONS)
    attempts = read_attempts(tmp_path)
    assert {a.result for a in attempts} == {"error"}
    assert all("departs from its record" in a.error for a in attempts)


def test_it_is_the_same_episode_explained_and_mended_from_its_own_states(source: Path, mended: Path) -> None:
    episodes, recoveries = EpisodeStore(mended / EPISODES), EpisodeStore(mended / RECOVERIES)
    env = make_env(ENV)
    for meta in episodes.metas():
        if meta.arm == "plan" or meta.outcome == "success":
            continue
        own = EpisodeStore(source).read(meta.extra["own"])
        np.testing.assert_array_equal(episodes.read(meta.episode_id).actions(), own.actions())
        (event,) = meta.failure_events
        assert event.source == "rule"
        assert meta.extra["kind"]["mode"] == event.mode
    for meta in recoveries.metas():
        episode = recoveries.read(meta.episode_id)
        failed = episodes.read(meta.extra["recovers"])
        at = meta.extra["takeover"]
        assert at > failed.meta.failure_events[0].onset_step
        np.testing.assert_array_equal(episode.actions()[:at], failed.actions()[:at])
        env.reset(seed=meta.env_seed, options={"instruction": meta.instruction})
        assert any(env.step(action)[-1]["success"] for action in episode.actions()), "seen again from the start"
    assert len(recoveries) == 2


def test_stages_end_where_their_conditions_first_hold() -> None:
    run = Run([], [], [])
    run.actions = [np.zeros(1)] * 6  # type: ignore[list-item]
    held = [(False, False), (True, False), (False, False), (True, False), (True, False), (True, False)]
    run.conditions = [dict(zip(("near", "done"), row, strict=True)) for row in held]
    assert stages_of(run, ("near", "done")) == {"near": [0, 2], "done": [2, 6]}


def test_nothing_to_mend_and_nobody_to_explain_are_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no failed episode of metaworld/reach"):
        mend_own(source, ["metaworld/reach"], tmp_path, OPTIONS)
    collect([RolloutItem("tiny/push", 1, 1, "random", "random:3")], tmp_path / "tiny", workers=1, quiet=True)
    with pytest.raises(SetupError, match="tells no poses"):
        mend_own(tmp_path / "tiny", ["tiny/push"], tmp_path / "out", OPTIONS)


def test_the_verb(source: Path, mended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "--env", ENV, "--failures", str(source), "--out", str(mended), "--workers", "1"]
    assert main(command) == 0
    assert "metaworld/push: 2 of 2 failures mended, 2 verified recoveries" in capsys.readouterr().out
    assert main([*command, "--modes", "slip"]) == 2
    assert "leave out --spec, --modes" in capsys.readouterr().err
