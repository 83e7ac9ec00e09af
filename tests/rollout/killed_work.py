"""One collecting process after another on the same store, each killed at a random moment: killed_work.py STORE KILLS

Prints a JSON list, one entry a kill: episodes before it and after it, leftovers, and whether anything that had been
committed before changed. Processes are forked, so that imports are paid once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path

from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore

ITEMS = [RolloutItem("tiny/reach", seed, 1000 + seed, "base", "expert:mixed") for seed in range(150)]


def contents(store: EpisodeStore) -> dict[str, str]:
    """A digest of every file of every committed episode."""
    files = [p for name in store.ids() for p in (store.path / name).iterdir()]
    return {str(p): sha256(p.read_bytes()).hexdigest() for p in files}


def kill_one(store: EpisodeStore, chance: random.Random) -> dict[str, object]:
    before, held = contents(store), len(store)
    wanted, wait = held + chance.randint(0, 3), chance.uniform(0.0, 0.04)
    child = os.fork()
    if not child:
        collect(ITEMS, store.path, workers=1, quiet=True)
        os._exit(0)
    until = time.monotonic() + 60
    while len(EpisodeStore(store.path)) < wanted and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    after = EpisodeStore(store.path)
    now = contents(after)
    return {
        "killed": os.WIFSIGNALED(status),
        "before": held,
        "after": len(after),
        "changed": [name for name, digest in before.items() if now.get(name) != digest],
    }


if __name__ == "__main__":
    chance = random.Random(0)
    print(json.dumps([kill_one(EpisodeStore(Path(sys.argv[1])), chance) for _ in range(int(sys.argv[2]))]))
