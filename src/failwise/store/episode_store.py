"""A folder of episodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from failwise.errors import SetupError, StoreError
from failwise.store.episode import StoredEpisode
from failwise.store.index import MetaIndex
from failwise.store.labels import Labels
from failwise.store.naming import META, is_safe
from failwise.store.shards import ShardPath, Shards
from failwise.store.writer import EpisodeWriter
from failwise.types import EpisodeMeta, FailureEvent, Outcome

_AT_ONCE = 256


class EpisodeStore:
    """A folder with one directory an episode. Any number of processes may read and write it at the same time.

    Episodes may also lie in shards, many in one file (``failwise.store.compact``); whoever reads does not notice.

    Args:
        path: the folder.
        create: make it if it is not there; else a missing folder is an error.
        frames: how new episodes keep their images: "png" is exact, "video" (mp4) is for long logs.

    Raises:
        SetupError: the folder is missing (``create=False``), cannot be made, or is a file.
    """

    def __init__(self, path: str | Path, create: bool = True, frames: Literal["png", "video"] = "png") -> None:
        self.path = Path(path)
        self._video = frames == "video"
        if create:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SetupError(
                    f"cannot make the episode store {self.path}: {error.strerror or error}; choose a folder "
                    "that can be written"
                ) from error
        elif not self.path.is_dir():
            raise SetupError(f"no episode store at {self.path}: give a folder that 'failwise collect' wrote")
        self._index = MetaIndex(self.path)
        self._labels = Labels(self.path)
        self._shards = Shards(self.path)

    def ids(self) -> list[str]:
        """The ids of all committed episodes, sorted, as they are on disk at this moment.

        Raises:
            StoreError: the folder has gone or cannot be read.
        """
        try:
            loose = [entry.name for entry in self.path.iterdir() if self._is_loose(entry.name)]
            return sorted({*loose, *self._shards.by_episode()})
        except OSError as error:
            raise StoreError(f"cannot list the episode store {self.path}: {error.strerror or error}") from error

    def __contains__(self, episode_id: str) -> bool:
        return self._is_loose(episode_id) or episode_id in self._shards.by_episode()

    def place(self, episode_id: str) -> Path | ShardPath:
        """Where an episode's files are.

        Raises:
            StoreError: there is no such episode.
        """
        if self._is_loose(episode_id):
            return self.path / episode_id
        if (shard := self._shards.by_episode().get(episode_id)) is not None:
            return ShardPath(shard, episode_id)
        raise StoreError(f"{self.path}: no episode {episode_id!r} has been committed here")

    def _is_loose(self, episode_id: str) -> bool:
        return is_safe(episode_id) and (self.path / episode_id / META).is_file()

    def __len__(self) -> int:
        return len(self.ids())

    def metas(self) -> list[EpisodeMeta]:
        """Everything but the arrays of all committed episodes, in the order of ``ids()``.

        Raises:
            StoreError: an episode's ``meta.json`` is damaged.
        """
        return list(self.scan())

    def scan(
        self, *, env_id: str | None = None, arm: str | None = None, outcome: Outcome | None = None
    ) -> Iterator[EpisodeMeta]:
        """The same, one after the other and only those that are asked for; needs memory for few of them at a time.

        Args:
            env_id: only this task; None is any.
            arm: only this arm.
            outcome: only this outcome.

        Raises:
            StoreError: an episode's ``meta.json`` is damaged.
        """
        ids = self.ids()
        for some in (ids[at : at + _AT_ONCE] for at in range(0, len(ids), _AT_ONCE)):
            loose = {m.episode_id: m for m in self._index.metas(some)}
            # Looked up after the directories: an episode that is being packed is in one or in the other.
            sharded = self._shards.by_episode() if len(loose) < len(some) else {}
            for name in some:
                meta = loose.get(name) or (sharded[name].meta(name) if name in sharded else None)
                if (
                    meta is not None
                    and (env_id is None or meta.env_id == env_id)
                    and (arm is None or meta.arm == arm)
                    and (outcome is None or meta.outcome == outcome)
                ):
                    yield self._labelled(meta)

    def label(self, episode_id: str, event: FailureEvent) -> None:
        """Add a failure event that somebody saw to an episode; ``read`` and ``metas`` give it with the recorded ones.

        Raises:
            StoreError: no such episode, or the store cannot be written.
        """
        self.place(episode_id)
        self._labels.add(episode_id, event)

    def adopt_label(self, episode_id: str, event: FailureEvent) -> None:
        """Take a label over from another store, unless it was said, or taken back, here before."""
        self.place(episode_id)
        self._labels.adopt(episode_id, event)

    def unlabel(self, episode_id: str, event: FailureEvent) -> None:
        """Take back what ``label`` said. Recorded events stay."""
        self._labels.remove(episode_id, event)

    def labels(self, episode_id: str) -> tuple[FailureEvent, ...]:
        """What was said of an episode afterwards."""
        return self._labels.of(episode_id)

    def _labelled(self, meta: EpisodeMeta) -> EpisodeMeta:
        said = self._labels.of(meta.episode_id)
        return meta.model_copy(update={"failure_events": (*meta.failure_events, *said)}) if said else meta

    def read(self, episode_id: str) -> StoredEpisode:
        """Open an episode; its parts are loaded when they are asked for.

        Raises:
            StoreError: there is no such episode, or its ``meta.json`` is damaged.
        """
        episode = StoredEpisode(self.place(episode_id))
        episode.meta = self._labelled(episode.meta)
        return episode

    def begin(self, episode_id: str) -> EpisodeWriter:
        """Start recording an episode. Nothing is written before its ``commit``.

        Raises:
            SetupError: the id cannot be a file name (see ``failwise.store.episode_id``), or the folder
                cannot be written.
        """
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise SetupError(f"cannot write to the episode store {self.path}; make it writable or choose another")
        return EpisodeWriter(self.path, episode_id, video=self._video, taken=self.__contains__)

    def rebuild_index(self) -> None:
        """Forget the cached listing and make it again from the episodes."""
        self._index.rebuild(name for name in self.ids() if self._is_loose(name))
