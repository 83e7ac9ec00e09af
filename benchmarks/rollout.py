"""How fast the closed loop runs: visual Meta-World, the shipped compact VLA, episodes recorded as usual.

    python benchmarks/rollout.py              # about three minutes on two idle cores; needs the simulator

    steps_per_s             environment steps a second, policy and recording included, on one worker
    two_workers_over_one    budget: at least 1.8
    look_over_every_step    images only where the policy looks, over images at every step, one worker
    ray_over_pool           two workers on Ray over two of the process pool; budget: at least 0.9; left out without Ray

    .venv-lerobot/bin/python benchmarks/rollout.py --peer lerobot        # three minutes; the peer instead of the above

    over_lerobot_eval       steps a second over those of lerobot-eval: the same checkpoint, 480x480; budget: at least 10

What is compared runs in turns, on the same layouts; workers have simulator and policy loaded before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import closing
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

from failwise.agent import load_agent
from failwise.cli.options import agent_for
from failwise.rollout import RolloutItem, RolloutOptions, make_executor
from failwise.rollout.collecting import environment, run_item
from failwise.rollout.loop import run_episode
from failwise.store import EpisodeStore
from figures import announce

ENV = "metaworld/pick-place"


cached_agent = lru_cache(load_agent)


class EveryStep:
    """An environment whose pictures are taken at every step, as in loops that hand them out with each observation."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, action: Any) -> Any:
        """One step, and its pictures."""
        result = self._env.step(action)
        dict(result[0].images.items())
        return result


def looking_everywhere(item: RolloutItem, out: str, options: RolloutOptions) -> Any:
    """As ``run_item``, with pictures at every step."""
    with EpisodeStore(out).begin(item.episode_id) as writer:
        meta = run_episode(EveryStep(environment(item.env_id)), cached_agent(item.agent), item, writer, options)
        writer.commit(meta)
    return meta


def steps_per_s(executor: Any, function: Any, items: list[RolloutItem]) -> float:
    """Environment steps a second over all items."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        metas = list(executor.map(partial(function, out=out, options=RolloutOptions()), items))
        return sum(m.n_steps for m in metas) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=48, help="of each way and repeat; of the slow one a third")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", choices=["lerobot"], help="compare with another framework's evaluation")
    parser.add_argument("--peer-steps", type=int, default=96, help="of each episode beside a peer")
    arguments = parser.parse_args()
    if arguments.peer:
        os.environ.setdefault("MUJOCO_GL", "egl")  # without a screen LeRobot's renderer needs to be told
        from peer_lerobot import over_lerobot_eval

        announce("rollout", over_lerobot_eval(arguments.peer_steps, arguments.repeats), table=True, peer=arguments.peer)
        return
    agent = agent_for("metaworld-base", [ENV])
    items = [RolloutItem(ENV, 900_000 + i, i, "base", agent) for i in range(arguments.episodes)]
    ways: dict[str, tuple[Any, Any]] = {
        "one worker": (make_executor("processes", 1), run_item),
        "one worker, pictures at every step": (make_executor("processes", 1), looking_everywhere),
        "two workers": (make_executor("processes", 2), run_item),
    }
    if find_spec("ray"):
        ways["two workers on Ray"] = (make_executor("ray", 2), run_item)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(1 + arguments.repeats):
        for name, (executor, function) in ways.items():
            # Of two workers one waits for the other's last episode, so that few episodes would understate them.
            some = items[:4] if not repeat else items[: len(items) // 3] if function is looking_everywhere else items
            rate = steps_per_s(executor, function, some)
            if repeat:
                found[name].append(rate)
    for executor, _ in ways.values():
        with closing(executor):
            pass
    median = {name: statistics.median(rates) for name, rates in found.items()}
    for name, rate in median.items():
        print(f"  {name:36s} {rate:8.1f} steps/s")
    one = median["one worker"]
    figures = {
        "steps_per_s": one,
        "two_workers_over_one": median["two workers"] / one,
        "look_over_every_step": one / median["one worker, pictures at every step"],
    }
    if "two workers on Ray" in median:
        figures["ray_over_pool"] = median["two workers on Ray"] / median["two workers"]
    announce("rollout", figures)


if __name__ == "__main__":
    main()
