"""The tiny tasks: solvable, language matters, failure can be final, and an unwatched step is cheap."""

import time
from typing import Any

import numpy as np
import pytest

from failwise.envs.tiny import TASKS, TinyEnv, make
from failwise.errors import EpisodeError, SetupError, UnknownNameError


def run_expert(env: TinyEnv, seed: int, instruction: str | None = None) -> dict[str, Any]:
    env.reset(seed=seed, options={"instruction": instruction} if instruction else None)
    while True:
        _, _, terminated, truncated, info = env.step(env.expert())
        if info["success"] or terminated or truncated:
            return info


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_succeeds(task: str) -> None:
    env = make(task)
    assert np.mean([run_expert(env, seed)["success"] for seed in range(200)]) >= 0.95


def test_an_instruction_names_the_disc() -> None:
    env = make("reach")
    assert all(run_expert(env, seed, "please go to the BLUE disc")["success"] for seed in range(20))
    red, blue = (env.snapshot() for env in (make("reach"), make("reach", color="blue")))
    assert bytes(red["instruction"]).decode() == "move to the red disc"
    assert bytes(blue["instruction"]).decode() == "move to the blue disc"


def test_gripping_the_distractor_is_a_final_failure() -> None:
    env = make("reach")
    blue = make("reach", color="blue")
    for seed in range(20):
        env.reset(seed=seed)
        blue.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            action = blue.expert()  # deaf to the instruction
            blue.step(action)
            _, _, terminated, truncated, info = env.step(action)
            assert not info["success"]
        assert terminated and info["conditions"] == {"near_target": False, "gripped": True, "success": False}


def test_a_puck_off_the_table_is_a_final_failure() -> None:
    env = make("push")
    env.reset(seed=0)
    snapshot = env.snapshot()
    snapshot["objects"][0] = (0.47, 0.0)
    snapshot["robot"][:] = (0.3, 0.0, 0.0, 0.0, 0.0)
    env.restore(snapshot)
    ends = [env.step(np.array([1.0, 0.0, 1.0], np.float32))[2] for _ in range(10)]
    assert ends[-1] and ends == sorted(ends), "once it is off, it stays off"


def test_closing_first_and_moving_onto_the_disc_is_no_grip() -> None:
    env = make("reach")
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([0.0, 0.0, 1.0], np.float32))
    for _ in range(40):
        action = env.expert()
        action[2] = 1.0
        info = env.step(action)[4]
    assert info["conditions"] == {"near_target": True, "gripped": False, "success": False}


def test_pictures_show_what_the_state_does_not() -> None:
    env = make("push", image_size=64)
    first, _ = env.reset(seed=1)
    image = first.images["top"]
    snapshot = env.snapshot()
    snapshot["objects"][0] += 0.1
    moved = env.restore(snapshot)
    assert np.array_equal(moved.state, first.state)
    assert not np.array_equal(moved.images["top"], image)


def test_the_puck_is_painted_where_it_is() -> None:
    env = make("push", image_size=110)  # 1 cm a pixel, the table's centre between pixels 54 and 55
    env.reset(seed=0)
    snapshot = env.snapshot()
    snapshot["objects"][:] = [(0.205, 0.305), (-0.3, -0.3)]
    snapshot["robot"][:2] = (-0.4, 0.4)
    image = env.restore(snapshot).images["top"]
    assert image[24, 75].tolist() == [240, 170, 30], "x to the right, y upwards"
    assert image[85, 25].tolist() == [60, 160, 80]
    assert image[15, 15].tolist() == [250, 250, 250], "an open gripper"


def test_a_snapshot_carries_its_instruction_into_another_environment() -> None:
    one, other = make("reach"), make("reach")
    one.reset(seed=3, options={"instruction": "grip the blue disc"})
    one.step(np.zeros(3, np.float32))
    assert other.restore(one.snapshot()).instruction == "grip the blue disc"
    assert np.array_equal(one.expert(), other.expert())


def test_an_unwatched_step_is_cheap() -> None:
    env = make("push")
    action = np.array([0.3, -0.2, 0.0], np.float32)

    def rate() -> float:
        env.reset(seed=0)
        start = time.process_time()
        for _ in range(5000):
            env.step(action)
        return 5000 / (time.process_time() - start)

    assert max(rate() for _ in range(3)) > 20_000


@pytest.mark.parametrize(
    ("options", "error"),
    [({"image_size": 4}, SetupError), ({"step_limit": 0}, SetupError), ({"color": "grey"}, UnknownNameError)],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="tiny"):
        make("reach", **options)


def test_what_cannot_be_meant_is_refused() -> None:
    env = make("reach")
    with pytest.raises(SetupError, match="names no disc; say red or blue"):
        env.reset(seed=0, options={"instruction": "go to the disc"})
    with pytest.raises(SetupError, match="not a snapshot of a tiny task"):
        env.restore({"robot": np.zeros(3)})
    with pytest.raises(EpisodeError, match="3 finite numbers"):
        env.step(np.zeros(2))
