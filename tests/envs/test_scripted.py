"""Policies without a network keep the policy's contract."""

from pathlib import Path

import numpy as np
import pytest

from failwise.envs import make_env
from failwise.errors import CheckpointError, EpisodeError, SetupError
from failwise.policies import load_policy
from failwise.policies.scripted import ExpertPolicy, RandomPolicy
from failwise.protocols import Policy


def test_random_actions_are_seeded_and_fill_the_range() -> None:
    observation, _ = make_env("tiny/reach").reset(seed=0)
    policy = RandomPolicy(action_dim=3, horizon=500)
    assert isinstance(policy, Policy) and policy.spec.kind == "random"
    policy.reset(4)
    first = [chunk.actions for chunk in policy.infer([observation] * 2)]
    policy.reset(4)
    again = [chunk.actions for chunk in policy.infer([observation] * 2)]
    assert np.array_equal(first, again) and not np.array_equal(first[0], first[1])
    policy.reset(5)
    assert not np.array_equal(policy.infer([observation])[0].actions, first[0])
    assert first[0].dtype == np.float32 and first[0].shape == (500, 3)
    assert np.abs(first[0]).max() <= 1.0 and (first[0].max(0) > 0.95).all() and (first[0].min(0) < -0.95).all()
    assert np.abs(first[0].mean(0)).max() < 0.1


def test_a_random_policy_is_saved_and_loaded(tmp_path: Path) -> None:
    RandomPolicy(action_dim=3, horizon=5).save(tmp_path)
    assert load_policy(tmp_path).spec == RandomPolicy(action_dim=3, horizon=5).spec
    (tmp_path / "config.json").write_text('{"kind": "random", "action_dim": 0, "horizon": 5}')
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a random policy"):
        load_policy(tmp_path)


def test_the_expert_as_a_policy() -> None:
    env = make_env("tiny/push")
    policy = ExpertPolicy(env)
    assert isinstance(policy, Policy)
    observation, info = env.reset(seed=2)
    while not info["success"]:
        observation, _, _, truncated, info = env.step(policy.infer([observation])[0].actions[0])
        assert not truncated
    with pytest.raises(EpisodeError, match="one observation at a time"):
        policy.infer([observation] * 2)


def test_no_action_dims_no_policy() -> None:
    with pytest.raises(SetupError, match="action_dim >= 1"):
        RandomPolicy(action_dim=0)
