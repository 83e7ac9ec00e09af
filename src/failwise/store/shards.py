"""Many episodes in one file: for stores so large that a directory an episode weighs on the file system.

A shard is an uncompressed ZIP archive, so any tool can open it, with the files of its episodes as they were written.
Its last member is an index (the ids, then one line of JSON an episode: meta data, and where each file lies), and the
archive's comment says where that is, so that opening a shard and reading a file of an episode are one read each. A
shard never changes after it was published by a rename.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from failwise.errors import StoreError
from failwise.store.durable import publish, sync_directory, writing_name
from failwise.store.naming import META, SHARDS, is_plain, is_safe
from failwise.types import EpisodeMeta

_FORMAT = "failwise-shard-1"
_INDEX = "index.jsonl"
_LONGEST_COMMENT = 65535 + 22  # of a ZIP archive, with the record that it follows


class _Line(BaseModel):
    """One episode in a shard's index: its meta data, and file name -> (first byte, bytes)."""

    model_config = ConfigDict(frozen=True)
    meta: EpisodeMeta
    files: dict[str, tuple[int, int]]


class Shard:
    """A shard: where everything lies in it. It holds no open file: forks, threads and thousands of shards do no harm.

    Raises:
        StoreError: not a shard, damaged, or not readable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading(), path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LONGEST_COMMENT))
            tail = file.read()
            comment = json.loads(tail[tail.rindex(b'{"failwise"') :])
            if comment["failwise"] != _FORMAT:
                raise ValueError(f"of the unknown format {comment['failwise']!r}")
            start, length = comment["index"]
            file.seek(start)
            head = file.readline(length)
            lengths: dict[str, int] = json.loads(head)
            if strange := [name for name in lengths if not is_safe(name)]:
                raise ValueError(f"{strange[0]!r} cannot name an episode")
            starts = itertools.accumulate(lengths.values(), initial=start + len(head))
            self._lines = {name: (at, n) for (name, n), at in zip(lengths.items(), starts, strict=False)}

    @property
    def ids(self) -> Iterable[str]:
        """The ids of its episodes, in the order in which they lie in it."""
        return self._lines.keys()

    def meta(self, episode_id: str) -> EpisodeMeta:
        """An episode's meta data."""
        return self._line(episode_id).meta

    def files(self, episode_id: str) -> dict[str, tuple[int, int]]:
        """File name -> (first byte, number of bytes) of an episode."""
        return self._line(episode_id).files

    def content(self, episode_id: str, file: str) -> bytes:
        """A file. Raises ``FileNotFoundError`` when the episode has no such file."""
        try:
            start, length = self.files(episode_id)[file]
        except KeyError as error:
            raise FileNotFoundError(f"{self.path}: no {episode_id}/{file}") from error
        return self._bytes(start, length)

    def _line(self, episode_id: str) -> _Line:
        with self._reading():
            line = _Line.model_validate_json(self._bytes(*self._lines[episode_id]))
            if strange := [name for name in line.files if not is_plain(name)]:
                raise ValueError(f"{strange[0]!r} cannot name a file")
            return line

    def _bytes(self, start: int, length: int) -> bytes:
        with self._reading(), self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # of the system, which says nothing about the shard
            raise StoreError(f"cannot read {self.path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            what = (str(error).splitlines() or [""])[0][:120]
            raise StoreError(
                f"{self.path}: damaged ({what}); run 'failwise store repair {self.path.parent.parent}'"
            ) from error


@dataclass(frozen=True)
class ShardPath:
    """An episode inside a shard, or one of its files: the few methods of ``pathlib.Path`` that readers use."""

    shard: Shard
    episode_id: str
    file: str = ""

    @property
    def name(self) -> str:
        """Of the file, or the episode's id."""
        return self.file or self.episode_id

    @property
    def parent(self) -> ShardPath | Path:
        """The episode of a file; the shard of an episode."""
        return ShardPath(self.shard, self.episode_id) if self.file else self.shard.path

    def __truediv__(self, file: str) -> ShardPath:
        return ShardPath(self.shard, self.episode_id, file)

    def __str__(self) -> str:
        return "/".join(part for part in (str(self.shard.path), self.episode_id, self.file) if part)

    def with_name(self, name: str) -> ShardPath:
        """Another file of the same episode."""
        return ShardPath(self.shard, self.episode_id, name)

    def exists(self) -> bool:
        """Whether the shard holds it."""
        if self.file:
            return self.file in self.shard.files(self.episode_id)
        return self.episode_id in self.shard.ids

    is_file = exists

    def iterdir(self) -> Iterator[ShardPath]:
        """The episode's files."""
        return (self / file for file in self.shard.files(self.episode_id))

    def size(self) -> int:
        """Bytes of the file."""
        return self.shard.files(self.episode_id)[self.file][1]

    def read_bytes(self) -> bytes:
        """The file."""
        return self.shard.content(self.episode_id, self.file)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The file for reading."""
        if mode != "rb":
            raise ValueError(f"a shard is only read, not opened with mode {mode!r}")
        return io.BytesIO(self.read_bytes())


def file_size(path: Path | ShardPath) -> int:
    """Bytes of a file, be it in a directory or in a shard."""
    return path.stat().st_size if isinstance(path, Path) else path.size()


def shard_files(root: Path) -> list[Path]:
    """The shards of a store, by name."""
    return sorted((root / SHARDS).glob("*.zip"))


class Shards:
    """The shards of a store, opened once as long as their files do not change."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # When the folder changed last, its shards by path and stamp, and each episode's shard: replaced as one.
        self._state: tuple[int, dict[tuple[Path, int, int], Shard], dict[str, Shard]] = (-1, {}, {})

    def by_episode(self) -> dict[str, Shard]:
        """Episode id -> its shard, as the shards are at this moment."""
        changed, opened, by_episode = self._state
        try:
            now = (self._root / SHARDS).stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if now != changed:
            kept = {}
            for path in shard_files(self._root):
                with suppress(FileNotFoundError):  # taken apart meanwhile
                    status = path.stat()
                    key = (path, status.st_mtime_ns, status.st_size)
                    kept[key] = opened.get(key) or Shard(path)
            by_episode = {name: shard for shard in kept.values() for name in shard.ids}
            self._state = (now, kept, by_episode)
        return by_episode


def write_shard(root: Path, name: str, episodes: Sequence[Path]) -> Path:
    """Write episodes' directories as the shard ``root/shards/name.zip``, all or nothing; the directories stay.

    Raises:
        StoreError: the disk refused. Nothing is left behind.
    """
    folder = root / SHARDS
    target, half = folder / f"{name}.zip", folder / f"{writing_name()}.zip.half"
    try:
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            sync_directory(root)
        with half.open("xb") as sink:
            _write(sink, episodes)
            sink.flush()
            os.fsync(sink.fileno())
        half.rename(target)
        sync_directory(folder)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise StoreError(f"cannot write {target}: {error.strerror or error}; the episodes are untouched") from error
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    return target


def _write(sink: Any, episodes: Sequence[Path]) -> None:
    lines: dict[str, bytes] = {}
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for episode in episodes:
            files = {}
            for path in sorted(episode.iterdir()):
                content = path.read_bytes()
                files[path.name] = (_append(archive, f"{episode.name}/{path.name}", content), len(content))
            meta = EpisodeMeta.model_validate_json((episode / META).read_bytes())
            lines[episode.name] = _Line(meta=meta, files=files).model_dump_json().encode() + b"\n"
        lengths = {name: len(line) for name, line in lines.items()}
        index = json.dumps(lengths).encode() + b"\n" + b"".join(lines.values())
        start = _append(archive, _INDEX, index)
        archive.comment = json.dumps({"failwise": _FORMAT, "index": [start, len(index)]}).encode()


def _append(archive: zipfile.ZipFile, name: str, content: bytes) -> int:
    """Add a member with nothing in it that changes from run to run; returns where its content begins."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    archive.writestr(info, content)
    return member_start(info)


def member_start(info: zipfile.ZipInfo) -> int:
    """Where the content of a member that was just written begins."""
    return info.header_offset + len(info.FileHeader(zip64=False))


class NotAnArchiveError(StoreError):
    """A shard that cannot be read even as an archive."""


def unpack(root: Path, shard: Path) -> list[str]:
    """Give every episode of a shard a directory of its own, as far as the archive can be read; returns their ids.

    Goes by the archive's own directory, not by our index, so that a damaged index costs nothing. Files are taken as
    they are: whoever checks the episodes afterwards finds the damaged ones. Episodes that have a directory are left
    alone.

    Raises:
        NotAnArchiveError: it is no archive any more.
        StoreError: the disk refused; the shard is as it was.
    """
    done: list[str] = []
    for name, files in _episodes_of(shard):
        publish(root, name, files)
        done.append(name)
    return done


def _episodes_of(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each episode's files; the members of one lie together."""
    try:
        archive = zipfile.ZipFile(shard)
    except zipfile.BadZipFile as error:
        raise NotAnArchiveError(f"{shard}: cannot be unpacked ({error})") from error
    with archive, shard.open("rb") as file:
        members = sorted(archive.infolist(), key=lambda info: info.header_offset)
        for name, group in itertools.groupby(members, lambda info: info.filename.partition("/")[0]):
            found = {}
            for info in group:
                part = info.filename.partition("/")[2]
                if is_safe(name) and is_plain(part):
                    # By the lengths in the member's own header: those in the archive's directory may differ.
                    file.seek(info.header_offset + 26)
                    lengths = struct.unpack("<HH", file.read(4))
                    file.seek(info.header_offset + 30 + sum(lengths))
                    found[part] = file.read(info.file_size)
            if found:
                yield name, found
