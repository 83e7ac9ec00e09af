"""Examples to look at: a failure around its onset, and how it was mended. Chosen by rule, not by eye."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

import numpy as np
from numpy.typing import NDArray

from failwise.errors import StoreError
from failwise.generate.mending import EPISODES, RECOVERIES
from failwise.report.evidence import Frame, embedded_frame
from failwise.report.on_purpose.made import Made, is_own, kind
from failwise.report.on_purpose.words import WAYS, cause_of, correction_of, kind_of, move_of, named, steps_of
from failwise.store import EpisodeStore, StoredEpisode
from failwise.store.video import encode_video
from failwise.types import EpisodeMeta

EACH = 2  # examples of each task and mode
BUDGET = 8_000_000  # characters of all embedded pictures and videos
VIDEO_FRAMES = 100
BEFORE = 6  # steps before the onset

Wanted = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Shot:
    """All cameras at one moment, one below the other. ``label``: what moment it is."""

    label: str
    frame: Frame


@dataclass(frozen=True)
class Example:
    """A failure with the first of its verified recoveries, told and shown.

    Attributes:
        env_id, mode, seed: which. title, stage: its kind. instruction: what the robot was told.
        own: whether it is the policy's own. onset: since when. cause: why. move, way, steps: the correction, in words.
        more: verified recoveries beside the one shown. cameras: from top to bottom.
        failed, mended: shots. videos: (what, data URI).
    """

    env_id: str
    mode: str
    seed: int
    title: str
    stage: str
    instruction: str
    own: bool
    onset: str
    cause: str
    move: str
    way: str
    steps: str
    more: int
    cameras: tuple[str, ...]
    failed: tuple[Shot, ...]
    mended: tuple[Shot, ...]
    videos: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """Characters of its pictures."""
        return sum(len(shot.frame.source) for shot in (*self.failed, *self.mended))


@dataclass(frozen=True)
class Gallery:
    """``examples``: by task and mode. ``failures``: mended ones with pictures. ``unreadable``: damaged recordings."""

    examples: tuple[Example, ...]
    failures: int
    unreadable: int


def gallery_of(made: Made, budget: int = BUDGET) -> Gallery:
    """Examples of every task and mode, as long as their pictures fit into a budget; then videos of the first ones.

    Args:
        made: the folder.
        budget: characters of all data URIs together, at most.
    """
    mended = [m for m in made.failures if made.recoveries.get(m.episode_id) and m.n_frames]
    if not mended:
        return Gallery((), 0, 0)
    episodes, recoveries = (EpisodeStore(made.folder / name, create=False) for name in (EPISODES, RECOVERIES))
    found: list[tuple[int, EpisodeMeta, Example]] = []
    left, unreadable = budget, 0
    for place, meta in chosen(mended):
        try:
            one = _example(episodes.read(meta.episode_id), [recoveries.read(m.episode_id) for m in _ways(made, meta)])
        except StoreError:
            unreadable += 1
            continue
        if one.size <= left:
            left -= one.size
            found.append((place, meta, one))
    for index, (place, meta, one) in enumerate(found):
        if place == 0:
            videos = _videos(episodes.read(meta.episode_id), recoveries.read(_ways(made, meta)[0].episode_id))
            if (size := sum(len(source) for _, source in videos)) <= left:
                left -= size
                found[index] = (place, meta, replace(one, videos=videos))
    order = {meta.episode_id: index for index, meta in enumerate(mended)}
    shown = sorted(found, key=lambda item: order[item[1].episode_id])
    return Gallery(tuple(one for _, _, one in shown), len(mended), unreadable)


def chosen(failures: Sequence[EpisodeMeta]) -> list[tuple[int, EpisodeMeta]]:
    """``EACH`` failures of every task and mode, own ones apart, each with its place there; all first ones come first.

    The lowest layouts, with another axis or stage than those before where there is one.
    """
    groups: dict[tuple[bool, str, str], list[EpisodeMeta]] = {}
    for meta in failures:
        groups.setdefault((is_own(meta), meta.env_id, kind(meta)[0]), []).append(meta)
    picked = []
    for of in groups.values():
        left = sorted(of, key=lambda m: (m.env_seed, m.arm))
        mine: list[EpisodeMeta] = []
        while left and len(mine) < EACH:
            seen = {_variety(m) for m in mine}
            mine.append(next((m for m in left if _variety(m) not in seen), left[0]))
            left.remove(mine[-1])
        picked.append(list(enumerate(mine)))
    return [one for one in chain.from_iterable(zip_longest(*picked)) if one is not None]


def moments(looks: NDArray[np.int64], wanted: Wanted) -> list[tuple[str, int]]:
    """The recorded look nearest to each wanted step; what falls on a look that is taken already is left out."""
    found: dict[int, str] = {}
    for label, step in wanted:
        found.setdefault(int(np.abs(looks - step).argmin()), label)
    return [(found[look], look) for look in sorted(found)]


def _variety(meta: EpisodeMeta) -> tuple[str, str]:
    return kind(meta)[1], meta.failure_events[0].stage


def _ways(made: Made, meta: EpisodeMeta) -> tuple[EpisodeMeta, ...]:
    return made.recoveries[meta.episode_id]


def _example(failed: StoredEpisode, ways: Sequence[StoredEpisode]) -> Example:
    meta, shown = failed.meta, ways[0]
    event, (mode, axis) = meta.failure_events[0], kind(meta)
    correction = correction_of(shown.meta.extra["correction"])
    onset, at, arrived = event.onset_step, correction.at, correction.at + correction.moved
    end = meta.n_steps - 1
    return Example(
        env_id=meta.env_id,
        mode=mode,
        seed=meta.env_seed,
        title=kind_of(mode, axis),
        stage=named(event.stage),
        instruction=meta.instruction,
        own=is_own(meta),
        onset=f"step {onset} ({onset / meta.control_hz:.1f} s)",
        cause=cause_of(meta),
        move=move_of(correction.delta),
        way=WAYS[correction.way],
        steps=steps_of(correction, meta.control_hz),
        more=len(ways) - 1,
        cameras=meta.cameras,
        failed=_shots(
            failed, [("onset", onset), ("end", end), ("before", onset - BEFORE), ("after", (onset + end) / 2)]
        ),
        mended=_shots(
            shown,
            [
                ("taken over", at),
                ("success", shown.meta.n_steps - 1),
                ("moved", arrived),
                ("expert", (arrived + shown.meta.n_steps) / 2),
            ],
        ),
    )


def _shots(episode: StoredEpisode, wanted: Wanted) -> tuple[Shot, ...]:
    steps = episode.look_steps()
    if not len(steps):
        return ()
    picked = moments(steps, wanted)
    columns = [episode.frames(camera, [look for _, look in picked]) for camera in episode.meta.cameras]
    hz = episode.meta.control_hz
    return tuple(
        Shot(label, embedded_frame(np.concatenate(images, axis=0), int(steps[look]), float(steps[look]) / hz))
        for (label, look), *images in zip(picked, *columns, strict=True)
    )


def _videos(failed: StoredEpisode, mended: StoredEpisode) -> tuple[tuple[str, str], ...]:
    """The failure and its recovery, cameras side by side; nothing where the recording cannot be read."""
    try:
        return tuple(
            (what, f"data:video/mp4;base64,{base64.b64encode(_video(of)).decode('ascii')}")
            for what, of in (("failure", failed), ("recovery", mended))
            if of.meta.n_frames
        )
    except StoreError:
        return ()


def _video(episode: StoredEpisode) -> bytes:
    n = len(episode.look_steps())
    looks = np.unique(np.linspace(0, n - 1, min(n, VIDEO_FRAMES)).round().astype(int)).tolist()
    views = [episode.frames(camera, looks) for camera in episode.meta.cameras]
    return encode_video([np.concatenate(images, axis=1) for images in zip(*views, strict=True)])
