"""Checkpoints of LeRobot are held once by all agents that act with them, each with a past of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from failwise.agent import PolicyAgent, load_agent
from failwise.policies import load_policy
from failwise.types import Observation


def view(policy, seed):
    random = np.random.default_rng(seed)
    images = {name: random.integers(0, 256, (*size, 3), np.uint8) for name, size in policy.spec.cameras.items()}
    return Observation(images, random.normal(size=policy.spec.state_dim).astype(np.float32), "move to the red disc")


def storages(policy):
    return {p.data_ptr() for p in policy.policy.parameters()}


@pytest.mark.parametrize("kind", ["smolvla", "diffusion", "act"])
def test_weights_are_shared_and_episodes_are_not(request, kind):
    folder = request.getfixturevalue(kind)
    torch.manual_seed(0)
    alone = PolicyAgent(load_policy(folder))
    first, second = load_agent(folder), load_agent(folder)
    assert storages(first.policy) == storages(second.policy)
    assert storages(first.policy).isdisjoint(storages(alone.policy))
    assert first.policy is not second.policy
    expected = {}
    for seed in (1, 2):
        alone.begin(None, seed)
        expected[seed] = [alone.act(view(alone.policy, 10 * seed + turn)).actions for turn in range(2)]
    first.begin(None, 1)
    second.begin(None, 2)
    for turn in range(2):
        for seed, agent in ((1, first), (2, second)):
            actions = agent.act(view(agent.policy, 10 * seed + turn)).actions
            np.testing.assert_array_equal(actions, expected[seed][turn])
