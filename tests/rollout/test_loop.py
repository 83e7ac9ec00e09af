"""The closed loop: every episode ends in exactly one outcome, and its record is what happened."""

import numpy as np
import pytest

from failwise.agent import ExpertAgent, PolicyAgent
from failwise.envs import make_env
from failwise.errors import EpisodeError, SetupError
from failwise.policies.scripted import RandomPolicy
from failwise.rollout import RolloutItem, RolloutOptions, instruction_for, run_episode
from failwise.store import EpisodeStore
from failwise.types import ActionChunk, Actor, Outcome, Provenance


class Scripted:
    """Chunks of a function's actions; ``fault`` at the given inference."""

    actor = Actor.POLICY

    def __init__(self, action=(0.0, 0.0, -1.0), length=3, fault_at=None):
        self.action, self.length, self.fault_at, self.calls = action, length, fault_at, 0

    def begin(self, env, seed):
        self.env, self.calls = env, 0

    def act(self, observation):
        self.calls += 1
        if self.calls - 1 == self.fault_at:
            raise EpisodeError("the policy returned actions that are not finite")
        actions = np.tile(np.asarray(self.action, np.float32), (self.length, 1))
        features = np.full(6, self.calls, np.float32)
        return ActionChunk(actions, 0.5, features, {"strength": float(self.calls)})

    def provenance(self):
        return Provenance(agent="scripted")


class PushOff(Scripted):
    """Pushes the puck off the table: the expert of a twin whose goal lies far beyond the edge."""

    length = 1

    def __init__(self):
        super().__init__(length=1)

    def act(self, observation):
        now = self.env.snapshot()
        now["objects"][1] = (5.0, now["objects"][0][1])
        twin = make_env("tiny/push")
        twin.restore(now)
        self.action = twin.expert()
        return super().act(observation)


def run(agent, store, env_id="tiny/reach", seed=5, arm="arm", env_options=None, **options):
    env = make_env(env_id, **(env_options or {}))
    item = RolloutItem(env_id, seed, 7, arm, "scripted")
    with EpisodeStore(store).begin(item.episode_id) as writer:
        meta = run_episode(env, agent, item, writer, RolloutOptions(**options))
        writer.commit(meta)
    episode = EpisodeStore(store).read(item.episode_id)
    assert episode.meta == meta
    return meta, episode


def broken():
    class Broken(RandomPolicy):
        def infer(self, observations):
            return [ActionChunk(np.full((8, 3), np.nan, np.float32))]

    return PolicyAgent(Broken(3))


