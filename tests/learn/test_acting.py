"""A policy that acts during takeovers: learned from ways out of failures, found in a recovery actor's folder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chunk_data import small_policy

from failwise.cli import main
from failwise.envs.tiny import make
from failwise.errors import CheckpointError, DataError, EpisodeError, SetupError
from failwise.generate import GenerateOptions, Request, cells_of, generate
from failwise.learn.options import FitOptions
from failwise.learn.recovery import train_acting
from failwise.policies import load_policy
from failwise.recover import acting as acting_module
from failwise.recover import compact
from failwise.recover.acting import ActingPolicy
from failwise.recover.takeover import TakeoverOptions, load_takeover
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore
from failwise.types import Actor


class Silent:
    """An advisor that is never asked."""

    stride = 2


def test_a_recovery_policy_is_what_a_folder_does_where_it_has_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(compact.CompactAdvisor, "load", classmethod(lambda cls, folder: Silent()))
    folder = str(tmp_path)
    assert load_takeover(folder, TakeoverOptions()).remedy == "correct"
    with pytest.raises(SetupError, match=r"has no policy that acts; train it with --acting\.steps"):
        load_takeover(folder, TakeoverOptions(remedy="policy"))
    small_policy().save(tmp_path / "acting")
    assert load_takeover(folder, TakeoverOptions()).remedy == "policy"
    assert load_takeover(folder, TakeoverOptions(remedy="policy")).acting is not None
    assert load_takeover(folder, TakeoverOptions(remedy="correct")).remedy == "correct"
    (tmp_path / "acting" / "training").mkdir()  # another training of it was stopped
    with pytest.raises(CheckpointError, match="is not done; finish it with the same 'failwise train recovery'"):
        load_takeover(folder, TakeoverOptions())
    assert load_takeover(folder, TakeoverOptions(remedy="correct")).remedy == "correct"


def test_a_recovery_policy_draws_by_its_seed_alone_and_chunk_after_chunk() -> None:
    env, policy = make("push"), small_policy()
    policy.text.load_state_dict({env.spec.instruction: torch.ones(6, 384).half()})
    acting = ActingPolicy(policy)
    observation, _ = env.reset(seed=1)

    def told(seed: int, n: int) -> np.ndarray:
        acting.begin(seed)
        return np.stack([acting.act(observation) for _ in range(n)])

    n = policy.spec.execute
    first = told(4, 2 * n)
    assert np.array_equal(told(4, 2 * n), first) and not np.array_equal(told(5, 2 * n), first)
    assert first.shape == (2 * n, 3) and not np.array_equal(first[:n], first[n:])
    acting.begin(4)
    acting.act(observation)
    acting.take_over()
    assert np.array_equal(acting.act(observation), first[n]), "a takeover looks anew"


def test_what_is_no_number_ends_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    env, policy = make("push"), small_policy()
    policy.text.load_state_dict({env.spec.instruction: torch.ones(6, 384).half()})
    monkeypatch.setattr(policy, "decode", lambda actions_BHA: np.full((1, policy.spec.horizon, 3), np.nan))
    with pytest.raises(EpisodeError, match="recovery policy returned actions that are not finite"):
        ActingPolicy(policy).act(env.reset(seed=1)[0])


def test_a_policy_without_denoising_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        spec = small_policy().spec

    monkeypatch.setattr("failwise.policies.sharing.shared_policy", lambda folder: Other())
    with pytest.raises(CheckpointError, match="a recovery policy is one of 'failwise train bc'"):
        ActingPolicy.load(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("failures")
    cells = cells_of(make("push"), [Request(mode="noop", episodes=4)])
    generate(cells, out, GenerateOptions(workers=1, look_every=2))
    return out


def test_one_command_trains_both_and_the_policy_acts_in_rollouts(data: Path, tmp_path: Path, capsys) -> None:
    policy = small_policy()
    policy.text.load_state_dict({make("push").spec.instruction: torch.randn(6, 384).half()})
    policy.save(tmp_path / "policy")
    folder = tmp_path / "recovery"
    command = ["train", "recovery", "--data", str(data), "--policy", str(tmp_path / "policy"), "--out", str(folder)]
    assert main([*command, "--steps", "5", "--acting.steps", "3", "--acting.warmup", "1"]) == 0
    told = load_policy(folder / acting_module.FOLDER)
    plans = [m for m in EpisodeStore(data / "episodes").metas() if m.arm == "plan"]
    assert told.notes["trained_on"] == {"tiny/push": len(plans)}
    ways_out = EpisodeStore(data / "recoveries").metas()
    assert told.notes["also_trained_on"]["episodes"] == {"tiny/push": len(ways_out)}
    assert f"learned {len(ways_out)} ways out of failures" in capsys.readouterr().out
    before = load_policy(tmp_path / "policy").network.state_dict()
    assert any(not torch.equal(x, before[name]) for name, x in told.network.state_dict().items())

    item = RolloutItem("tiny/push", 300_000, 1, "helped", "random:3", recover=str(folder))
    options = item.takeover.model_copy(update={"threshold": 0.0, "attempts": 1, "acting_steps": 12})
    (meta,) = collect([replace(item, takeover=options)], tmp_path / "out", workers=1, quiet=True)
    assert meta.extra["takeover"]["remedy"] == "policy"
    assert (EpisodeStore(tmp_path / "out").read(meta.episode_id).actors() == Actor.RECOVERY).sum() == 12


def test_without_steps_none_is_trained(data: Path, tmp_path: Path, capsys) -> None:
    policy = small_policy()
    policy.text.load_state_dict({make("push").spec.instruction: torch.randn(6, 384).half()})
    policy.save(tmp_path / "policy")
    command = ["train", "recovery", "--data", str(data), "--policy", str(tmp_path / "policy")]
    assert main([*command, "--out", str(tmp_path / "r"), "--steps", "5", "--acting.steps", "0"]) == 0
    assert (tmp_path / "r" / "recovery.json").is_file() and not acting_module.has_acting(tmp_path / "r")
    (tmp_path / "r" / "acting").mkdir()
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "r"), "--steps", "5", "--acting.steps", "0"]) == 2
    assert "is an earlier recovery policy, which would act; choose another --out" in capsys.readouterr().err


def test_an_earlier_recovery_policy_does_not_act_beside_a_new_actor(data: Path, tmp_path: Path, monkeypatch) -> None:
    policy = small_policy()
    policy.text.load_state_dict({make("push").spec.instruction: torch.randn(6, 384).half()})
    policy.save(tmp_path / "policy")
    small_policy(1).save(tmp_path / "r" / "acting")
    assert acting_module.has_acting(tmp_path / "r")
    monkeypatch.setattr("failwise.learn.recovery.train_bc", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    command = ["train", "recovery", "--data", str(data), "--policy", str(tmp_path / "policy")]
    main([*command, "--out", str(tmp_path / "r"), "--steps", "5"])
    assert (tmp_path / "r" / "recovery.json").is_file() and not acting_module.has_acting(tmp_path / "r")
    with pytest.raises(CheckpointError, match="is not done; finish it"):
        load_takeover(str(tmp_path / "r"), TakeoverOptions())


def test_no_ways_out_are_told(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=r"has no ways out of failures with pictures .* --acting\.steps 0"):
            train_acting(tmp_path / "policy", tmp_path, tmp_path / "r", FitOptions(steps=1))
        EpisodeStore(tmp_path / "recoveries")
