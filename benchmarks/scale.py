"""What a thousand workers would do: measured costs of one item, then a simulation of many workers.

    python benchmarks/scale.py               # about two minutes on two cores
    python benchmarks/scale.py --item-s 1.4  # seconds of one episode; default: visual Meta-World with the compact VLA

Measured here: what the parent spends on handing out one item and taking its result, for the process pool and for Ray;
what a worker spends on committing an episode; the bytes and files of an episode. Simulated: workers that take items
from one parent, run them (log-normal times around the mean), and commit to one file system that serves a limited number
of metadata operations a second. The plan that follows from it is in docs/scale.md.

    pool_dispatch_ms, ray_dispatch_ms    of the parent's time, one item
    commit_ms                            of a worker's time, one episode of 150 steps with pictures
    episode_kb, episode_files            on disk
    episodes_per_s_W                     simulated, W workers
    parent_busy_W, file_system_busy_W    shares of their time
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from failwise.rollout import make_executor
from failwise.store import EpisodeStore
from figures import announce
from store import record

WORKERS = (2, 16, 128, 1000)
OPERATIONS = 14  # of a commit on the file system: a directory, six files with their flushes, a rename
NETWORK_OPERATIONS_PER_S = 5000.0  # of a shared file system: the order that NFS and Lustre metadata servers give


def nothing(item: int) -> int:
    """An item that costs nothing, so that what is left is the way there and back."""
    return item


def dispatch_ms(kind: str, items: int) -> float:
    """Milliseconds of the parent for one item."""
    with closing(make_executor(kind, 2)) as executor:  # type: ignore[arg-type]
        list(executor.map(nothing, range(20)))
        start = time.perf_counter()
        list(executor.map(nothing, range(items)))
        return 1e3 * (time.perf_counter() - start) / items


def simulate(workers: int, items: int, item_s: float, dispatch_s: float, operations_per_s: float) -> dict[str, float]:
    """Run ``items`` on ``workers``: a parent that serves one worker at a time, and a file system behind them."""
    random = np.random.default_rng(0)
    spread = 0.5
    times = random.lognormal(np.log(item_s) - spread**2 / 2, spread, items)
    commit_s = OPERATIONS / operations_per_s
    parent_free = disk_free = disk_busy = 0.0
    events = [(0.0, "asks")] * workers  # what happens when; a sorted list is a heap
    durations = iter(times)
    end = 0.0
    while events:
        now, what = heapq.heappop(events)
        if what == "asks":
            if (duration := next(durations, None)) is not None:
                parent_free = max(now, parent_free) + dispatch_s
                heapq.heappush(events, (parent_free + duration, "commits"))
        else:
            disk_free = max(now, disk_free) + commit_s
            disk_busy += commit_s
            end = max(end, disk_free)
            heapq.heappush(events, (disk_free, "asks"))
    return {"episodes_per_s": items / end, "parent_busy": items * dispatch_s / end, "file_system_busy": disk_busy / end}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--item-s", type=float, default=1.4)
    parser.add_argument("--items", type=int, default=1000)
    arguments = parser.parse_args()
    figures: dict[str, float] = {"pool_dispatch_ms": dispatch_ms("processes", arguments.items)}
    if find_spec("ray"):
        figures["ray_dispatch_ms"] = dispatch_ms("ray", arguments.items)
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore(Path(folder))
        figures["commit_ms"] = float(np.median([150 * record(store, seed, 150, 8) for seed in range(20)]))
        files = list((store.path / store.ids()[0]).iterdir())
        figures["episode_kb"] = sum(p.stat().st_size for p in files) / 1024
        figures["episode_files"] = len(files)
    dispatch = figures.get("ray_dispatch_ms", figures["pool_dispatch_ms"]) / 1e3
    for workers in WORKERS:
        found = simulate(workers, 40 * workers, arguments.item_s, dispatch, NETWORK_OPERATIONS_PER_S)
        figures |= {f"{name}_{workers}": value for name, value in found.items()}
    announce("scale", figures, table=True, item_s=arguments.item_s)


if __name__ == "__main__":
    main()
