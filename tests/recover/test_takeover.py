"""Who acts when: a takeover begins at a yes, ends where it said, stays inside its limits, and is recorded."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from failwise.agent import PolicyAgent
from failwise.envs.tiny import TinyEnv, make
from failwise.errors import FailwiseError, SetupError
from failwise.policies.scripted import RandomPolicy
from failwise.recover.advice import Advice
from failwise.recover.takeover import Takeover, TakeoverOptions, load_takeover
from failwise.rollout.loop import RolloutItem, RolloutOptions, run_episode
from failwise.store import EpisodeStore
from failwise.types import Actor


@dataclass
class Told:
    """An advisor that answers what the test says, and remembers what it saw."""

    failing: float = 0.9
    delta: tuple[float, ...] = (0.1, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    stride: int = 2
    seen: list[np.ndarray] = field(default_factory=list)

    def begin(self) -> None:
        self.seen.clear()

    def see(self, observation) -> None:
        self.seen.append(observation.images["top"])

    def advise(self) -> Advice:
        return Advice(self.failing, "near_puck", "translation", "x", self.delta, 0.8)


class Still(RandomPolicy):
    """Does nothing at all: whatever moves was moved by somebody else."""

    def infer(self, observations):
        chunks = super().infer(observations)
        for chunk in chunks:
            chunk.actions[:] = 0.0
            chunk.actions[:, 2] = -1.0
        return chunks


def run(tmp_path: Path, takeover: Takeover, env: TinyEnv | None = None):
    env = env or make("push")
    agent = PolicyAgent(Still(action_dim=3, horizon=4))
    store = EpisodeStore(tmp_path)
    item = RolloutItem("tiny/push", 3, 3, "a", "random:3")
    with store.begin(item.episode_id) as writer:
        meta = run_episode(env, agent, item, writer, RolloutOptions(), takeover=takeover)
        writer.commit(meta)
    return store.read(item.episode_id)


def test_a_yes_moves_the_hand_by_what_was_advised_and_hands_back(tmp_path: Path) -> None:
    advisor = Told()
    told = advisor.advise()
    options = TakeoverOptions(every=10, attempts=2, pause=20)
    episode = run(tmp_path, Takeover(advisor, options, "told"))
    actors, states = episode.actors(), episode.states()
    helped = np.flatnonzero(actors == Actor.RECOVERY)
    first, second = np.split(helped, np.flatnonzero(np.diff(helped) > 1) + 1)
    assert first[0] == 10
    assert (np.diff(first) == 1).all()
    assert states[first[-1] + 1, 0] - states[10, 0] == pytest.approx(0.1, abs=0.02)
    assert states[first[-1] + 1, 1] == pytest.approx(states[10, 1], abs=0.01)
    assert second[0] == -(-(first[-1] + 1 + options.pause) // 10) * 10, "asked again after the pause, at a tenth step"
    assert set(actors[first[-1] + 1 : second[0]]) == {Actor.POLICY}
    meta = episode.meta
    assert [e.onset_step for e in meta.failure_events if e.source == "detected"] == [first[0], second[0]]
    assert meta.extra["takeover"] == {
        "recovery": "told",
        "remedy": "correct",
        "takeovers": [10, int(second[0])],
        "refused": 0,
    }
    one, two = meta.interventions
    assert (one.trigger, one.actor, one.mode, one.axis, one.failing) == (
        "recovery_model", "correct", told.mode, told.axis, told.failing,
    )  # fmt: skip
    assert (one.start, one.end) == (first[0], first[-1] + 1), "the first step after it is the hand-back"
    assert two.start == second[0] and two.end in (None, second[-1] + 1)
    assert len(advisor.seen) == second[0] // advisor.stride + 1, "once the attempts are used up nothing is rendered"
    after = first[-1] + 1
    assert after in episode.chunk_starts(), "the policy looks anew when it has the robot back"


def test_an_alarm_asks_the_advisor_at_once_and_is_believed() -> None:
    env = make("push")
    observation = env.reset(seed=3)[0]
    takeover = Takeover(Told(failing=0.1), TakeoverOptions(every=10, attempts=1))
    takeover.begin(env)
    for step in range(5):
        assert (takeover.act(step, observation, "near_puck", alarm=step == 4) is not None) == (step == 4)


def test_a_no_changes_nothing(tmp_path: Path) -> None:
    left_alone = run(tmp_path / "a", Takeover(Told(failing=0.5), TakeoverOptions(threshold=0.5)))
    assert set(left_alone.actors()) == {Actor.POLICY}
    assert left_alone.meta.extra["takeover"]["takeovers"] == []


def test_a_move_out_of_the_workspace_is_refused_and_counted(tmp_path: Path) -> None:
    episode = run(tmp_path, Takeover(Told(delta=(2.0, 0, 0, 0, 0, 0, -1)), TakeoverOptions(every=30)))
    assert set(episode.actors()) == {Actor.POLICY}
    assert episode.meta.extra["takeover"]["refused"] == 3


def test_under_an_alarm_that_holds_a_refused_move_is_asked_for_as_often_as_without() -> None:
    env = make("push")
    observation = env.reset(seed=3)[0]
    takeover = Takeover(Told(delta=(2.0, 0, 0, 0, 0, 0, -1)), TakeoverOptions(every=10))
    takeover.begin(env)
    assert all(takeover.act(step, observation, "near_puck", alarm=step > 3) is None for step in range(40))
    assert takeover.refused == 4, "at steps 4, 14, 24 and 34"


def test_no_advice_moves_nothing_even_at_an_alarm() -> None:
    env = make("push")
    observation = env.reset(seed=3)[0]
    takeover = Takeover(Told(failing=0.0, delta=(0.0,) * 7), TakeoverOptions(every=10))
    takeover.begin(env)
    assert all(takeover.act(step, observation, "near_puck", alarm=True) is None for step in range(30))
    assert takeover.about()["takeovers"] == [] and takeover.refused == 0


def test_a_move_that_never_arrives_ends_after_its_steps(tmp_path: Path) -> None:
    class Stuck(TinyEnv):
        def nudge(self, error_6):
            return super().nudge(np.zeros(6))

    episode = run(tmp_path, Takeover(Told(), TakeoverOptions(every=10, move_steps=7, attempts=1)), Stuck("push"))
    assert np.flatnonzero(episode.actors() == Actor.RECOVERY).tolist() == list(range(10, 17))


def test_the_gripper_follows_even_where_the_hand_is_already(tmp_path: Path) -> None:
    episode = run(tmp_path, Takeover(Told(delta=(0, 0, 0, 0, 0, 0, 1.0)), TakeoverOptions(attempts=1)))
    assert np.flatnonzero(episode.actors() == Actor.RECOVERY).tolist() == [10]
    assert episode.actions()[10].tolist() == [0.0, 0.0, 1.0]


def test_the_expert_acts_for_its_steps_at_an_alarm_and_rewind_goes_back(tmp_path: Path) -> None:
    env = make("push")
    env.reset(seed=3)
    takeover = Takeover(None, TakeoverOptions(remedy="expert", acting_steps=5, pause=3, attempts=1))
    takeover.begin(env)
    observation = env.reset(seed=3)[0]
    taken = []
    for step in range(12):
        action = takeover.act(step, observation, "near_puck", alarm=step == 4)
        if action is not None:
            np.testing.assert_array_equal(action, env.expert())
            taken.append(step)
        chosen = np.zeros(3, np.float32) if action is None else action
        takeover.did(chosen)
        observation, *_ = env.step(chosen)
    assert taken == [4, 5, 6, 7, 8]

    takeover = Takeover(None, TakeoverOptions(remedy="rewind", back_steps=10, attempts=1))
    takeover.begin(env)
    observation = env.reset(seed=3)[0]
    hands = []
    for step in range(40):
        hands.append(env.hand())
        action = takeover.act(step, observation, "near_puck", alarm=step == 15)
        chosen = np.array([-0.4, 0.1, -1.0], np.float32) if action is None else action
        if step > 15 and action is None:
            break
        takeover.did(chosen)
        observation, *_ = env.step(chosen)
    np.testing.assert_allclose(env.hand(), hands[5], atol=0.015)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Takeover(None), "needs an advisor that says where to"),
        (lambda: load_takeover("nowhere", TakeoverOptions()), "nowhere is not a recovery actor"),
    ],
)
def test_what_cannot_recover_is_told(make_it, message: str) -> None:
    with pytest.raises(FailwiseError, match=message):
        make_it()


def test_an_environment_without_a_hand_or_an_expert_is_refused() -> None:
    class Handless:
        spec = make("push").spec

    with pytest.raises(SetupError, match="no hand that can be led"):
        Takeover(Told()).begin(Handless())  # type: ignore[arg-type]


class Pushing:
    """A recovery policy that always does the same, and counts how often it looked."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.taken_over = 0

    def begin(self, seed: int) -> None:
        self.begun.append(seed)

    def take_over(self) -> None:
        self.taken_over += 1

    def act(self, observation) -> np.ndarray:
        return np.array([0.5, 0.0, -1.0])


