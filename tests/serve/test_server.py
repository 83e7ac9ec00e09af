"""The server from outside: openpi's own client, many clients, and clients that mean harm."""

import asyncio
import http.client
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from failwise.agent import load_agent
from failwise.errors import SetupError
from failwise.serve import PolicyServer, Served, ServerOptions
from failwise.serve.server import warning
from failwise.types import Observation
from failwise.wire import KeyMap, pack, unpack

from .loopback import SENTENCES, ask, client, serve_echo, serving

KEYS = KeyMap.usual(["robot", "top"])


def seen(seed=0):
    r = np.random.default_rng(seed)
    images = {c: r.integers(0, 256, (32, 32, 3), np.uint8) for c in ("robot", "top")}
    return Observation(images, r.normal(size=5).astype(np.float32), SENTENCES[0])


def question(who, number, **more):
    return pack({"observation/state": [float(who), float(number)], "prompt": "go"} | more)


def test_openpis_own_client_gets_the_actions_of_the_agent(small):
    theirs = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    agent = load_agent(str(small))
    agent.execute = 4
    with serving(Served(str(small))) as (_, port):
        remote = theirs.WebsocketClientPolicy("127.0.0.1", port)
        about = remote.get_server_metadata()["failwise"]
        assert (about["horizon"], about["action_dim"], about["execute"]) == (4, 3, 3)
        for inference in range(3):
            message = KEYS.write(seen(inference))
            if inference == 0:
                message |= {"failwise/reset": True, "failwise/seed": 11}
                agent.begin(None, 11)
            reply = remote.infer(message)
            assert reply["actions"].dtype == np.float32 and reply["actions"].shape == (4, 3)
            assert reply["actions"].tobytes() == agent.act(seen(inference)).actions.tobytes()
            timing = reply["server_timing"]
            assert timing["infer_ms"] > 0 and ("prev_total_ms" in timing) == (inference > 0)
            assert inference == 0 or timing["prev_total_ms"] > 0
        with pytest.raises(RuntimeError, match=r"lacks 'observation/images/robot'.*; it has nothing") as refused:
            remote.infer({})
        assert len(str(refused.value).splitlines()) == 2, "openpi's own line, and one of ours"
        told = remote.infer(KEYS.write(seen()))["failwise"]
        assert (told["episode"], told["step"]) == (0, 9), "server, connection and episode go on"
        remote._ws.close()


def test_openpis_own_client_shows_a_token(small):
    theirs = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    with serving(Served(str(small)), token="s3cret") as (_, port):
        remote = theirs.WebsocketClientPolicy("127.0.0.1", port, api_key="s3cret")
        assert "actions" in remote.infer(KEYS.write(seen()))
        remote._ws.close()
        with pytest.raises(InvalidStatus):
            theirs.WebsocketClientPolicy("127.0.0.1", port, api_key="wrong")


@pytest.mark.parametrize(
    "headers", [None, {"Authorization": "Api-Key s3cre"}, {"Authorization": "s3cret"}, {"Authorization": "Api-Key é"}]
)
def test_without_the_token_nobody_gets_in(monkeypatch, headers):
    serve_echo(monkeypatch)
    with serving(Served("echo"), token="s3cret") as (server, port):
        with pytest.raises(InvalidStatus) as refused, client(port, headers):
            pass
        assert refused.value.response.status_code == 401 and server.counts.clients == 0
        with client(port, {"Authorization": "Api-Key s3cret"}) as (socket, _):
            assert "actions" in ask(socket, question(1, 1))


