"""A policy server as a policy: openpi's own server, one written from its frames, and one that dies."""

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from websockets.sync.server import serve

from failwise.agent import PolicyAgent, load_agent
from failwise.cli.options import arm_name, parse_arms
from failwise.envs import make_env
from failwise.envs.tiny.env import TinyEnv
from failwise.errors import EpisodeError, SetupError
from failwise.policies import load_policy
from failwise.policies.remote import Address, RemotePolicy
from failwise.policies.remote.link import Link
from failwise.rollout import RolloutItem, collect
from failwise.rollout.collecting import _Kept, run_item
from failwise.serve import Served
from failwise.store import EpisodeStore
from failwise.types import Observation

from .loopback import Echo, save_monitor, serve_echo, serving

SEEN = Observation({"top": np.zeros((8, 6, 3), np.uint8)}, np.array([3.0, 4.0], np.float32), "go")


def items(port, n=3, arm="remote", query="", **guard):
    agent = f"openpi:ws://127.0.0.1:{port}{query}"
    return [RolloutItem("tiny/reach", seed, seed, arm, agent, **guard) for seed in range(n)]


@contextmanager
def frames(answer, metadata=None):
    """A server that speaks openpi's frames and knows nothing of ours: ``answer`` takes and gives raw msgpack maps."""
    got = []

    def talk(socket):
        socket.send(msgpack.packb(metadata or {}))
        for packed in socket:
            got.append(msgpack.unpackb(packed))
            reply = answer(got[-1])
            socket.send(reply if isinstance(reply, str) else msgpack.packb(reply))
            if isinstance(reply, str):
                socket.close(1011)

    with serve(talk, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.socket.getsockname()[1], got
        server.shutdown()


def raw(array):
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": list(array.shape)}


def chunk(width=3, horizon=10, dtype=np.float64):
    return {"actions": raw(np.arange(width * horizon, dtype=dtype).reshape(horizon, width) / 100)}


def test_openpis_own_server_is_evaluated_as_a_policy(tmp_path):
    theirs = pytest.importorskip("openpi_server", reason="openpi-server is not installed")
    import asyncio

    asked = []

    class Theirs:
        def infer(self, observation):
            asked.append(observation)
            r = np.random.default_rng(len(asked))
            return {"actions": r.uniform(-1, 1, (10, 8)).astype(np.float64), "state": observation["observation/state"]}

    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = theirs.WebsocketPolicyServer(Theirs(), "127.0.0.1", port, {"model": "theirs"})
    threading.Thread(target=lambda: asyncio.run(server.run()), daemon=True).start()
    metas = collect(items(port, query="?actions=1:4&execute=5&keys=libero&resize=48"), tmp_path, workers=1, quiet=True)
    assert Counter(m.outcome for m in metas).keys() <= {"success", "failure", "timeout"}
    keys = {"observation/image", "observation/wrist_image", "observation/state", "prompt"}
    assert all(one.keys() == keys for one in asked), "nothing of ours is sent to a server that is not"
    assert asked[0]["observation/image"].shape == (48, 48, 3) and asked[1]["observation/image"].any()
    first = EpisodeStore(tmp_path).read(metas[0].episode_id)
    chunks = [np.random.default_rng(2 + n).uniform(-1, 1, (10, 8))[:5, 1:4] for n in range(12)]
    expected = np.concatenate(chunks).astype(np.float32)[: len(first.actions())]
    assert np.array_equal(first.actions(), expected)


def test_openpis_frames_go_both_ways():
    with frames(lambda message: chunk()) as (port, got):
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        actions = policy.infer([SEEN])[0].actions
    assert actions.dtype == np.float32 and np.allclose(actions, np.arange(30).reshape(10, 3) / 100)
    image, state = got[0]["observation/images/top"], got[0]["observation/state"]
    assert image[b"__ndarray__"] is True and (image[b"dtype"], image[b"shape"]) == ("|u1", [8, 6, 3])
    assert (state[b"dtype"], state[b"shape"], len(state[b"data"])) == ("<f4", [2], 8)
    assert got[0].keys() == {"observation/images/top", "observation/state", "prompt"} and got[0]["prompt"] == "go"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Traceback (most recent call last):\n  File x\nKeyError: 'wrist'\n", "refused: KeyError: 'wrist'"),
        ({"state": 1}, "must send 'actions' as floats .*, got NoneType"),
        ({"actions": raw(np.zeros(3))}, r"got float64 \(3,\)"),
        ({"actions": raw(np.zeros((0, 3)))}, r"got float64 \(0, 3\)"),
        ({"actions": raw(np.zeros((4, 3), np.int64))}, r"got int64 \(4, 3\)"),
        ({"actions": [[0.0]]}, "got list"),
        (
            {"actions": {b"__ndarray__": True, b"data": b"x", b"dtype": "|O", b"shape": [1]}},
            "sent no answer: .*not accepted",
        ),
    ],
)
def test_what_is_no_chunk_is_told_in_one_line(reply, said):
    with frames(lambda message: reply) as (port, _):
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        with pytest.raises(EpisodeError, match=said) as refused:
            policy.infer([SEEN])
        assert "\n" not in str(refused.value)


