"""Episodes as a LeRobotDataset v3, written by LeRobot's own writer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from failwise.errors import SetupError
from failwise.exchange.lerobot_columns import (
    ACTION,
    ACTIONS,
    CONDITION,
    DONE,
    N_ACTIONS,
    PICTURE_AGE,
    PICTURES,
    REWARD,
    SUCCESS,
    Layout,
    columns,
    features,
)
from failwise.exchange.lerobot_library import lerobot_module
from failwise.exchange.lerobot_plan import Plan, plan
from failwise.exchange.lerobot_sidecar import write_sidecar
from failwise.store import EpisodeStore, StoredEpisode
from failwise.store.durable import leftovers, remove_leftover, sync_directory, writing_name
from failwise.types import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[Sequence[tuple[EpisodeStore, str]]], Iterable[tuple[EpisodeStore, str]]]


@dataclass(frozen=True)
class ExportOptions:
    """What ``export_lerobot`` takes besides where from and where to."""

    repo_id: str = ""
    """Name of the dataset ("me/pick-failures"); empty: the last two parts of the folder's path."""
    outcome: Literal["success", "failure", "all"] = "all"
    """Which episodes. A time-out is a failure; episodes without a verdict (error, aborted) are never exported."""
    frames: Literal["all", "looked"] = "all"
    """all: every step is a frame, and shows the last picture taken until then (failwise.picture_age says how many
    steps old it is). looked: only steps at which a picture was taken, the actions in between in failwise.actions;
    cannot be imported again."""
    video: bool = False
    """Pictures as video: smaller, not exact. Else as PNG."""
    cameras: str = ""
    """Which, separated by commas; empty: all; none: no pictures."""
    fps: int | None = None
    """Frames a second, when it is not what the episodes say. Changes no frame."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the dataset.
        successes, failures, frames: how many.
        looked: frames whose picture was taken at that very step.
        unseen: frames before an episode's first picture; they show black.
        no_verdict, other_outcome, empty: episodes left out, and why.
        fps: frames a second.
        bytes: on disk.
    """

    path: Path
    successes: int
    failures: int
    frames: int
    looked: int
    unseen: int
    no_verdict: int
    other_outcome: int
    empty: int
    fps: int
    bytes: int