def test_the_health_check_needs_no_token(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo"), token="s3cret") as (_, port):
        web = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        web.request("GET", "/healthz")
        reply = web.getresponse()
        assert (reply.status, reply.read()) == (200, b"OK\n")
        web.close()


def test_a_web_page_cannot_use_the_policy_of_its_visitor(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (_, port):
        with pytest.raises(InvalidStatus) as refused, client(port, origin="http://evil.example"):
            pass
        assert refused.value.response.status_code == 403


def test_eight_clients_at_once_get_their_own_replies(monkeypatch):
    serve_echo(monkeypatch, 0.001)
    wrong, done = [], []

    def one(who):
        with client(port) as (socket, _):
            for number in range(40):
                reply = ask(socket, question(who, number))
                row = reply["actions"][0].tolist()
                told = reply["failwise"]["episode"], reply["failwise"]["step"]
                if row != [who, number, number] or told != (0, 2 * number):
                    wrong.append((who, number, row, told))
                done.append(who)

    with serving(Served("echo")) as (server, port):
        threads = [threading.Thread(target=one, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert server.counts.inferences == 320
    assert not wrong and sorted(done) == sorted(list(range(8)) * 40)


def test_generative_clients_do_not_share_their_noise(small):
    def alone(seed):
        agent = load_agent(str(small))
        agent.execute = 4
        agent.begin(None, seed)
        return [agent.act(seen(i)).actions.tobytes() for i in range(3)]

    steered = Served(str(small), steer=[{"name": "afil"}])
    with serving(steered) as (_, port), client(port) as (a, about), client(port) as (b, _):
        assert about["failwise"]["steering"] == ["afil"]
        got = {5: [], 6: []}
        for i in range(3):
            for seed, socket in ((5, a), (6, b)):
                more = {"failwise/reset": True, "failwise/seed": seed} if i == 0 else {}
                reply = ask(socket, pack(KEYS.write(seen(i)) | more))
                assert {"guidance_mean", "head_divergence"} <= reply["failwise"]["info"].keys()
                got[seed].append(reply["actions"].tobytes())
        assert got[5] != got[6] and got[5] != alone(5), "guided"
    with serving(Served(str(small))) as (_, port), client(port) as (a, _), client(port) as (b, _):
        for i in range(3):
            for seed, socket in ((5, a), (6, b)):
                more = {"failwise/reset": True, "failwise/seed": seed} if i == 0 else {}
                assert ask(socket, pack(KEYS.write(seen(i)) | more))["actions"].tobytes() == alone(seed)[i]


def test_clients_that_give_no_seed_get_noise_of_their_own_that_comes_again(small):
    def first_chunks():
        with serving(Served(str(small))) as (_, port):
            chunks = []
            for _ in range(2):
                with client(port) as (socket, _):
                    chunks.append(ask(socket, pack(KEYS.write(seen())))["actions"].tobytes())
            return chunks

    once = first_chunks()
    assert once[0] != once[1] and first_chunks() == once


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (b"\xff\xff", "not valid msgpack"),
        (pack({"prompt": "go"}), "lacks 'observation/state'; it has prompt"),
        (pack({"observation/state": [1.0, 2.0], "prompt": 3}), "'prompt' must be text"),
        (question(1, 1, **{"failwise/rest": True}), "unknown key 'failwise/rest'.*failwise/reset"),
        (question(1, 1, **{"failwise/reset": 1}), "'failwise/reset' must be true or false"),
        (question(1, 1, **{"failwise/seed": -1}), "'failwise/seed' must be a whole number"),
        (question(1, 1, **{"failwise/step": 10**9}), "'failwise/step' must be a whole number"),
        (question(1, 1, **{"failwise/want": ["weights"]}), "'failwise/want' must be a list of features"),
        ("text", "must be binary msgpack"),
    ],
)
def test_what_a_client_does_wrong_comes_back_in_one_line_and_ends_nothing(monkeypatch, packed, said):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (server, port), client(port) as (good, _):
        with client(port) as (bad, _):
            line = ask(bad, packed)
            assert isinstance(line, str) and "\n" not in line
            assert re.search(said, line), line
        assert ask(good, question(1, 0))["actions"][0].tolist() == [1, 0, 0]
        assert server.counts.refused == 1


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.uint64, int])
@pytest.mark.parametrize("shape", ["scalar", "array without axes"])
def test_numbers_of_numpy_count_as_the_numbers_that_they_are(monkeypatch, kind, shape):
    serve_echo(monkeypatch)
    wrap = np.asarray if shape != "scalar" else lambda value: value
    with serving(Served("echo")) as (_, port), client(port) as (socket, _):
        own = {"failwise/seed": wrap(kind(200)), "failwise/reset": wrap(np.bool_(True)), "failwise/step": wrap(kind(7))}
        first = ask(socket, question(1, 0))["failwise"]
        reply = ask(socket, question(1, 0, **own))["failwise"]
        assert (first["episode"], reply["episode"], reply["seed"], reply["step"]) == (0, 1, 200, 7)
        shown = ask(socket, question(1, 0, **{"failwise/notice": wrap(np.bool_(True))}))
        assert "actions" not in shown and shown["failwise"]["step"] == 7
        again = ask(socket, question(1, 0, **{"failwise/reset": wrap(np.bool_(False))}))["failwise"]
        assert again["episode"] == 1


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", "7", "must be a whole number from 0 to 1099511627775, got '7' (str)"),
        ("seed", 7.0, "must be a whole number from 0 to 1099511627775, got '7.0' (float)"),
        ("seed", np.float32(7), "must be a whole number from 0 to 1099511627775, got '7.0' (float32)"),
        ("seed", np.int32(-1), "must be a whole number from 0 to 1099511627775, got '-1' (int32)"),
        ("seed", np.array(-1), "must be a whole number from 0 to 1099511627775, got '-1' (int64)"),
        ("seed", 2**40, "must be a whole number from 0 to 1099511627775, got '1099511627776' (int)"),
        ("seed", np.bool_(True), "must be a whole number from 0 to 1099511627775, got 'True' (bool)"),
        ("seed", np.array([1, 2, 3]), "must be a whole number from 0 to 1099511627775, got array of int64 (3,)"),
        ("seed", None, "must be a whole number from 0 to 1099511627775, got 'None' (NoneType)"),
        ("step", np.float32(1.5), "must be a whole number from 0 to 1000000, got '1.5' (float32)"),
        ("reset", np.int64(1), "must be true or false, got '1' (int64)"),
        ("reset", "true", "must be true or false, got 'true' (str)"),
        ("notice", np.array([True]), "must be true or false, got array of bool (1,)"),
    ],
)
def test_a_number_of_another_kind_is_refused_by_key_value_and_type(monkeypatch, key, value, line):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (_, port), client(port) as (socket, _):
        assert ask(socket, question(1, 0, **{f"failwise/{key}": value})) == f"'failwise/{key}' {line}"
        assert ask(socket, question(1, 0))["failwise"]["step"] == 0, "the connection goes on, and nothing was begun"


