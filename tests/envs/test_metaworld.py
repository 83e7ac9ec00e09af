"""Meta-World: exact snapshots, seeded layouts, pictures on demand, nothing privileged in sight."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from failwise.envs import StaleObservationError, make_env
from failwise.envs.conformance import assert_conforms
from failwise.envs.metaworld.env import TASKS, wordings
from failwise.errors import EpisodeError, SetupError, UnknownNameError
from failwise.policies import shipped
from failwise.rollout import RolloutItem, RolloutOptions, collect

from .first_image import assert_first_image_is_its_own

pytestmark = pytest.mark.metaworld


@pytest.fixture(scope="module", params=["pick-place", "hammer", "peg-insert-side"])
def env(request):
    env = make_env(f"metaworld/{request.param}")
    yield env
    env.close()


def play(env, n):
    """The expert's actions and what came of them, n steps."""
    actions, seen = [], []
    for _ in range(n):
        action = env.expert()
        observation, reward, _, _, info = env.step(action)
        actions.append(action)
        seen.append((observation.state.copy(), reward, dict(info["conditions"]), env._raw.copy()))
    return actions, seen


def replay(env, actions):
    seen = []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        seen.append((observation.state.copy(), reward, dict(info["conditions"]), env._raw.copy()))
    return seen


def assert_same(first, second, tolerance):
    for (s1, r1, c1, raw1), (s2, r2, c2, raw2) in zip(first, second, strict=True):
        np.testing.assert_allclose(s1, s2, atol=tolerance, rtol=0)
        np.testing.assert_allclose(raw1, raw2, atol=tolerance, rtol=0)
        assert abs(r1 - r2) <= tolerance
        assert c1 == c2


def test_restore_is_exact_even_after_another_episode(env):
    env.reset(seed=3)
    play(env, 25)
    snapshot = env.snapshot()
    actions, first = play(env, 30)
    env.reset(seed=8)
    play(env, 12)
    env.restore(snapshot)
    assert_same(first, replay(env, actions), 1e-9)


def test_restore_is_exact_for_actions_that_no_expert_takes(env):
    random = np.random.default_rng(0)
    actions = [random.uniform(-1, 1, 4).astype(np.float32) for _ in range(30)]
    env.reset(seed=3)
    play(env, 25)
    snapshot = env.snapshot()
    first = replay(env, actions)
    env.reset(seed=8)
    replay(env, actions[:7])
    env.restore(snapshot)
    assert_same(first, replay(env, actions), 1e-9)


def test_it_conforms(env):
    assert_conforms(env, other=make_env("metaworld/assembly", image_size=64))


@pytest.mark.parametrize("task", TASKS)
def test_the_first_observation_is_of_the_layout_that_reset_drew(task):
    """Upstream leaves bodies, sites and joints where the layout before had them; 30 of the 50 tasks showed it."""
    env = make_env(f"metaworld/{task}", image_size=64)
    import mujoco  # after the adapter, which chooses the renderer

    upstream = env._env
    for seed in (0, 1):
        first, _ = env.reset(seed=seed)
        shown, state, raw = dict(first.images), first.state, env._raw.copy()
        ways = {
            "restore": lambda: env.restore(env.snapshot()),
            "recompute": env.recompute,
            "mj_forward": lambda: (mujoco.mj_forward(upstream.model, upstream.data), env.recompute())[1],
        }
        for way, again in ways.items():
            other = again()
            for camera, image in shown.items():
                assert np.array_equal(other.images[camera], image), (way, camera)
            assert np.array_equal(other.state, state), way
            np.testing.assert_allclose(upstream._get_curr_obs_combined_no_goal(), raw[:18], atol=1e-12, err_msg=way)
    env.close()


@pytest.mark.parametrize("task", ["peg-insert-side", "shelf-place"])
def test_the_first_image_is_that_of_its_layout_where_something_will_drop(task):
    env = make_env(f"metaworld/{task}@drop", image_size=64)
    assert_first_image_is_its_own(env)
    env.close()


@pytest.mark.parametrize("task", ["pick-out-of-hole", "sweep", "door-lock"])
def test_a_restored_moment_looks_as_it_did_after_its_step(task):
    """Upstream's goal markers are drawn where its last computation put them, which a restore has to repeat."""
    env = make_env(f"metaworld/{task}", image_size=64)
    env.reset(seed=2)
    for _ in range(7):
        observation, *_ = env.step(env.expert())
    shown = dict(observation.images)
    snapshot = env.snapshot()
    env.reset(seed=3)
    restored = env.restore(snapshot)
    for camera, image in shown.items():
        assert np.array_equal(restored.images[camera], image), camera
    env.close()


