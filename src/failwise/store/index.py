"""A cache of meta data, so that listing thousands of episodes does not open thousands of files.

One line of JSON an episode, appended. A line counts only while ``meta.json`` still has the size and the time
of change that the line names, so the episodes themselves always win: a missing, torn or outdated index costs
time, never correctness.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from failwise.store.episode import read_meta
from failwise.store.naming import INDEX, META
from failwise.types import EpisodeMeta

_META_KEY = b', "meta": '


@dataclass(frozen=True)
class _Entry:
    """What is kept in memory of an index line: the episode's stamp, and where its meta data lie in the index file."""

    size: int
    changed: int
    at: int
    length: int


class MetaIndex:
    """The meta data of a store's loose episodes: from the index file, else from the episode.

    Keeps some hundred bytes an episode in memory, not its meta data.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, _Entry] = {}
        self._read_to = 0

    def metas(self, ids: Iterable[str]) -> list[EpisodeMeta]:
        """Meta data of episodes, in the order of ``ids``; one that vanished meanwhile is left out.

        Raises:
            StoreError: an episode's ``meta.json`` is damaged.
        """
        self._catch_up()
        found: list[EpisodeMeta] = []
        fresh: list[bytes] = []
        with self._open() as file:
            for name in ids:
                try:
                    status = (self._root / name / META).stat()
                except FileNotFoundError:
                    continue
                stamp = (status.st_size, status.st_mtime_ns)
                meta = self._from_index(file, name, stamp)
                if meta is None:
                    meta = read_meta(self._root / name)
                    fresh.append(_line(name, stamp, meta))
                found.append(meta)
        self._append(fresh)
        return found

    def rebuild(self, ids: Iterable[str]) -> None:
        """Start the index file afresh from the episodes."""
        (self._root / INDEX).unlink(missing_ok=True)
        self._known.clear()
        self._read_to = 0
        self.metas(ids)

    def _open(self) -> AbstractContextManager[BinaryIO | None]:
        try:
            return (self._root / INDEX).open("rb")
        except OSError:
            return nullcontext()

    def _from_index(self, file: BinaryIO | None, name: str, stamp: tuple[int, int]) -> EpisodeMeta | None:
        entry = self._known.get(name)
        if file is None or entry is None or (entry.size, entry.changed) != stamp:
            return None
        with suppress(OSError, ValidationError):  # the file is another one by now, or two writers tore the line
            meta = EpisodeMeta.model_validate_json(os.pread(file.fileno(), entry.length, entry.at))
            return meta if meta.episode_id == name else None
        return None

    def _catch_up(self) -> None:
        """Take in what this and other processes have appended since the last time."""
        try:
            with (self._root / INDEX).open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read_to:
                    self._read_to = 0
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    start = self._read_to
                    self._read_to += len(line)
                    head, key, rest = line.partition(_META_KEY)
                    # A line that two writers tore is no loss: the episode is read instead.
                    with suppress(ValueError, KeyError, TypeError):
                        entry = json.loads(head + b"}")
                        size, changed = entry["stamp"]
                        at = start + len(head) + len(key)
                        self._known[entry["id"]] = _Entry(size, changed, at, len(rest.rstrip()) - 1)
        except OSError:
            return

    def _append(self, lines: list[bytes]) -> None:
        if not lines:
            return
        with (
            suppress(OSError),
            (self._root / INDEX).open("ab", buffering=0) as file,
        ):  # a read-only store has no index
            file.write(b"".join(lines))


def _line(name: str, stamp: tuple[int, int], meta: EpisodeMeta) -> bytes:
    head = json.dumps({"id": name, "stamp": stamp}).encode()
    return head[:-1] + _META_KEY + meta.model_dump_json().encode() + b"}\n"
