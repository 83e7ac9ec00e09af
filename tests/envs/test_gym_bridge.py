"""Gymnasium's side: its own checker passes, ids are found without an import, vectors repeat over their autoresets."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from failwise.envs import list_tasks, make_env
from failwise.errors import SetupError, UnknownNameError
from failwise.gym import GymEnv, gym_id, image_key
from failwise.seeds import RANGES

PUSH = "failwise.gym:failwise/tiny.push"


def play(vector: gymnasium.vector.VectorEnv, steps: int) -> list[Any]:
    """Observations, rewards and ends of a vector under the same actions, over several autoresets."""
    actions = np.random.default_rng(0)
    observation, info = vector.reset(seed=3)
    seen: list[Any] = [observation["state"].copy(), info["seed"].tolist()]
    for _ in range(steps):
        shape = vector.action_space.shape
        observation, reward, terminated, truncated, info = vector.step(actions.uniform(-1, 1, shape).astype(np.float32))
        seen += [observation["state"].copy(), reward.copy(), terminated.copy(), truncated.copy()]
        seen += [info["seed"].tolist()] if "seed" in info else []
    vector.close()
    return seen


def assert_equal(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (PUSH, {}),
        ("failwise.gym:failwise/tiny.reach", {"cameras": (), "success_ends": False}),
        pytest.param(
            "failwise.gym:failwise/metaworld.pick-place", {"cameras": ("corner",)}, marks=[pytest.mark.metaworld]
        ),
        pytest.param(
            "failwise.gym:failwise/Env", {"environment": "metaworld/pick-place@drop"}, marks=[pytest.mark.metaworld]
        ),
    ],
)
def test_gymnasiums_own_check_passes(name: str, options: dict[str, Any]) -> None:
    env = gymnasium.make(name, render_mode="rgb_array", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Proprioception has no bounds that an environment states, so these two are as they should be.
        warnings.filterwarnings("ignore", message=r".*Box observation space m\w+ value is -?infinity")
        check_env(env.unwrapped)
    env.close()


def test_an_id_is_found_without_an_import_and_loads_neither_torch_nor_a_simulator() -> None:
    code = (
        "import sys, gymnasium\n"
        f"env = gymnasium.make({PUSH!r}, cameras=())\n"
        "print(env.reset(seed=3)[1]['seed'], *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    seed, *loaded = done.stdout.split()
    assert seed == "3"
    assert not {"torch", "mujoco", "metaworld", "libero", "robosuite", "mani_skill", "sapien"} & {*loaded}


@pytest.mark.parametrize("suite", ["tiny", "metaworld", "maniskill", "libero"])
def test_every_task_has_an_id(suite: str) -> None:
    for task in list_tasks(suite):
        spec = gymnasium.spec(gym_id(f"{suite}/{task}"))
        assert spec.kwargs == {"environment": f"{suite}/{task}"}
    assert gym_id("libero/libero_spatial:0") == "failwise/libero.libero_spatial.0"


def test_a_suite_of_another_distribution_is_reached_by_its_own_id() -> None:
    env = gymnasium.make("failwise.gym:failwise/Env", environment="wide/push", cameras=())
    assert isinstance(env.unwrapped, GymEnv)
    np.testing.assert_array_equal(env.action_space.low, make_env("wide/push").spec.action_low)
    with pytest.raises(gymnasium.error.NameNotFound, match=r"Did you mean: `tiny\.push`"):
        gymnasium.make("failwise.gym:failwise/tiny.pus")


def test_observations_are_flat_and_of_the_moment() -> None:
    env, plain = (
        gymnasium.make(PUSH, image_size=40, render_mode="rgb_array", render_camera="robot"),
        make_env("tiny/push", image_size=40),
    )
    observation, info = env.reset(seed=3)
    expected, _ = plain.reset(seed=3)
    for _ in range(3):
        assert set(observation) == {"state", "image_top", "image_robot"}
        np.testing.assert_array_equal(observation["state"], expected.state)
        for camera in ("top", "robot"):
            np.testing.assert_array_equal(observation[image_key(camera)], expected.images[camera])
        np.testing.assert_array_equal(env.render(), expected.images["robot"])
        assert info["instruction"] == plain.spec.instruction and info["is_success"] is info["success"] is False
        action = np.array([0.5, -0.5, 0.0], np.float32)
        observation, _, _, _, info = env.step(action)
        expected = plain.step(action)[0]
    assert info["conditions"].keys() == set(plain.spec.conditions)
    assert env.metadata["render_fps"] == plain.spec.control_hz == 10.0
    wording = env.reset(seed=0, options={"instruction": "shove it home"})[1]["instruction"]
    assert wording == "shove it home"
    with pytest.raises(SetupError, match="no option 'wording'"):
        env.reset(options={"wording": "shove it home"})


@pytest.mark.parametrize("success_ends", [True, False])
def test_success_ends_an_episode_only_where_it_should(success_ends: bool) -> None:
    env = gymnasium.make(PUSH, cameras=(), success_ends=success_ends)
    env.reset(seed=300_000)
    steps, successes = 0, 0
    terminated = truncated = False
    while not (terminated or truncated):
        _, _, terminated, truncated, info = env.step(env.unwrapped.environment.expert())  # type: ignore[attr-defined]
        steps += 1
        successes += info["is_success"]
    assert terminated is success_ends and truncated is not success_ends
    assert (successes == 1) is success_ends and (steps == 120) is not success_ends


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_two_vectors_of_one_seed_agree_over_their_autoresets(mode: str) -> None:
    def run() -> list[Any]:
        return play(gymnasium.make_vec(PUSH, num_envs=3, vectorization_mode=mode, cameras=(), step_limit=7), 40)

    first = run()
    assert_equal(first, run())
    drawn = [seeds for seeds in first if isinstance(seeds, list)]
    assert drawn[0] == [3, 4, 5] and len(drawn) == 6, "40 steps are five episodes, with a step for each reset"
    later = [seed for seeds in drawn[1:] for seed in seeds]
    assert len(set(later)) == 15
    assert not any(seed in purpose for seed in later for purpose in RANGES)


def test_a_vector_in_processes_is_the_same_as_one_in_this_process() -> None:
    one, other = (
        play(gymnasium.make_vec(PUSH, num_envs=2, vectorization_mode=mode, step_limit=5), 12)
        for mode in ("sync", "async")
    )
    assert_equal(one, other)


def test_rendering_without_a_mode_or_an_episode_says_so() -> None:
    env = GymEnv("tiny/push", render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.render()
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert GymEnv(make_env("tiny/push")).render() is None


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("tiny/push",), {"cameras": ("topp",)}, UnknownNameError, "unknown tiny/push camera 'topp'.*'top'"),
        (("tiny/push",), {"render_camera": "corner"}, UnknownNameError, "unknown tiny/push camera 'corner'"),
        (("tiny/push",), {"render_mode": "human"}, UnknownNameError, "unknown render mode 'human'"),
        (("tiny/push",), {"wind": 3}, SetupError, "does not take one of its options.*'wind'"),
        (("tiny/pusch",), {}, UnknownNameError, "tiny task 'pusch'"),
        ((make_env("tiny/push"),), {"image_size": 64}, SetupError, "is made already; it takes no option 'image_size'"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as refusal:
        GymEnv(*arguments, **options)
    assert "\n" not in str(refusal.value)


def test_stable_baselines3_checks_and_trains() -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    env = gymnasium.make(PUSH, image_size=48)
    check_for_sb3(env)
    model = stable_baselines3.PPO("MultiInputPolicy", env, n_steps=50, batch_size=50, n_epochs=1, device="cpu")
    model.learn(200)
    assert model.num_timesteps == 200
    action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(action)
