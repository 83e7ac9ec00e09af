"""Work that goes wrong, for workers and for a program of its own: python faulty_work.py STORE WORKERS"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from failwise.rollout import RolloutItem, collect, collecting
from failwise.rollout.executors import InProcess, ProcessPool

FIRST_SLOW = 4


def reach(seed: int, arm: str = "base") -> RolloutItem:
    return RolloutItem("tiny/reach", seed, 1000 + seed, arm, "expert:mixed")


ITEMS = [reach(seed) for seed in range(8)]


def _before_each(meet: Callable[[int], None]) -> None:
    run_item = collecting.run_item

    def run(item: RolloutItem, out: str, options: object) -> object:
        meet(item.env_seed)
        return run_item(item, out, options)

    collecting.run_item = run


def die_at_two() -> None:
    """Seed 2 kills its process, as an out-of-memory killer would."""
    _before_each(lambda seed: os.kill(os.getpid(), signal.SIGKILL) if seed == 2 else None)


def hang_from_four() -> None:
    """Seeds from 4 on take for ever."""
    _before_each(lambda seed: time.sleep(600) if seed >= FIRST_SLOW else None)


if __name__ == "__main__":
    if int(sys.argv[2]) == 1:
        hang_from_four()
    with InProcess() if int(sys.argv[2]) == 1 else ProcessPool(int(sys.argv[2]), hang_from_four) as executor:
        collect(ITEMS, Path(sys.argv[1]), executor=executor, quiet=True)
