"""What a store holds, counted: by task, arm and outcome."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from failwise.store.episode_store import EpisodeStore
from failwise.store.naming import EARLY, EPISODE_FILES, QUARANTINE, SHARDS, WRITING
from failwise.store.shards import file_size
from failwise.types import Outcome


@dataclass
class Row:
    """The episodes of one task and arm.

    Attributes:
        task: as in ``EpisodeMeta.env_id`` ("suite/task").
        arm: what acted.
        outcomes: episodes by outcome; they add up to ``episodes``.
        steps: environment steps.
        frames: recorded images (looks times cameras).
        bytes: on disk.
    """

    task: str
    arm: str
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    steps: int = 0
    frames: int = 0
    bytes: int = 0

    @property
    def episodes(self) -> int:
        """All episodes of this task and arm."""
        return self.outcomes.total()


def summarise(store: EpisodeStore) -> list[Row]:
    """One row for each task and arm, sorted by task, then arm.

    Raises:
        StoreError: an episode's meta data are damaged.
    """
    rows: dict[tuple[str, str], Row] = {}
    for meta in store.scan():
        row = rows.setdefault((meta.env_id, meta.arm), Row(meta.env_id, meta.arm))
        row.outcomes[meta.outcome] += 1
        row.steps += meta.n_steps
        row.frames += meta.n_frames * len(meta.cameras)
        row.bytes += sum(file_size(file) for file in store.place(meta.episode_id).iterdir())
    return [rows[key] for key in sorted(rows)]


def stopped_early(store: Path) -> bool:
    """Whether the number of episodes in a store may depend on their outcomes: fixed tests are not valid there."""
    return any((place / EARLY).is_file() for place in (store, store.parent))


def stores_under(path: Path) -> list[Path]:
    """Every folder at or below ``path`` that holds episodes or the leftovers of killed writers, sorted.

    Quarantine and hidden folders are left out.
    """
    found: set[Path] = set()
    for name, folders, files in os.walk(path):
        folder = Path(name)
        is_episode = folder != path and not EPISODE_FILES.isdisjoint(files)
        if is_episode or (folder.name == SHARDS and any(file.endswith(".zip") for file in files)):
            found.add(folder.parent)
            folders.clear()
        elif any(inner.startswith(WRITING) for inner in folders):
            found.add(folder)
        folders[:] = [inner for inner in folders if inner != QUARANTINE and not inner.startswith(".")]
    return sorted(found)
