"""One client's episodes without a socket: verdicts are those of the monitor in the loop."""

import json

import numpy as np
import pytest

from failwise.agent import PolicyAgent, load_agent
from failwise.detect import Moment, load_monitor
from failwise.diagnose import Classifier
from failwise.errors import CheckpointError, EpisodeError, SetupError, WireError
from failwise.serve import Served
from failwise.serve.served import parse_steering
from failwise.wire import KeyMap

from .loopback import Echo, made_up, save_monitor, serve_echo


def question(a=1.0, b=2.0, **own):
    return {"observation/state": [a, b], "prompt": "go"} | {f"failwise/{k}": v for k, v in own.items()}


@pytest.fixture
def echo(monkeypatch):
    serve_echo(monkeypatch)


@pytest.mark.parametrize("detector", ["length", "jerk", "knn-cosine"])
def test_scores_bounds_and_alarms_are_those_of_every_step_in_the_loop(echo, detector, tmp_path):
    folder = save_monitor(tmp_path / "monitor", detector)
    session = Served("echo", monitor=folder).session(0)
    monitor, policy = load_monitor(folder), Echo()
    policy.reset(0)
    r, alarms = np.random.default_rng(3), 0
    for inference in range(20):
        a, b = r.normal(size=2)
        told = session.answer(question(float(a), float(b), **({"seed": 0, "reset": True} if inference == 0 else {})))
        own = policy.infer([KeyMap({"s": "state"}).read({"s": [a, b]})])[0]
        assert np.array_equal(told["actions"], own.actions)
        for ahead in range(2):  # two of the four actions are executed
            step = 2 * inference + ahead
            asked = {"features": own.features, "info": own.info} if ahead == 0 else {}
            verdict = monitor.update(Moment(step, own.actions[ahead], **asked))
            if ahead == 0:
                said = told["failwise"]
                assert (said["score"], said["band"], said["alarm"]) == (verdict.score, verdict.band, verdict.alarm)
                assert said["step"] == step and (said["alarm_step"] is not None) == said["alarm"]
                alarms += said["alarm"]
    assert detector != "length" or 0 < alarms < 20


def test_a_client_that_executes_other_numbers_of_actions_says_at_which_step_it_is(echo, tmp_path):
    folder = save_monitor(tmp_path / "monitor")
    session, monitor = Served("echo", monitor=folder).session(0), load_monitor(folder)
    for step in (0, 3, 4, 30):
        told = session.answer(question(step=step))["failwise"]
    scores = [monitor.update(Moment(step, np.zeros(3, np.float32))) for step in range(31)]
    assert told["score"] == scores[-1].score and told["alarm_step"] == next(v.step for v in scores if v.alarm)
    for step in (30, 5, 30 + 1001):
        with pytest.raises(WireError, match="failwise/step must be 1 to 1000 above the last one, 30"):
            session.answer(question(step=step))
    assert session.answer(question(step=31))["failwise"]["step"] == 31


def test_a_reset_begins_an_episode_and_two_clients_share_nothing(echo, tmp_path):
    served = Served("echo", monitor=save_monitor(tmp_path / "monitor"))
    one, other = served.session(0), served.session(1)
    for _ in range(20):
        late = one.answer(question())["failwise"]
    assert late["alarm"] and late["episode"] == 0
    fresh = other.answer(question())["failwise"]
    assert not fresh["alarm"] and fresh["step"] == 0 and fresh["seed"] != late["seed"]
    again = one.answer(question(reset=True, seed=7))
    assert (again["failwise"]["episode"], again["failwise"]["step"], again["failwise"]["seed"]) == (1, 0, 7)
    assert not again["failwise"]["alarm"] and again["actions"][0, 2] == 0


def test_two_clients_that_take_turns_are_watched_each_on_its_own(echo, tmp_path):
    served = Served("echo", monitor=save_monitor(tmp_path / "monitor", "jerk"))
    r = np.random.default_rng(0)
    shown = {who: [r.normal(size=2) * (who + 1) for _ in range(6)] for who in (0, 1)}
    alone = {}
    for who, rows in shown.items():
        session = served.session(who)
        alone[who] = [session.answer(question(*map(float, row)))["failwise"]["score"] for row in rows]
    sessions = {who: served.session(who) for who in shown}
    for n in range(6):
        for who, session in sessions.items():
            assert session.answer(question(*map(float, shown[who][n])))["failwise"]["score"] == alone[who][n]


def test_a_policy_with_a_memory_is_loaded_once_a_client_at_a_time(monkeypatch):
    loaded = []

    def load(spec):
        loaded.append(PolicyAgent(Echo()))
        return loaded[-1]

    monkeypatch.setattr("failwise.serve.served.load_agent", load)
    served = Served("echo")
    one, other = served.session(0), served.session(1)
    assert len(loaded) == 2 and one.agent.policy is not other.agent.policy
    served.over(one)
    assert served.session(2).agent.policy is one.agent.policy and len(loaded) == 2