@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_a_blank_prompt_is_one_line(monkeypatch, blank):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (_, port), client(port) as (socket, _):
        line = ask(socket, question(1, 0, prompt=blank))
        assert line == "'prompt' is blank: it must tell the policy what to do"
        assert "actions" in ask(socket, question(1, 0))


def test_sizes_that_the_policy_does_not_take_are_told(small):
    with serving(Served(str(small))) as (_, port), client(port) as (socket, _):
        message = KEYS.write(seen())
        for key, value, said in (
            (
                "observation/images/top",
                np.zeros((16, 32, 3), np.uint8),
                "'observation/images/top' (camera 'top') has the shape (16, 32, 3), the policy takes (32, 32, 3)",
            ),
            ("observation/state", [0.0] * 4, "'observation/state': proprioception has 4 numbers, the policy takes 5"),
        ):
            assert said in ask(socket, pack(message | {key: value}))
        assert "actions" in ask(socket, pack(message))


def test_a_message_that_is_too_large_cuts_its_client_off_and_nobody_else(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo"), message_mb=0.01) as (_, port), client(port) as (good, _):
        with client(port) as (bad, _):
            bad.send(b"\0" * 20_000)
            with pytest.raises(ConnectionClosed) as closed:
                bad.recv(timeout=30)
            assert closed.value.rcvd.code == 1009
        assert "actions" in ask(good, question(1, 0))


def test_a_full_queue_is_told_and_the_question_may_come_again(monkeypatch):
    serve_echo(monkeypatch, 0.5)
    with serving(Served("echo"), queue=1) as (_, port), client(port) as (a, _), client(port) as (b, _):
        a.send(question(1, 0))
        time.sleep(0.2)
        assert ask(b, question(2, 0)) == "busy: 1 inferences wait already (--queue 1); ask again"
        assert unpack(a.recv(timeout=30))["actions"][0].tolist() == [1, 0, 0]
        assert ask(b, question(2, 0))["actions"][0].tolist() == [2, 0, 0]


def test_a_server_with_enough_clients_takes_no_more_until_one_leaves(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo"), clients=1) as (server, port):
        with client(port):
            with pytest.raises(InvalidStatus) as refused, client(port):
                pass
            assert refused.value.response.status_code == 503
        until = time.monotonic() + 30
        while server._connected and time.monotonic() < until:
            time.sleep(0.01)
        with client(port) as (socket, _):
            assert "actions" in ask(socket, question(1, 0))


def test_a_fault_of_the_policy_ends_its_client_only(monkeypatch, caplog):
    from .loopback import Echo

    class Faulty(Echo):
        def infer(self, observations):
            if observations[0].state[1] == 13:
                raise ZeroDivisionError("a fault")
            return super().infer(observations)

    serve_echo(monkeypatch, policy=Faulty)
    with serving(Served("echo")) as (_, port), client(port) as (good, _), client(port) as (bad, _):
        assert ask(bad, question(1, 13)) == "ZeroDivisionError: a fault"
        with pytest.raises(ConnectionClosed) as closed:
            bad.recv(timeout=30)
        assert closed.value.rcvd.code == 1011 and "Traceback" in caplog.text
        assert "actions" in ask(good, question(2, 0))


def test_a_client_that_leaves_in_the_middle_of_an_inference_is_forgotten(monkeypatch):
    serve_echo(monkeypatch, 0.3)
    with serving(Served("echo")) as (server, port):
        with client(port) as (socket, _):
            socket.send(question(1, 0))
        with client(port) as (socket, _):
            assert "actions" in ask(socket, question(2, 0))
        until = time.monotonic() + 30
        while server._connected and time.monotonic() < until:
            time.sleep(0.01)
        assert server._connected == server._waiting == 0


def test_a_port_that_is_taken_is_a_line(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (_, port):
        second = PolicyServer(Served("echo"), ServerOptions(port=port))
        with pytest.raises(SetupError, match=f"cannot listen on 127.0.0.1 port {port}.*choose another --port"):
            # In a thread of its own: where browser tests ran before in this process, this one has a running loop.
            ThreadPoolExecutor(1).submit(lambda: asyncio.run(second.run())).result()


@pytest.mark.parametrize(
    "options", [{"port": -1}, {"message_mb": 0.0}, {"message_mb": float("nan")}, {"queue": 0}, {"clients": 0},
                {"max_wait": -1.0}, {"threads": -1}, {"max_wait": float("nan")},
                {"token": "two words"}, {"token": "é"}],
)  # fmt: skip
def test_options_out_of_range(options):
    with pytest.raises(SetupError):
        ServerOptions(**options)


def test_only_an_open_server_without_a_token_is_warned_of():
    assert not warning(ServerOptions()) and not warning(ServerOptions(host="0.0.0.0", token="x"))
    assert "--token-file" in warning(ServerOptions(host="0.0.0.0")) and warning(ServerOptions(host=""))


def test_metadata_name_no_path_of_this_machine(small):
    assert str(small.parent) not in json.dumps(Served(str(small)).metadata())
