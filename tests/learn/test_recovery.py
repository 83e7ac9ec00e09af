"""A recovery actor learns from failures on purpose, comes back from disk as it was, and is judged on other layouts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chunk_data import small_policy

from failwise.cli import main
from failwise.envs.tiny import make
from failwise.errors import CheckpointError, DataError, SetupError
from failwise.generate import GenerateOptions, Request, cells_of, generate
from failwise.learn import frames
from failwise.learn.frames import FrameFeatures
from failwise.learn.options import RecoveryTraining
from failwise.learn.recovery import fewer_plans, held_out, judge, load_windows, train_recovery
from failwise.policies.compact import CompactVLA
from failwise.recover.compact import NONE, CompactAdvisor, frame_features
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore
from failwise.types import Actor

ENV = "tiny/push"
OPTIONS = RecoveryTraining(plans=1e9, window=4, steps=150, batch=48, grace=4)


@pytest.fixture(scope="module")
def policy() -> CompactVLA:
    policy = small_policy()
    policy.text.load_state_dict({make("push").spec.instruction: torch.randn(6, 384).half()})
    return policy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("failures")
    requests = [Request(mode=mode, episodes=6) for mode in ("translation", "wrong_sequence", "noop")]
    generate(cells_of(make("push"), requests), out, GenerateOptions(workers=1, look_every=2))
    return out


@pytest.fixture(scope="module")
def advisor(policy: CompactVLA, data: Path) -> CompactAdvisor:
    return train_recovery(policy, data, OPTIONS)


def windows_of(policy: CompactVLA, data: Path):
    metas = [m for m in EpisodeStore(data / "episodes").metas() if "stages" in m.extra]
    kinds = [NONE, *sorted({(p["mode"], p["axis"]) for m in metas if (p := m.extra.get("kind"))})]
    stages = sorted({s for m in metas for s in m.extra["stages"]})
    return metas, load_windows(FrameFeatures(policy), data, metas, stages, kinds, OPTIONS)


def test_moments_are_labelled_by_what_was_done(policy: CompactVLA, data: Path) -> None:
    metas, (windows, stride) = windows_of(policy, data)
    assert stride == 2
    plans = sum(m.n_frames for m in metas if m.arm == "plan")
    onsets = {m.episode_id: m.failure_events[0].onset_step for m in metas if m.failure_events}
    before = sum(-(-onset // 2) for onset in onsets.values())
    assert (~windows.failing).sum() == plans + before
    moves = sum(len(m.extra.get("corrections", ())) for m in metas)
    assert np.isfinite(windows.delta[:, 0]).sum() == moves
    assert windows.failing[np.isfinite(windows.delta[:, 0])].all()
    assert set(windows.kind[~windows.failing]) == {0} and 0 not in windows.kind[windows.failing]


def test_it_learns_and_says_how_well_on_layouts_it_never_saw(
    advisor: CompactAdvisor, policy: CompactVLA, data: Path
) -> None:
    figures, windows = advisor.notes["figures"], windows_of(policy, data)[1][0]
    assert figures["moments"] + advisor.notes["windows"] == len(windows)
    assert advisor.notes["held_out_layouts"] >= 1
    assert 0 <= figures["auc"] <= 1 and -1 <= figures["cosine"] <= 1
    # The eyes are random here, so what it knows of other layouts is little; what it was shown it has to know.
    shown = windows.take(~held_out(windows.seed, OPTIONS))
    assert len(shown) == advisor.notes["windows"]
    known = judge(advisor.network, advisor.scaler, advisor.delta_scale, shown)
    assert known["auc"] > 0.9 and known["binary"] > 0.8 and known["kind"] > 0.6
    assert known["cosine"] > 0.6 and known["gripper"] == 1.0 and known["stage"] > 0.8


def test_it_comes_back_from_disk_as_it_was(advisor: CompactAdvisor, tmp_path: Path) -> None:
    advisor.save(tmp_path)
    again = CompactAdvisor.load(tmp_path)
    env = make("push")
    for one in (advisor, again):
        one.policy.text.load_state_dict({env.spec.instruction: torch.ones(6, 384).half()})
        one.begin()
    observation, _ = env.reset(seed=1)
    for _ in range(6):
        for one in (advisor, again):
            one.see(observation)
        assert advisor.advise() == again.advise()
        observation, *_ = env.step(env.expert())
    assert len(advisor.advise().delta) == 7
    (tmp_path / "recovery.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a recovery actor"):
        CompactAdvisor.load(tmp_path)


def test_only_the_last_frames_count(advisor: CompactAdvisor) -> None:
    env = make("push")
    env.reset(seed=2)
    observations = [env.step(np.array([0.5, 0.2, -1.0]))[0] for _ in range(1)]
    advisor.begin()
    for _ in range(9):
        advisor.see(observations[0])
    long = advisor.advise()
    advisor.begin()
    advisor.see(observations[0])
    assert advisor.advise() == long, "the first frame stands for those before it"


def test_it_takes_over_in_rollouts(advisor: CompactAdvisor, tmp_path: Path) -> None:
    advisor.save(tmp_path / "recovery")
    item = RolloutItem(ENV, 300_000, 1, "helped", "random:3", recover=str(tmp_path / "recovery"))
    options = item.takeover.model_copy(update={"threshold": 0.0, "attempts": 1})
    (meta,) = collect([replace(item, takeover=options)], tmp_path / "out", workers=1, quiet=True)
    assert len(meta.extra["takeover"]["takeovers"]) == 1
    actors = EpisodeStore(tmp_path / "out").read(meta.episode_id).actors()
    assert {str(a) for a in actors} == {Actor.POLICY, Actor.RECOVERY}


def test_failures_without_pictures_or_none_at_all_are_told(policy: CompactVLA, tmp_path: Path) -> None:
    cells = cells_of(make("push"), [Request(mode="wrong_sequence", episodes=1)])
    generate(cells, tmp_path, GenerateOptions(workers=1, look_every=0))
    with pytest.raises(DataError, match="no failures with pictures"):
        train_recovery(policy, tmp_path, OPTIONS)


def test_the_command_line_tells_the_figures(policy: CompactVLA, data: Path, tmp_path: Path, capsys) -> None:
    policy.save(tmp_path / "policy")
    command = [
        "train",
        "recovery",
        "--data",
        str(data),
        "--policy",
        str(tmp_path / "policy"),
        "--out",
        str(tmp_path / "r"),
    ]
    assert main([*command, "--steps", "20", "--window", "3"]) == 0
    told = capsys.readouterr().out
    assert "held-out layouts" in told and "cosine of the move" in told
    assert (tmp_path / "r" / "recovery.safetensors").is_file() and not (tmp_path / "r" / "frames").exists()
    assert main(["train", "recovery", "--data", str(tmp_path / "none"), *command[4:]]) == 2


def test_features_are_made_once_and_again_where_anything_of_theirs_changed(
    policy: CompactVLA, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EpisodeStore(data / "episodes")
    episode = store.read(store.metas()[0].episode_id)
    seen = []
    monkeypatch.setattr(frames, "frame_features", lambda *args: seen.append(args) or frame_features(*args))
    looks, first = FrameFeatures(policy, tmp_path)(episode)
    once = len(seen)
    assert once and len(looks) == len(first) == episode.meta.n_frames
    again = FrameFeatures(policy, tmp_path)(episode)
    assert len(seen) == once and again[0] == looks and np.array_equal(again[1], first)
    assert np.array_equal(FrameFeatures(policy)(episode)[1], first) and len(seen) == 2 * once

    other = small_policy()
    other.text.load_state_dict({episode.meta.instruction: torch.randn(6, 384).half()})
    assert not np.array_equal(FrameFeatures(other, tmp_path)(episode)[1], first), "of other sentences"
    episode.meta = episode.meta.model_copy(update={"env_seed": -1})
    FrameFeatures(policy, tmp_path)(episode)
    assert len(seen) == 4 * once and len(list(tmp_path.iterdir())) == 3


def test_damaged_features_are_told(policy: CompactVLA, data: Path, tmp_path: Path) -> None:
    store = EpisodeStore(data / "episodes")
    episode = store.read(store.metas()[0].episode_id)
    FrameFeatures(policy, tmp_path)(episode)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"is damaged .*; remove it"):
        FrameFeatures(policy, tmp_path)(episode)


def test_a_training_that_was_stopped_goes_on(
    policy: CompactVLA, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stopped(*args):
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return frame_features(*args)

    monkeypatch.setattr(frames, "frame_features", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_recovery(policy, data, OPTIONS, tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept and not any(name.endswith(".tmp") for name in kept)
    before = calls
    assert train_recovery(policy, data, OPTIONS, tmp_path).notes == train_recovery(policy, data, OPTIONS).notes
    assert kept < {path.name for path in tmp_path.iterdir()}
    whole = calls - before
    calls = 100
    train_recovery(policy, data, OPTIONS, tmp_path)
    assert whole > 0 and calls == 100


def test_plans_are_as_many_as_asked_for_and_of_layouts_with_failures_first(data: Path) -> None:
    metas = [m for m in EpisodeStore(data / "episodes").metas() if "stages" in m.extra]
    failures = [m for m in metas if "kind" in m.extra]
    plans = {m.env_seed for m in metas if m.arm == "plan"}
    spare = metas[0].model_copy(update={"episode_id": "spare", "env_seed": min(plans) - 1, "arm": "plan", "extra": {}})
    own = failures[0].model_copy(update={"episode_id": "own", "arm": "own"})
    own = own.model_copy(update={"extra": {**own.extra, "own": {}}})
    chosen = fewer_plans([spare, own, *metas], 0.25)
    assert [m for m in chosen if m.arm != "plan"] == [own, *(m for m in metas if m.arm != "plan")]
    left = [m.env_seed for m in chosen if m.arm == "plan"]
    assert len(left) == -(-len(failures) // 4) and set(left) <= {m.env_seed for m in failures}
    assert {m.env_seed for m in fewer_plans([spare, *metas], 100) if m.arm == "plan"} == plans | {spare.env_seed}
    assert not any(m.arm == "plan" for m in fewer_plans(metas, 0))


@pytest.mark.parametrize("plans", [-1.0, float("nan")])
def test_a_share_of_plans_below_zero_is_refused(plans: float) -> None:
    with pytest.raises(SetupError, match="plans at least 0"):
        RecoveryTraining(plans=plans)
