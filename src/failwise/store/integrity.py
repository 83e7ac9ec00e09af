"""Checking that a store holds what was written, and putting aside what does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from failwise.errors import StoreError
from failwise.store.consistency import Recorded, contradictions
from failwise.store.durable import leftovers, locked, remove_leftover
from failwise.store.episode import StoredEpisode, read_meta
from failwise.store.episode_store import EpisodeStore
from failwise.store.naming import CHUNKS, EPISODE_FILES, MANIFEST, QUARANTINE, SHARDS, STEPS
from failwise.store.shards import NotAnArchiveError, Shard, ShardPath, file_size, shard_files, unpack
from failwise.types import Outcome

_IMAGES_AT_ONCE = 16
_COPY = "its copy in a shard: "


@dataclass(frozen=True)
class Problem:
    """Something wrong with one episode: its id, and one line about what and where.

    ``in_shard``: it is the copy in a shard that is wrong, while the episode also has a directory of its own.
    """

    episode_id: str
    what: str
    in_shard: bool = False


@dataclass(frozen=True)
class CheckResult:
    """What ``check`` found.

    Attributes:
        episodes: directories that are, or once were, episodes.
        outcomes: sound episodes by outcome; together with the damaged ones they are all episodes.
        problems: what is wrong, in the order of the ids.
        leftovers: hidden directories that killed writers left; no episode is lost by removing them.
    """

    episodes: int
    outcomes: dict[Outcome, int]
    problems: tuple[Problem, ...]
    leftovers: tuple[Path, ...]

    @property
    def damaged(self) -> list[str]:
        """Ids of the damaged episodes, sorted."""
        return sorted({problem.episode_id for problem in self.problems})

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not self.leftovers


@dataclass(frozen=True)
class RepairResult:
    """What ``repair`` did: where damaged episodes now are (id -> directory), which leftovers it removed."""

    quarantined: dict[str, Path]
    removed: tuple[Path, ...]


def check(store: EpisodeStore, every_image: bool = False) -> CheckResult:
    """Verify every file of every episode: checksums, shapes, counts, and that meta data and record agree.

    Args:
        store: may be written to meanwhile; what is committed after the start is not looked at.
        every_image: decode every image, too. Without it some of each camera are decoded: the checksums say
            that the bytes are those that were written.
    """
    with locked(store.path, shared=True):
        return _check(store, every_image)


def _check(store: EpisodeStore, every_image: bool) -> CheckResult:
    outcomes: Counter[Outcome] = Counter()
    problems: list[Problem] = []
    sharded, unreadable = _sharded(store.path)
    problems += unreadable
    loose = _episode_directories(store.path)
    names = {place.name for place in loose}
    places: list[Path | ShardPath] = [*loose, *(place for place in sharded if place.name not in names)]
    # Of an episode that is in both, as a stopped compaction leaves it, the directory counts; the copy has to be whole.
    for copy in (place for place in sharded if place.name in names):
        problems += [Problem(copy.name, f"{_COPY}{what}", in_shard=True) for what in problems_of(copy, every_image)]
    for place in places:
        found = [Problem(place.name, what) for what in problems_of(place, every_image)]
        problems += found
        if not found:
            outcomes[read_meta(place).outcome] += 1
    return CheckResult(
        episodes=len(places),
        outcomes={outcome: outcomes[outcome] for outcome in Outcome},
        problems=tuple(problems),
        leftovers=tuple(leftovers(store.path)),
    )


def clear_leftovers(store: EpisodeStore) -> int:
    """Remove what killed writers left half written, and nothing else; returns how many. No episode is lost by it."""
    found = leftovers(store.path)
    for leftover in found:
        remove_leftover(leftover)
    return len(found)


def repair(store: EpisodeStore, every_image: bool = False) -> RepairResult:
    """Move damaged episodes to ``quarantine/``, remove the leftovers of killed writers, rebuild the index.

    Nothing that was committed is deleted. Beside each quarantined episode, ``<name>.problems.json`` says why. A shard
    that is damaged, or holds damaged episodes, is taken apart: its sound episodes get directories of their own.

    Raises:
        StoreError: the store cannot be written.
    """
    with locked(store.path):
        return _repair(store, every_image)


def _repair(store: EpisodeStore, every_image: bool) -> RepairResult:
    result = _check(store, every_image)
    try:
        # Damaged directories first: a whole copy of theirs in a shard then has room to be unpacked.
        quarantined = _quarantine_loose(store.path, result.problems)
        aside = _unpack_damaged(store.path, result.damaged)
        if aside:
            quarantined |= aside | _quarantine_loose(store.path, _check(store, every_image).problems)
        for leftover in result.leftovers:
            remove_leftover(leftover)
    except OSError as error:
        raise StoreError(f"cannot repair {store.path}: {error.strerror or error} ({error.filename})") from error
    store.rebuild_index()
    return RepairResult(quarantined, result.leftovers)


def _quarantine_loose(root: Path, problems: Sequence[Problem]) -> dict[str, Path]:
    """Put aside the damaged episodes that have a directory of their own. Name -> where to."""
    damaged = sorted({p.episode_id for p in problems if not p.in_shard})
    return {name: _quarantine(root, name, problems) for name in damaged if (root / name).is_dir()}


def _quarantine(root: Path, name: str, problems: Sequence[Problem]) -> Path:
    place = _free_place(root / QUARANTINE, name)
    place.parent.mkdir(exist_ok=True)
    reasons = [problem.what for problem in problems if problem.episode_id == name]
    place.with_name(place.name + ".problems.json").write_text(json.dumps(reasons, indent=1) + "\n")
    (root / name).rename(place)
    return place


def _episode_directories(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.iterdir()
        if path.name not in (QUARANTINE, SHARDS)
        and not path.name.startswith(".")
        and any((path / file).exists() for file in EPISODE_FILES)
    )


def _sharded(root: Path) -> tuple[list[ShardPath], list[Problem]]:
    """The episodes in shards, and the shards that cannot be opened."""
    places: list[ShardPath] = []
    unreadable: list[Problem] = []
    for path in shard_files(root):
        try:
            shard = Shard(path)
        except StoreError as error:
            if isinstance(error.__cause__, OSError):
                raise  # the system's trouble, not the shard's
            unreadable.append(Problem(f"{SHARDS}/{path.name}", str(error)))
        else:
            places += [ShardPath(shard, name) for name in shard.ids]
    return sorted(places, key=lambda place: place.name), unreadable


def _unpack_damaged(root: Path, damaged: Sequence[str]) -> dict[str, Path]:
    """Take apart the shards that are damaged or hold damaged episodes; they go to quarantine. Name -> where to."""
    aside: dict[str, Path] = {}
    for path in shard_files(root):
        name = f"{SHARDS}/{path.name}"
        if name in damaged:
            with suppress(NotAnArchiveError):  # what it holds stays in quarantine with it
                unpack(root, path)
        elif not set(Shard(path).ids).isdisjoint(damaged):
            unpack(root, path)
        else:
            continue
        place = _free_place(root / QUARANTINE, path.name)
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
        aside[name] = place
    return aside


def problems_of(directory: Path | ShardPath, every_image: bool = False) -> Iterator[str]:
    """One line for each thing that is wrong with an episode; wrong bytes spare us a look at the contents."""
    wrong_bytes = list(_wrong_bytes(directory))
    yield from wrong_bytes
    if wrong_bytes:
        return
    try:
        episode = StoredEpisode(directory)
        yield from _wrong_contents(episode, every_image)
    except StoreError as error:
        yield str(error)


def _wrong_bytes(directory: Path | ShardPath) -> Iterator[str]:
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        expected = {str(file): (int(about["bytes"]), str(about["sha256"])) for file, about in manifest.items()}
    except FileNotFoundError:
        yield f"{MANIFEST} is missing"
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{MANIFEST} is damaged ({error})"
        return
    for file, (size, digest) in sorted(expected.items()):
        path = directory / file
        if not path.is_file():
            yield f"{file} is missing"
        elif file_size(path) != size:
            yield f"{file} has {file_size(path)} bytes, expected {size}"
        else:
            with path.open("rb") as content:
                if file_digest(content, "sha256").hexdigest() != digest:
                    yield f"{file} has other contents than were written (its SHA-256 differs)"
    for name in sorted(path.name for path in directory.iterdir()):
        if name not in expected and name != MANIFEST:
            yield f"{name} does not belong to the episode (it is not in {MANIFEST})"


def _wrong_contents(episode: StoredEpisode, every_image: bool) -> Iterator[str]:
    looks = episode.look_steps()
    cameras = episode.cameras()
    feature_steps, features = episode.features()
    snapshots = episode.snapshot_steps()
    recorded = Recorded(
        n_steps=len(episode.rewards()),
        look_steps=looks.tolist(),
        cameras=cameras,
        feature_steps=feature_steps.tolist(),
        snapshot_steps=snapshots,
    )
    yield from contradictions(episode.meta, episode.id, recorded)
    fresh = [record.step for record in episode.steps() if record.chunk_step == 0]
    if episode.chunk_starts().tolist() != fresh:
        yield f"{CHUNKS} has {len(episode.chunk_starts())} chunks, {STEPS} has {len(fresh)}"
    if len(feature_steps) != len(features):
        yield f"features have {len(feature_steps)} steps and {len(features)} vectors"
    samples = episode.samples()
    if samples is not None and len(samples) != len(feature_steps):
        yield f"features have {len(feature_steps)} steps, sampled chunks {len(samples)}"
    for camera in cameras:
        for start in range(0, len(looks) if every_image else 1, _IMAGES_AT_ONCE):
            episode.frames(camera, range(start, min(start + _IMAGES_AT_ONCE, len(looks))))
    for step in snapshots:
        episode.snapshot(step)


def _free_place(folder: Path, name: str) -> Path:
    """``folder/name``, or with the first free number behind it: what is in quarantine already stays, too."""
    place, number = folder / name, 2
    while place.exists():
        place, number = folder / f"{name}.{number}", number + 1
    return place