def export_lerobot(
    stores: Sequence[EpisodeStore], out: Path, options: ExportOptions | None = None, progress: Progress = iter
) -> Exported:
    """Write the episodes of some stores as one LeRobotDataset.

    The dataset is written beside ``out`` under a hidden name, and renamed when it is finished: it is there as a whole
    or not at all. What killed exports left in that folder is removed.

    Args:
        stores: where the episodes are.
        out: the dataset's folder; must not be there, or be empty.
        options: see there.
        progress: wraps the episodes to be written.

    Raises:
        MissingDependencyError: LeRobot is not installed.
        DataError: no episode is left, or they do not fit into one dataset (see ``plan``).
        SetupError: ``out`` is there already or cannot be written.
        StoreError: an episode is damaged.
    """
    asked = options or ExportOptions()
    dataset_class = lerobot_module("datasets.lerobot_dataset").LeRobotDataset
    _require_free(out)
    work = plan(stores, asked.outcome, asked.frames == "looked", asked.cameras, asked.fps)
    name = asked.repo_id or _repo_id(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot make {out.parent}: {error.strerror}; choose another folder") from error
    for leftover in leftovers(out.parent):
        remove_leftover(leftover)
    writing = out.parent / writing_name()
    counts = {"successes": 0, "failures": 0, "frames": 0, "looked": 0, "unseen": 0}
    dataset: Any = None
    try:
        dataset = dataset_class.create(
            repo_id=name, fps=work.fps, root=writing, robot_type="failwise", use_videos=asked.video,
            features=features(work.layout, asked.video), video_backend="pyav",
        )  # fmt: skip
        written: list[StoredEpisode] = []
        for store, episode_id in progress(work.episodes):
            episode = store.read(episode_id)
            _add(dataset, episode, work, counts)
            written.append(episode)
        dataset.finalize()
        write_sidecar(writing, written, tuple(work.layout.cameras))
        shutil.rmtree(writing / "images", ignore_errors=True)  # where LeRobot kept its pictures until then
        size = sum(_flushed(file) for file in writing.rglob("*") if file.is_file())
        sync_directory(writing)
        writing.rename(out)
        sync_directory(out.parent)
    except BaseException as error:
        with suppress(Exception):
            dataset.finalize()  # else it would, when it is collected, bring back the folder that is removed here
        shutil.rmtree(writing, ignore_errors=True)
        if isinstance(error, OSError):
            what = error.strerror or error
            raise SetupError(f"cannot write {out}: {what}; free some space or choose another folder") from error
        raise
    return Exported(out, **counts, **work.left_out, fps=work.fps, bytes=size)


def _add(dataset: Any, episode: StoredEpisode, work: Plan, counts: dict[str, int]) -> None:
    """Write one episode, and count what was written."""
    ages = picture_ages(episode, work.layout)
    rows = np.flatnonzero(ages == 0) if work.looked else np.arange(episode.meta.n_steps)
    for frame in _frames(episode, work, rows, ages):
        dataset.add_frame(frame)
    dataset.save_episode(parallel_encoding=False)  # its processes would be forked beside torch's threads
    counts["successes" if episode.meta.outcome is Outcome.SUCCESS else "failures"] += 1
    counts["frames"] += len(rows)
    counts["looked"] += int((ages[rows] == 0).sum()) if work.layout.cameras else len(rows)
    counts["unseen"] += int((ages[rows] < 0).sum()) if work.layout.cameras else 0


def _flushed(file: Path) -> int:
    """Force a file to the disk; its bytes."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    return file.stat().st_size


def picture_ages(episode: StoredEpisode, layout: Layout) -> NDArray[np.int64]:
    """How many steps ago the last picture was taken, int64 (T,): 0 at that step, -1 before the first."""
    steps = np.arange(episode.meta.n_steps)
    looks = episode.look_steps() if layout.cameras else np.zeros(0, np.int64)
    last = np.searchsorted(looks, steps, side="right") - 1
    return np.where(last < 0, -1, steps - looks[last] if len(looks) else -1)


def _frames(episode: StoredEpisode, work: Plan, rows: NDArray[Any], ages: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """The frames of one episode, as ``add_frame`` takes them."""
    table = columns(episode, work.layout)
    if work.layout.cameras:
        table[PICTURE_AGE] = ages
    if work.looked:
        table |= _gathered(table, rows, work.layout)
    else:
        table = {name: values[rows] for name, values in table.items()}
    looks = episode.look_steps() if work.layout.cameras else np.zeros(0, np.int64)
    shown = -1
    pictures: dict[str, NDArray[np.uint8]] = {}
    for at, row in enumerate(rows):
        frame: dict[str, Any] = {"task": episode.meta.instruction or episode.meta.task}
        for name, values in table.items():
            value = values[at]
            frame[name] = str(value) if values.dtype.kind == "U" else np.atleast_1d(value)
        if work.layout.cameras:
            look = int(np.searchsorted(looks, row, side="right")) - 1
            if look != shown or not pictures:
                pictures = {
                    camera: episode.frames(camera, [look])[0] if look >= 0 else np.zeros((*size, 3), np.uint8)
                    for camera, size in work.layout.cameras.items()
                }
                shown = look
            frame |= {PICTURES + camera: picture for camera, picture in pictures.items()}
        yield frame


def _gathered(table: dict[str, NDArray[Any]], rows: NDArray[Any], layout: Layout) -> dict[str, NDArray[Any]]:
    """The columns of looked-at frames: each tells of all steps until the next one."""
    ends = np.append(rows[1:], len(table[ACTION]))
    last = ends - 1
    found = {name: values[rows] for name, values in table.items()}
    for name in (SUCCESS, DONE):
        found[name] = np.array([table[name][a:b].any() for a, b in zip(rows, ends, strict=True)])
    found[REWARD] = np.array([table[REWARD][a:b].sum() for a, b in zip(rows, ends, strict=True)], np.float32)
    found |= {name: table[name][last] for name in table if name.startswith(CONDITION)}
    within = np.minimum(rows[:, None] + np.arange(layout.longest_chunk), last[:, None])
    return found | {ACTIONS: table[ACTION][within], N_ACTIONS: ends - rows}


def _require_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise SetupError(f"{out} is there already; name a folder that is not, or remove it")


def _repo_id(out: Path) -> str:
    parts = out.resolve().parts[-2:]
    return "/".join(part.replace(" ", "-") for part in parts if part != "/") or "failwise/episodes"
