"""A folder of episodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from failwise.errors import SetupError, StoreError
from failwise.store.episode import StoredEpisode
from failwise.store.index import MetaIndex
from failwise.store.naming import META, is_safe
from failwise.store.writer import EpisodeWriter
from failwise.types import EpisodeMeta


class EpisodeStore:
    """A folder with one directory an episode. Any number of processes may read and write it at the same time.

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

    def ids(self) -> list[str]:
        """The ids of all committed episodes, sorted, as they are on disk at this moment.

        Raises:
            StoreError: the folder has gone or cannot be read.
        """
        try:
            return sorted(entry.name for entry in self.path.iterdir() if entry.name in self)
        except OSError as error:
            raise StoreError(f"cannot list the episode store {self.path}: {error.strerror or error}") from error

    def __contains__(self, episode_id: str) -> bool:
        return is_safe(episode_id) and (self.path / episode_id / META).is_file()

    def __len__(self) -> int:
        return len(self.ids())

    def metas(self) -> list[EpisodeMeta]:
        """Everything but the arrays of all committed episodes, in the order of ``ids()``.

        Raises:
            StoreError: an episode's ``meta.json`` is damaged.
        """
        return self._index.metas(self.ids())

    def read(self, episode_id: str) -> StoredEpisode:
        """Open an episode; its parts are loaded when they are asked for.

        Raises:
            StoreError: there is no such episode, or its ``meta.json`` is damaged.
        """
        if episode_id not in self:
            raise StoreError(f"{self.path}: no episode {episode_id!r} has been committed here")
        return StoredEpisode(self.path / episode_id)

    def begin(self, episode_id: str) -> EpisodeWriter:
        """Start recording an episode. Nothing is written before its ``commit``.

        Raises:
            SetupError: the id cannot be a file name (see ``failwise.store.episode_id``), or the folder
                cannot be written.
        """
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise SetupError(f"cannot write to the episode store {self.path}; make it writable or choose another")
        return EpisodeWriter(self.path, episode_id, video=self._video)

    def rebuild_index(self) -> None:
        """Forget the cached listing and make it again from the episodes."""
        self._index.rebuild(self.ids())
