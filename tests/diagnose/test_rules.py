"""Why episodes failed: made-up courses by hand, and real ones whose fault was put there on purpose."""

import numpy as np
import pytest

from failwise.diagnose import MODES, Course, diagnose, replay
from failwise.envs import make_env
from failwise.errors import DataError, EpisodeError, SetupError
from failwise.rollout import RolloutItem, RolloutOptions, run_episode
from failwise.store import EpisodeStore
from failwise.types import ActionChunk, Actor, Provenance

T = 20
FAR, GOAL = np.array([0.3, 0.0, 0.0]), np.array([0.0, 0.5, 0.1])


def course(hand, thing, near=(), grasped=(), placed=(), closing=(), succeeded=False):
    """Hand and object as functions of the step; conditions and the closed gripper as ranges of steps."""
    steps = range(T + 1)

    def held(which):
        return np.isin(np.arange(T), list(which))

    conditions = {"near_object": held(near), "grasped": held(grasped), "near_goal": held(placed)}
    gripper = np.where(held(closing), 1.0, -1.0).astype(np.float32)
    return Course(
        np.array([hand(t) for t in steps], float), np.array([thing(t) for t in steps], float), GOAL, gripper,
        conditions, succeeded,
    )  # fmt: skip


def still(t):
    return (0.0, 0.0, 0.0)


CASES = {
    "reach": (course(lambda t: (0.1 + 0.02 * abs(t - 12), 0.03, 0), still), "x", "near_object", 11),
    "disturb": (course(lambda t: FAR, lambda t: (0, 0.01 * max(0, t - 5), 0)), "x", "grasped", 9),
    "grasp": (course(lambda t: (0, 0, 0.03), still, near=range(8, T), closing=range(12, T)), "z", "grasped", 12),
    "drop": (
        course(lambda t: (0, 0.02 * t, 0.2), lambda t: (0, 0.02 * min(t, 14), 0.2), near=range(3, 15),
               grasped=range(4, 14), closing=range(4, T)), "gripper", "grasped", 14,
    ),
    "transport": (
        course(lambda t: (0, 0.01 * t, 0.1), lambda t: (0, 0.01 * t, 0.1), near=range(2, T), grasped=range(3, T)),
        "y", "near_goal", 19,
    ),
    "placement": (
        course(lambda t: (0, 0.022 * t, 0.05), lambda t: (0, 0.022 * t, 0.05), near=range(2, T), grasped=range(3, T),
               placed=range(17, T)), "y", "success", 19,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", CASES)
def test_each_mode_by_hand(mode):
    made, axis, stage, onset = CASES[mode]
    found = diagnose(made)
    assert (found.diagnosis.mode, found.diagnosis.axis, found.diagnosis.stage) == (mode, axis, stage)
    assert found.onset == onset and len(found.diagnosis.correction) == 7
    assert set(CASES) == set(MODES)


def test_the_correction_points_to_what_was_missed():
    found = diagnose(CASES["transport"][0])
    assert found.diagnosis.correction[:3] == pytest.approx(tuple(GOAL - (0, 0.2, 0.1)))
    assert found.diagnosis.correction[6] == 1.0, "keep it closed"


def test_a_touch_is_no_grasp():
    made = course(lambda t: (0, 0, 0.02), still, near=range(5, T), grasped=(9, 10), closing=range(8, T))
    assert diagnose(made).diagnosis.mode == "grasp"


def test_what_cannot_be_explained_is_one_line():
    with pytest.raises(DataError, match="nothing to explain"):
        diagnose(course(still, still, succeeded=True))
    made = course(still, still)
    with pytest.raises(DataError, match="no condition 'near_goal'"):
        diagnose(Course(made.hand, made.thing, made.goal, made.gripper, {"near_object": [], "grasped": []}, False))


class Faulty:
    """The expert of pick-place, with one fault from a step on."""

    actor = Actor.POLICY

    def __init__(self, fault):
        self.fault = fault

    def begin(self, env, seed):
        self.env, self.step, self.since = env, 0, None

    def act(self, observation):
        action = self.env.expert()
        height = self.env.poses()["object"][2]
        self.floor = height if self.step == 0 else self.floor
        if self.fault == "early release" and (self.since is not None or height > self.floor + 0.06):
            self.since = self.step if self.since is None else self.since
            action[3] = -1.0
            action[2] = 0.3
        elif self.fault == "never closes":
            action[3] = -1.0
        elif self.fault == "reaches beside":
            action[0] = np.clip(action[0] + 0.8, -1, 1)
        self.step += 1
        return ActionChunk(action[None])

    def provenance(self):
        return Provenance(agent="faulty expert")


FAULTS = {
    "early release": {"drop", "placement"},  # placement where the goal is as near as that
    "never closes": {"grasp", "disturb"},
    "reaches beside": {"reach", "grasp", "disturb"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_injected_faults_are_named_on_the_simulator(fault, tmp_path):
    pytest.importorskip("metaworld")
    env = make_env("metaworld/pick-place")
    store = EpisodeStore(tmp_path)
    named, dropped = [], 0
    for seed in range(6):
        agent = Faulty(fault)
        item = RolloutItem("metaworld/pick-place", seed, seed, "faulty", "x")
        with store.begin(item.episode_id) as writer:
            # no pictures: nobody has to render
            writer.look = lambda step, images: None
            meta = run_episode(env, agent, item, writer, RolloutOptions())
            writer.commit(meta.model_copy(update={"n_frames": 0, "cameras": ()}))
        if meta.outcome == "success":
            continue
        found = diagnose(replay(env, store.read(item.episode_id)))
        named.append(found.diagnosis.mode)
        if fault == "early release" and found.diagnosis.mode == "drop":
            assert abs(found.onset - agent.since) <= 12, "the onset is where it was let go"
            dropped += 1
    assert dropped or fault != "early release"
    assert len(named) >= 2 and sum(mode in FAULTS[fault] for mode in named) >= len(named) - 1, named
    env.close()


def test_a_record_that_does_not_repeat_and_a_simulator_without_poses(tmp_path):
    store = EpisodeStore(tmp_path)
    env = make_env("tiny/reach")
    item = RolloutItem("tiny/reach", 3, 3, "arm", "x")
    with store.begin(item.episode_id) as writer:
        from failwise.agent import PolicyAgent
        from failwise.policies.scripted import RandomPolicy

        writer.commit(run_episode(env, PolicyAgent(RandomPolicy(3)), item, writer, RolloutOptions()))
    with pytest.raises(SetupError, match="tells no poses"):
        replay(env, store.read(item.episode_id))
    env.poses = lambda: {"hand": np.zeros(3), "object": np.zeros(3), "goal": np.zeros(3)}
    whole = store.read(item.episode_id)
    assert len(replay(env, whole)) == whole.meta.n_steps
    other = store.read(item.episode_id)
    other.meta = other.meta.model_copy(update={"env_seed": 4})
    with pytest.raises(EpisodeError, match="departs from its record at step 0"):
        replay(env, other)
