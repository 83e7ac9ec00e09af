"""What the policy server costs, and whether eight clients at once get their own replies.

    python benchmarks/serve.py               # a minute of load, and half a minute around it
    python benchmarks/serve.py --seconds 5   # does it run at all

The server runs in a process of its own on this machine, one inference at a time, torch on one thread. The policy is the
compact VLA with random weights.

    in_process_p50_ms             one inference without a server
    round_trip_p50_ms, _p99_ms    one client, the same inference through the server
    overhead_ms, overhead_share   difference of the medians; over the inference
    wire_p50_ms, wire_p99_ms      one client, a policy that takes no time: what protocol and sockets cost
    load_round_trip_p50_ms, _p99  eight clients at once, each asking as soon as it has its answer
    load_inferences_per_s         of all of them together
    replies, lost, mixed          under that load, of a policy that names its client: lost and mixed must be 0
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from failwise.agent import PolicyAgent
from failwise.policies.remote import RemotePolicy
from failwise.policies.scripted import RandomPolicy
from failwise.serve import Served, ServerOptions, served
from failwise.serve.server import run_server
from failwise.types import ActionChunk, Observation
from figures import announce
from guidance import random_observations, random_policy

CLIENTS = 8


class Names(RandomPolicy):
    """Answers at once, with what it was shown: the client's number and its question's."""

    def __init__(self) -> None:
        super().__init__(2, horizon=8)
        self.spec = replace(self.spec, state_dim=2)

    def infer(self, observations: Any) -> list[ActionChunk]:
        """One chunk per observation."""
        return [ActionChunk(np.tile(np.asarray(o.state, np.float32), (8, 1))) for o in observations]


@contextmanager
def serving(what: str) -> Iterator[str]:
    """The address of a server in a process of its own, until the block ends."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", what], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"ws://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def serve(what: str) -> None:
    """What that process does: serve a policy folder, or ``Names``."""
    if what == "names":  # which no name stands for
        served.load_agent = lambda spec: PolicyAgent(Names())  # type: ignore[assignment]
    run_server(Served(what), ServerOptions(port=0, queue=64, threads=1), lambda port: print(port, flush=True))


def milliseconds(ask: Any, seconds: float) -> list[float]:
    """Time of each call, for so long, after a few that do not count."""
    for _ in range(5):
        ask()
    spent, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        ask()
        spent.append(1000 * (time.perf_counter() - start))
    return spent


def p99(values: list[float]) -> float:
    return float(np.quantile(values, 0.99))


def under_load(address: str, seconds: float) -> dict[str, float]:
    """Eight clients, each in its thread, which check that every answer is theirs and that of their last question."""
    spent: list[float] = []
    lost, mixed, replies = [0] * CLIENTS, [0] * CLIENTS, [0] * CLIENTS

    def one(who: int) -> None:
        policy, number = RemotePolicy(address), 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            number += 1
            seen = Observation({}, np.array([who, number], np.float32), "go")
            start = time.perf_counter()
            try:
                row = policy.infer([seen])[0].actions[0].tolist()
            except Exception:  # whatever it was, the answer did not come
                lost[who] += 1
                continue
            spent.append(1000 * (time.perf_counter() - start))
            replies[who] += 1
            mixed[who] += row != [who, number]

    start = time.perf_counter()
    threads = [threading.Thread(target=one, args=(who,)) for who in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "load_round_trip_p50_ms": statistics.median(spent), "load_round_trip_p99_ms": p99(spent),
        "load_inferences_per_s": sum(replies) / (time.perf_counter() - start),
        "replies": sum(replies), "lost": sum(lost), "mixed": sum(mixed),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    seconds = arguments.seconds
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        policy = random_policy()
        seen = random_observations(policy, 1)[0]
        policy.text.add([seen.instruction])
        policy.save(Path(folder) / "policy")
        agent = PolicyAgent(policy)
        agent.begin(None, 0)
        with serving(f"{folder}/policy") as address:
            remote = RemotePolicy(address)
            inside, outside = [], []
            for _ in range(4):  # in turns, so that a slow moment of the machine hits both
                inside += milliseconds(lambda: agent.act(seen), seconds / 24)
                outside += milliseconds(lambda: remote.infer([seen]), seconds / 24)
    figures["in_process_p50_ms"] = statistics.median(inside)
    figures |= {"round_trip_p50_ms": statistics.median(outside), "round_trip_p99_ms": p99(outside)}
    figures["overhead_ms"] = figures["round_trip_p50_ms"] - figures["in_process_p50_ms"]
    figures["overhead_share"] = figures["overhead_ms"] / figures["in_process_p50_ms"]
    with serving("names") as address:
        remote = RemotePolicy(address)
        shown = Observation({}, np.zeros(2, np.float32), "go")
        wire = milliseconds(lambda: remote.infer([shown]), seconds / 12)
        figures |= {"wire_p50_ms": statistics.median(wire), "wire_p99_ms": p99(wire)}
        figures |= under_load(address, seconds)
    announce("serve", figures, table=True, clients=CLIENTS)


if __name__ == "__main__":
    main()
