"""ManiSkill3's arm is driven without upstream's tensors, and nobody can tell by what happens."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from failwise.envs import make_env
from failwise.envs.maniskill.env import TASKS

simulated = [
    pytest.mark.maniskill,
    pytest.mark.skipif(find_spec("mani_skill") is None, reason="set it up with: make maniskill"),
]


@pytest.fixture(scope="module", params=[pytest.param(t, marks=simulated) for t in (*TASKS, "PickCube-v1@arm")])
def env(request):
    env = make_env(f"maniskill/{request.param}", cameras=())
    yield env
    env.close()


def some_actions(env, n):
    """The expert's, and every third one at random, often at the bounds."""
    random = np.random.default_rng(0)
    for k in range(n):
        wild = random.uniform(-1.4, 1.4, 7).astype(np.float32)
        yield env.expert() if k % 3 else np.clip(wild, -1.0, 1.0)


def test_targets_are_upstreams_bit_for_bit(env):
    import torch

    world, agent = env._world, env._world._env.agent
    joints = [joint._objs[0] for part in agent.controller.controllers.values() for joint in part.joints]

    def targets():
        return np.array([np.ravel(joint.drive_target)[0] for joint in joints])

    assert world._drive is not None
    env.reset(seed=1)
    for action in some_actions(env, 60):
        agent.set_action(torch.from_numpy(action)[None])
        upstreams = targets()
        for joint in joints:
            joint.set_drive_target(9.0)
        world._drive(action)
        np.testing.assert_array_equal(targets(), upstreams)
        env.step(action)


def test_what_happens_is_what_upstreams_own_step_makes_happen(env):
    world, drive = env._world, env._world._drive
    env.reset(seed=2)
    actions, ours = [], []
    for action in some_actions(env, 60):
        observation, reward, _, _, info = env.step(action)
        actions.append(action)
        ours.append((observation.state, reward, info["conditions"]))
    try:
        world._drive = None
        env.reset(seed=2)
        for action, (state, reward, conditions) in zip(actions, ours, strict=True):
            observation, upstreams, _, _, info = env.step(action)
            np.testing.assert_array_equal(observation.state, state)
            assert (upstreams, info["conditions"]) == (reward, conditions)
    finally:
        world._drive = drive


def test_a_grasp_is_what_upstream_calls_one(env):
    world, agent = env._world, env._world._env.agent
    env.reset(seed=4)
    held = 0
    for _ in range(90):
        env.step(env.expert())
        for thing in world._things:
            verdict = bool(type(agent).is_grasping(agent, thing))
            assert bool(agent.is_grasping(thing)) == verdict
            held += verdict
    assert held or not world._task.held, "something was grasped, so that both verdicts were seen"


def test_a_look_at_the_state_is_upstreams(env):
    env.reset(seed=3)
    for action in some_actions(env, 20):
        env.step(action)
    mine, upstreams = env.peek(), env._world._env.get_state_dict()
    names = {f"{group}/{name}" for group in ("actors", "articulations") for name in upstreams.get(group, {})}
    assert names == {name for name in mine if "/" in name}
    for name in names:
        group, _, item = name.partition("/")
        np.testing.assert_array_equal(mine[name], upstreams[group][item].numpy())