def test_a_server_that_does_not_answer_in_time_is_left():
    with frames(lambda message: time.sleep(1) or chunk()) as (port, _):
        policy = RemotePolicy(f"ws://127.0.0.1:{port}?timeout=0.2")
        with pytest.raises(EpisodeError, match=r"did not answer in 0\.2 s"):
            policy.infer([SEEN])
        assert not policy._link.connected, "the late answer must not be taken for the next one's"


def test_actions_of_another_width_are_refused_before_any_episode(tmp_path):
    with frames(lambda message: chunk(7)) as (port, _):
        with pytest.raises(SetupError, match=r"sends actions of 7 numbers, tiny/reach takes 3; .*\?actions=START:STOP"):
            collect(items(port), tmp_path, workers=1, quiet=True)
        with pytest.raises(SetupError, match="sends 7 numbers an action, which has no actions=6:9"):
            collect(items(port, query="?actions=6:9"), tmp_path, workers=1, quiet=True)
    assert not EpisodeStore(tmp_path).ids()


def test_what_does_not_fit_is_refused_before_any_episode(small, tmp_path):
    with serving(Served(str(small), resize="off")) as (_, port):
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        policy.probe(make_env("tiny/reach").spec)
        with pytest.raises(SetupError, match=r"has the shape \(16, 16, 3\), the policy takes \(32, 32, 3\)"):
            policy.probe(make_env("tiny/reach", image_size=16).spec)
        with pytest.raises(SetupError, match="camera number 1, counted from 0, of top"):
            RemotePolicy(f"ws://127.0.0.1:{port}?keys=droid").infer([SEEN])


def test_nobody_there_is_one_line_that_says_how_to_start_one():
    with pytest.raises(SetupError, match=r"no policy server at ws://127\.0\.0\.1:1; start one with: failwise serve"):
        load_agent("openpi:ws://127.0.0.1:1?connect=0.2")


