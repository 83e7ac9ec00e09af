"""Agents: what a spec stands for, folders that come back whole, experts with faults, actions that are no numbers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_policy import HEADS, observations, small_policy

from failwise.agent import ExpertAgent, PolicyAgent, load_agent, save_agent
from failwise.envs import make_env
from failwise.errors import CheckpointError, EpisodeError, SetupError, UnknownNameError
from failwise.policies import weights_folder
from failwise.policies.compact import weights_sha256
from failwise.policies.critic import Critic, CriticNetwork
from failwise.policies.critic_config import CriticConfig
from failwise.policies.scripted import ExpertPolicy, RandomPolicy
from failwise.protocols import Policy
from failwise.steer import BestOfN, Chain, Unsteered
from failwise.types import ActionChunk


def acted(agent, seed=3, n=1):
    agent.begin(None, seed)
    return [agent.act(o).actions for o in observations(n)]


def test_a_policy_folder_is_an_agent(tmp_path):
    small_policy().save(tmp_path / "p")
    agent = load_agent(tmp_path / "p")
    chunk = agent.begin(None, 3) or agent.act(observations(1)[0])
    assert chunk.actions.shape == (4, 3) and chunk.features.shape == (32,) and chunk.latency_s > 0
    about = agent.provenance()
    assert about.agent == str(tmp_path / "p") and about.checkpoint_sha256 == weights_sha256(tmp_path / "p")


def test_the_seed_is_all_the_randomness(tmp_path):
    small_policy().save(tmp_path)
    one, two = load_agent(tmp_path), load_agent(tmp_path)
    first = acted(one, n=3)
    assert all(map(np.array_equal, first, acted(two, n=3)))
    assert all(map(np.array_equal, first, acted(one, n=3))), "an agent that is used again begins afresh"
    assert not np.array_equal(first[0], acted(one, seed=4)[0])


def test_an_agent_folder_comes_back_whole(tmp_path):
    torch.manual_seed(0)
    shapes = CriticConfig(prefix_dim=32, horizon=4, action_dim=3, width=16, attention_heads=2, layers=1, members=2)
    critic = Critic(shapes, CriticNetwork(shapes))
    steering = [
        {"name": "afil", "options": {"alpha": 0.5, "schedule": "constant", "gate": "none"}},
        {"name": "best_of_n", "options": {"samples": 3}},
    ]
    folder = save_agent(tmp_path / "agent", small_policy(), steering, critic, execute=2)
    agent = load_agent(folder)
    assert isinstance(agent, PolicyAgent) and isinstance(agent.steering, Chain)
    assert agent.steering.samples == 3 and set(agent.steering.heads) == {"success", "failure"}
    assert agent.policy.spec.heads == HEADS
    actions = acted(agent)[0]
    assert actions.shape == (2, 3), "execute=2 cuts the chunk"
    assert np.array_equal(actions, acted(load_agent(folder))[0])
    plain = PolicyAgent(small_policy(), None, 2)
    assert not np.array_equal(actions, acted(plain)[0])
    folder.rename(tmp_path / "moved")
    assert np.array_equal(actions, acted(load_agent(tmp_path / "moved"))[0]), "a folder that is whole can be moved"


def test_no_steering_is_the_neutral_one():
    policy = small_policy()
    plain, neutral = PolicyAgent(policy), PolicyAgent(policy, Unsteered())
    assert np.array_equal(acted(plain)[0], acted(neutral)[0])


def test_execute_is_within_the_horizon():
    with pytest.raises(SetupError, match="execute must be 1 to the policy's horizon 4, not 5"):
        PolicyAgent(small_policy(), execute=5)
    with pytest.raises(SetupError, match="not 0"):
        PolicyAgent(small_policy(), execute=0)


def test_a_policy_without_denoising_cannot_be_steered():
    with pytest.raises(SetupError, match="'random' gives no denoising to steer"):
        PolicyAgent(RandomPolicy(3), BestOfN(lambda a, c: a.mean((-2, -1)), 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_an_episodes_error(bad):
    class Broken(RandomPolicy):
        def infer(self, observations):
            return [ActionChunk(np.full((8, 3), bad, np.float32))]

    agent = PolicyAgent(Broken(3))
    with pytest.raises(EpisodeError, match="not finite"):
        acted(agent)


def test_weights_that_are_not_finite_are_an_episodes_error():
    policy = small_policy()
    with torch.no_grad():
        policy.network.experts.out.bias.fill_(float("nan"))
    with pytest.raises(EpisodeError, match="not finite"):
        acted(PolicyAgent(policy))


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("random:x", SetupError, "write random:ACTION_DIM"),
        ("random:0", SetupError, "write random:ACTION_DIM"),
        ("expert:perfect", SetupError, "'clean' or 'mixed', not 'perfect'"),
        ("nowhere/at-all", CheckpointError, "no policy folder 'nowhere/at-all'"),
    ],
)
def test_a_spec_that_stands_for_nothing(spec, error, says):
    with pytest.raises(error, match=says):
        load_agent(spec)


@pytest.mark.parametrize(
    ("about", "error", "says"),
    [
        ("{", CheckpointError, "is not valid JSON"),
        ("[]", CheckpointError, "is not an agent description"),
        ('{"format": "failwise-agent-9", "policy": "policy"}', CheckpointError, "is not an agent description"),
        ('{"format": "failwise-agent-1"}', CheckpointError, "is not an agent description"),
        ('{"format": "failwise-agent-1", "policy": "nothing"}', CheckpointError, "no policy folder"),
        (
            '{"format": "failwise-agent-1", "policy": "policy", "steering": [{"name": "best_of_m"}]}',
            UnknownNameError,
            "Did you mean 'best_of_n'",
        ),
        (
            '{"format": "failwise-agent-1", "policy": "policy", "critic": "c", "steering": [{"name": "afil"}]}',
            CheckpointError,
            "is not a critic folder",
        ),
    ],
)
def test_an_agent_folder_that_is_damaged(tmp_path, about, error, says):
    save_agent(tmp_path, small_policy(), [])
    (tmp_path / "agent.json").write_text(about)
    with pytest.raises(error, match=says) as caught:
        load_agent(tmp_path)
    assert "\n" not in str(caught.value)


def test_agent_json_says_what_is_in_the_folder(tmp_path):
    save_agent(tmp_path, small_policy(), [{"name": "none"}])
    assert json.loads((tmp_path / "agent.json").read_text()) == {
        "format": "failwise-agent-1", "policy": "policy", "steering": [{"name": "none"}],
    }  # fmt: skip
    assert (tmp_path / "policy" / "config.json").is_file() and not (tmp_path / "agent.tmp").exists()


def test_random_actions_fill_the_box_and_follow_the_seed(tmp_path):
    policy = RandomPolicy(3, horizon=500)
    assert isinstance(policy, Policy)
    policy.reset(1)
    first = policy.infer(observations(2))
    assert first[0].actions.shape == (500, 3) and not np.array_equal(first[0].actions, first[1].actions)
    assert -1 <= first[0].actions.min() < -0.95 and 0.95 < first[0].actions.max() <= 1
    policy.reset(1)
    assert np.array_equal(policy.infer(observations(2))[1].actions, first[1].actions)
    policy.save(tmp_path)
    assert load_agent(tmp_path).policy.spec == policy.spec
    (tmp_path / "config.json").write_text('{"kind": "random", "action_dim": 0, "horizon": 8}')
    with pytest.raises(CheckpointError, match="does not describe a random policy"):
        load_agent(tmp_path)


def episode(agent, seed, env_seed=5, steps=25):
    env = make_env("tiny/reach")
    observation, _ = env.reset(seed=env_seed)
    agent.begin(env, seed)
    actions = []
    for _ in range(steps):
        actions.append(agent.act(observation).actions)
        assert actions[-1].shape == (1, 3)
        observation, *_ = env.step(actions[-1][0])
    return np.concatenate(actions)


def test_the_clean_expert_is_the_environments_own():
    env = make_env("tiny/reach")
    observation, _ = env.reset(seed=5)
    policy = ExpertPolicy(env)
    actions = []
    for _ in range(25):
        actions.append(policy.infer([observation])[0].actions[0])
        observation, *_ = env.step(actions[-1])
    assert np.array_equal(np.stack(actions), episode(ExpertAgent(), 0))


def test_the_mixed_expert_errs_within_bounds_and_by_its_seed():
    clean = episode(ExpertAgent(), 0)
    flawed = [episode(ExpertAgent("mixed"), seed) for seed in range(8)]
    assert all(np.abs(actions).max() <= 1 for actions in flawed)
    assert sum(not np.array_equal(actions, clean) for actions in flawed) >= 5
    assert np.array_equal(flawed[2], episode(ExpertAgent("mixed"), 2))
    gripper = {float(v) for actions in flawed for v in actions[:, -1]}
    assert gripper <= {-1.0, 1.0}, "the gripper stays the expert's own"


def test_an_expert_needs_an_environment_that_has_one():
    with pytest.raises(SetupError, match="has no scripted expert"):
        ExpertAgent().begin(None, 0)


@pytest.mark.parametrize(
    ("left", "steps", "wanted"), [(0, 9, False), (1, 9, True), (2, 9, False), (1, 1, False), (1, 2, True)]
)
def test_a_step_is_shown_where_an_inference_will_look_back_to_it(left, steps, wanted):
    """One action before the next inference, unless the episode ends before that."""
    agent = SimpleNamespace(policy=SimpleNamespace(spec=SimpleNamespace(history=2)))
    assert PolicyAgent.looks_back(agent, left, steps) is wanted


def test_a_checkpoint_of_lerobot_train_may_be_named_by_the_folder_above(tmp_path):
    policy = small_policy()
    policy.save(tmp_path / "last" / "pretrained_model")
    agent = load_agent(tmp_path / "last")
    digest = weights_sha256(tmp_path / "last" / "pretrained_model")
    assert digest and agent.provenance().checkpoint_sha256 == digest
    assert weights_folder("lerobot:a/b?observation.image=c") == Path("a/b")
    assert weights_folder(f"lerobot:{tmp_path / 'last'}?k=c") == tmp_path / "last" / "pretrained_model"
    policy.save(tmp_path / "last")
    assert weights_folder(tmp_path / "last") == tmp_path / "last", "what says of itself that it is one is one"