def test_a_recovery_policy_acts_for_its_steps_and_hands_back(tmp_path: Path) -> None:
    acting = Pushing()
    episode = run(tmp_path, Takeover(Told(), TakeoverOptions(acting_steps=7, attempts=2, pause=5), "told", acting))
    helped = np.flatnonzero(episode.actors() == Actor.RECOVERY)
    assert helped.tolist() == [*range(10, 17), *range(30, 37)]
    assert (episode.actions()[helped] == np.array([0.5, 0.0, -1.0], np.float32)).all()
    assert acting.begun == [3] and acting.taken_over == 2, "it draws from the episode's seed, and looks anew each time"
    assert episode.meta.extra["takeover"]["remedy"] == "policy"
    (first, *_) = (e for e in episode.meta.failure_events if e.source == "detected")
    assert "a recovery policy for 7 steps" in first.evidence


def test_a_recovery_policy_that_leaves_the_workspace_hands_back_and_is_refused_outside(tmp_path: Path) -> None:
    env = make("push")
    hand = env.hand
    env.hand = lambda: hand() + np.where(env.outside, 5.0, 0.0)
    env.outside = False

    class Leaving(Pushing):
        def act(self, observation) -> np.ndarray:
            self.steps = getattr(self, "steps", 0) + 1
            env.outside = self.steps >= 4
            return super().act(observation)

    options = TakeoverOptions(acting_steps=50, attempts=3, pause=5)
    episode = run(tmp_path, Takeover(Told(), options, "told", Leaving()), env)
    assert np.flatnonzero(episode.actors() == Actor.RECOVERY).tolist() == [10, 11, 12, 13]
    about = episode.meta.extra["takeover"]
    later = range(20, episode.meta.n_steps, 10)
    assert about["takeovers"] == [10] and about["refused"] == 1 + len(later)


def test_a_recovery_policy_hands_back_once_nothing_fails_any_more(tmp_path: Path) -> None:
    class Soothed(Told):
        def advise(self) -> Advice:
            return Advice(0.9 if len(self.seen) < 14 else 0.2, "", "", "", self.delta, 0.8)

    options = TakeoverOptions(acting_steps=50, attempts=1, release=0.2)
    episode = run(tmp_path, Takeover(Soothed(), options, "told", Pushing()))
    # Of frames 0, 2, 4, ... the fourteenth is seen at step 26; the next question is at step 30.
    assert np.flatnonzero(episode.actors() == Actor.RECOVERY).tolist() == [*range(10, 30)]
