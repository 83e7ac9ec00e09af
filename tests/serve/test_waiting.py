"""A busy server: clients wait for their turn, in the order in which they came, and no longer than is promised."""

import threading
import time
from contextlib import ExitStack, closing

import numpy as np
import pytest

from failwise.serve import Served
from failwise.wire import unpack

from .loopback import Echo, ask, client, pack_question, serve_echo, serving

DELAY_S = 0.1


class Logs(Echo):
    """Keeps the order in which it was asked, over all clients, and answers while its gate is open."""

    order: list = []  # noqa: RUF012
    gate = threading.Event()

    def infer(self, observations):
        assert Logs.gate.wait(60)
        Logs.order.append(int(observations[0].state[0]))
        return super().infer(observations)


@pytest.fixture
def busy(monkeypatch):
    serve_echo(monkeypatch, DELAY_S, policy=Logs)
    monkeypatch.setattr(Logs, "order", [])
    monkeypatch.setattr(Logs, "gate", threading.Event())
    Logs.gate.set()
    return Logs


def in_line(server, count):
    """Wait until so many inferences are in line, the running one among them."""
    until = time.monotonic() + 60
    while server._waiting != count:
        assert time.monotonic() < until, f"{server._waiting} inferences are in line, not {count}"
        time.sleep(0.005)


def together(count, one):
    """Run ``one(0)`` to ``one(count - 1)`` at once, and return what they raised."""
    errors = []

    def safely(who):
        try:
            one(who)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=safely, args=(who,)) for who in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return errors


def test_many_stock_clients_at_once_are_all_answered(busy):
    theirs = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    clients, questions = 24, 3  # more clients than the 16 places that a line had
    rows, waits = {}, []

    with serving(Served("echo")) as (server, port):

        def one(who):
            remote = theirs.WebsocketClientPolicy("127.0.0.1", port)
            with closing(remote._ws):
                for number in range(questions):
                    reply = remote.infer({"observation/state": np.array([who, number], np.float32), "prompt": "go"})
                    rows[who, number] = reply["actions"][0].tolist()
                    waits.append(reply["server_timing"]["queue_ms"])

        assert together(clients, one) == []
        counts = server.counts
    assert rows == {(who, n): [who, n, n] for who in range(clients) for n in range(questions)}
    assert (counts.inferences, counts.refused, counts.busy) == (clients * questions, 0, 0)
    assert max(waits) >= 1000 * DELAY_S * (clients / 2) and min(waits) >= 0
    assert counts.longest_wait_s == pytest.approx(max(waits) / 1000)
    assert counts.waited_s == pytest.approx(sum(waits) / 1000)


def test_turns_are_in_the_order_in_which_questions_came(busy):
    order = [3, 0, 5, 1, 4, 2]
    with ExitStack() as stack:
        server, port = stack.enter_context(serving(Served("echo")))
        sockets = [stack.enter_context(client(port))[0] for _ in order]
        busy.order.clear()
        busy.gate.clear()
        for number, who in enumerate(order, 1):
            sockets[who].send(pack_question(who, 0))
            in_line(server, number)
        busy.gate.set()
        replies = {who: unpack(sockets[who].recv(timeout=60)) for who in order}
    assert busy.order == order
    waits = [replies[who]["server_timing"]["queue_ms"] for who in order]
    assert waits == sorted(waits) and waits[-1] >= 5000 * DELAY_S


def test_a_turn_that_does_not_come_in_time_is_one_line_and_the_client_may_ask_again(busy):
    with ExitStack() as stack:
        server, port = stack.enter_context(serving(Served("echo"), max_wait=0.3))
        a, b, c = (stack.enter_context(client(port))[0] for _ in range(3))
        busy.gate.clear()
        for number, socket in enumerate((a, b, c), 1):
            socket.send(pack_question(number, 0))
            in_line(server, number)
        assert b.recv(timeout=60) == (
            "busy: no turn within 0.3 s (--max-wait), 2 other inferences are in line; "
            "ask again, or use fewer clients at a time"
        )
        assert c.recv(timeout=60).startswith("busy: no turn within 0.3 s (--max-wait), 1 other")
        busy.gate.set()
        assert unpack(a.recv(timeout=60))["actions"][0].tolist() == [1, 0, 0]
        assert ask(b, pack_question(2, 0))["actions"][0].tolist() == [2, 0, 0]
        assert server.counts.busy == 2 and "told busy: 2" in server.counts.summary()


def test_nothing_is_computed_for_a_client_that_left_the_line(busy):
    with ExitStack() as stack:
        server, port = stack.enter_context(serving(Served("echo")))
        stays, also = (stack.enter_context(client(port))[0] for _ in range(2))
        busy.order.clear()
        with client(port) as (leaves, _):
            busy.gate.clear()
            stays.send(pack_question(1, 0))
            in_line(server, 1)
            leaves.send(pack_question(2, 0))
            in_line(server, 2)
        busy.gate.set()
        assert ask(also, pack_question(3, 0))["actions"][0].tolist() == [3, 0, 0]
        assert "actions" in unpack(stays.recv(timeout=60))
        in_line(server, 0)
    assert busy.order == [1, 3]


def test_the_line_at_the_end_tells_the_waits(busy):
    with serving(Served("echo")) as (server, port), client(port) as (socket, _):
        for number in range(3):
            ask(socket, pack_question(1, number))
    server.counts.waited_s, server.counts.longest_wait_s = 0.06, 0.0399
    assert server.counts.summary() == "waits for a turn: 20 ms on average, 40 ms at most; told busy: 0"