def test_the_first_observation_changes_no_physics(env):
    """What upstream's own reset and step give, bit for bit: only what is computed from the state is new."""
    from failwise.envs.metaworld.env import _upstream

    upstream = _upstream(env.spec.env_id.partition("/")[2])
    random = np.random.default_rng(5)
    env.reset(seed=21)
    upstream.seed(21)
    upstream.reset()
    for _ in range(40):
        action = random.uniform(-1, 1, 4).astype(np.float32)
        _, reward, *_ = env.step(action)
        raw, expected, *_ = upstream.step(action)
        assert np.array_equal(env._raw[:18], raw[:18])
        assert reward == float(expected)


@pytest.mark.parametrize("first", ["mujoco", "failwise.envs.metaworld.env"])
def test_an_import_order_that_leaves_no_renderer_is_one_line(first):
    code = (
        f"import {first}, failwise\n"
        "try:\n    failwise.make_env('metaworld/reach').reset(seed=0)[0].images['corner']\n"
        "except failwise.errors.FailwiseError as error:\n    print('refused:', error)\n"
        "else:\n    print('rendered')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY", "PYOPENGL_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    if first == "mujoco":
        assert len(lines) == 1 and "refused:" in lines[0] and "MUJOCO_GL=egl" in lines[0], lines
    else:
        assert lines == ["rendered"]


def test_a_failing_simulator_ends_the_episode_with_a_reason(env, monkeypatch):
    env.reset(seed=0)

    def broken(action):
        raise RuntimeError("engine error")

    monkeypatch.setattr(env._env, "step", broken)
    with pytest.raises(EpisodeError, match="engine error"):
        env.step(np.zeros(4))


def test_restored_picture_is_the_same(env):
    env.reset(seed=4)
    play(env, 10)
    snapshot = env.snapshot()
    observation = env.restore(snapshot)
    before = observation.images["corner"].copy()
    env.reset(seed=9)
    assert np.array_equal(env.restore(snapshot).images["corner"], before)


def test_snapshot_of_another_task_is_refused(env):
    env.reset(seed=0)
    with pytest.raises(SetupError, match="does not fit"):
        env.restore({"mj": np.zeros(3)})


def test_same_seed_same_episode_and_other_seed_other_layout(env):
    env.reset(seed=11)
    actions, first = play(env, 20)
    env.reset(seed=12)
    other = env._raw.copy()
    env.reset(seed=11)
    assert not np.allclose(other, env._raw)
    assert_same(first, replay(env, actions), 0.0)


def test_layouts_are_drawn_from_the_continuous_range():
    env = make_env("metaworld/pick-place")
    layouts = set()
    for seed in range(60):
        env.reset(seed=seed)
        layouts.add(tuple(np.round(env._raw[4:7], 6)))
    assert len(layouts) == 60, "upstream draws from 50 fixed layouts; these must all differ"


def test_policy_sees_no_object_or_goal_pose(env):
    observation, info = env.reset(seed=1)
    assert observation.state.shape == (4,)
    assert len(env.spec.state_names) == 4
    assert set(vars(observation)) == {"images", "state", "instruction"}
    assert set(info) == {"conditions", "success", "seed"}
    np.testing.assert_allclose(observation.state[:3], env._env.get_endeff_pos(), atol=1e-6)


def test_pictures_render_only_when_looked_at(env, monkeypatch):
    rendered = []
    original = env._render
    monkeypatch.setattr(env, "_render", lambda camera: rendered.append(camera) or original(camera))
    observation, _ = env.reset(seed=2)
    env.step(np.zeros(4, np.float32))
    assert rendered == []
    with pytest.raises(StaleObservationError):
        observation.images["corner"]
    observation, *_ = env.step(np.zeros(4, np.float32))
    image = observation.images["gripper"]
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8
    assert observation.images["gripper"] is image
    assert rendered == ["gripper"]


def test_a_closed_renderer_does_not_damage_the_next():
    first = make_env("metaworld/pick-place")
    first_picture = first.reset(seed=5)[0].images["corner"].copy()
    second = make_env("metaworld/hammer", image_size=64)
    before = second.reset(seed=5)[0].images["corner"].copy()
    first.close()
    assert np.array_equal(second.reset(seed=5)[0].images["corner"], before)
    again = make_env("metaworld/pick-place")
    assert np.array_equal(again.reset(seed=5)[0].images["corner"], first_picture)
    assert before.std() > 10


def test_environments_in_one_process_do_not_show_each_others_pictures():
    """A worker goes from task to task, and what it looked at last may not be what it sees first in the next one."""
    envs = [
        make_env("metaworld/pick-place"), make_env("metaworld/stick-push"),
        make_env("metaworld/pick-place", image_size=64),
    ]  # fmt: skip

    def look(which: int, camera: str, seed: int = 5):
        return envs[which].reset(seed=seed)[0].images[camera].copy()

    known = {}
    for which in range(3):
        for camera in ("corner", "gripper"):
            look(which, camera)
            known[which, camera] = look(which, camera)  # right after another look of its own
    for camera in ("corner", "gripper"):
        assert not np.array_equal(known[0, camera], known[1, camera])
    random = np.random.default_rng(0)
    for _ in range(40):
        which, camera = int(random.integers(3)), ("corner", "gripper")[random.integers(2)]
        assert np.array_equal(look(which, camera), known[which, camera]), (which, camera)
    for env in envs:
        env.close()


def test_an_episode_does_not_depend_on_what_the_process_ran_before(tmp_path):
    options = RolloutOptions(env_options={"step_limit": 17})
    tasks = [f"metaworld/{task}" for task in ("pick-place", "stick-push", "basketball")]
    items = [RolloutItem(task, seed, seed, "base", str(shipped("metaworld-base"))) for seed in (1, 2) for task in tasks]
    ways = {"tasks in turn": items, "task by task": sorted(items, key=lambda i: i.env_id), "backwards": items[::-1]}
    contents = {}
    for name, some in ways.items():
        store = tmp_path / name
        collect(some, store, workers=1, options=options, quiet=True)
        contents[name] = {p.relative_to(store): p.read_bytes() for p in store.rglob("*.parquet")}
    first = contents.pop("tasks in turn")
    assert len(first) >= 3 * len(items)
    for name, others in contents.items():
        assert others == first, name


def test_the_scene_moves_in_the_picture(env):
    start = env.reset(seed=6)[0].images["corner"].astype(int)
    for _ in range(25):
        observation, *_ = env.step(env.expert())
    assert np.abs(observation.images["corner"].astype(int) - start).max() > 60


def test_expert_succeeds_and_conditions_come_in_order(env):
    succeeded = 0
    for seed in range(4):
        env.reset(seed=seed)
        for _ in range(env.spec.step_limit):
            _, _, terminated, truncated, info = env.step(env.expert())
            assert set(info["conditions"]) == set(env.spec.conditions)
            assert all(isinstance(v, bool) for v in info["conditions"].values())
            if info["success"] or terminated or truncated:
                break
        succeeded += info["success"]
    assert succeeded >= 3


def test_bad_actions_end_the_episode_with_a_reason(env):
    env.reset(seed=0)
    with pytest.raises(EpisodeError, match="4 finite numbers"):
        env.step(np.array([0.0, np.nan, 0.0, 0.0]))
    with pytest.raises(EpisodeError, match="4 finite numbers"):
        env.step(np.zeros(3))


@pytest.mark.parametrize(
    ("options", "word"),
    [({"image_size": 4}, "image_size"), ({"step_limit": 0}, "step_limit"), ({"step_limit": 501}, "500")],
)
def test_bad_options_are_named(options, word):
    with pytest.raises(SetupError, match=word):
        make_env("metaworld/pick-place", **options)


def test_unknown_task_and_camera_list_the_choices():
    with pytest.raises(UnknownNameError, match="pick-place"):
        make_env("metaworld/pick-plce")
    with pytest.raises(UnknownNameError, match="corner"):
        make_env("metaworld/pick-place", cameras=("front",))


def test_wordings_are_sentences_and_held_out_ones_are_not_trained_on():
    for task in TASKS:
        words = wordings()[task]
        training = [words["instruction"], *words["paraphrases"]]
        assert len(words["paraphrases"]) >= 2 and len(words["held_out"]) >= 1
        assert not set(training) & set(words["held_out"])
        for sentence in training + words["held_out"]:
            assert sentence[0].isupper() and sentence.endswith(".") and len(sentence.split()) >= 3
