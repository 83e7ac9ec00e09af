"""A cache of meta data, so that listing thousands of episodes does not open thousands of files.

One line of JSON an episode, appended. A line counts only while ``meta.json`` still has the size and the time
of change that the line names, so the episodes themselves always win: a missing, torn or outdated index costs
time, never correctness.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from failwise.store.episode import read_meta
from failwise.store.naming import INDEX, META
from failwise.types import EpisodeMeta

Stamp = tuple[int, int]


class MetaIndex:
    """The meta data of a store's episodes: from memory, else the index file, else the episode."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, tuple[Stamp, EpisodeMeta]] = {}
        self._read_to = 0

    def metas(self, ids: Iterable[str]) -> list[EpisodeMeta]:
        """Meta data of episodes, in the order of ``ids``; one that vanished meanwhile is left out.

        Raises:
            StoreError: an episode's ``meta.json`` is damaged.
        """
        self._catch_up()
        found: list[EpisodeMeta] = []
        fresh: list[str] = []
        for name in ids:
            try:
                status = (self._root / name / META).stat()
            except FileNotFoundError:
                continue
            stamp = (status.st_size, status.st_mtime_ns)
            known = self._known.get(name)
            if known is None or known[0] != stamp:
                known = self._known[name] = (stamp, read_meta(self._root / name))
                fresh.append(name)
            found.append(known[1])
        self._append(fresh)
        return found

    def rebuild(self, ids: Iterable[str]) -> None:
        """Start the index file afresh from the episodes."""
        (self._root / INDEX).unlink(missing_ok=True)
        self._known.clear()
        self._read_to = 0
        self.metas(ids)

    def _catch_up(self) -> None:
        """Take in what this and other processes have appended since the last time."""
        try:
            with (self._root / INDEX).open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read_to:
                    self._read_to = 0
                file.seek(self._read_to)
                content = file.read()
        except OSError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            # A line that two writers tore is no loss: the episode is read instead.
            with suppress(ValueError, KeyError, TypeError, ValidationError):
                entry = json.loads(line)
                size, changed = entry["stamp"]
                self._known[entry["id"]] = ((size, changed), EpisodeMeta.model_validate(entry["meta"]))

    def _append(self, names: list[str]) -> None:
        if not names:
            return
        lines = [
            json.dumps(
                {
                    "id": name,
                    "stamp": self._known[name][0],
                    "meta": self._known[name][1].model_dump(mode="json"),
                }
            )
            for name in names
        ]
        with (
            suppress(OSError),
            (self._root / INDEX).open("ab", buffering=0) as file,
        ):  # a read-only store has no index
            file.write(("\n".join(lines) + "\n").encode())
