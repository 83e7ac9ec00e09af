"""Many episodes in one file: for stores so large that a directory an episode weighs on the file system.

A shard is an uncompressed ZIP archive, so any tool can open it, with the files of its episodes as they were written.
Its last member is an index (the ids, then one line of JSON an episode: meta data, and where each file lies), and the
archive's comment says where that is. So a shard is opened by one read, and a file of an episode is a slice of a memory
map, which forked and threaded readers may share. A shard never changes after it was published by a rename.
"""

from __future__ import annotations

import io
import itertools
import json
import mmap
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from failwise.errors import StoreError
from failwise.store.durable import publish, writing_name
from failwise.store.naming import META, SHARDS
from failwise.types import EpisodeMeta

_FORMAT = "failwise-shard-1"
_INDEX = "index.jsonl"
_LONGEST_COMMENT = 65535 + 22  # of a ZIP archive, with the record that it follows
_OPEN_SHARDS = 256


class _Line(BaseModel):
    """One episode in a shard's index: its meta data, and file name -> (first byte, bytes)."""

    model_config = ConfigDict(frozen=True)
    meta: EpisodeMeta
    files: dict[str, tuple[int, int]]


class Shard:
    """An open shard. Hands out files without copying them, and reads an episode's meta data when they are asked for.

    Raises:
        StoreError: not a shard, or damaged.
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
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            start, length = comment["index"]
            head_end = self._map.find(b"\n", start, start + length) + 1
            lengths: dict[str, int] = json.loads(self._map[start:head_end])
            starts = itertools.accumulate(lengths.values(), initial=head_end)
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

    def _line(self, episode_id: str) -> _Line:
        at, length = self._lines[episode_id]
        with self._reading():
            return _Line.model_validate_json(self._map[at : at + length])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            what = (str(error).splitlines() or [""])[0][:120]
            raise StoreError(
                f"{self.path}: damaged ({what}); run 'failwise store repair {self.path.parent.parent}'"
            ) from error

    def content(self, episode_id: str, file: str) -> memoryview:
        """The bytes of a file. Raises ``FileNotFoundError`` when the episode has no such file."""
        try:
            start, length = self.files(episode_id)[file]
        except KeyError as error:
            raise FileNotFoundError(f"{self.path}: no {episode_id}/{file}") from error
        return memoryview(self._map)[start : start + length]


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

    @cached_property
    def _content(self) -> memoryview:
        return self.shard.content(self.episode_id, self.file)

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
        """A copy of the file."""
        return bytes(self._content)

    def buffer(self) -> Any:
        """The file as an Arrow buffer, not copied."""
        import pyarrow as pa

        return pa.py_buffer(self._content)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The file for reading."""
        if mode != "rb":
            raise ValueError(f"a shard is only read, not opened with mode {mode!r}")
        return io.BytesIO(self._content)


def file_size(path: Path | ShardPath) -> int:
    """Bytes of a file, be it in a directory or in a shard."""
    return path.stat().st_size if isinstance(path, Path) else path.size()


def shard_files(root: Path) -> list[Path]:
    """The shards of a store, by name."""
    return sorted((root / SHARDS).glob("*.zip"))


def open_shards(root: Path) -> list[Shard]:
    """The shards of a store, by name; those that are open already are not read again."""
    return [open_shard(path) for path in shard_files(root)]


def open_shard(path: Path) -> Shard:
    """A shard, opened once as long as its file does not change. Raises ``StoreError`` for one that is damaged."""
    status = path.stat()
    return _open(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=_OPEN_SHARDS)
def _open(path: Path, changed: int, size: int) -> Shard:
    return Shard(path)


def write_shard(root: Path, name: str, episodes: Sequence[Path]) -> Path:
    """Write episodes' directories as the shard ``root/shards/name.zip``, all or nothing; the directories stay.

    Raises:
        StoreError: the disk refused. Nothing is left behind.
    """
    folder = root / SHARDS
    target, half = folder / f"{name}.zip", folder / f"{writing_name()}.zip.half"
    try:
        folder.mkdir(exist_ok=True)
        with half.open("xb") as sink:
            _write(sink, episodes)
            sink.flush()
            os.fsync(sink.fileno())
        half.rename(target)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
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
    """Where the content of a member that ``write_shard`` wrote begins."""
    return info.header_offset + len(info.FileHeader(zip64=False))


def unpack(root: Path, shard: Path) -> list[str]:
    """Give every episode of a shard a directory of its own, as far as the archive can be read; returns their ids.

    Goes by the archive's own directory, not by our index, so that a damaged index costs nothing. Files are taken as
    they are: whoever checks the episodes afterwards finds the damaged ones. Episodes that have a directory are left
    alone.

    Raises:
        StoreError: it is no archive any more, or the disk refused.
    """
    episodes: dict[str, dict[str, bytes]] = {}
    try:
        with zipfile.ZipFile(shard) as archive, shard.open("rb") as file:
            for info in archive.infolist():
                name, slash, part = info.filename.partition("/")
                if slash:
                    file.seek(member_start(info))
                    episodes.setdefault(name, {})[part] = file.read(info.file_size)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise StoreError(f"{shard}: cannot be unpacked ({error})") from error
    for name, files in episodes.items():
        publish(root, name, files)
    return sorted(episodes)
