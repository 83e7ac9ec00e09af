"""What the explorer lists: every episode below a folder, with what its record says about risk and failure stage."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from failwise.errors import StoreError
from failwise.report.evidence import stopped_at
from failwise.store import EpisodeStore, StoredEpisode, stores_under
from failwise.types import EpisodeMeta, Outcome

PAGE = 48
SORTS = {
    "risk": "highest risk first",
    "seed": "by seed",
    "long": "longest first",
    "short": "shortest first",
}
RISK = ("risk", "risk_after", "score")


@dataclass(slots=True)
class Row:
    """One episode in the list.

    Attributes:
        store: index of its store. id: its name there.
        env_id, arm, seed, outcome, steps, looks: from its meta data.
        labels: how many failure events people gave it.
        stage: where a failed episode stopped; "" for others, and until its record was read.
        risk: highest risk that was recorded; None where there is none, and until its record was read.
        read: whether its record was read.
    """

    store: int
    id: str
    env_id: str
    arm: str
    seed: int
    outcome: Outcome
    steps: int
    looks: int
    labels: int = 0
    stage: str = ""
    risk: float | None = None
    read: bool = False


@dataclass(frozen=True)
class Filter:
    """What a page of the list shows; "" is anything."""

    store: str = ""
    task: str = ""
    arm: str = ""
    outcome: str = ""
    stage: str = ""
    seed: str = ""
    sort: str = "risk"
    page: int = 1

    def takes(self, row: Row, names: list[str]) -> bool:
        """Whether a row is among those asked for. ``failed`` as an outcome is every one but success."""
        return (
            (not self.store or names[row.store] == self.store)
            and (not self.task or row.env_id == self.task)
            and (not self.arm or row.arm == self.arm)
            and (not self.outcome or row.outcome == self.outcome or (self.outcome == "failed" and _failed(row)))
            and (not self.stage or row.stage == self.stage)
            and (not self.seed or str(row.seed) == self.seed)
        )


def _failed(row: Row) -> bool:
    return row.outcome != Outcome.SUCCESS


class Catalogue:
    """The episodes of all stores below a folder. Records are read in the background, so that the first page is quick.

    Args:
        root: a store, or a folder with stores below it.

    Raises:
        StoreError: there are no episodes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = stores_under(root)
        if not paths:
            raise StoreError(f"no episodes in {root} or below it; 'failwise collect --out {root}' records some")
        self.stores = [EpisodeStore(path, create=False) for path in paths]
        self.names = [str(path.relative_to(root)) if path != root else root.resolve().name for path in paths]
        self._rows: dict[tuple[int, str], Row] = {}
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._stamps: list[tuple[int, ...]] = []
        self.refresh()
        self._reader = threading.Thread(target=self._read_all, name="failwise-catalogue", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Stop reading records."""
        self._stop.set()
        self._wake.set()
        self._reader.join(timeout=10)

    def refresh(self) -> None:
        """Take in episodes and labels that came since the last time; costs little where nothing did."""
        with self._refreshing:  # requests come in threads
            self._refresh()

    def _refresh(self) -> None:
        stamps = [_stamp(store.path) for store in self.stores]
        if stamps == self._stamps:
            return
        rows = {}
        for number, store in enumerate(self.stores):
            for meta in store.scan():
                key = (number, meta.episode_id)
                row = rows[key] = self._rows.get(key) or _row(number, meta)
                row.labels = len(store.labels(meta.episode_id))
        with self._lock:
            self._rows, self._stamps = rows, stamps
        self._wake.set()

    def select(self, wanted: Filter) -> list[Row]:
        """All episodes that a filter takes, in its order."""
        rows = [row for row in self._all() if wanted.takes(row, self.names)]
        rows.sort(key=lambda row: (row.env_id, row.seed, row.arm))
        match wanted.sort:
            case "risk":
                rows.sort(key=lambda row: -1.0 if row.risk is None else row.risk, reverse=True)
            case "long":
                rows.sort(key=lambda row: row.steps, reverse=True)
            case "short":
                rows.sort(key=lambda row: row.steps)
        return rows

    def choices(self) -> dict[str, list[str]]:
        """What the filters offer: the values that occur."""
        rows = self._all()
        return {
            "store": sorted({self.names[row.store] for row in rows}),
            "task": sorted({row.env_id for row in rows}),
            "arm": sorted({row.arm for row in rows}),
            "outcome": [o.value for o in Outcome if any(row.outcome == o for row in rows)],
            "stage": sorted({row.stage for row in rows if row.stage}),
        }

    def twins(self, store: int, meta: EpisodeMeta) -> list[Row]:
        """The other episodes of the same task and seed, under whatever arm, in whatever store."""
        return sorted(
            (
                row
                for row in self._all()
                if (row.env_id, row.seed) == (meta.env_id, meta.env_seed)
                and (row.store, row.id) != (store, meta.episode_id)
            ),
            key=lambda row: (row.arm, row.store),
        )

    def read(self, store: int, episode_id: str) -> StoredEpisode:
        """Open an episode. Raises ``StoreError`` where there is none."""
        if not 0 <= store < len(self.stores):
            raise StoreError(f"there are stores 0 to {len(self.stores) - 1}, not {store}")
        return self.stores[store].read(episode_id)

    @property
    def unread(self) -> int:
        """Episodes whose records are not read yet."""
        return sum(not row.read for row in self._all())

    def _all(self) -> list[Row]:
        with self._lock:
            return list(self._rows.values())

    def _read_all(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            for row in self._all():
                if self._stop.is_set():
                    return
                if not row.read:
                    self._read_row(row)
            self._wake.wait()

    def _read_row(self, row: Row) -> None:
        try:
            episode = self.stores[row.store].read(row.id)
            row.stage = "" if row.outcome == Outcome.SUCCESS else stopped_at(episode)
            row.risk = highest_risk(episode)
        except StoreError:
            row.stage = "record damaged"
        row.read = True


def highest_risk(episode: StoredEpisode) -> float | None:
    """The highest risk that was recorded: a detector's score, or else what the policy's steering reported."""
    scores = episode.scores()
    if not np.isnan(scores).all():
        return float(np.nanmax(scores))
    info = episode.info()
    values: Iterable[float] = next((info[name] for name in RISK if name in info), ())
    known = [float(v) for v in values if not np.isnan(v)]
    return max(known, default=None)


def _row(store: int, meta: EpisodeMeta) -> Row:
    return Row(
        store, meta.episode_id, meta.env_id, meta.arm, meta.env_seed, meta.outcome, meta.n_steps, meta.n_frames,
    )  # fmt: skip


def _stamp(root: Path) -> tuple[int, ...]:
    """Changes when an episode, a shard or a label comes."""
    found = []
    for path in (root, root / "shards", root / "labels.jsonl"):
        try:
            found.append(path.stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)
