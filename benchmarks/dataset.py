"""Reading training samples: this package's store against LeRobotDataset, on the same episodes.

    make lerobot && .venv-lerobot/bin/python benchmarks/dataset.py      # about two minutes

A sample is what behaviour cloning reads at a random moment: its pictures, proprioception, and the next 16
actions. The episodes (16 of 120 steps, two 96x96 cameras, a picture at every step, PNG on both sides) are recorded in a
store and exported with ``failwise store export --lerobot``; both readers are asked for the same moments, in turns.

    samples_per_s            of the store, pictures decoded
    lerobot_samples_per_s    of LeRobotDataset, ``delta_timestamps`` over the chunk
    over_lerobot_dataset     the ratio; budget: at least 5
    chunks_per_s             of the store, actions and proprioception alone
    equal                    whether both gave the same actions and pictures
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from failwise.exchange import ExportOptions, export_lerobot
from failwise.store import EpisodeStore
from figures import announce
from store import CAMERAS, record

HORIZON = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--samples", type=int, default=200, help="of each reader and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore(Path(folder) / "store")
        for seed in range(arguments.episodes):
            record(store, seed, steps=120, look_every=1)
        export_lerobot([store], Path(folder) / "lerobot", ExportOptions(), list)
        announce("dataset", compare(store, Path(folder) / "lerobot", arguments.samples, arguments.repeats), table=True)


def compare(store: EpisodeStore, exported: Path, samples: int, repeats: int) -> dict[str, Any]:
    """Both readers on the same moments."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    metas = store.metas()
    plain = LeRobotDataset("local/bench", root=exported)
    seconds = [k / plain.meta.fps for k in range(HORIZON)]
    theirs = LeRobotDataset("local/bench", root=exported, delta_timestamps={"action": seconds})
    firsts = {name: row for row, name in reversed(list(enumerate(plain.hf_dataset["failwise.episode"])))}
    opened = lru_cache(None)(lambda name: store.read(name))

    def ours(name: str, step: int, pictures: bool = True) -> Any:
        episode = opened(name)
        actions, valid = episode.action_chunk(step, HORIZON)
        images = {c: episode.frames(c, [step])[0] for c in CAMERAS} if pictures else {}
        return actions, valid, episode.states()[step], images

    draw = np.random.default_rng(0)

    def moments() -> list[tuple[str, int]]:
        return [
            (metas[int(draw.integers(len(metas)))].episode_id, int(draw.integers(120 - HORIZON)))
            for _ in range(samples)
        ]

    def rate(read: Callable[[str, int], Any], asked: list[tuple[str, int]]) -> float:
        start = time.perf_counter()
        for name, step in asked:
            read(name, step)
        return len(asked) / (time.perf_counter() - start)

    name, step = moments()[0]
    mine, other = ours(name, step), theirs[firsts[name] + step]
    same = np.array_equal(mine[0], other["action"].numpy()) and all(
        np.array_equal(mine[3][c], (other[f"observation.images.{c}"].permute(1, 2, 0) * 255).round().byte().numpy())
        for c in CAMERAS
    )
    ways = {
        "ours": lambda name, step: ours(name, step),
        "lerobot": lambda name, step: theirs[firsts[name] + step],
        "chunks": lambda name, step: ours(name, step, pictures=False),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(1 + repeats):
        asked = moments()
        for way, read in ways.items():
            speed = rate(read, asked)
            if repeat:
                found[way].append(speed)
    median = {way: statistics.median(speeds) for way, speeds in found.items()}
    return {
        "samples_per_s": median["ours"],
        "lerobot_samples_per_s": median["lerobot"],
        "over_lerobot_dataset": median["ours"] / median["lerobot"],
        "chunks_per_s": median["chunks"],
        "equal": same,
    }


if __name__ == "__main__":
    main()
