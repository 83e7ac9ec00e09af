"""A monitor in the loop: it changes nothing before its first alarm, and does what was asked at it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from failwise.agent import ExpertAgent, PolicyAgent
from failwise.detect import Trace, calibrate, load_traces, make_detector
from failwise.envs import make_env
from failwise.errors import DataError, SetupError
from failwise.evaluate.watched import watch_result, watch_sentences
from failwise.policies.scripted import RandomPolicy
from failwise.rollout import RolloutItem, RolloutOptions, run_episode
from failwise.rollout.watching import Watch, ask_at_terminal
from failwise.store import EpisodeStore
from failwise.types import Actor, EpisodeMeta, Outcome

LENGTHS = range(6, 30)


class Seeing(RandomPolicy):
    """Random actions, with features."""

    def __init__(self):
        super().__init__(3)
        self.spec = replace(self.spec, feature_dim=4)

    def infer(self, observations):
        return [replace(chunk, features=np.ones(4, np.float32)) for chunk in super().infer(observations)]


def made_up(n_steps, index):
    meta = EpisodeMeta(
        episode_id=f"e{index}", env_id="tiny/reach", task="reach", instruction="go", env_seed=index, policy_seed=index,
        outcome=Outcome.SUCCESS, success_once=True, first_success_step=n_steps - 1, n_steps=n_steps, step_limit=60,
        control_hz=20.0,
    )  # fmt: skip
    asked = np.arange(0, n_steps, 8)
    return Trace(meta, np.zeros((n_steps, 3), np.float32), asked, np.ones((len(asked), 4), np.float32))


@pytest.fixture(scope="module")
def monitor():
    wins = [made_up(n, n) for n in LENGTHS]
    return calibrate(make_detector("length").fit(wins), wins, 0.1, kind="constant")


def run(store, watch=None, arm="plain", seed=5, env_id="tiny/reach", agent=None):
    env = make_env(env_id)
    item = RolloutItem(env_id, seed, seed, arm, "x")
    with EpisodeStore(store).begin(item.episode_id) as writer:
        meta = run_episode(env, agent or PolicyAgent(Seeing()), item, writer, RolloutOptions(), watch)
        writer.commit(meta)
    return meta, EpisodeStore(store).read(item.episode_id)


def test_noting_records_every_score_and_changes_nothing(monitor, tmp_path):
    plain, one = run(tmp_path)
    watch = Watch(monitor, "note", "folder")
    meta, other = run(tmp_path, watch, "plain+note")
    assert plain.outcome == meta.outcome == "timeout"
    assert np.array_equal(one.actions(), other.actions())
    first = monitor.band.first_alarm(other.scores())
    alarm, ending = meta.failure_events
    assert (alarm.mode, alarm.source, alarm.onset_step) == ("alarm", "detected", first) and first > 20
    assert ending == plain.failure_events[0]
    (record,) = meta.alarms
    assert (record.step, record.reaction, record.decision) == (first, "note", "go on") and not plain.alarms
    assert record.score == pytest.approx(other.scores()[first]) and record.score > record.band
    assert np.isfinite(other.scores()).all() and np.isnan(one.scores()).all()
    assert other.info()["band"] == pytest.approx([monitor.band.upper(0)] * len(other.chunk_starts()))
    assert meta.extra["watch"] | {"monitor": "folder", "detector": "length", "alpha": 0.1} == meta.extra["watch"]


def test_stopping_ends_before_the_action_and_shows_the_last_view(monitor, tmp_path):
    _, plain = run(tmp_path)
    meta, episode = run(tmp_path, Watch(monitor, "stop"), "plain+stop")
    at = meta.failure_events[0].onset_step
    assert meta.outcome == "aborted" and meta.n_steps == at and len(meta.failure_events) == 1
    assert meta.interventions == (), "recorded: none"
    assert np.array_equal(episode.actions(), plain.actions()[:at])
    assert episode.look_steps()[-1] == at


def test_recovering_hands_over_to_the_expert_who_finishes(monitor, tmp_path):
    _, plain = run(tmp_path)
    meta, episode = run(tmp_path, Watch(monitor, "recover"), "plain+recover")
    at = meta.failure_events[0].onset_step
    assert meta.outcome == "success" and at in episode.look_steps()
    actors = episode.actors()
    assert (actors[:at] == Actor.POLICY).all() and (actors[at:] == Actor.RECOVERY).all() and len(actors) > at
    assert np.array_equal(episode.actions()[:at], plain.actions()[:at])
    assert np.isnan(episode.scores()[at + 1 :]).all() and episode.scores()[at] > monitor.band.upper(at)
    assert np.diff(episode.look_steps()).max() <= 8
    (stretch,) = meta.interventions
    assert (stretch.trigger, stretch.actor, stretch.start, stretch.end) == ("alarm", "expert", at, None)
    assert (actors == Actor.RECOVERY).sum() == meta.n_steps - stretch.start, "the record and the steps agree"
    with pytest.raises(DataError, match="no finished episode"):
        load_traces(tmp_path, lambda m: m.arm == "plain+recover")


def test_a_person_decides(monitor, tmp_path):
    said = []

    def ask(line):
        said.append(line)
        return "recover"

    meta, _ = run(tmp_path, Watch(monitor, "ask", ask=ask), "plain+ask")
    assert meta.outcome == "success" and len(said) == 1
    assert [stretch.trigger for stretch in meta.interventions] == ["person"]
    assert said[0].startswith(f"alarm at step {meta.failure_events[0].onset_step}: score ")


@pytest.mark.parametrize(
    ("typed", "decision"), [("g\n", "go on"), ("what\nS\n", "stop"), ("", "stop"), ("r\n", "recover")]
)
def test_answers_at_the_terminal(typed, decision, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert ask_at_terminal("alarm") == decision


def test_an_episode_without_alarm_is_as_unwatched(tmp_path):
    long = [made_up(200 + n, n) for n in LENGTHS]
    calm = calibrate(make_detector("length").fit(long), long, 0.1, kind="constant")
    plain, one = run(tmp_path)
    meta, other = run(tmp_path, Watch(calm, "stop"), "plain+stop")
    assert meta.outcome == plain.outcome and np.array_equal(one.actions(), other.actions())
    assert meta.failure_events == plain.failure_events


def test_the_monitor_starts_anew_with_every_episode(monitor, tmp_path):
    watch = Watch(monitor, "stop")
    first, _ = run(tmp_path, watch, "one")
    second, _ = run(tmp_path, watch, "two")
    assert first.n_steps == second.n_steps > 0


def test_who_cannot_be_watched_is_told_in_one_line(monitor, tmp_path):
    with pytest.raises(SetupError, match="gives none"):
        run(tmp_path, Watch(monitor, "stop"), agent=ExpertAgent())
    with pytest.raises(SetupError, match="gives none"):
        run(tmp_path, Watch(monitor, "stop"), agent=PolicyAgent(RandomPolicy(3)))
    with pytest.raises(SetupError, match="unknown reaction"):
        Watch(monitor, "panic")


def test_alarms_are_judged_by_the_same_episode_unwatched(monitor, tmp_path):
    for seed in range(4):
        run(tmp_path, seed=seed)
        run(tmp_path, Watch(monitor, "recover"), "plain+recover", seed=seed)
    metas = EpisodeStore(tmp_path).metas()
    result = watch_result(metas, "plain", "recover")
    lost = sum(m.outcome != "success" for m in metas if m.arm == "plain")
    assert (result.pairs, result.failures, result.successes) == (4, lost, 4 - lost)
    assert result.detected + result.false_alarms == sum(
        any(e.mode == "alarm" for e in m.failure_events) for m in metas if m.arm == "plain+recover"
    )
    assert result.mended == lost and result.spoiled == 0 and 0 < result.delay < 1
    text = " ".join(watch_sentences(result))
    assert f"{result.detected} of {lost} episodes that do not succeed unwatched" in text and "became successes" in text


def test_who_was_asked_is_a_record_and_not_a_word_in_a_sentence():
    def watched(seed, words, reaction=None, on_alarm="learned"):
        from failwise.types import Alarm, FailureEvent

        event = FailureEvent(mode="alarm", onset_step=3, source="detected", evidence=words)
        alarm = [] if reaction is None else [Alarm(step=3, score=2, band=1, reaction=reaction, decision="stop")]
        about = {"arm": "p+x", "env_seed": seed, "outcome": Outcome.ABORTED, "failure_events": (event,)}
        extra = {"watch": {"alpha": 0.1, "on_alarm": on_alarm}}
        return made_up(5, seed).meta.model_copy(update={**about, "alarms": tuple(alarm), "extra": extra})

    def plain(seed):
        return made_up(5, seed).meta.model_copy(update={"arm": "p", "env_seed": seed, "outcome": Outcome.TIMEOUT})

    episodes = [
        watched(0, "a person was called", "ask"), watched(1, "then: asked, says the model", "stop"),
        watched(2, "from before alarms were recorded", on_alarm="ask"), watched(3, "as well; then: asked, stop"),
    ]  # fmt: skip
    result = watch_result([*episodes, *map(plain, range(4))], "p", "x")
    assert (result.detected, result.asked) == (4, 2)


def test_false_alarms_are_those_of_episodes_that_would_have_succeeded():
    def meta(arm, seed, outcome, alarm=None, steps=50):
        from failwise.types import FailureEvent

        events = () if alarm is None else (FailureEvent(mode="alarm", onset_step=alarm, source="detected"),)
        return made_up(steps, seed).meta.model_copy(
            update={
                "arm": arm, "env_seed": seed, "outcome": outcome, "failure_events": events, "n_steps": steps,
                "extra": {"watch": {"alpha": 0.1}} if "+" in arm else {},
            }
        )  # fmt: skip

    metas = [
        meta("p", 0, Outcome.SUCCESS), meta("p+stop", 0, Outcome.ABORTED, alarm=10, steps=10),
        meta("p", 1, Outcome.SUCCESS), meta("p+stop", 1, Outcome.SUCCESS),
        meta("p", 2, Outcome.TIMEOUT), meta("p+stop", 2, Outcome.ABORTED, alarm=24, steps=24),
        meta("p", 3, Outcome.FAILURE), meta("p+stop", 3, Outcome.FAILURE),
        meta("p", 4, Outcome.ERROR), meta("p+stop", 4, Outcome.ABORTED, alarm=1, steps=1),
        meta("p", 5, Outcome.SUCCESS),
    ]  # fmt: skip
    result = watch_result(metas, "p", "stop")
    assert (result.pairs, result.successes, result.failures, result.timeouts) == (4, 2, 2, 1)
    assert (result.false_alarms, result.detected, result.spoiled, result.mended) == (1, 1, 1, 0)
    assert result.delay == pytest.approx(25 / 50) and result.saved_steps == 26
    assert json.dumps(result.false_alarm_rate.point) == "0.5"
    with pytest.raises(DataError, match="evaluate both"):
        watch_result(metas, "q", "stop")
