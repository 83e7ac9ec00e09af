"""Putting many episodes into few files, and joining stores. Nothing recorded is lost on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from failwise.errors import StoreError
from failwise.store.durable import locked, publish, writing_name
from failwise.store.episode_store import EpisodeStore
from failwise.store.integrity import problems_of
from failwise.store.naming import EARLY, MANIFEST, META
from failwise.store.shards import Shard, ShardPath, Shards, write_shard
from failwise.store.summary import stopped_early

PER_SHARD = 1000


@dataclass
class Compacted:
    """What ``compact`` did: episodes put into shards, shards written, and damaged episodes left where they were."""

    episodes: int = 0
    shards: list[Path] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


def compact(
    store: EpisodeStore, per_shard: int = PER_SHARD, progress: Callable[[Sequence[str]], Iterable[str]] = iter
) -> Compacted:
    """Move the episodes that have a directory of their own into shards of ``per_shard``.

    An episode's directory is removed only after its shard is on the disk and each of its files was read back and
    compared with its checksum. May be stopped at any time and run again. Episodes may be recorded meanwhile; who reads
    one at the moment in which it moves may have to open it again.

    Args:
        store: where.
        per_shard: episodes a shard, at least 1.
        progress: wraps the ids, to show how far it is.

    Raises:
        StoreError: the disk refused; what was not moved is as it was.
    """
    if per_shard < 1:
        raise StoreError(f"a shard needs at least 1 episode, not {per_shard}")
    with locked(store.path):
        done = Compacted()
        names = _finish_earlier(store, done)
        group: list[str] = []
        for number, name in enumerate(progress(names), start=1):
            if problem := next(problems_of(store.path / name), None):
                done.damaged[name] = problem
            else:
                group.append(name)
            if group and (len(group) == per_shard or number == len(names)):
                done.shards.append(_move(store.path, group))
                done.episodes += len(group)
                group = []
        store.rebuild_index()
    return done


def _move(root: Path, names: Sequence[str]) -> Path:
    digest = sha256("\n".join(names).encode()).hexdigest()[:16]
    path = write_shard(root, digest, [root / name for name in names])
    shard = Shard(path)
    for name in names:
        for problem in problems_of(ShardPath(shard, name)):
            path.unlink()
            raise StoreError(f"{path}: {name} did not come back as it was written ({problem}); check the disk")
    for name in names:
        _remove(root, name)
    return path


def _finish_earlier(store: EpisodeStore, done: Compacted) -> list[str]:
    """Remove directories whose episodes are whole in a shard already, of a run that was stopped; returns the others."""
    packed = Shards(store.path).by_episode()
    rest = []
    for name in store.ids():
        loose = store.path / name
        if not (loose / META).is_file():
            continue
        if name not in packed:
            rest.append(name)
        elif problem := next(problems_of(ShardPath(packed[name], name)), None):
            done.damaged[name] = f"its copy in {packed[name].path.name} is damaged: {problem}"
        elif _same(loose, ShardPath(packed[name], name)):
            _remove(store.path, name)
        else:
            done.damaged[name] = f"another episode of this id is in {packed[name].path.name}"
    return rest


def _same(one: Path | ShardPath, other: Path | ShardPath) -> bool:
    """Whether both hold the same files, by their manifests."""
    try:
        return (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()
    except OSError as error:
        raise StoreError(f"cannot compare {one} with {other}: {error}; run 'failwise store check' on both") from error


def _remove(root: Path, name: str) -> None:
    # Renamed first: a directory that is half removed would look like a damaged episode.
    hidden = root / writing_name()
    with suppress(FileNotFoundError):
        (root / name).rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


@dataclass
class Merged:
    """What ``merge`` did: episodes copied, and those that were there already."""

    copied: int = 0
    present: int = 0


def merge(
    sources: Sequence[EpisodeStore], into: EpisodeStore,
    progress: Callable[[Sequence[tuple[EpisodeStore, str]]], Iterable[tuple[EpisodeStore, str]]] = iter,
) -> Merged:  # fmt: skip
    """Copy all episodes of other stores into one. The same episode twice is one; may be stopped and run again.

    Raises:
        StoreError: two different episodes have the same id (found before anything is copied), or the disk refused.
    """
    done = Merged()
    todo: list[tuple[EpisodeStore, str]] = []
    places: dict[str, Path | ShardPath] = {name: into.place(name) for name in into.ids()}
    for store in sources:
        for name in store.ids():
            place = store.place(name)
            if name not in places:
                places[name] = place
                todo.append((store, name))
            elif _same(places[name], place):
                done.present += 1
            else:
                raise StoreError(
                    f"{place} and {places[name]} are different episodes of the same id: they would pair with the same "
                    "seed of the same arm; give the runs different arm names, or keep them in two stores"
                )
    for store, name in progress(todo):
        publish(into.path, name, dict(_files(store.place(name))))
        done.copied += 1
    for store in sources:
        for name in store.ids():
            for event in store.labels(name):
                into.adopt_label(name, event)
        if stopped_early(store.path):
            (into.path / EARLY).write_text(json.dumps({"stop_early": True}) + "\n", encoding="utf-8")
    return done


def _files(place: Path | ShardPath) -> Iterator[tuple[str, bytes]]:
    for path in place.iterdir():
        yield path.name, path.read_bytes()
