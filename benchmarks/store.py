"""What recording costs, how fast episodes are read, and what a store of 100,000 episodes asks of a person's patience.

    python benchmarks/store.py                    # about ten minutes, and 3 GB of disk for a while
    python benchmarks/store.py --episodes 2000    # does it run at all

The large store holds copies of one small episode (40 steps, no images) under different names: names, listing and checks
do not care what is in an episode.

    write_ms_per_step_p50, _p99   recording an episode of 150 steps, two 96x96 cameras at every eighth step, features,
                                  and its commit to disk, over its steps; budget 2 ms
    images_per_s                  96x96 images read and decoded, in random order
    chunks_per_s                  action chunks of 8, each from another episode, no image opened
    list_100k_s, relist_100k_s    metadata of all: in a fresh process' first listing, and once more
    filter_100k_s                 those of one arm and outcome
    check_100k_s                  every checksum and every table
    compact_100k_s                packing into shards of 1000; shard_list_100k_s, shard_chunks_per_s: afterwards
    list_mb                       memory that listing all of them one after the other adds
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from failwise.store import EpisodeStore, check, compact, episode_id
from failwise.types import EpisodeMeta, Outcome, StepRecord
from figures import announce

CAMERAS = {"corner": (96, 96), "gripper": (96, 96)}
LINKS = 30_000  # names of one file
LISTING = """
import resource, sys, time
from failwise.store import EpisodeStore
from failwise.types import Outcome
store = EpisodeStore(sys.argv[1], create=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = []
for filters in ({}, {}, {"arm": "b", "outcome": Outcome.TIMEOUT}):
    start = time.perf_counter()
    n = sum(1 for _ in store.scan(**filters))
    times.append(time.perf_counter() - start)
print(*times, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def meta(name: str, seed: int, steps: int, looks: int, outcome: Outcome = Outcome.TIMEOUT) -> EpisodeMeta:
    return EpisodeMeta(
        episode_id=name, env_id="metaworld/reach", task="reach", instruction="Reach the goal.", arm="ab"[seed % 2],
        env_seed=seed, policy_seed=seed, outcome=outcome, n_steps=steps, step_limit=steps, control_hz=20.0,
        cameras=tuple(CAMERAS) if looks else (), n_frames=looks,
    )  # fmt: skip


def record(store: EpisodeStore, seed: int, steps: int, look_every: int) -> float:
    """Record one episode; milliseconds a step."""
    random = np.random.default_rng(seed)
    images = [
        {name: random.integers(0, 255, (h // 8, w // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
         for name, (h, w) in CAMERAS.items()} for _ in range(4)
    ]  # fmt: skip
    vector = random.normal(size=192).astype(np.float32)
    name = episode_id("metaworld/reach", "ab"[seed % 2], seed)
    looks = 0
    start = time.perf_counter()
    with store.begin(name) as writer:
        for step in range(steps):
            if look_every and step % look_every == 0:
                writer.look(step, images[looks % 4])
                writer.features(step, vector)
                looks += 1
            info = {"risk": 0.5} if step % 8 == 0 else {}
            held = {"near": False, "done": False}
            one = StepRecord(step, vector[:4], vector[4:8], 0.5, held, chunk_step=step % 8, info=info)
            writer.step(one)
        writer.commit(meta(name, seed, steps, looks))
    return 1e3 * (time.perf_counter() - start) / steps


def copies(store: EpisodeStore, n: int) -> None:
    """``n`` episodes under different names: the large files are one file with many names."""
    record(store, 0, 40, 0)
    (source,) = (store.path / name for name in store.ids())
    manifest = json.loads((source / "manifest.json").read_text())
    for seed in range(1, n):
        name = episode_id("metaworld/reach", "ab"[seed % 2], seed)
        folder = store.path / name
        folder.mkdir()
        for file in ("steps.parquet", "chunks.parquet"):
            if seed % LINKS == 0:  # a file can have only so many names: 65,000 on ext4
                shutil.copy(source / file, folder / file)
            else:
                os.link(source / file, folder / file)
        source = folder if seed % LINKS == 0 else source
        content = (json.dumps(meta(name, seed, 40, 0).model_dump(mode="json")) + "\n").encode()
        (folder / "meta.json").write_bytes(content)
        manifest["meta.json"] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def chunks(store: EpisodeStore, names: list[str], n: int) -> float:
    """Chunks a second, each from a random episode."""
    random = np.random.default_rng(0)
    picks = [names[i] for i in random.integers(0, len(names), n)]
    return n / timed(lambda: [store.read(name).action_chunk(7, 8) for name in picks])


def listing(store: EpisodeStore) -> list[float]:
    """Seconds of a first and a second listing and of a filtered one, and megabytes, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", LISTING, str(store.path)], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = EpisodeStore(Path(folder) / "small")
        costs = [record(small, seed, 150, 8) for seed in range(arguments.repeats)]
        names = small.ids()
        pick = np.random.default_rng(0)
        wanted = [
            (names[i], int(look))
            for i, look in zip(pick.integers(0, len(names), 500), pick.integers(0, 19, 500), strict=True)
        ]
        images = timed(lambda: [small.read(name).frames("corner", [look]) for name, look in wanted])
        figures = {
            "write_ms_per_step_p50": statistics.median(costs),
            "write_ms_per_step_p99": float(np.quantile(costs, 0.99)),
            "images_per_s": len(wanted) / images,
            "chunks_per_s": chunks(small, names, 1000),
        }
        large = EpisodeStore(Path(folder) / "large")
        print(f"making {arguments.episodes} episodes", file=sys.stderr)
        copies(large, arguments.episodes)
        list(large.scan())  # the index is made once, while recording or by the first listing
        names = large.ids()
        figures["list_100k_s"], figures["relist_100k_s"], figures["filter_100k_s"], figures["list_mb"] = listing(large)
        figures["large_chunks_per_s"] = chunks(large, names, 1000)
        print("checking", file=sys.stderr)
        figures["check_100k_s"] = timed(lambda: check(large).sound or sys.exit("the copies are damaged"))
        print("packing", file=sys.stderr)
        figures["compact_100k_s"] = timed(lambda: compact(large))
        figures["shard_list_100k_s"], _, figures["shard_filter_100k_s"], figures["shard_list_mb"] = listing(large)
        figures["shard_chunks_per_s"] = chunks(large, names, 1000)
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    announce("store", figures, table=True, episodes=arguments.episodes)


if __name__ == "__main__":
    main()