def test_a_server_that_comes_up_late_is_waited_for(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (_, port):
        pass
    found = []
    thread = threading.Thread(target=lambda: found.append(RemotePolicy(f"ws://127.0.0.1:{port}?connect=20")))
    thread.start()
    time.sleep(0.5)
    with serving(Served("echo"), port=port):
        thread.join(30)
    assert found and found[0].spec.horizon == 4


def test_the_token_comes_from_a_file_or_the_environment(monkeypatch, tmp_path):
    serve_echo(monkeypatch)
    (tmp_path / "token").write_text("s3cret\n")
    with serving(Served("echo"), token="s3cret") as (_, port):
        with pytest.raises(SetupError, match=r"wants a token: .*token_file=FILE"):
            RemotePolicy(f"ws://127.0.0.1:{port}")
        assert RemotePolicy(f"ws://127.0.0.1:{port}?token_file={tmp_path / 'token'}").infer([SEEN])
        monkeypatch.setenv("FAILWISE_TOKEN", "s3cret")
        assert RemotePolicy(f"ws://127.0.0.1:{port}").infer([SEEN])
    with pytest.raises(SetupError, match="no token can be read"):
        RemotePolicy(f"ws://127.0.0.1:{port}?token_file={tmp_path / 'nowhere'}")


def test_a_message_too_large_for_the_server_is_told(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo"), message_mb=0.001) as (_, port):
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        big = Observation({}, np.zeros(2, np.float32), "x" * 1900)
        with pytest.raises(EpisodeError, match=r"takes no message of .*; start it with a larger --max-message-mb"):
            policy.infer([big])


def test_a_busy_server_is_asked_again(monkeypatch):
    serve_echo(monkeypatch, 0.3)
    with serving(Served("echo"), queue=1) as (server, port):
        rows = {}

        def one(who):
            seen = Observation({}, np.array([who, 0], np.float32), "go")
            rows[who] = RemotePolicy(f"ws://127.0.0.1:{port}").infer([seen])[0].actions[0].tolist()

        threads = [threading.Thread(target=one, args=(who,)) for who in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert server.counts.refused > 0, "nobody was told to wait, so this test says nothing"
    assert rows == {who: [who, 0, 0] for who in range(3)}


def test_through_the_server_every_action_and_feature_is_the_same_to_the_bit(small, tmp_path):
    with serving(Served(str(small))) as (_, port):
        remote = collect(items(port, 6), tmp_path, workers=1, quiet=True)
    local = collect(
        [RolloutItem("tiny/reach", s, s, "local", str(small)) for s in range(6)], tmp_path, workers=1, quiet=True
    )
    store = EpisodeStore(tmp_path)
    for one, other in zip(remote, local, strict=True):
        assert one.outcome == other.outcome and not one.error
        a, b = store.read(one.episode_id), store.read(other.episode_id)
        assert a.actions().tobytes() == b.actions().tobytes() and len(a.actions())
        assert a.features()[1].tobytes() == b.features()[1].tobytes()
        assert one.provenance.checkpoint_sha256 == other.provenance.checkpoint_sha256 != ""
    seeds = {store.read(m.episode_id).actions()[:3].tobytes() for m in remote}
    assert len(seeds) == 6, "each episode has noise of its own"


def test_a_monitor_here_reads_the_features_that_come_over_the_wire(small, tmp_path):
    monitor = str(save_monitor(tmp_path / "monitor", "knn-cosine", width=32))
    guard = {"monitor": monitor, "on_alarm": "note"}
    with serving(Served(str(small))) as (_, port):
        (remote,) = collect(items(port, 1, **guard), tmp_path / "store", workers=1, quiet=True)
    (local,) = collect(
        [RolloutItem("tiny/reach", 0, 0, "local", str(small), **guard)], tmp_path / "store", workers=1, quiet=True
    )
    store = EpisodeStore(tmp_path / "store")
    assert np.array_equal(store.read(remote.episode_id).scores(), store.read(local.episode_id).scores())
    assert not remote.error and remote.failure_events == local.failure_events


def test_the_servers_own_verdicts_are_recorded_with_each_inference(small, tmp_path):
    monitor = save_monitor(tmp_path / "monitor", "length", width=32)
    with serving(Served(str(small), monitor=monitor)) as (_, port):
        (meta,) = collect(items(port, 1), tmp_path / "store", workers=1, quiet=True)
    episode = EpisodeStore(tmp_path / "store").read(meta.episode_id)
    info = episode.info()
    alarms, starts = info["server_alarm"], episode.chunk_starts()
    assert len(alarms) == len(starts) and set(alarms.tolist()) == {0.0, 1.0}
    assert np.array_equal(info["server_score"] > info["server_band"], alarms.astype(bool))


@contextmanager
def at_step(monkeypatch, number, act):
    """Call ``act`` at the environment step of that number, counted over all episodes."""
    taken, step = [], TinyEnv.step

    def counting(self, action):
        taken.append(1)
        if len(taken) == number:
            act()
        return step(self, action)

    monkeypatch.setattr(TinyEnv, "step", counting)
    yield
    assert len(taken) >= number


def test_a_server_that_dies_costs_one_episode_and_comes_back(monkeypatch, tmp_path):
    serve_echo(monkeypatch)
    opened = [serving(Served("echo"))]
    _, port = opened[0].__enter__()

    def restart():
        opened[-1].__exit__(None, None, None)
        opened.append(serving(Served("echo"), port=port))
        opened[-1].__enter__()

    with at_step(monkeypatch, 70, restart):
        metas = collect(items(port, 4, query="?connect=0.5"), tmp_path, workers=1, quiet=True)
    opened[-1].__exit__(None, None, None)
    assert [m.outcome == "error" for m in metas] == [False, True, False, False]
    assert "went away at inference" in metas[1].error and 0 < metas[1].n_steps < 60
    again = collect(items(port, 4, query="?connect=0.5"), tmp_path, workers=1, quiet=True)
    assert again == metas, "what is recorded is not run again, so that no server is needed"


def test_a_server_that_stays_away_ends_no_evaluation_and_the_counts_add_up(monkeypatch, tmp_path):
    serve_echo(monkeypatch)
    opened = serving(Served("echo"))
    _, port = opened.__enter__()
    with at_step(monkeypatch, 70, lambda: opened.__exit__(None, None, None)):
        metas = collect(items(port, 5, query="?connect=0.5"), tmp_path, workers=1, quiet=True)
    assert len(metas) == 5 and [m.outcome for m in metas[1:]] == ["error"] * 4 and metas[0].outcome != "error"
    assert all("no policy server at" in m.error and m.n_steps == 0 for m in metas[2:])


def test_a_worker_that_starts_while_the_server_is_away_costs_its_episode_only(monkeypatch, tmp_path):
    serve_echo(monkeypatch)
    opened = serving(Served("echo"))
    _, port = opened.__enter__()
    monkeypatch.setattr("failwise.rollout.collecting._agents", _Kept(1))
    real, loads = run_item, []

    def first_away(item, out, options):
        if not loads:
            opened.__exit__(None, None, None)
        loads.append(item)
        return real(item, out, options)

    monkeypatch.setattr("failwise.rollout.collecting.run_item", first_away)
    metas = collect(items(port, 2, query="?connect=0.2"), tmp_path, workers=1, quiet=True)
    assert [m.outcome for m in metas] == ["error", "error"] and len(EpisodeStore(tmp_path).ids()) == 2
    assert all(m.error.startswith("no policy server at") for m in metas)


def test_who_waited_in_vain_once_does_not_wait_before_every_episode(monkeypatch):
    tries = []

    def refused(self):
        tries.append(1)
        raise ConnectionRefusedError

    monkeypatch.setattr(Link, "_connect", refused)
    link = Link(Address.parse("ws://127.0.0.1:1?connect=0.5"))
    counts = []
    for _ in range(3):
        with pytest.raises(EpisodeError, match="no policy server"):
            link.connect()
        counts.append(len(tries))
    assert counts[0] > 1 and counts[1:] == [counts[0] + 1, counts[0] + 2]


def test_another_policy_at_the_same_address_is_not_taken_for_the_first(monkeypatch, small):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (_, port):
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        policy.infer([SEEN])
    monkeypatch.undo()
    with serving(Served(str(small)), port=port):
        policy.reset(1)
        with pytest.raises(EpisodeError, match="now serves another policy"):
            policy.infer([SEEN])


def test_a_policy_that_nobody_needs_any_more_leaves_its_server(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (server, port):
        policy = load_policy(f"openpi:ws://127.0.0.1:{port}")
        assert isinstance(policy, RemotePolicy) and server._connected == 1
        del policy
        until = time.monotonic() + 30
        while server._connected and time.monotonic() < until:
            time.sleep(0.01)
        assert server._connected == 0


def test_metadata_that_make_no_sense_are_refused():
    for about, said in (
        ({"protocol": 2}, "another version"),
        ({"horizon": "x"}, "describes its policy badly"),
        ([], "another version"),
    ):
        with frames(lambda message: chunk(), {"failwise": about}) as (port, _), pytest.raises(SetupError, match=said):
            RemotePolicy(f"ws://127.0.0.1:{port}")


def test_an_address():
    address = Address.parse("ws://pc:8000/x?actions=0:7&execute=5&timeout=9&resize=224&connect=0")
    assert (address.url, address.actions, address.execute, address.resize) == ("ws://pc:8000/x", slice(0, 7), 5, 224)
    assert (address.timeout, address.connect, address.keys) == (9.0, 0.0, None)
    assert Address.parse("ws://pc:8000?keys=libero").keys is not None


@pytest.mark.parametrize(
    "text", ["", "pc:8000", "http://pc:8000", "ws://pc", "ws://:8000", "ws://pc:x", "ws://pc:99999", "ws://u:p@pc:1",
             "ws://pc:1?nosuch=1", "ws://pc:1?execute=0", "ws://pc:1?execute=x", "ws://pc:1?actions=7:0",
             "ws://pc:1?timeout=nan", "ws://pc:1?execute=2&execute=3", "ws://pc:1?keys=nowhere.json", "ws://pc:1#x"],
)  # fmt: skip
def test_what_is_no_address(text):
    with pytest.raises(SetupError):
        Address.parse(text)


def test_an_address_is_an_arm_with_a_name():
    address = "openpi:ws://localhost:8000?keys=libero&actions=0:7"
    assert parse_arms(f"{address},pi0={address}") == {"localhost-8000": address, "pi0": address}
    assert arm_name(address) == "localhost-8000"


class LooksBack(Echo):
    """Its actions tell how many observations it was shown since the episode began, whether asked or not."""

    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, history=2, execute=4)

    def reset(self, seed):
        super().reset(seed)
        self.shown = 0

    def notice(self, observation):
        self.shown += 1

    def infer(self, observations):
        self.shown += 1
        return [replace(c, actions=c.actions * 0 + self.shown / 100) for c in super().infer(observations)]


def test_a_policy_that_looks_back_is_shown_as_much_as_in_process(monkeypatch, tmp_path):
    serve_echo(monkeypatch, policy=LooksBack)
    with serving(Served("echo")) as (server, port):
        (meta,) = collect(items(port, 1), tmp_path, workers=1, quiet=True)
        inferences = server.counts.inferences
    actions = EpisodeStore(tmp_path).read(meta.episode_id).actions()[::4, 0]
    shown = np.round(100 * actions).astype(int).tolist()
    assert shown == list(range(1, 2 * len(shown), 2)), "one more between every two inferences"
    assert inferences == len(shown) + 1, "what is only shown is no inference; one asked whether it fits"


def test_a_folder_may_stand_for_a_server(monkeypatch, tmp_path):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (_, port):
        (tmp_path / "config.json").write_text(f'{{"kind": "openpi", "address": "ws://127.0.0.1:{port}?execute=1"}}')
        assert load_agent(str(tmp_path)).execute == 1
    (tmp_path / "config.json").write_text('{"kind": "openpi"}')
    with pytest.raises(SetupError, match="must name an address"):
        load_policy(tmp_path)


def test_an_agent_of_a_server_cannot_be_steered_here(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (_, port):
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        with pytest.raises(SetupError, match="no denoising to steer"):
            PolicyAgent(policy, steering=Echo())
