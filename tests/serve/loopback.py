"""A server in a thread of the test, and policies that tell who asked them."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from websockets.sync.client import ClientConnection, connect

from failwise.agent import PolicyAgent
from failwise.detect import Trace, calibrate, make_detector
from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.policies.scripted import RandomPolicy
from failwise.serve import PolicyServer, Served, ServerOptions
from failwise.types import ActionChunk, EpisodeMeta, Outcome
from failwise.wire import pack, unpack

SENTENCES = ("move to the red disc", "push the puck into the goal circle")


def save_small_policy(folder: Path) -> Path:
    """A compact VLA for the tiny tasks that takes a millisecond, with random weights."""
    torch.manual_seed(0)
    config = CompactConfig(
        cameras={"robot": (32, 32), "top": (32, 32)}, state_dim=5, action_dim=3, horizon=4, execute=3, width=32,
        attention_heads=2, conv_channels=(8, 8, 8), backbone_layers=1, expert_layers=1, heads=("success", "failure"),
        denoising_steps=3,
    )  # fmt: skip
    ones = torch.ones
    policy = CompactVLA(config, Normaliser(0 * ones(5), ones(5), 0 * ones(3), ones(3), -ones(3), ones(3)))
    with torch.no_grad():  # the experts start equal, and their output at zero
        for parameter in policy.network.experts.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    policy.text.load_state_dict({s: torch.randn(4, 384).half() for s in SENTENCES})  # no text encoder needed
    policy.save(folder)
    return folder


class Echo(RandomPolicy):
    """Answers with the state that it was shown, plus the number of its inference in the episode as last column."""

    delay_s = 0.0

    def __init__(self) -> None:
        super().__init__(3, horizon=4)
        self.spec = replace(self.spec, execute=2, state_dim=2, feature_dim=2)

    def reset(self, seed: int) -> None:
        self.seed, self.asked = seed, 0

    def infer(self, observations: Any) -> list[ActionChunk]:
        time.sleep(self.delay_s)
        chunks = []
        for observation in observations:
            row = np.array([*observation.state[:2], self.asked], np.float32)
            features = np.array([self.asked, self.seed % 1000], np.float32)
            chunks.append(
                ActionChunk(np.tile(row, (self.spec.horizon, 1)), features=features, info={"asked": self.asked})
            )
            self.asked += 1
        return chunks


def serve_echo(monkeypatch: Any, delay_s: float = 0.0, policy: type[Echo] = Echo) -> None:
    """Let ``Served("echo")`` serve an Echo, a new one for each client."""
    monkeypatch.setattr(Echo, "delay_s", delay_s)
    monkeypatch.setattr("failwise.serve.served.load_agent", lambda spec: PolicyAgent(policy()))


@contextmanager
def serving(served: Served, **options: Any) -> Iterator[tuple[PolicyServer, int]]:
    """The server and its port, until the block ends."""
    server = PolicyServer(served, ServerOptions(**{"port": 0, **options}))
    ports: queue.Queue[int] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(server.run(ports.put)), daemon=True)
    thread.start()
    port = ports.get(timeout=300)  # a warm-up may load the text encoder, which takes 10 s of a processor
    try:
        yield server, port
    finally:
        server.stop()
        thread.join(timeout=60)
        assert not thread.is_alive(), "the server did not end"


@contextmanager
def client(port: int, headers: Any = None, **options: Any) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    """A connection, and the metadata that came first."""
    url = f"ws://127.0.0.1:{port}"
    with connect(url, additional_headers=headers, compression=None, proxy=None, **options) as socket:
        yield socket, unpack(socket.recv(timeout=30))


def ask(socket: ClientConnection, packed: bytes) -> Any:
    """The reply to one message: a map, or the text of a refusal."""
    socket.send(packed)
    reply = socket.recv(timeout=30)
    return reply if isinstance(reply, str) else unpack(reply)


def pack_question(who: int, number: int) -> bytes:
    """An observation for an Echo."""
    return pack({"observation/state": [float(who), float(number)], "prompt": "go"})


def made_up(n_steps: int, index: int, width: int) -> Trace:
    """A success of some length, with features that mean nothing."""
    meta = EpisodeMeta(
        episode_id=f"e{index}", env_id="tiny/reach", task="reach", instruction="go", env_seed=index, policy_seed=index,
        outcome=Outcome.SUCCESS, success_once=True, first_success_step=n_steps - 1, n_steps=n_steps, step_limit=60,
        control_hz=20.0,
    )  # fmt: skip
    asked, r = np.arange(0, n_steps, 2), np.random.default_rng(index)
    features = r.normal(size=(len(asked), width)).astype(np.float32)
    return Trace(meta, r.normal(size=(n_steps, 3)).astype(np.float32), asked, features)


def save_monitor(folder: Path, detector: str = "length", width: int = 2) -> Path:
    """A monitor that was calibrated on made-up successes of 6 to 29 steps."""
    wins = [made_up(n, n, width) for n in range(6, 30)]
    calibrate(make_detector(detector).fit(wins), wins, 0.1, kind="constant").save(folder)
    return folder
