"""Episodes of ``failwise generate`` as sequences that a recovery actor learns from: every frame with what was true."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from failwise.errors import DataError
from failwise.generate.mending import EPISODES, RECOVERIES
from failwise.generate.plan import PLAN, stage_at
from failwise.learn.figures import Kind
from failwise.learn.frames import FrameFeatures
from failwise.recover.compact import NONE
from failwise.rollout.progress import track
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta

UNKNOWN = -1


@dataclass(frozen=True)
class Labelled:
    """T frames of one episode, in order.

    Attributes:
        frames_TD: float32, features.
        judged: bool (T,), whether anybody can say if it fails there. failing: bool (T,).
        stage: int64 (T,), index, or ``UNKNOWN``. kind: int64 (T,), index of mode and axis.
        delta: float32 (T, 7), the verified move, NaN where none is known.
        env_id, seed: the layout. own: of a policy's own episode instead of one made on purpose.
    """

    frames_TD: NDArray[np.float32]
    judged: NDArray[np.bool_]
    failing: NDArray[np.bool_]
    stage: NDArray[np.int64]
    kind: NDArray[np.int64]
    delta: NDArray[np.float32]
    env_id: str
    seed: int
    own: bool

    def __len__(self) -> int:
        return len(self.judged)


@dataclass(frozen=True)
class Lesson:
    """All that a recovery actor learns from.

    Attributes:
        episodes: plans, failures on purpose, own episodes. mended: failures up to a takeover, and how they went on.
        stages: names, by index. kinds: mode and axis, by index; the first is ``NONE``.
        stride: steps between frames.
    """

    episodes: list[Labelled]
    mended: list[Labelled]
    stages: tuple[str, ...]
    kinds: tuple[Kind, ...]
    stride: int


def load_lesson(frames_of: FrameFeatures, folder: Path, plans: float, mended: float, grace: int) -> Lesson:
    """Read what ``failwise generate`` wrote.

    Frames in the first ``grace`` steps after an onset are not judged, as nothing can be seen yet; nor are those of a
    takeover until its move is done and as many steps have passed.

    Args:
        frames_of: gives the features.
        folder: what ``failwise generate`` wrote.
        plans: undisturbed plans for each failure on purpose of a task, at most.
        mended: mended failures for each failure of a task, at most.
        grace: steps.

    Raises:
        DataError: no failures with pictures, or pictures at different distances in different episodes.
    """
    store = EpisodeStore(folder / EPISODES, create=False)
    found = (folder / RECOVERIES).is_dir()  # not where nothing could be mended; among the failures there are none
    ways_out = EpisodeStore(folder / RECOVERIES, create=False) if found else store
    metas = fewer_plans(_usable(store), plans)
    stages = sorted({name for meta in metas for name in meta.extra["stages"]})
    kinds = [NONE, *sorted({_kind(meta) for meta in metas} - {NONE})]
    recoveries = _some(_recoveries(ways_out, metas), metas, mended)
    stride = _stride(store, metas)
    episodes: dict[str, Labelled] = {}
    steps: dict[str, list[int]] = {}
    encoded = ((meta, *frames_of(store.read(meta.episode_id))) for meta in metas)
    for meta, looks, frames_TD in track(encoded, total=len(metas), title="frames", outcomes=False):
        steps[meta.episode_id] = looks
        episodes[meta.episode_id] = _label(meta, looks, frames_TD, stages, kinds, stride, grace)
    more = []
    encoded = ((meta, *frames_of(ways_out.read(meta.episode_id))) for meta in recoveries)
    for meta, looks, frames_TD in track(encoded, total=len(recoveries), title="ways out", outcomes=False):
        before = episodes[meta.extra["recovers"]]
        n = int(np.searchsorted(steps[meta.extra["recovers"]], looks[0]))
        done = meta.extra["takeover"] + meta.extra["correction"]["moved"] + grace
        more.append(_mended(before, n, np.array(looks) >= done, frames_TD))
    return Lesson(list(episodes.values()), more, tuple(stages), tuple(kinds), stride)


def fewer_plans(metas: Sequence[EpisodeMeta], share: float) -> list[EpisodeMeta]:
    """Everything but plans, and of each task at most ``share`` times as many plans as failures on purpose.

    Where no failure was made on purpose, as own failures. A plan was recorded for every layout that was tried, also
    where no failure came of it. Those of layouts with a failure come first: the same scene, once as it should go and
    once as it should not.
    """
    failures = [m for m in metas if "kind" in m.extra]
    made = [m for m in failures if "own" not in m.extra] or failures
    failed = {(m.env_id, m.env_seed) for m in made}
    left = {task: math.ceil(share * n) for task, n in Counter(m.env_id for m in made).items()}
    plans = sorted(
        (m for m in metas if m.arm == PLAN), key=lambda m: ((m.env_id, m.env_seed) not in failed, m.env_seed)
    )
    chosen = _first(plans, left)
    return [m for m in metas if m.arm != PLAN or m.episode_id in chosen]


def _first(metas: Sequence[EpisodeMeta], left: dict[str, int]) -> set[str]:
    """Ids of the first so many of each task."""
    chosen = set()
    for meta in metas:
        if left.get(meta.env_id, 0) > 0:
            left[meta.env_id] -= 1
            chosen.add(meta.episode_id)
    return chosen


def _recoveries(store: EpisodeStore, metas: Sequence[EpisodeMeta]) -> list[EpisodeMeta]:
    """Ways out of some episodes, with pictures; those of different failures first, then second ones, and so on."""
    known = {m.episode_id for m in metas}
    told = [m for m in store.metas() if m.n_frames and m.extra.get("recovers") in known]
    seen: Counter[str] = Counter()
    ranked = []
    for meta in sorted(told, key=lambda m: (m.extra["recovers"], m.extra["takeover"])):
        ranked.append((seen[meta.extra["recovers"]], meta.env_seed, meta.episode_id, meta))
        seen[meta.extra["recovers"]] += 1
    return [row[-1] for row in sorted(ranked, key=lambda row: row[:3])]


def _some(recoveries: Sequence[EpisodeMeta], metas: Sequence[EpisodeMeta], share: float) -> list[EpisodeMeta]:
    failures = Counter(m.env_id for m in metas if "kind" in m.extra)
    chosen = _first(recoveries, {task: math.ceil(share * n) for task, n in failures.items()})
    return [m for m in recoveries if m.episode_id in chosen]


def _usable(store: EpisodeStore) -> list[EpisodeMeta]:
    metas = [m for m in store.metas() if "stages" in m.extra and m.n_frames]
    if not any("kind" in m.extra for m in metas):
        raise DataError(f"{store.path} has no failures with pictures; make them with: failwise generate --look-every 2")
    return sorted(metas, key=lambda m: (m.env_id, m.env_seed, m.arm))


def _stride(store: EpisodeStore, metas: Sequence[EpisodeMeta]) -> int:
    """The steps between pictures, the same in all episodes."""
    gaps = {int(gap) for m in metas for gap in np.diff(store.read(m.episode_id).look_steps())}
    if len(gaps) > 1:
        raise DataError(f"pictures lie {sorted(gaps)} steps apart in {store.path}; generate with one --look-every")
    return gaps.pop() if gaps else 1


def _kind(meta: EpisodeMeta) -> Kind:
    kind: Mapping[str, str] = meta.extra.get("kind", {})
    return (kind["mode"], kind["axis"]) if kind else NONE


def _label(
    meta: EpisodeMeta, looks: Sequence[int], frames_TD: NDArray[np.float32], stages: Sequence[str],
    kinds: Sequence[Kind], stride: int, grace: int,
) -> Labelled:  # fmt: skip
    steps, kind = np.array(looks), _kind(meta)
    onset = meta.failure_events[0].onset_step if kind != NONE else math.inf
    failing = steps >= onset
    delta = np.full((len(steps), 7), np.nan, np.float32)
    for correction in reversed(meta.extra["corrections"] if kind != NONE else ()):
        at = (steps <= correction["at"]) & (correction["at"] < steps + stride) & (steps >= onset + grace)
        delta[at] = correction["delta"]
    return Labelled(
        frames_TD,
        judged=(steps < onset) | (steps >= onset + grace),
        failing=failing,
        stage=np.array([stages.index(stage_at(meta.extra["stages"], step)) for step in looks]),
        kind=np.where(failing, kinds.index(kind), 0),
        delta=delta,
        env_id=meta.env_id,
        seed=meta.env_seed,
        own="own" in meta.extra,
    )


def _mended(before: Labelled, n: int, done: NDArray[np.bool_], frames_TD: NDArray[np.float32]) -> Labelled:
    """The first n frames of a failure, then those of a way out of it: once its move is done, nothing fails any more."""
    size = len(done)
    return Labelled(
        np.concatenate([before.frames_TD[:n], frames_TD]),
        judged=np.concatenate([before.judged[:n], done]),
        failing=np.concatenate([before.failing[:n], np.zeros(size, bool)]),
        stage=np.concatenate([before.stage[:n], np.full(size, UNKNOWN)]),
        kind=np.concatenate([before.kind[:n], np.zeros(size, np.int64)]),
        delta=np.concatenate([before.delta[:n], np.full((size, 7), np.nan, np.float32)]),
        env_id=before.env_id,
        seed=before.seed,
        own=before.own,
    )