ENDINGS = {
    "success": (ExpertAgent, "tiny/reach", Outcome.SUCCESS),
    "success in push": (ExpertAgent, "tiny/push", Outcome.SUCCESS),
    "timeout": (Scripted, "tiny/reach", Outcome.TIMEOUT),
    "failure": (PushOff, "tiny/push", Outcome.FAILURE),
    "nan": (broken, "tiny/reach", Outcome.ERROR),
    "fault in the middle": (lambda: Scripted(fault_at=2), "tiny/reach", Outcome.ERROR),
    "an action of another width": (lambda: Scripted(action=(0, 0)), "tiny/reach", Outcome.ERROR),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_is_one_outcome_and_its_counts_are_right(name, tmp_path):
    agent, env_id, expected = ENDINGS[name]
    meta, episode = run(agent(), tmp_path, env_id)
    conditions = episode.conditions()
    held = np.flatnonzero(conditions["success"]) if meta.n_steps else np.zeros(0, int)
    assert meta.outcome == expected
    assert meta.n_steps == len(episode.actions()) <= meta.step_limit
    assert meta.n_frames == len(episode.look_steps())
    assert meta.success_once == (expected == Outcome.SUCCESS) == bool(len(held))
    assert meta.first_success_step == (held[0] if len(held) else None)
    assert bool(meta.error) == (expected == Outcome.ERROR) and "\n" not in meta.error
    assert bool(meta.failure_events) == (expected in (Outcome.FAILURE, Outcome.TIMEOUT))
    assert (meta.n_steps == meta.step_limit) == (expected == Outcome.TIMEOUT)


def test_a_policy_that_returns_nan_ends_its_episode(tmp_path):
    meta, _ = run(broken(), tmp_path)
    assert (meta.outcome, meta.n_steps, meta.n_frames) == ("error", 0, 0)
    assert meta.error == "the policy returned actions that are not finite"


def test_what_happened_before_a_fault_is_kept(tmp_path):
    meta, episode = run(Scripted(fault_at=2, length=3), tmp_path)
    assert (meta.outcome, meta.n_steps, meta.n_frames) == ("error", 6, 2)
    assert episode.look_steps().tolist() == episode.chunk_starts().tolist() == [0, 3]


def test_an_error_after_a_success_is_an_error(tmp_path):
    class Fails(ExpertAgent):
        def act(self, observation):
            if self._env.spec.step_limit == self._step + 1:
                raise EpisodeError("lost the camera")
            return super().act(observation)

    meta, _ = run(Fails(), tmp_path, stop_on_success=False)
    assert meta.outcome == "error" and meta.success_once and not meta.success_at_end
    assert meta.n_steps == meta.step_limit - 1


def test_a_terminated_failure_names_the_stage(tmp_path):
    meta, episode = run(PushOff(), tmp_path, "tiny/push")
    [event] = meta.failure_events
    assert (event.mode, event.source, event.onset_step) == ("failure", "rule", meta.n_steps - 1)
    last = {name: bool(held[-1]) for name, held in episode.conditions().items()}
    assert event.stage == next(name for name, held in last.items() if not held)
    assert event.evidence == "conditions that held at the end: " + (", ".join(n for n in last if last[n]) or "none")


def test_success_at_the_last_step_counts_and_one_step_less_does_not(tmp_path):
    full, _ = run(ExpertAgent(), tmp_path)
    n = full.n_steps
    for limit, outcome in ((n, "success"), (n - 1, "timeout")):
        meta, _ = run(ExpertAgent(), tmp_path, arm=f"limit{limit}", env_options={"step_limit": limit})
        assert (meta.outcome, meta.n_steps) == (outcome, limit)


def test_going_on_after_success(tmp_path):
    stopped, _ = run(ExpertAgent(), tmp_path)
    going, episode = run(ExpertAgent(), tmp_path, arm="going", stop_on_success=False)
    assert stopped.first_success_step == going.first_success_step == stopped.n_steps - 1
    assert stopped.success_at_end and going.n_steps == going.step_limit == 60
    assert going.outcome == "success" and going.success_at_end == bool(episode.conditions()["success"][-1])


def test_a_success_that_is_lost_again_is_still_one(tmp_path):
    class LetsGo(ExpertAgent):
        def act(self, observation):
            chunk = super().act(observation)
            if self._step > 45:
                chunk.actions[:] = (1, 1, -1)
            return chunk

    meta, _ = run(LetsGo(), tmp_path, stop_on_success=False)
    assert meta.outcome == "success" and meta.success_once and not meta.success_at_end


def test_the_record_is_what_happened(tmp_path):
    meta, episode = run(PolicyAgent(RandomPolicy(3, horizon=4)), tmp_path, snapshot_every=10)
    env = make_env("tiny/reach")
    observation, _ = env.reset(seed=5, options={"instruction": meta.instruction})
    frames, looks = episode.frames("top"), episode.look_steps().tolist()
    for record in episode.steps():
        assert np.array_equal(observation.state, record.state)
        if record.step in looks:
            assert np.array_equal(frames[looks.index(record.step)], observation.images["top"])
        if record.step in episode.snapshot_steps():
            kept, now = episode.snapshot(record.step), env.snapshot()
            assert kept.keys() == now.keys() and all(np.array_equal(kept[k], now[k]) for k in kept)
        observation, reward, *_, info = env.step(record.action)
        assert reward == record.reward and info["conditions"] == record.conditions
        assert record.actor == Actor.POLICY and record.chunk_step == record.step % 4
    assert looks == episode.chunk_starts().tolist() == list(range(0, 60, 4))
    assert episode.snapshot_steps() == list(range(0, 60, 10))


def test_a_chunks_features_and_scalars_are_kept_where_it_began(tmp_path):
    _, episode = run(Scripted(length=7), tmp_path, env_options={"step_limit": 20})
    steps, features = episode.features()
    assert steps.tolist() == episode.chunk_starts().tolist() == [0, 7, 14]
    assert features.tolist() == [[1.0] * 6, [2.0] * 6, [3.0] * 6]
    assert episode.info()["strength"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("every", "looks"), [(0, []), (4, [0, 4, 8, 12, 16]), (7, [0, 7, 14])])
def test_an_expert_is_watched_only_when_asked(tmp_path, every, looks):
    meta, episode = run(ExpertAgent(), tmp_path, env_options={"step_limit": 17}, look_every=every)
    assert episode.look_steps().tolist() == [s for s in looks if s < meta.n_steps]
    assert meta.cameras == (("top", "robot") if looks else ())


def test_pictures_in_between_come_on_top_of_the_policys_own(tmp_path):
    _, episode = run(Scripted(length=6), tmp_path, env_options={"step_limit": 20}, look_every=4)
    assert episode.look_steps().tolist() == [0, 4, 6, 8, 12, 16, 18]
    assert episode.chunk_starts().tolist() == [0, 6, 12, 18]


def test_wordings_are_told_by_seed(tmp_path):
    spec = make_env("tiny/reach").spec
    for wording, choices in (
        ("default", (spec.instruction,)),
        ("training", (spec.instruction, *spec.paraphrases)),
        ("held_out", spec.held_out),
    ):
        told = [instruction_for(make_env("tiny/reach"), wording, seed) for seed in range(12)]
        assert told == [choices[seed % len(choices)] for seed in range(12)]
        assert set(told) == set(choices)
    meta, _ = run(Scripted(), tmp_path, wording="held_out", env_options={"step_limit": 3})
    assert meta.instruction == spec.held_out[5 % len(spec.held_out)]


def test_an_environment_without_held_out_wordings_says_so(monkeypatch):
    from dataclasses import replace

    env = make_env("tiny/reach")
    env.spec = replace(env.spec, held_out=())
    with pytest.raises(SetupError, match="tiny/reach has no held_out wordings"):
        instruction_for(env, "held_out", 0)
