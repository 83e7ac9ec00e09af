"""What a step of ManiSkill costs: as the adapter drives the arm, and as upstream's own step does it.

    .venv-maniskill/bin/python benchmarks/maniskill_step.py                 # after 'make maniskill'; half a minute
    .venv-maniskill/bin/python benchmarks/maniskill_step.py --env maniskill/StackCube-v1

One thread, no pictures; the expert's episodes on the same layouts, in turns. Poses are ours in both, and what is asked
once in a moment is not asked again.

    upstream_over_ours   the time of upstream's step over that of ours, proprioception and conditions included in both
    step_ms, upstream_step_ms   milliseconds a step
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from failwise.envs import make_env
from figures import announce

LONG = 60  # steps of an episode, at most


def episode(env: Any, seed: int) -> float:
    """Seconds a step of the expert's episode on a layout; its actions are not counted."""
    env.reset(seed=seed)
    spent, steps = 0.0, 0
    for _ in range(LONG):
        action = env.expert()
        start = time.perf_counter()
        *_, info = env.step(action)
        spent += time.perf_counter() - start
        steps += 1
        if info["success"]:
            break
    return spent / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="maniskill/PickCube-v1")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    env: Any = make_env(arguments.env, cameras=())
    drive = env._world._drive
    ours, upstreams = [], []
    for seed in range(arguments.repeats):
        env._world._drive = drive
        ours.append(episode(env, seed))
        env._world._drive = None
        upstreams.append(episode(env, seed))
    figures = {
        "upstream_over_ours": statistics.median(u / o for u, o in zip(upstreams, ours, strict=True)),
        "step_ms": 1e3 * statistics.median(ours),
        "upstream_step_ms": 1e3 * statistics.median(upstreams),
    }
    announce("maniskill_step", figures, table=True, env=arguments.env)


if __name__ == "__main__":
    main()
