"""A recovery actor learns from failures on purpose, comes back from disk as it was, and is judged on other layouts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chunk_data import small_policy

from failwise.cli import main
from failwise.envs.tiny import make
from failwise.errors import CheckpointError, DataError
from failwise.generate import GenerateOptions, Request, cells_of, generate
from failwise.learn.options import RecoveryTraining
from failwise.learn.recovery import held_out, judge, load_windows, train_recovery
from failwise.policies.compact import CompactVLA
from failwise.recover.compact import NONE, CompactAdvisor
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore
from failwise.types import Actor

ENV = "tiny/push"
OPTIONS = RecoveryTraining(window=4, steps=150, batch=48, grace=4)


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
    return metas, load_windows(policy, data, metas, stages, kinds, OPTIONS)


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
    assert (tmp_path / "r" / "recovery.safetensors").is_file()
    assert main(["train", "recovery", "--data", str(tmp_path / "none"), *command[4:]]) == 2
