"""However many agents act with the same weights, a process holds them once; and nothing of an episode is shared."""

from __future__ import annotations

import gc
import shutil
from weakref import ref

import numpy as np
import torch
from small_policy import observations, small_policy

from failwise.agent import PolicyAgent, load_agent
from failwise.improve.candidates import Candidate
from failwise.policies import load_policy
from failwise.policies.sharing import content_sha256, shared_policy


def storages(policies):
    """Where the weights lie; the same address is the same memory."""
    return {p.data_ptr() for policy in policies for p in policy.network.parameters()}


def eight_candidates(folder):
    small_policy().save(folder / "network")
    shutil.copytree(folder / "network", folder / "elsewhere" / "copy")
    where = [folder / "network", folder / "elsewhere" / "copy"]
    candidates = [Candidate(f"candidate-{number}", []) for number in range(8)]
    return [c.write(folder / "candidates" / c.name, where[i % 2], None) for i, c in enumerate(candidates)]


def test_eight_candidates_hold_one_copy_of_their_weights(tmp_path):
    agents = [load_agent(folder) for folder in eight_candidates(tmp_path)]
    one = load_policy(tmp_path / "network")
    assert len(storages(agent.policy for agent in agents)) == len(list(one.network.parameters()))
    assert len({id(agent.policy) for agent in agents}) == 8, "each has a state of its own"


def test_a_shared_policy_acts_as_one_of_its_own(tmp_path):
    small_policy().save(tmp_path)
    alone = PolicyAgent(load_policy(tmp_path))
    held = [load_agent(tmp_path) for _ in range(3)]
    (seen,) = observations(1)
    expected = {}
    for seed in (1, 2):
        alone.begin(None, seed)
        expected[seed] = [alone.act(seen).actions for _ in range(2)]
    held[1].begin(None, 1)
    held[2].begin(None, 2)
    for turn in range(2):  # one after the other, in the middle of both episodes
        for seed in (1, 2):
            np.testing.assert_array_equal(held[seed].act(seen).actions, expected[seed][turn])


def test_weights_are_let_go_with_the_last_agent_that_acts_with_them(tmp_path):
    small_policy().save(tmp_path)
    first, second = shared_policy(tmp_path), shared_policy(tmp_path)
    network = ref(first.network)
    del first
    gc.collect()
    third = shared_policy(tmp_path)
    assert third.network is second.network is network()
    del second, third
    gc.collect()
    assert network() is None


def test_a_folder_that_was_trained_into_again_is_read_again(tmp_path):
    small_policy().save(tmp_path)
    before, hash_before = shared_policy(tmp_path), content_sha256(tmp_path)
    other = small_policy()
    with torch.no_grad():
        next(other.network.parameters()).add_(1.0)
    other.save(tmp_path)
    after = shared_policy(tmp_path)
    assert content_sha256(tmp_path) != hash_before
    assert not torch.equal(next(before.network.parameters()), next(after.network.parameters()))
    assert torch.equal(next(other.network.parameters()), next(after.network.parameters()))