def test_features_come_only_when_they_are_asked_for(echo):
    session = Served("echo").session(0)
    assert "features" not in session.answer(question())["failwise"]
    told = session.answer(question(want=["features"]))["failwise"]
    assert told["features"].tolist()[0] == 1 and told["info"] == {"asked": 1.0}


def test_a_refused_question_changes_nothing(echo):
    session = Served("echo").session(0)
    session.answer(question())
    with pytest.raises(WireError):
        session.answer({"prompt": "go"})
    assert session.answer(question())["failwise"]["step"] == 2


def test_a_policy_that_gives_no_numbers_is_told(monkeypatch):
    class Broken(Echo):
        def infer(self, observations):
            chunks = super().infer(observations)
            chunks[0].actions[0, 0] = np.nan
            return chunks

    serve_echo(monkeypatch, policy=Broken)
    with pytest.raises(EpisodeError, match="not finite"):
        Served("echo").session(0).answer(question())


def test_an_alarm_is_explained(echo, tmp_path):
    traces = [made_up(20 + n, n, 2) for n in range(12)]
    for trace in traces[:6]:
        trace.features[:] += 5
    model = Classifier().fit(traces, ["drop"] * 6 + ["miss"] * 6)
    model.save(tmp_path / "diagnoser")
    monitor = save_monitor(tmp_path / "monitor")
    session = Served("echo", monitor=monitor, diagnoser=tmp_path / "diagnoser").session(0)
    told = [session.answer(question(**({"seed": 7, "reset": True} if n == 0 else {})))["failwise"] for n in range(20)]
    assert all(("diagnosis" in one) == one["alarm"] for one in told) and told[-1]["alarm"]
    seen = made_up(20, 0, 2)
    features = np.array([[n, 7] for n in range(20)], np.float32)
    expected = model.diagnose(seen.__class__(seen.meta, seen.actions, np.arange(20), features))
    assert told[-1]["diagnosis"]["mode"] == expected.mode
    assert told[-1]["diagnosis"]["confidence"] == pytest.approx(expected.confidence, abs=1e-6)


def test_what_cannot_be_served_is_told_before_anybody_connects(small, tmp_path):
    with pytest.raises(SetupError, match="an expert reads the simulator"):
        Served("expert")
    with pytest.raises(CheckpointError, match=r"needs the head 'nosuch'.*has success, failure"):
        Served(str(small), steer=[{"name": "afil", "options": {"failure": "nosuch"}}])
    with pytest.raises(SetupError, match="gives no denoising to steer"):
        Served("random:3", steer=[{"name": "none"}])
    with pytest.raises(SetupError, match="random:3 gives none"):
        Served("random:3", monitor=tmp_path)
    with pytest.raises(SetupError, match="needs a --monitor"):
        Served(str(small), diagnoser=tmp_path)
    with pytest.raises(SetupError, match="needs camera 'top', which no key stands for"):
        Served(str(small), keys=KeyMap({"cam": "image:0", "q": "state", "task": "instruction"}))
    with pytest.raises(CheckpointError, match="no detector"):
        Served(str(small), monitor=tmp_path)


def test_other_names_of_keys(small):
    served = Served(str(small), keys=KeyMap.parse("libero"))
    assert served.metadata()["failwise"]["keys"]["observation/wrist_image"] == "image:top"


def test_an_agent_folder_is_served_with_its_own_steering(small, tmp_path):
    (tmp_path / "agent.json").write_text(
        json.dumps({
            "format": "failwise-agent-1", "policy": str(small), "execute": 2,
            "steering": [{"name": "afil", "options": {"alpha": 0.5}}],
        })
    )  # fmt: skip
    served = Served(str(tmp_path))
    about = served.metadata()["failwise"]
    assert (about["execute"], about["steering"], len(about["checkpoint_sha256"])) == (2, ["afil"], 64)
    one, other = served.session(0).agent, served.session(1).agent
    assert one.steering is not other.steering and one.policy is other.policy
    assert isinstance(load_agent(str(tmp_path)), PolicyAgent)
    assert Served(str(tmp_path), steer=[]).metadata()["failwise"]["steering"] == []


def test_steering_as_a_user_writes_it():
    assert parse_steering("") is None and parse_steering("none") == []
    assert parse_steering("afil,best_of_n") == [{"name": "afil"}, {"name": "best_of_n"}]
    assert parse_steering('[{"name": "afil", "options": {"alpha": 2}}]')[0]["options"] == {"alpha": 2}
    for text in ("[", "[1]", '[{"options": {}}]', '[{"name": "afil", "alpha": 2}]'):
        with pytest.raises(SetupError, match="--steer"):
            parse_steering(text)
